/* The scores of model/scores/deterministic.py on the CPU: everything after the network's last
 * product, in one call.
 *
 * In torch that is some 25 small operations, which for one image cost more than the network does.
 * Here an image is read once, its squared errors stay in the L1 cache, and only one row of them is
 * allocated. deterministic.py says what the scores are and why; this file repeats the formulas and
 * not the reasons, and tests/unit/model/scores/test_native.py compares the two. All constants of
 * the scores come from there, through model/scores/native.py.
 *
 * N images of P pixels, D latent dimensions, K components of the mixture.
 *
 * Loops are plain, so that compilers vectorise them. Sums that may be reordered say so with `omp
 * simd reduction` (-fopenmp-simd: no library, no threads). So nothing here needs -ffast-math, which
 * as a linker option disables denormal numbers for the whole process. The order of summation in a
 * row depends on P alone, so its scores are the same bits in any batch. Counters are Py_ssize_t:
 * Python compiles C with -fwrapv, and the possible overflow of an int prevents vectorisation.
 */

#ifndef MODEL_SCORES_H
#define MODEL_SCORES_H

#include "model/extension.h"
#include <math.h>

enum {
    BLOCK = 1024,    /* pixels that are summed in float; blocks are summed in double */
    LANES = 16,      /* components of the mixture at a time: floats in the widest register */
};

/* The smallest exp(−v) here that is not rounded to 0: exp(−43). The square of a smaller one would
 * be a denormal number, which is slow and which no score can tell from 0. */
#define NEGLIGIBLE 2.2e-19f

typedef enum { MSE, KL, MSE_TOP5, LATENT_DENSITY, FUSED, SCORES } score_name;
static const char *const SCORE_NAMES[SCORES] = {"mse", "kl", "mse_top5", "latent_density", "fused"};

/* The layout of score()'s `constants`. */
typedef struct {
    float min_log_variance, max_log_variance;
    float pearson_floor, contrast_floor, tiny;
} constants;

/* The layout of the start of score()'s `statistics`; the mixture follows. */
typedef struct {
    float contrast;
    float median[3], tail[3];
} scale;

enum { CONSTANTS = sizeof(constants) / sizeof(float), SCALE = sizeof(scale) / sizeof(float) };

/* K / LANES groups of components. A group stores its components side by side, so that a register
 * holds one number of each: log w + log |R| − D/2 log 2π, then the D numbers of m, then the columns
 * of R from the diagonal down. */
typedef struct {
    Py_ssize_t groups;
    const float *numbers; /* (K / LANES, 1 + D + D (D + 1) / 2, LANES) */
} mixture;

typedef struct {
    Py_ssize_t pixels, latents, worst; /* P, D, and the pixels that `mse_top5` averages */
    constants fixed;
    scale scale;
    mixture mixture;
} task;

/* exp(v) for v in [−80, 80], to about 1 ulp: 2ⁿ exp(r) with |r| ≤ ½ log 2, where n log 2 is
 * subtracted in two parts (Cody and Waite 1980, "Software manual for the elementary functions").
 * The polynomial is a minimax fit with a relative error of 3e-9. A float near 1.5 · 2²³ has no bits
 * for a fraction: adding that much rounds v / log 2 to n, and leaves n + 127, the exponent of 2ⁿ in
 * float32, in the last bits. A conversion to int would do as well, but gcc 12 moves it into a
 * branch, which prevents vectorisation. */
INLINE float exponential(float v)
{
    const float rounder = 12582912.0f + 127.0f;
    float shifted = v * 1.442695041f + rounder;
    float n = shifted - rounder;
    float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
    float q = 1.381314450e-3f;
    q = q * r + 8.369418836e-3f;
    q = q * r + 4.166845679e-2f;
    q = q * r + 1.666651479e-1f;
    q = q * r + 4.999999305e-1f;
    float scaled = (q * r) * r + r + 1.0f;
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    memcpy(&power, &bits, sizeof power);
    return power * scaled;
}

