/* JSON bodies of images to pixels, straight from the text into their place.
 *
 * Reads the plain form of {"images": […], "dtype": …} only, and says None to everything else: to
 * other fields, files, escapes, images of several forms, and to all that is wrong. Then
 * service/codecs/arrays.py reads the body by simdjson, which knows every form and says what is wrong with
 * it. So nothing here needs to explain itself, but whatever is taken must give the bits that
 * simdjson and numpy would have given; tests/unit/test_native_json.py holds the two together.
 *
 * The text ends in a NUL, as every bytes object does. It matches nothing below, so characters are
 * read one by one without asking whether the text is over, but not eight at once.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>
#include <string.h>

/* Without either there is no extension, and simdjson reads all. */
#if FLT_EVAL_METHOD != 0
#error "doubles are computed in more than their own precision: results would be rounded twice"
#endif
#if PY_BIG_ENDIAN
#error "the first of eight characters is expected in the lowest byte"
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    LONGEST = 32,       /* characters that read_decimal may look at before it knows what is there */
    EXACT_SCALE = 22,   /* 10²² is the last power of ten that is a double */
    LARGEST_SCALE = 40, /* numbers of 17 digits down to 1e-24 */
    SHORT = 65536,      /* characters that take so few µs that Python may wait for it */
};

#define EXACT_DIGITS (UINT64_C(1) << 53) /* whole numbers up to here are doubles */

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

INLINE const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
        p++;
    return p;
}

/* What follows `wanted` and the blanks around it, or NULL if something else is there. */
INLINE const char *expect(const char *p, char wanted)
{
    p = skip_blanks(p);
    return *p == wanted ? skip_blanks(p + 1) : NULL;
}

/* The same for a text of several characters. */
static const char *expect_text(const char *p, const char *wanted)
{
    p = skip_blanks(p);
    for (; *wanted != '\0'; p++, wanted++)
        if (*p != *wanted)
            return NULL;
    return skip_blanks(p);
}

/* Eight digits at a time, as in simdjson and fast_float (Lemire 2021, "Number parsing at a gigabyte
 * per second", https://arxiv.org/abs/2101.11408): each byte a character less '0', the first lowest.
 */
typedef uint64_t eight;

INLINE eight load(const char *p)
{
    eight characters;
    memcpy(&characters, p, sizeof characters);
    return characters ^ UINT64_C(0x3030303030303030);
}

/* How many digits it begins with. Sums carry upwards only, and only from what is no digit. */
INLINE int count_digits(eight values)
{
    const uint64_t up_to_9 = UINT64_C(0x7676767676767676), high_bits = UINT64_C(0x8080808080808080);
    uint64_t others = ((values + up_to_9) | values) & high_bits;
    return others ? __builtin_ctzll(others) / 8 : 8;
}

/* Pairs of digits to numbers, pairs of those, and those two. */
INLINE uint64_t join_eight(eight values)
{
    const uint64_t every_fourth = UINT64_C(0x000000FF000000FF);
    const uint64_t first = 100 + (UINT64_C(1000000) << 32), second = 1 + (UINT64_C(10000) << 32);
    values = values * 10 + (values >> 8);
    return ((values & every_fourth) * first + ((values >> 16) & every_fourth) * second) >> 32;
}

/* The number that its first 0 to 7 digits make: as the last of eight, after zeros. */
INLINE uint64_t join(eight values, int digits)
{
    return join_eight(values << 8 * (7 - digits) << 8);
}

/* digits / 10^scale */
typedef struct {
    uint64_t digits;
    int scale;
} decimal;

/* The digits after the point. That there is but one of them, as in 0.0, is found by a branch, as is
 * a whole part of one digit: processors guess it and go on, while on a count they wait. */
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
    for (; count < 3 && is_digit(*p); p++, count++) /* a fourth is what must not follow a number */
        exponent = exponent * 10 + (*p - '0');
    if (count == 0)
        return NULL;
    into->scale += negative ? exponent : -exponent;
    return p;
}

/* A number from 0 to 255.9… by RFC 8259's grammar; what follows it, or NULL. Looks at no more than
 * LONGEST characters, and at the next if they are all its own: 3 digits and the point, 3 times 8 of
 * which 23 are digits, the exponent's 5. */
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

