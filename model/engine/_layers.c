/* A fully connected network on one core: its layers for one image as for a batch.
 *
 * A library's matrix product is built for large matrices. For one image it takes most of its time
 * to get going, and each of the six is called from Python. Here the whole network is one call, and
 * numbers that are 0, as four of five pixels of a digit and half of what ReLU leaves are, are not
 * multiplied. Each row is added up in the order of its inputs, whatever rows are beside it: its
 * results are the same bits in any batch. tests/unit/test_forward.py holds it against torch.
 *
 * Loops are plain, so that compilers vectorise them; model/scores/_native.c says how.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && \
    ((!defined(__clang__) && __GNUC__ >= 12) || (defined(__clang__) && __clang_major__ >= 18))
#define WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define PICKED
#else
#define WIDEST
#endif

#define INLINE static inline __attribute__((always_inline))

enum {
    ROWS = 8,          /* images at a time: for so many, a weight is fetched once */
    COLUMNS = 32,      /* outputs at a time: with ROWS of them, half of 32 registers of 16 floats */
    FEW = 4,
    GROUPS = 8,        /* of ROWS images go through a block of weights while it is near */
    MAX_LAYERS = 64,
    SHORT = 1 << 23,   /* numbers multiplied: at the most they take some tenths of a millisecond */
};

/* `rows` results of COLUMNS outputs, from `count` inputs, each with a number of every row. */
INLINE void block(int rows, const float *restrict numbers, const int32_t *restrict places,
                  Py_ssize_t count, const float *restrict weights, float *restrict sums)
{
    float sum[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++)
            sum[r][c] = weights[c]; /* the biases come first */
    weights += COLUMNS;
    for (Py_ssize_t i = 0; i < count; i++) {
        const float *restrict from = weights + (Py_ssize_t)places[i] * COLUMNS;
        for (int r = 0; r < rows; r++) {
            const float number = numbers[i * ROWS + r];
#pragma omp simd
            for (int c = 0; c < COLUMNS; c++)
                sum[r][c] += number * from[c];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++)
            sums[r * COLUMNS + c] = sum[r][c];
}

/* The inputs of up to ROWS rows that are not 0 in all of them: their places, and their numbers, of
 * which the rows that are not there have 0. Gives how many. */
INLINE Py_ssize_t gather(int rows, const float *restrict x, Py_ssize_t x_step, Py_ssize_t in,
                         float *restrict numbers, int32_t *restrict places)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t k = 0; k < in; k++) {
        int any = 0;
        for (int r = 0; r < ROWS; r++) {
            float number = r < rows ? x[r * x_step + k] : 0.0f;
            numbers[count * ROWS + r] = number;
            any |= number != 0.0f;
        }
        places[count] = (int32_t)k;
        count += any;
    }
    return count;
}

/* Up to GROUPS · ROWS rows through one layer, (n, in) to (n, out); rows of `x` lie so many numbers
 * apart. `weights` are blocks of COLUMNS outputs, each of them biases, then a line an input. All
 * rows go through a block before the next is fetched. `numbers` and `places` are room. */
WIDEST static void layer(Py_ssize_t n, const float *restrict x, Py_ssize_t x_step, Py_ssize_t in,
                         const float *restrict weights, Py_ssize_t out, int relu, float *restrict y,
                         float *restrict numbers, int32_t *restrict places)
{
    Py_ssize_t count[GROUPS];
    for (Py_ssize_t first = 0, g = 0; first < n; first += ROWS, g++) {
        const int rows = n - first < ROWS ? (int)(n - first) : ROWS;
        count[g] = gather(rows, x + first * x_step, x_step, in, numbers + g * in * ROWS,
                          places + g * in);
    }
    float sums[ROWS * COLUMNS];
    for (Py_ssize_t column = 0; column < out; column += COLUMNS) {
        const Py_ssize_t columns = out - column < COLUMNS ? out - column : COLUMNS;
        for (Py_ssize_t first = 0, g = 0; first < n; first += ROWS, g++) {
            const int rows = n - first < ROWS ? (int)(n - first) : ROWS;
            const float *from = numbers + g * in * ROWS;
            const int32_t *at = places + g * in;
            if (rows > FEW)
                block(ROWS, from, at, count[g], weights, sums);
            else /* fewer are no faster: what they would wait for is the weights */
                block(FEW, from, at, count[g], weights, sums);
            for (int r = 0; r < rows; r++)
                for (Py_ssize_t c = 0; c < columns; c++) {
                    float sum = sums[r * COLUMNS + c];
                    y[(first + r) * out + column + c] = relu && sum < 0 ? 0.0f : sum;
                }
        }
        weights += (in + 1) * COLUMNS;
    }
}

typedef struct {
    Py_ssize_t count, encoders, latents, widest, numbers;
    Py_ssize_t in[MAX_LAYERS], out[MAX_LAYERS];
} shape;