/* exp(−v) for v ≥ 0, or 0 if that is NEGLIGIBLE. */
INLINE float decayed(float v)
{
    float e = exponential(v < 50.0f ? -v : -50.0f);
    return e > NEGLIGIBLE ? e : 0.0f;
}

INLINE float clamp(float v, float min, float max)
{
    return v < min ? min : v > max ? max : v;
}

typedef struct {
    double error, pearson;  /* Σ (x − x̂)², Σ (x − x̂)² / (x̂ (1 − x̂) + floor) */
    double pixels, squares; /* Σ x, Σ x² */
} sums;

/* Σ (x − x̂)² over up to BLOCK pixels. With `keep`, each term is stored in `errors`.
 *
 * x̂ = 1 / (1 + exp(−logit)) is computed from e = exp(−|logit|), which cannot overflow. */
INLINE float block_error(const float *restrict x, const float *restrict logits,
                         float *restrict errors, int keep, Py_ssize_t n)
{
    float error = 0;
#pragma omp simd reduction(+ : error)
    for (Py_ssize_t i = 0; i < n; i++) {
        float e = decayed(fabsf(logits[i]));
        float decoded = (logits[i] >= 0 ? 1.0f : e) / (1.0f + e);
        float off = x[i] - decoded;
        float squared = off * off;
        if (keep)
            errors[i] = squared;
        error += squared;
    }
    return error;
}

/* The same, with the other sums that `fused` needs.
 *
 * Division dominates the time. With d = 1 + e, x̂ (1 − x̂) = e / d², so one division by
 * d · (e + floor · d²) is enough. A Newton step corrects the last bit of 1/d and makes it exactly 1
 * if e is 0, so that an image that is reconstructed without error has an error of 0. */
INLINE void block_sums(const float *restrict x, const float *restrict logits,
                       float *restrict errors, float floor, Py_ssize_t n,
                       sums *into)
{
    float error = 0, pearson = 0, pixels = 0, squares = 0;
#pragma omp simd reduction(+ : error, pearson, pixels, squares)
    for (Py_ssize_t i = 0; i < n; i++) {
        float e = decayed(fabsf(logits[i]));
        float d = 1.0f + e;
        float spread = e + floor * (d * d);
        float both = 1.0f / (d * spread);
        float inverse = both * spread;
        inverse += inverse * (1.0f - d * inverse);
        float decoded = (logits[i] >= 0 ? 1.0f : e) * inverse;
        float off = x[i] - decoded;
        float squared = off * off;
        errors[i] = squared;
        error += squared;
        pearson += squared * (d * d) * (both * d);
        pixels += x[i];
        squares += x[i] * x[i];
    }
    into->error += error;
    into->pearson += pearson;
    into->pixels += pixels;
    into->squares += squares;
}

/* The number of values above `threshold`, and their sum. */
INLINE int64_t above(const float *restrict values, Py_ssize_t n, float threshold, double *sum)
{
    int64_t count = 0;
    *sum = 0;
    for (Py_ssize_t start = 0; start < n; start += BLOCK) {
        Py_ssize_t length = n - start < BLOCK ? n - start : BLOCK;
        const float *restrict block = values + start;
        int32_t block_count = 0;
        float block_sum = 0;
#pragma omp simd reduction(+ : block_count, block_sum)
        for (Py_ssize_t i = 0; i < length; i++) {
            block_count += block[i] > threshold;
            block_sum += block[i] > threshold ? block[i] : 0.0f;
        }
        count += block_count;
        *sum += block_sum;
    }
    return count;
}

