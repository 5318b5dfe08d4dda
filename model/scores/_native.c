/* The scores of model/scores/deterministic.py on a CPU: all that follows the network's last product, at once.
 *
 * In torch that is some 25 small operations, which for one image cost more than the network does.
 * Here an image is read once, its squared errors stay in the nearest cache, and only a row of them
 * is allocated. model/scores/deterministic.py says what the scores are and why. This file repeats the formulas,
 * not the reasons, and tests/unit/test_native.py holds the two together. All constants of theirs
 * come from there, through model/scores/native.py.
 *
 * N images of P pixels, D latent dimensions, K components of the mixture.
 *
 * Loops are plain, so that compilers vectorise them. Sums that may be reordered say so themselves,
 * by `omp simd reduction` (-fopenmp-simd: no library, no threads). So nothing here needs
 * -ffast-math, which as a linker's option switches denormal numbers off for the whole process. How
 * a row is added up depends on P alone: its scores are the same bits whatever batch it comes in.
 * Counters are as wide as addresses: Python has C compiled with -fwrapv, by which int could wrap.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One wheel for all machines: the loader picks the widest vectors that the processor has. Older
 * compilers do not know these names, and only glibc has what picks. */
#if defined(__x86_64__) && defined(__GLIBC__) && \
    ((!defined(__clang__) && __GNUC__ >= 12) || (defined(__clang__) && __clang_major__ >= 18))
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDEST
#endif

/* Put into each of those versions before it is vectorised, which a call would prevent. */
#define INLINE static inline __attribute__((always_inline))

enum {
    BLOCK = 1024,    /* pixels that are added up in float; blocks are added up in double */
    LANES = 16,      /* components of the mixture at a time: one register at its widest */
    SHORT = 1 << 15, /* numbers, of pixels and mixture: at the most they take some 10 µs */
};

/* Least number but 0 that the logistic function is here: exp(−43). Squares of lesser ones would be
 * denormal numbers, with which processors are slow and which no score can tell from 0. */
#define NEGLIGIBLE 2.2e-19f

typedef enum { MSE, KL, MSE_TOP5, LATENT_DENSITY, FUSED, SCORES } score_name;
static const char *const SCORE_NAMES[SCORES] = {"mse", "kl", "mse_top5", "latent_density", "fused"};

/* As `constants` of score() holds them. */
typedef struct {
    float least_log_variance, most_log_variance;
    float pearson_floor, contrast_floor, tiny;
} constants;

/* As `statistics` of score() begins; the mixture follows. */
typedef struct {
    float contrast;
    float median[3], tail[3];
} scale;

enum { CONSTANTS = sizeof(constants) / sizeof(float), SCALE = sizeof(scale) / sizeof(float) };

/* K / LANES groups of components, side by side, so that a register holds a number of each of them.
 * A group has, of each component, log w + log |R| − D/2 log 2π, then m, D numbers, then R by
 * columns, from the diagonal down. */
typedef struct {
    Py_ssize_t groups;
    const float *numbers; /* (K / LANES, 1 + D + D (D + 1) / 2, LANES) */
} mixture;

typedef struct {
    Py_ssize_t pixels, latents, worst; /* P, D, and how many pixels `mse_top5` looks at */
    constants fixed;
    scale scale;
    mixture mixture;
} task;

/* exp(v) for v in [−80, 80], to 1 ulp or so: 2ⁿ exp(r) with |r| ≤ ½ log 2, for which log 2 is taken
 * off in two parts (Cody and Waite 1980, "Software manual for the elementary functions"). The
 * polynomial is a minimax fit with a relative error of 3e-9. Beside 1.5 · 2²³ a float has no room
 * for fractions: adding that rounds v / log 2 to n, and leaves n + 127, which is how float32 stores
 * 2ⁿ, in the last bits. A conversion to int would do as well, but gcc 12 moves it into a branch,
 * and then does not vectorise. */
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

/* exp(−v) for v ≥ 0, and 0 where that is NEGLIGIBLE. */
INLINE float decayed(float v)
{
    float e = exponential(v < 50.0f ? -v : -50.0f);
    return e > NEGLIGIBLE ? e : 0.0f;
}

INLINE float bounded(float v, float least, float most)
{
    return v < least ? least : v > most ? most : v;
}