/* Numbers that a layer's weights take: full blocks, with biases. */
static Py_ssize_t numbers_of(Py_ssize_t in, Py_ssize_t out)
{
    return (out + COLUMNS - 1) / COLUMNS * (in + 1) * COLUMNS;
}

/* The layers' sizes, (784, 256, 64, 20) and (10, 64, 256, 784); 0 with ValueError set if wrong. */
static int read_sizes(shape *s, PyObject *encoder, PyObject *decoder)
{
    PyObject *const parts[2] = {encoder, decoder};
    memset(s, 0, sizeof *s);
    for (int part = 0; part < 2; part++) {
        if (!PyTuple_Check(parts[part]) || PyTuple_GET_SIZE(parts[part]) < 2 ||
            s->count + PyTuple_GET_SIZE(parts[part]) - 1 > MAX_LAYERS) {
            PyErr_Format(PyExc_ValueError, "sizes are a tuple of 2 to %d numbers", MAX_LAYERS / 2);
            return 0;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts[part]); i++) {
            Py_ssize_t size = PyLong_AsSsize_t(PyTuple_GET_ITEM(parts[part], i));
            if (size < 1 || size > INT32_MAX / COLUMNS) {
                if (!PyErr_Occurred())
                    PyErr_Format(PyExc_ValueError, "a layer's size is %zd", size);
                return 0;
            }
            s->widest = size > s->widest ? size : s->widest;
            if (i > 0) {
                s->out[s->count] = size;
                s->numbers += numbers_of(s->in[s->count], size);
                s->count++;
            }
            if (i + 1 < PyTuple_GET_SIZE(parts[part]))
                s->in[s->count] = size;
        }
        if (part == 0)
            s->encoders = s->count;
    }
    s->latents = s->in[s->encoders];
    if (s->out[s->encoders - 1] != 2 * s->latents || s->out[s->count - 1] != s->in[0]) {
        PyErr_SetString(PyExc_ValueError, "the decoder's sizes do not go with the encoder's");
        return 0;
    }
    return 1;
}

/* All n rows, `most` at a time, through the layers from `start` on: the first, to which they are
 * images, or the decoder's first, to which they are latents. `room` is for 3 · most of the widest
 * layer's numbers. */
static void compute(const shape *s, Py_ssize_t start, const float *weights, int relu_head,
                    const float *inputs, float *heads, float *logits, Py_ssize_t n,
                    Py_ssize_t most, float *room, int32_t *places)
{
    float *const numbers = room, *const one = numbers + s->widest * most;
    float *const other = one + s->widest * most;
    const Py_ssize_t p = s->in[0], width = 2 * s->latents;
    for (Py_ssize_t i = 0; i < start; i++)
        weights += numbers_of(s->in[i], s->out[i]);
    for (Py_ssize_t first = 0; first < n; first += most) {
        const Py_ssize_t rows = n - first < most ? n - first : most;
        const float *x = inputs + first * s->in[start], *w = weights;
        Py_ssize_t step = s->in[start];
        for (Py_ssize_t i = start; i < s->count; i++) {
            const int last = i == s->encoders - 1 || i == s->count - 1;
            float *y = i == s->encoders - 1 ? heads + first * width
                     : i == s->count - 1    ? logits + first * p
                     : x == one             ? other
                                            : one;
            layer(rows, x, step, s->in[i], w, s->out[i], !last, y, numbers, places);
            w += numbers_of(s->in[i], s->out[i]);
            x = y;
            step = s->out[i];
            if (i == s->encoders - 1 && relu_head) { /* μ = max(h, 0) */
                for (Py_ssize_t r = 0; r < rows; r++)
                    for (Py_ssize_t d = 0; d < s->latents; d++)
                        one[r * s->latents + d] = y[r * width + d] > 0 ? y[r * width + d] : 0;
                x = one;
                step = s->latents;
            }
        }
    }
}

enum { INPUTS, WEIGHTS, HEADS, LOGITS, ARRAYS };

/* A C-contiguous float32 array of `count` numbers; 0 with ValueError set if it is none. */
static int floats(Py_buffer *into, PyObject *object, const char *name, Py_ssize_t count, int flags)
{
    if (PyObject_GetBuffer(object, into, PyBUF_ND | PyBUF_FORMAT | flags) < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s is no C-contiguous array", name);
        into->obj = NULL;
        return 0;
    }
    const char *type = into->format == NULL ? "B" : into->format;
    if (strcmp(type, "f") != 0 || into->len != count * (Py_ssize_t)sizeof(float)) {
        PyErr_Format(PyExc_ValueError, "%s has %zd bytes of type %s, expected %zd float32", name,
                     into->len, type, count);
        return 0;
    }
    return 1;
}