/* A float32 ≥ 0 as an integer that sorts in the same order: about 2²³ (127 + log₂ value). */
INLINE int64_t rank(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The inverse of rank(). */
INLINE float value_of(int64_t rank)
{
    int32_t bits = (int32_t)rank;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Mean of the `count` largest of n values ≥ 0 whose sum is `total`.
 *
 * Searches for a threshold that exactly `count` values exceed, by rank, between `low`, which more
 * exceed, and `high`, which fewer exceed. If ties rule out such a threshold, the search ends with
 * `high` next after `low`, at the tied value. Guesses assume that log count is linear in log value;
 * while only one side is known, that values above the threshold fall off exponentially. On real
 * images the search takes 5 passes over the values. From the fourth on, a pass that leaves more
 * than half of the interval is followed by a bisection, so no input takes more than 70 passes. */
INLINE float largest_mean(const float *values, Py_ssize_t n, Py_ssize_t count, double total)
{
    const float first_guess = 5.0f; /* times the mean: about the threshold of real images */
    const float mean = (float)(total / (double)n);
    if (count >= n)
        return mean;
    /* No more than `count` values can be above total / count. */
    int64_t low = -1, high = rank((float)(total / (double)count));
    int64_t above_low = -1, above_high = -1; /* unknown */
    int64_t guess = rank(first_guess * mean);
    double sum;
    for (int pass = 1, bisect = 0; high - low > 1; pass++) {
        int64_t interval = high - low;
        guess = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        float threshold = value_of(guess);
        int64_t exceeding = above(values, n, threshold, &sum);
        if (exceeding == count)
            return (float)(sum / (double)count);
        if (exceeding > count) {
            low = guess;
            above_low = exceeding;
        } else {
            high = guess;
            above_high = exceeding;
        }
        bisect = pass > 3 && !bisect && high - low > interval / 2;
        if (bisect) {
            guess = low + (high - low) / 2;
        } else if (above_low >= 0 && above_high >= 0) {
            float max = (float)rank((float)above_low);
            float min = (float)rank(above_high > 0 ? (float)above_high : 0.5f);
            float part = (max - (float)rank((float)count)) / (max - min);
            guess = low + (int64_t)((float)(high - low) * part);
        } else {
            float excess = exceeding > 0 ? (float)(sum / (double)exceeding) - threshold : 0;
            float next = threshold + excess * logf((float)exceeding / (float)count);
            guess = exceeding > 0 && next > 0 ? rank(next) : rank(mean);
        }
    }
    int64_t exceeding = above(values, n, value_of(high), &sum);
    return (float)((sum + (double)(count - exceeding) * value_of(high)) / (double)count);
}

/* KL(q ‖ N(0, I)) in nats, from μ and log σ² before its clamp. */
INLINE float divergence(const float *restrict mean, const float *restrict log_variance,
                        Py_ssize_t n, float min, float max)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t i = 0; i < n; i++) {
        float v = clamp(log_variance[i], min, max);
        sum += mean[i] * mean[i] + exponential(v) - v - 1.0f;
    }
    return 0.5f * sum;
}

/* log p(z), by log-sum-exp. `scratch` holds K + D · LANES floats.
 *
 * ‖(z − m) R‖² of a component is a sum over R's columns, which are 0 above the diagonal. z − m is
 * computed first: for a narrow component z R and m R are large and nearly equal. */
