/* Decimal numbers of a JSON text as pixels, correctly rounded.
 *
 * What is read has the bits that simdjson and numpy would give; whatever is not read here is left
 * to them. tests/unit/service/codecs/test_json_numbers.py compares the two.
 *
 * Functions that read return the position after what they read, or NULL. The text ends in a NUL,
 * which matches nothing below, so single characters are read without a check for the end.
 */

#ifndef SERVICE_CODECS_DECIMAL_H
#define SERVICE_CODECS_DECIMAL_H

#include "model/extension.h"
#include <float.h>

/* On either of these there is no extension, and simdjson reads everything. */
#if FLT_EVAL_METHOD != 0
#error "doubles are computed with more than double precision: results would be rounded twice"
#endif
#if PY_BIG_ENDIAN
#error "the first of eight characters is expected in the lowest byte"
#endif

enum {
    LONGEST = 32,       /* characters that read_decimal may look at, from a number's first */
    EXACT_SCALE = 22,   /* 10²² is the largest power of ten that is exact as a double */
    LARGEST_SCALE = 40, /* numbers of 17 digits down to 1e-24 */
};

#define EXACT_DIGITS (UINT64_C(1) << 53) /* integers up to here are exact as doubles */

static const double TENS[LARGEST_SCALE + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11, 1e12, 1e13,
    1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27,
    1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39, 1e40,
};

static const uint32_t WHOLE_TENS[8] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};

INLINE int is_digit(char c)
{
    return (unsigned char)(c - '0') <= 9;
}

/* Eight digits at a time, as in simdjson and fast_float (Lemire 2021, "Number parsing at a gigabyte
 * per second", https://arxiv.org/abs/2101.11408). Each byte is a character minus '0', with the
 * first character in the lowest byte. */
typedef uint64_t eight;

INLINE eight load(const char *p)
{
    eight characters;
    memcpy(&characters, p, sizeof characters);
    return characters ^ UINT64_C(0x3030303030303030);
}

/* The number of leading digits. Sums carry upwards only, and only from a byte that is no digit. */
INLINE int count_digits(eight values)
{
    const uint64_t up_to_9 = UINT64_C(0x7676767676767676), high_bits = UINT64_C(0x8080808080808080);
    uint64_t others = ((values + up_to_9) | values) & high_bits;
    return others ? __builtin_ctzll(others) / 8 : 8;
}

/* The number that all eight digits form: pairs of digits are joined, then pairs of pairs. */
INLINE uint64_t join_eight(eight values)
{
    const uint64_t every_fourth = UINT64_C(0x000000FF000000FF);
    const uint64_t first = 100 + (UINT64_C(1000000) << 32), second = 1 + (UINT64_C(10000) << 32);
    values = values * 10 + (values >> 8);
    return ((values & every_fourth) * first + ((values >> 16) & every_fourth) * second) >> 32;
}

/* The number that the first 0 to 7 digits form, computed as the last of eight, after zeros. */
INLINE uint64_t join(eight values, int digits)
{
    return join_eight(values << 8 * (7 - digits) << 8);
}

/* digits / 10^scale */
typedef struct {
    uint64_t digits;
    int scale;
} decimal;

/* Read the digits after the point. A single one, as in 0.0, has a branch of its own, as has an
 * integer part of one digit: a branch is predicted, while a computed count has to be waited for. */
INLINE const char *read_fraction(const char *p, decimal *into)
{
    uint64_t digits = into->digits; /* at most 255 */
    if (is_digit(p[0]) && !is_digit(p[1])) {
        into->digits = digits * 10 + (uint64_t)(p[0] - '0');
        into->scale = 1;
        return p + 1;
    }
    eight values = load(p);
    int count = count_digits(values);
    if (count < 8) {
        if (count == 0)
            return NULL;
        into->digits = digits * WHOLE_TENS[count] + join(values, count);
        into->scale = count;
        return p + count;
    }
    digits = digits * 100000000 + join_eight(values);
    values = load(p + 8);
    count = count_digits(values);
    if (count < 8) {
        into->digits = digits * WHOLE_TENS[count] + join(values, count);
        into->scale = 8 + count;
        return p + 8 + count;
    }
    digits = digits * 100000000 + join_eight(values); /* less than 2.56e18 */
    values = load(p + 16);
    count = count_digits(values);
    if (count == 8 || __builtin_mul_overflow(digits, WHOLE_TENS[count], &digits) ||
        __builtin_add_overflow(digits, join(values, count), &digits))
        return NULL;
    into->digits = digits;
    into->scale = 16 + count;
    return p + 16 + count;
}