/* A decimal as the float32 in [0, 1] that its correctly rounded double D becomes; 0 for some.
 *
 * Where digits and power are doubles themselves, the quotient is D (Clinger 1990, "How to read
 * floating point numbers accurately"). Otherwise the two and the quotient are each rounded, by up
 * to u = 2⁻⁵³ of themselves, and D by as much: D is within 4u and a bit of `quotient`. 2⁻⁵⁰ is 8u,
 * so D lies between `low` and `high`, whose own rounding takes less than the rest. Rounding to
 * float32 keeps order: if both become the same number, so does D. For 1 decimal in 10⁷ they do not.
 *
 * A quotient of at most 1 tells that the digits, as a double, are at most 10^scale. Up to 10²² that
 * power is exact, and beyond it no 64 bits reach it. So the digits are at most (1 + u) 10^scale,
 * and D at most 1. */
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

/* A decimal as the whole number in 0..255 that its double is; 0 for some. */
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

/* Images of one form: lists of rows, or flat ones, which are one row. */
typedef struct {
    int depth; /* of lists: 1 for flat images, 2 for [H][W], 3 for [C][H][W] */
    Py_ssize_t planes, rows, columns;
    Py_ssize_t lists; /* that make up an image, its own among them */
} form;

/* Where reading is, or NULL once something was met that is not read here. */
typedef struct {
    const char *at, *end;
    union {
        float *units;
        uint8_t *bytes;
    } pixels; /* the next ones */
} reader;

/* read_decimal, also where the end of the text is near: there it reads a copy that has room. */
INLINE const char *read_within(const char *p, const char *end, decimal *into)
{
    if (end - p >= LONGEST)
        return read_decimal(p, into);
    char copy[2 * LONGEST] = {0};
    memcpy(copy, p, (size_t)(end - p));
    const char *after = read_decimal(copy, into);
    return after == NULL ? NULL : p + (after - copy);
}

static int read_row(reader *r, Py_ssize_t columns, int of_bytes)
{
    const char *p = expect(r->at, '[');
    for (Py_ssize_t i = 0; i < columns && p != NULL; i++) {
        decimal number;
        p = read_within(p, r->end, &number);
        if (p == NULL)
            break;
        if (of_bytes ? !to_byte(number, r->pixels.bytes++) : !to_unit(number, r->pixels.units++))
            p = NULL;
        else
            p = expect(p, i + 1 < columns ? ',' : ']');
    }
    r->at = p;
    return p != NULL;
}

static int pass(reader *r, char wanted)
{
    r->at = expect(r->at, wanted);
    return r->at != NULL;
}

static int read_image(reader *r, const form *f, int of_bytes)
{
    if (f->depth > 2 && !pass(r, '['))
        return 0;
    for (Py_ssize_t plane = 0; plane < f->planes; plane++) {
        if ((plane > 0 && !pass(r, ',')) || (f->depth > 1 && !pass(r, '[')))
            return 0;
        for (Py_ssize_t row = 0; row < f->rows; row++)
            if ((row > 0 && !pass(r, ',')) || !read_row(r, f->columns, of_bytes))
                return 0;
        if (f->depth > 1 && !pass(r, ']'))
            return 0;
    }
    return f->depth < 3 || pass(r, ']');
}

static int read_all(reader *r, const form *f, Py_ssize_t n, int of_bytes)
{
    if (!pass(r, '['))
        return 0;
    for (Py_ssize_t i = 0; i < n; i++)
        if ((i > 0 && !pass(r, ',')) || !read_image(r, f, of_bytes))
            return 0;
    return pass(r, ']');
}

/* The rest of `"dtype": …` after its name: 1 if bytes are meant, 0 if floats; NULL for others. */
static const char *read_dtype(const char *p, int *of_bytes)
{
    const char *after = expect_text(p, ":");
    if (after == NULL)
        return NULL;
    p = expect_text(after, "\"uint8\"");
    *of_bytes = p != NULL;
    return p != NULL ? p : expect_text(after, "\"float32\"");
}

/* A body around its images, which go from `first`, a '[', to `last`, a ']'. */
typedef struct {
    const char *first, *last;
    int of_bytes;
} layout;

/* Reads what is before the images and what is after them: dtype may be on either side. */
static int read_layout(const char *text, const char *end, layout *into)
{
    int of_bytes = 0;
    const char *p = expect(text, '{');
    const char *after = p == NULL ? NULL : expect_text(p, "\"dtype\"");
    const int dtype_first = after != NULL;
    if (dtype_first) {
        after = read_dtype(after, &of_bytes);
        p = after == NULL ? NULL : expect(after, ',');
    }
    p = p == NULL ? NULL : expect_text(p, "\"images\"");
    p = p == NULL ? NULL : expect(p, ':');
    if (p == NULL || *p != '[')
        return 0;
    into->first = p;
    p = end;
    while (*p != ']')
        if (--p == into->first)
            return 0;
    into->last = p;
    p = skip_blanks(p + 1);
    if (*p == ',' && !dtype_first) {
        p = expect_text(p + 1, "\"dtype\"");
        p = p == NULL ? NULL : read_dtype(p, &of_bytes);
    }
    p = p == NULL ? NULL : expect(p, '}');
    into->of_bytes = of_bytes;
    return p == end;
}