INLINE float log_density(const float *restrict z, Py_ssize_t latents, const mixture *m,
                         float *restrict scratch)
{
    const float *restrict numbers = m->numbers;
    const Py_ssize_t components = m->groups * LANES;
    float *restrict joint = scratch, *restrict offset = scratch + components;
    float highest[LANES];
    for (Py_ssize_t k = 0; k < LANES; k++)
        highest[k] = -INFINITY;
    for (Py_ssize_t first = 0; first < components; first += LANES) {
        const float *restrict constants = numbers;
        const float *restrict means = constants + LANES;
        const float *restrict roots = means + latents * LANES;
        float distance[LANES] = {0};
        for (Py_ssize_t row = 0; row < latents; row++) {
#pragma omp simd
            for (Py_ssize_t k = 0; k < LANES; k++)
                offset[row * LANES + k] = z[row] - means[row * LANES + k];
        }
        for (Py_ssize_t column = 0; column < latents; column++) {
            float rotated[LANES] = {0};
            for (Py_ssize_t row = column; row < latents; row++, roots += LANES) {
#pragma omp simd
                for (Py_ssize_t k = 0; k < LANES; k++)
                    rotated[k] += offset[row * LANES + k] * roots[k];
            }
#pragma omp simd
            for (Py_ssize_t k = 0; k < LANES; k++)
                distance[k] += rotated[k] * rotated[k];
        }
#pragma omp simd
        for (Py_ssize_t k = 0; k < LANES; k++) {
            float log_joint = constants[k] - 0.5f * distance[k];
            joint[first + k] = log_joint;
            highest[k] = log_joint > highest[k] ? log_joint : highest[k];
        }
        numbers = roots;
    }
    float largest = highest[0], sum = 0;
    for (Py_ssize_t k = 1; k < LANES; k++)
        largest = highest[k] > largest ? highest[k] : largest;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t k = 0; k < components; k++)
        sum += decayed(largest - joint[k]);
    return largest + logf(sum);
}

/* The score, MSE and KL of one image. `scratch` holds P + K + D · LANES floats. */
VECTOR_VERSIONS static void score_image(const task *t, score_name name, const float *x,
                                        const float *logits, const float *head, float *scratch,
                                        float result[3])
{
    const double p = (double)t->pixels;
    const constants *fixed = &t->fixed;
    sums total = {0, 0, 0, 0};
    for (Py_ssize_t start = 0; start < t->pixels; start += BLOCK) {
        Py_ssize_t n = t->pixels - start < BLOCK ? t->pixels - start : BLOCK;
        if (name == FUSED)
            block_sums(x + start, logits + start, scratch + start, fixed->pearson_floor, n, &total);
        else if (name == MSE_TOP5)
            total.error += block_error(x + start, logits + start, scratch + start, 1, n);
        else
            total.error += block_error(x + start, logits + start, NULL, 0, n);
    }
    float mse = (float)(total.error / p);
    float kl = divergence(head, head + t->latents, t->latents, fixed->min_log_variance,
                          fixed->max_log_variance);
    float worst = 0, density = 0, score = 0;
    if (name == MSE_TOP5 || name == FUSED)
        worst = largest_mean(scratch, t->pixels, t->worst, total.error);
    if (name == LATENT_DENSITY || name == FUSED)
        density = -log_density(head, t->latents, &t->mixture, scratch + t->pixels);
    switch (name) {
    case MSE: score = mse; break;
    case KL: score = kl; break;
    case MSE_TOP5: score = worst; break;
    case LATENT_DENSITY: score = density; break;
    default: {
        double mean = total.pixels / p;
        float contrast = (float)(total.squares / p - mean * mean) + t->scale.contrast;
        contrast = contrast > fixed->contrast_floor ? contrast : fixed->contrast_floor;
        float parts[3] = {logf((float)(total.pearson / p) / contrast + fixed->tiny),
                          logf(worst / contrast + fixed->tiny), density};
        score = -INFINITY;
        for (int i = 0; i < 3; i++) {
            float part = (parts[i] - t->scale.median[i]) / t->scale.tail[i];
            score = part > score ? part : score;
        }
    }
    }
    result[0] = score;
    result[1] = mse;
    result[2] = kl;
}

/* The mean squared error of each of K reconstructions of an image. */
VECTOR_VERSIONS static void errors_of(const float *x, const float *logits, Py_ssize_t pixels,
                                      Py_ssize_t k, float *restrict out)
{
    for (Py_ssize_t i = 0; i < k; i++, logits += pixels) {
        double error = 0;
        for (Py_ssize_t start = 0; start < pixels; start += BLOCK) {
            Py_ssize_t n = pixels - start < BLOCK ? pixels - start : BLOCK;
            error += block_error(x + start, logits + start, NULL, 0, n);
        }
        out[i] = (float)(error / (double)pixels);
    }
}

#endif
