/* JSON bodies of images to pixels, straight from the text into their place.
 *
 * Reads only the plain form of {"images": […], "dtype": …}, and returns None for everything else:
 * other fields, image files, escapes, images of several forms, and errors. json_bodies.py then reads
 * the body with simdjson, which knows every form and reports what is wrong. So there are no error
 * messages here, but whatever is read must have the bits that simdjson and numpy would give;
 * tests/unit/service/codecs/test_json_numbers.py compares the two.
 *
 * The text ends in a NUL, as every bytes object does. It matches nothing below, so single
 * characters are read without a check for the end, but never eight at once.
 */

#include "_decimal.h"

enum { SHORT = 65536 }; /* characters that take a few µs, for which the GIL is kept */

INLINE const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
        p++;
    return p;
}

/* The position after `expected` and the blanks around it, or NULL if something else is there. */
INLINE const char *expect(const char *p, char expected)
{
    p = skip_blanks(p);
    return *p == expected ? skip_blanks(p + 1) : NULL;
}

/* The same for a string. */
static const char *expect_text(const char *p, const char *expected)
{
    p = skip_blanks(p);
    for (; *expected != '\0'; p++, expected++)
        if (*p != *expected)
            return NULL;
    return skip_blanks(p);
}

/* The form that all images share: lists of rows, or flat lists, which count as one row. */
typedef struct {
    int depth; /* nesting: 1 for flat images, 2 for [H][W], 3 for [C][H][W] */
    Py_ssize_t planes, rows, columns;
    Py_ssize_t lists; /* in one image, including the image itself */
} form;

/* The position in the text, NULL after something that is not read here. */
typedef struct {
    const char *at, *end;
    union {
        float *units;
        uint8_t *bytes;
    } pixels; /* where the next pixel goes */
} reader;

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

static int pass(reader *r, char expected)
{
    r->at = expect(r->at, expected);
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

/* Read the rest of `"dtype": …` after its name; `of_bytes` is set for uint8, cleared for float32.
 * NULL for others. */
static const char *read_dtype(const char *p, int *of_bytes)
{
    const char *after = expect_text(p, ":");
    if (after == NULL)
        return NULL;
    p = expect_text(after, "\"uint8\"");
    *of_bytes = p != NULL;
    return p != NULL ? p : expect_text(after, "\"float32\"");
}

/* A body; its images extend from `first`, a '[', to `last`, a ']'. */
typedef struct {
    const char *first, *last;
    int of_bytes;
} layout;

/* Read what precedes and what follows the images; dtype may be on either side. */
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

/* Find the form of the images. Returns 0 if it is none of the three, or [H][W] with C > 1. */
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

/* The number of '[', counted up to `limit` + 1. */
static Py_ssize_t count_lists(const char *p, const char *end, Py_ssize_t limit)
{
    Py_ssize_t count = 0;
    while (count <= limit && (p = memchr(p, '[', (size_t)(end - p))) != NULL) {
        count++;
        p++;
    }
    return count;
}

PyDoc_STRVAR(read_images_doc,
"read_images(body, channels, height, width, max_images)\n--\n\n"
"The pixels of a JSON body whose images are numbers, as (dtype, bytearray), or None.\n\n"
"dtype is 'float32', little-endian, or 'uint8'. The images have channels · height · width pixels\n"
"each and follow one another. None means that the body is not in the plain form or is wrong;\n"
"simdjson then reads it.");

static PyObject *read_images(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!check_argument_count("read_images", count, 5))
        return NULL;
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

    /* A number takes at least two characters. So this bounds the memory by the body's length, and
     * keeps the products from overflowing. */
    const Py_ssize_t max_numbers = (length < INT32_MAX ? length : 0) / 2;
    if (channels < 1 || channels > max_numbers || height < 1 || height > max_numbers / channels ||
        width < 1 || width > max_numbers / channels / height || max_images < 1)
        Py_RETURN_NONE;
    const Py_ssize_t size = channels * height * width;

    layout body;
    form f;
    if (!read_layout(text, end, &body) || !find_form(body.first, channels, height, width, &f))
        Py_RETURN_NONE;
    const Py_ssize_t fitting = max_numbers / size;
    const Py_ssize_t allowed = max_images < fitting ? max_images : fitting;
    const Py_ssize_t n = count_lists(body.first + 1, body.last, allowed * f.lists) / f.lists;
    if (n < 1 || n > allowed)
        Py_RETURN_NONE;

    const Py_ssize_t item = body.of_bytes ? sizeof(uint8_t) : sizeof(float);
    PyObject *pixels = PyByteArray_FromStringAndSize(NULL, n * size * item);
    if (pixels == NULL)
        return NULL;
    reader r = {.at = body.first, .end = end};
    int done;
    PyThreadState *state = release_gil_if(length > SHORT);
    if (body.of_bytes) {
        r.pixels.bytes = (uint8_t *)PyByteArray_AS_STRING(pixels);
        done = read_all(&r, &f, n, 1);
    } else {
        r.pixels.units = (float *)PyByteArray_AS_STRING(pixels);
        done = read_all(&r, &f, n, 0);
    }
    reacquire_gil(state);
    if (!done || r.at <= body.last) {
        Py_DECREF(pixels);
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(sN)", body.of_bytes ? "uint8" : "float32", pixels);
}

static PyMethodDef methods[] = {
    FASTCALL_METHOD(read_images),
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

DEFINE_MODULE(_json, "service.codecs._json", "JSON bodies of images to pixels.")