/* Check everything, then compute, from images or, where `heads` is NULL, from latents. */
static PyObject *run(PyObject *number, PyObject *const objects[ARRAYS], PyObject *encoder,
                     PyObject *decoder, int relu_head)
{
    shape s;
    const Py_ssize_t n = PyLong_AsSsize_t(number);
    if ((n == -1 && PyErr_Occurred()) || !read_sizes(&s, encoder, decoder))
        return NULL;
    if (n < 0 || n > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(float) / s.widest) {
        PyErr_Format(PyExc_ValueError, "n is %zd", n);
        return NULL;
    }
    const Py_ssize_t start = objects[HEADS] == NULL ? s.encoders : 0;
    Py_buffer arrays[ARRAYS];
    memset(arrays, 0, sizeof arrays);
    float *room = NULL;
    int32_t *places = NULL;
    if (floats(&arrays[INPUTS], objects[INPUTS], start ? "z" : "pixels", n * s.in[start], 0) &&
        floats(&arrays[WEIGHTS], objects[WEIGHTS], "weights", s.numbers, 0) &&
        (start || floats(&arrays[HEADS], objects[HEADS], "heads", n * 2 * s.latents,
                         PyBUF_WRITABLE)) &&
        floats(&arrays[LOGITS], objects[LOGITS], "logits", n * s.in[0], PyBUF_WRITABLE)) {
        const Py_ssize_t groups = n < GROUPS * ROWS ? (n + ROWS - 1) / ROWS : GROUPS;
        room = malloc((size_t)(s.widest * 3 * groups * ROWS + 1) * sizeof(float));
        places = malloc((size_t)(s.widest * groups + 1) * sizeof(int32_t));
        if (room == NULL || places == NULL) {
            PyErr_NoMemory();
        } else {
            PyThreadState *state = n > SHORT / s.numbers ? PyEval_SaveThread() : NULL;
            compute(&s, start, arrays[WEIGHTS].buf, relu_head, arrays[INPUTS].buf,
                    arrays[HEADS].buf, arrays[LOGITS].buf, n, groups * ROWS, room, places);
            if (state != NULL)
                PyEval_RestoreThread(state);
        }
    }
    free(room);
    free(places);
    for (int i = 0; i < ARRAYS; i++)
        if (arrays[i].obj != NULL)
            PyBuffer_Release(&arrays[i]);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forward_doc,
"forward(n, pixels, weights, encoder, decoder, relu_head, heads, logits)\n--\n\n"
"Encode n images and decode z = μ: model.forward has the use of it.\n\n"
"`pixels`, (n, P), are read, and `heads`, (n, 2D), and `logits`, (n, P), are written; all are\n"
"C-contiguous float32. `encoder` and `decoder` are the layers' sizes, and `weights` what\n"
"model.forward.packed makes of them. Raises ValueError where these do not fit each other.");

static PyObject *forward(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 8) {
        PyErr_Format(PyExc_TypeError, "forward takes 8 arguments, %zd given", count);
        return NULL;
    }
    const int relu_head = PyObject_IsTrue(args[5]);
    if (relu_head < 0)
        return NULL;
    PyObject *const objects[ARRAYS] = {
        [INPUTS] = args[1], [WEIGHTS] = args[2], [HEADS] = args[6], [LOGITS] = args[7]};
    return run(args[0], objects, args[3], args[4], relu_head);
}

PyDoc_STRVAR(decode_doc,
"decode(n, z, weights, encoder, decoder, logits)\n--\n\n"
"Decode n latents, (n, D), to `logits`, (n, P): as forward() does, of whose arguments these are.");

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6) {
        PyErr_Format(PyExc_TypeError, "decode takes 6 arguments, %zd given", count);
        return NULL;
    }
    PyObject *const objects[ARRAYS] = {
        [INPUTS] = args[1], [WEIGHTS] = args[2], [HEADS] = NULL, [LOGITS] = args[5]};
    return run(args[0], objects, args[3], args[4], 0);
}

static PyMethodDef methods[] = {
    {"forward", (PyCFunction)(void (*)(void))forward, METH_FASTCALL, forward_doc},
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, decode_doc},
    {NULL, NULL, 0, NULL},
};

/* Whether there are the registers that ROWS and COLUMNS are made for. */
static int prepare(PyObject *module)
{
    int wide = 0;
#ifdef PICKED /* else this was compiled for processors without them */
    wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#endif
    if (PyModule_AddIntConstant(module, "COLUMNS", COLUMNS) < 0 ||
        PyModule_AddIntConstant(module, "MAX_LAYERS", MAX_LAYERS) < 0)
        return -1;
    return PyModule_AddIntConstant(module, "WIDE", wide);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, prepare},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "model.engine._layers",
    .m_doc = "A fully connected network on one core, in one call.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__layers(void)
{
    return PyModuleDef_Init(&definition);
}