typedef struct {
    double error, pearson;  /* Σ (x − x̂)², Σ (x − x̂)² / (x̂ (1 − x̂) + floor) */
    double pixels, squares; /* Σ x, Σ x² */
} sums;

/* Σ (x − x̂)² over up to BLOCK pixels, each put into `errors` where that is asked for.
 *
 * x̂ = 1 / (1 + exp(−logit)) is taken from e = exp(−|logit|), which cannot overflow. */
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

/* The same, and what else `fused` needs.
 *
 * Division is what takes the time. With d = 1 + e, x̂ (1 − x̂) = e / d², so that one is enough, by
 * d · (e + floor · d²). A step of Newton's sets 1/d right in its last bit, and to 1 where e is 0:
 * an image that is reconstructed without error has none. */
INLINE void block_sums(const float *restrict x, const float *restrict logits,
                       float *restrict errors, float floor, Py_ssize_t n,
                       sums *into)
{
    float error = 0, pearson = 0, pixels = 0, squares = 0;
#pragma omp simd reduction(+ : error, pearson, pixels, squares)
    for (Py_ssize_t i = 0; i < n; i++) {
        float e = decayed(fabsf(logits[i]));
        float d = 1.0f + e;
        float doubt = e + floor * (d * d);
        float both = 1.0f / (d * doubt);
        float inverse = both * doubt;
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

/* How many values are above `least`, and their sum. */
INLINE int64_t above(const float *restrict values, Py_ssize_t n, float least, double *sum)
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
            block_count += block[i] > least;
            block_sum += block[i] > least ? block[i] : 0.0f;
        }
        count += block_count;
        *sum += block_sum;
    }
    return count;
}