/* Which form the images have; 0 if none, or if C images are not told apart. */
static int find_form(const char *p, Py_ssize_t channels, Py_ssize_t height, Py_ssize_t width,
                     form *into)
{
    int depth = -1; /* the outermost list is that of images */
    for (; *p == '[' && depth < 3; p = skip_blanks(p + 1))
        depth++;
    into->depth = depth;
    into->planes = depth == 3 ? channels : 1;
    into->rows = depth == 1 ? 1 : height;
    into->columns = depth == 1 ? channels * height * width : width;
    into->lists = 1 + (depth > 1 ? into->planes * into->rows : 0) + (depth > 2 ? into->planes : 0);
    return *p != '[' && (depth == 1 || depth == 3 || (depth == 2 && channels == 1));
}

/* How many '[' there are, up to `most` and one. */
static Py_ssize_t count_lists(const char *p, const char *end, Py_ssize_t most)
{
    Py_ssize_t count = 0;
    while (count <= most && (p = memchr(p, '[', (size_t)(end - p))) != NULL) {
        count++;
        p++;
    }
    return count;
}

PyDoc_STRVAR(read_images_doc,
"read_images(body, channels, height, width, max_images)\n--\n\n"
"The pixels of a JSON body whose images are numbers, as (dtype, bytearray), or None.\n\n"
"dtype is 'float32', little-endian, or 'uint8'; images are as long as the network's and one after\n"
"the other. None says that the body is not of the plain form, or is wrong: simdjson knows.");

static PyObject *read_images(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 5) {
        PyErr_Format(PyExc_TypeError, "read_images takes 5 arguments, %zd given", count);
        return NULL;
    }
    Py_ssize_t numbers[4];
    for (int i = 0; i < 4; i++) {
        numbers[i] = PyLong_AsSsize_t(args[1 + i]);
        if (numbers[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    const Py_ssize_t channels = numbers[0], height = numbers[1], width = numbers[2];
    const Py_ssize_t max_images = numbers[3];
    if (!PyBytes_Check(args[0]))
        Py_RETURN_NONE;
    const char *text = PyBytes_AS_STRING(args[0]);
    const Py_ssize_t length = PyBytes_GET_SIZE(args[0]);
    const char *end = text + length;

    /* A number takes two characters at least. So this bounds the memory by the body's length, and
     * the products by what fits. */
    const Py_ssize_t most = (length < INT32_MAX ? length : 0) / 2;
    if (channels < 1 || channels > most || height < 1 || height > most / channels || width < 1 ||
        width > most / channels / height || max_images < 1)
        Py_RETURN_NONE;
    const Py_ssize_t size = channels * height * width;

    layout found;
    form f;
    if (!read_layout(text, end, &found) || !find_form(found.first, channels, height, width, &f))
        Py_RETURN_NONE;
    const Py_ssize_t fitting = most / size;
    const Py_ssize_t allowed = max_images < fitting ? max_images : fitting;
    const Py_ssize_t n = count_lists(found.first + 1, found.last, allowed * f.lists) / f.lists;
    if (n < 1 || n > allowed)
        Py_RETURN_NONE;

    const Py_ssize_t item = found.of_bytes ? sizeof(uint8_t) : sizeof(float);
    PyObject *pixels = PyByteArray_FromStringAndSize(NULL, n * size * item);
    if (pixels == NULL)
        return NULL;
    reader r = {.at = found.first, .end = end};
    int done;
    /* Who gives Python's lock away may wait 5 ms for it (sys.setswitchinterval). */
    PyThreadState *state = length > SHORT ? PyEval_SaveThread() : NULL;
    if (found.of_bytes) {
        r.pixels.bytes = (uint8_t *)PyByteArray_AS_STRING(pixels);
        done = read_all(&r, &f, n, 1);
    } else {
        r.pixels.units = (float *)PyByteArray_AS_STRING(pixels);
        done = read_all(&r, &f, n, 0);
    }
    if (state != NULL)
        PyEval_RestoreThread(state);
    if (!done || r.at <= found.last) {
        Py_DECREF(pixels);
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(sN)", found.of_bytes ? "uint8" : "float32", pixels);
}

static PyMethodDef methods[] = {
    {"read_images", (PyCFunction)(void (*)(void))read_images, METH_FASTCALL, read_images_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "service.codecs._json",
    .m_doc = "JSON bodies of images to pixels.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__json(void)
{
    return PyModuleDef_Init(&definition);
}