static const char *read_exponent(const char *p, decimal *into)
{
    const int negative = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    int exponent = 0, count = 0;
    for (; count < 3 && is_digit(*p); p++, count++) /* a fourth digit fails in the caller */
        exponent = exponent * 10 + (*p - '0');
    if (count == 0)
        return NULL;
    into->scale += negative ? exponent : -exponent;
    return p;
}

/* Read a number from 0 to 255.9… by RFC 8259's grammar. Looks at LONGEST characters at most, and at
 * one more if all of them belong to the number: 3 digits and the point, 3 times 8 characters with
 * 23 digits, and 5 of an exponent. */
INLINE const char *read_decimal(const char *p, decimal *into)
{
    into->scale = 0;
    if (is_digit(p[0]) && !is_digit(p[1])) {
        into->digits = (uint64_t)(p[0] - '0');
        p++;
    } else {
        eight values = load(p);
        int count = count_digits(values);
        if (count == 0 || count > 3 || (count > 1 && *p == '0'))
            return NULL;
        into->digits = join(values, count);
        if (into->digits > 255)
            return NULL;
        p += count;
    }
    if (*p == '.') {
        p = read_fraction(p + 1, into);
        if (p == NULL)
            return NULL;
    }
    return *p == 'e' || *p == 'E' ? read_exponent(p + 1, into) : p;
}

/* Convert a decimal to the float32 in [0, 1] that its correctly rounded double D rounds to. Returns
 * 0 if it is not in [0, 1], or if the result is in doubt, as for 1 decimal in 10⁷.
 *
 * If digits and power are exact as doubles, the quotient is D (Clinger 1990, "How to read floating
 * point numbers accurately"). Otherwise the two and the quotient are each rounded with a relative
 * error of up to u = 2⁻⁵³, and so is D: D is within little more than 4u of `quotient`. 2⁻⁵⁰ is 8u,
 * so D lies between `low` and `high` in spite of their own rounding. Rounding to float32 is
 * monotonic: if both round to the same number, so does D.
 *
 * If the quotient is at most 1, the digits as a double are at most 10^scale. Up to 10²² that power
 * is exact, and 64 bits do not reach beyond it. So the digits are at most (1 + u) 10^scale, and D
 * is at most 1. */
INLINE int to_unit(decimal number, float *pixel)
{
    if (number.scale < 0 || number.scale > LARGEST_SCALE)
        return 0;
    double quotient = (double)number.digits / TENS[number.scale];
    float low = (float)(quotient * (1 - 0x1p-50)), high = (float)(quotient * (1 + 0x1p-50));
    if (low != high && (number.digits > EXACT_DIGITS || number.scale > EXACT_SCALE))
        return 0;
    *pixel = (float)quotient;
    return quotient <= 1;
}

/* Convert a decimal to the integer in 0..255 that its double is. Returns 0 if it is none, and for
 * some that have very many digits. */
INLINE int to_byte(decimal number, uint8_t *pixel)
{
    if (number.digits <= 255 && number.scale == 0) {
        *pixel = (uint8_t)number.digits;
        return 1;
    }
    if (number.digits > EXACT_DIGITS || number.scale < 0 || number.scale > EXACT_SCALE)
        return 0;
    double quotient = (double)number.digits / TENS[number.scale];
    if (!(quotient <= 255))
        return 0;
    *pixel = (uint8_t)quotient;
    return *pixel == quotient;
}

/* read_decimal(), also near the end of the text, where it reads a copy with padding. */
INLINE const char *read_within(const char *p, const char *end, decimal *into)
{
    if (end - p >= LONGEST)
        return read_decimal(p, into);
    char copy[2 * LONGEST] = {0};
    memcpy(copy, p, (size_t)(end - p));
    const char *after = read_decimal(copy, into);
    return after == NULL ? NULL : p + (after - copy);
}

#endif