/* A float32 ≥ 0 as a whole number in the same order, near 2²³ (127 + its logarithm to base 2). */
INLINE int64_t order(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float value_at(int64_t place)
{
    int32_t bits = (int32_t)place;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Mean of the `count` largest of n values ≥ 0 that add up to `total`.
 *
 * Looks for a threshold that so many are above, between `low`, with more above it, and `high`, with
 * fewer. Where ties allow none, `high` ends as the next number after `low`: the value that is tied.
 * A guess supposes that the logarithms of a value and of how many are above it lie on a line; while
 * only one side is known, that the values above the threshold fall off exponentially. On real
 * images that takes 5 passes over the values. From the fourth on, a pass that leaves more than half
 * of the way is followed by one that halves it, so that no values take more than 70. */
INLINE float largest_mean(const float *values, Py_ssize_t n, Py_ssize_t count, double total)
{
    const float usual = 5.0f; /* times the mean: about the threshold of real images */
    const float mean = (float)(total / (double)n);
    if (count >= n)
        return mean;
    /* No more than `count` values can be above total / count. */
    int64_t low = -1, high = order((float)(total / (double)count));
    int64_t above_low = -1, above_high = -1; /* unknown */
    int64_t guess = order(usual * mean);
    double sum;
    for (int pass = 1, halved = 0; high - low > 1; pass++) {
        int64_t way = high - low;
        guess = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        float threshold = value_at(guess);
        int64_t found = above(values, n, threshold, &sum);
        if (found == count)
            return (float)(sum / (double)count);
        if (found > count) {
            low = guess;
            above_low = found;
        } else {
            high = guess;
            above_high = found;
        }
        halved = pass > 3 && !halved && high - low > way / 2;
        if (halved) {
            guess = low + (high - low) / 2;
        } else if (above_low >= 0 && above_high >= 0) {
            float most = (float)order((float)above_low);
            float least = (float)order(above_high > 0 ? (float)above_high : 0.5f);
            float part = (most - (float)order((float)count)) / (most - least);
            guess = low + (int64_t)((float)(high - low) * part);
        } else {
            float excess = found > 0 ? (float)(sum / (double)found) - threshold : 0;
            float next = threshold + excess * logf((float)found / (float)count);
            guess = found > 0 && next > 0 ? order(next) : order(mean);
        }
    }
    int64_t others = above(values, n, value_at(high), &sum);
    return (float)((sum + (double)(count - others) * value_at(high)) / (double)count);
}

/* KL(q ‖ N(0, I)) from μ and log σ². */
INLINE float divergence(const float *restrict mean, const float *restrict log_variance,
                        Py_ssize_t n, float least, float most)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (Py_ssize_t i = 0; i < n; i++) {
        float v = bounded(log_variance[i], least, most);
        sum += mean[i] * mean[i] + exponential(v) - v - 1.0f;
    }
    return 0.5f * sum;
}

/* log p(z), by log Σ exp with the largest taken out; `room` is for (K + D · LANES) numbers.
 *
 * ‖(z − m) R‖² of a component is a sum over R's columns, which are 0 above the diagonal. The
 * difference comes first: where a component is narrow, z R and m R are large and much the same. */
INLINE float log_density(const float *restrict z, Py_ssize_t latents, const mixture *m,
                         float *restrict room)
{
    const float *restrict numbers = m->numbers;
    const Py_ssize_t components = m->groups * LANES;
    float *restrict joint = room, *restrict offset = room + components;
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
            float turned[LANES] = {0};
            for (Py_ssize_t row = column; row < latents; row++, roots += LANES) {
#pragma omp simd
                for (Py_ssize_t k = 0; k < LANES; k++)
                    turned[k] += offset[row * LANES + k] * roots[k];
            }
#pragma omp simd
            for (Py_ssize_t k = 0; k < LANES; k++)
                distance[k] += turned[k] * turned[k];
        }
#pragma omp simd
        for (Py_ssize_t k = 0; k < LANES; k++) {
            float found = constants[k] - 0.5f * distance[k];
            joint[first + k] = found;
            highest[k] = found > highest[k] ? found : highest[k];
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

/* One image: its score, MSE and KL. `room` is for P + K + D · LANES. */
WIDEST static void score_image(const task *t, score_name name, const float *x, const float *logits,
                               const float *head, float *room, float found[3])
{
    const double p = (double)t->pixels;
    const constants *fixed = &t->fixed;
    sums total = {0, 0, 0, 0};
    for (Py_ssize_t start = 0; start < t->pixels; start += BLOCK) {
        Py_ssize_t n = t->pixels - start < BLOCK ? t->pixels - start : BLOCK;
        if (name == FUSED)
            block_sums(x + start, logits + start, room + start, fixed->pearson_floor, n, &total);
        else if (name == MSE_TOP5)
            total.error += block_error(x + start, logits + start, room + start, 1, n);
        else
            total.error += block_error(x + start, logits + start, NULL, 0, n);
    }
    float mse = (float)(total.error / p);
    float kl = divergence(head, head + t->latents, t->latents, fixed->least_log_variance,
                          fixed->most_log_variance);
    float worst = 0, density = 0, score = 0;
    if (name == MSE_TOP5 || name == FUSED)
        worst = largest_mean(room, t->pixels, t->worst, total.error);
    if (name == LATENT_DENSITY || name == FUSED)
        density = -log_density(head, t->latents, &t->mixture, room + t->pixels);
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
    found[0] = score;
    found[1] = mse;
    found[2] = kl;
}

typedef struct {
    Py_buffer buffer;
    int held;
} array;

/* Whether this is a C-contiguous float32 array of so many dimensions; if not, ValueError is set. */
static int floats(array *into, PyObject *object, const char *name, int dimensions, int flags)
{
    if (PyObject_GetBuffer(object, &into->buffer, PyBUF_ND | PyBUF_FORMAT | flags) < 0) {
        PyErr_Clear(); /* which error it is, and its words, differ with who made the object */
        PyErr_Format(PyExc_ValueError, "%s is no %sC-contiguous array", name,
                     flags & PyBUF_WRITABLE ? "writable " : "");
        return 0;
    }
    into->held = 1;
    const Py_buffer *b = &into->buffer;
    const char *type = b->format == NULL ? "B" : b->format;
    if (b->itemsize != sizeof(float) || strcmp(type, "f") != 0) {
        PyErr_Format(PyExc_ValueError, "%s has the type %s, expected f (float32)", name, type);
        return 0;
    }
    if (b->ndim != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions, expected %d", name, b->ndim,
                     dimensions);
        return 0;
    }
    return 1;
}

static int expect(const char *name, Py_ssize_t found, Py_ssize_t expected)
{
    if (found == expected)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s is %zd, expected %zd", name, found, expected);
    return 0;
}

static int read_statistics(task *t, const float *values, Py_ssize_t count)
{
    const Py_ssize_t d = t->latents, a_component = 1 + d + d * (d + 1) / 2;
    const Py_ssize_t components = (count - SCALE) / a_component;
    if (components < LANES || components % LANES || count != SCALE + components * a_component) {
        PyErr_Format(PyExc_ValueError,
                     "statistics has %zd numbers, expected %d + K * %zd for %zd latents, "
                     "K a multiple of %d",
                     count, (int)SCALE, a_component, d, (int)LANES);
        return 0;
    }
    memcpy(&t->scale, values, sizeof t->scale);
    t->mixture.groups = components / LANES;
    t->mixture.numbers = values + SCALE;
    return 1;
}

enum { PIXELS, LOGITS, HEADS, FIXED, STATISTICS, OUT, ARRAYS };

/* Check everything, then compute; 0 with an exception set where something is wrong. */
static int run(array arrays[ARRAYS], PyObject *const *objects, score_name name, Py_ssize_t worst)
{
    if (!floats(&arrays[PIXELS], objects[PIXELS], "pixels", 2, 0) ||
        !floats(&arrays[LOGITS], objects[LOGITS], "logits", 2, 0) ||
        !floats(&arrays[HEADS], objects[HEADS], "heads", 2, 0) ||
        !floats(&arrays[FIXED], objects[FIXED], "constants", 1, 0) ||
        !floats(&arrays[OUT], objects[OUT], "out", 2, PyBUF_WRITABLE))
        return 0;
    const Py_ssize_t n = arrays[PIXELS].buffer.shape[0], p = arrays[PIXELS].buffer.shape[1];
    const Py_ssize_t width = arrays[HEADS].buffer.shape[1];
    if (!expect("the number of logits' rows", arrays[LOGITS].buffer.shape[0], n) ||
        !expect("the number of logits' columns", arrays[LOGITS].buffer.shape[1], p) ||
        !expect("the number of heads' rows", arrays[HEADS].buffer.shape[0], n) ||
        !expect("the number of constants", arrays[FIXED].buffer.shape[0], CONSTANTS) ||
        !expect("the number of out's rows", arrays[OUT].buffer.shape[0], 3) ||
        !expect("the number of out's columns", arrays[OUT].buffer.shape[1], n))
        return 0;
    if (worst < 1 || worst > p) {
        PyErr_Format(PyExc_ValueError, "worst is %zd, expected 1 to %zd, all pixels", worst, p);
        return 0;
    }
    if (width < 2 || width % 2) {
        PyErr_Format(PyExc_ValueError, "heads has %zd columns, expected twice the latents", width);
        return 0;
    }
    task t = {.pixels = p, .latents = width / 2, .worst = worst};
    memcpy(&t.fixed, arrays[FIXED].buffer.buf, sizeof t.fixed);
    Py_ssize_t numbers = 0;
    if (objects[STATISTICS] != Py_None) {
        const Py_buffer *b = &arrays[STATISTICS].buffer;
        if (!floats(&arrays[STATISTICS], objects[STATISTICS], "statistics", 1, 0) ||
            !read_statistics(&t, b->buf, numbers = b->shape[0]))
            return 0;
    } else if (name == FUSED || name == LATENT_DENSITY) {
        PyErr_Format(PyExc_ValueError, "%s needs statistics", SCORE_NAMES[name]);
        return 0;
    }
    float *room = malloc((size_t)(p + (t.mixture.groups + t.latents) * LANES) * sizeof(float));
    if (room == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    const float *x = arrays[PIXELS].buffer.buf, *logits = arrays[LOGITS].buffer.buf;
    const float *heads = arrays[HEADS].buffer.buf;
    float *out = arrays[OUT].buffer.buf;
    /* Who gives Python's lock away may wait 5 ms for it (sys.setswitchinterval): too long here. */
    PyThreadState *state = n > SHORT / (p + numbers) ? PyEval_SaveThread() : NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        float found[3];
        score_image(&t, name, x + i * p, logits + i * p, heads + i * width, room, found);
        for (int row = 0; row < 3; row++)
            out[row * n + i] = found[row];
    }
    if (state != NULL)
        PyEval_RestoreThread(state);
    free(room);
    return 1;
}

PyDoc_STRVAR(score_doc,
"score(name, pixels, logits, heads, worst, constants, statistics, out)\n--\n\n"
"Score N images, and give each one's MSE and KL: model.native has the use of it.\n\n"
"All arrays are C-contiguous float32. `pixels` in [0, 1] and `logits`, the decoder's output\n"
"before its sigmoid, are (N, P); `heads`, (N, 2D), is μ, then log σ² before its clamp. `worst` is\n"
"how many pixels mse_top5 looks at. `constants` are the least and the most log σ², PEARSON_FLOOR,\n"
"CONTRAST_FLOOR and TINY. `statistics` is None or what model.native.packed makes of a bundle's.\n"
"Into `out`, (3, N), go score, MSE and KL. Where something is not finite they mean nothing.\n"
"Raises ValueError for arrays of other types or that do not fit each other.");

static PyObject *score(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 8) {
        PyErr_Format(PyExc_TypeError, "score takes 8 arguments, %zd given", count);
        return NULL;
    }
    const char *wanted = PyUnicode_AsUTF8(args[0]);
    if (wanted == NULL)
        return NULL;
    int name = 0;
    while (name < SCORES && strcmp(wanted, SCORE_NAMES[name]) != 0)
        name++;
    if (name == SCORES) {
        PyErr_Format(PyExc_ValueError, "no score is named %s", wanted);
        return NULL;
    }
    Py_ssize_t worst = PyLong_AsSsize_t(args[4]);
    if (worst == -1 && PyErr_Occurred())
        return NULL;
    PyObject *const objects[ARRAYS] = {[PIXELS] = args[1],     [LOGITS] = args[2],
                                       [HEADS] = args[3],      [FIXED] = args[5],
                                       [STATISTICS] = args[6], [OUT] = args[7]};
    array arrays[ARRAYS];
    for (int i = 0; i < ARRAYS; i++)
        arrays[i].held = 0;
    int done = run(arrays, objects, (score_name)name, worst);
    for (int i = 0; i < ARRAYS; i++)
        if (arrays[i].held)
            PyBuffer_Release(&arrays[i].buffer);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* The mean squared error of each of K reconstructions of an image. */
WIDEST static void errors_of(const float *x, const float *logits, Py_ssize_t pixels, Py_ssize_t k,
                             float *restrict out)
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

static int run_errors(array arrays[3], PyObject *const *objects)
{
    if (!floats(&arrays[0], objects[0], "pixels", 2, 0) ||
        !floats(&arrays[1], objects[1], "logits", 2, 0) ||
        !floats(&arrays[2], objects[2], "out", 2, PyBUF_WRITABLE))
        return 0;
    const Py_ssize_t n = arrays[0].buffer.shape[0], p = arrays[0].buffer.shape[1];
    const Py_ssize_t k = arrays[2].buffer.shape[1];
    if (!expect("the number of out's rows", arrays[2].buffer.shape[0], n) ||
        !expect("the number of logits' rows", arrays[1].buffer.shape[0], n * k) ||
        !expect("the number of logits' columns", arrays[1].buffer.shape[1], p))
        return 0;
    const float *x = arrays[0].buffer.buf, *logits = arrays[1].buffer.buf;
    float *out = arrays[2].buffer.buf;
    PyThreadState *state = p > 0 && n * k > SHORT / p ? PyEval_SaveThread() : NULL;
    for (Py_ssize_t i = 0; i < n; i++)
        errors_of(x + i * p, logits + i * k * p, p, k, out + i * k);
    if (state != NULL)
        PyEval_RestoreThread(state);
    return 1;
}

PyDoc_STRVAR(errors_doc,
"errors(pixels, logits, out)\n--\n\n"
"The mean squared error of K reconstructions of each of N images: model.native has the use of it.\n\n"
"All arrays are C-contiguous float32: `pixels` in [0, 1], (N, P), and `logits`, the decoder's\n"
"output before its sigmoid, (N · K, P), are read, and `out`, (N, K), is written. Raises ValueError\n"
"for arrays of other types or that do not fit each other.");

static PyObject *errors(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "errors takes 3 arguments, %zd given", count);
        return NULL;
    }
    array arrays[3];
    for (int i = 0; i < 3; i++)
        arrays[i].held = 0;
    int done = run_errors(arrays, args);
    for (int i = 0; i < 3; i++)
        if (arrays[i].held)
            PyBuffer_Release(&arrays[i].buffer);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"errors", (PyCFunction)(void (*)(void))errors, METH_FASTCALL, errors_doc},
    {"score", (PyCFunction)(void (*)(void))score, METH_FASTCALL, score_doc},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module)
{
    return PyModule_AddIntConstant(module, "LANES", LANES);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, prepare},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "model.scores._native",
    .m_doc = "The scores of model.scoring on a CPU, in one call.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
