/* The layers of a fully connected network on one core, for a single image as for a batch.
 *
 * A library's matrix product is built for large matrices. For one image it spends most of its time
 * on set-up, and each of the six products is a call from Python. Here the whole network is one
 * call, and inputs that are 0 are skipped: four of five pixels of a digit, and half of what ReLU
 * leaves. Each row is summed in the order of its inputs, whatever rows are beside it, so its
 * results are the same bits in any batch. tests/unit/model/engine/test_forward.py compares it with
 * torch.
 *
 * Loops are plain, so that compilers vectorise them; model/scores/_native.c says how.
 */

#include "model/extension.h"

enum {
    ROWS = 8,        /* images that share each load of a weight */
    COLUMNS = 32,    /* outputs at a time: with ROWS, the sums fill half of 32 16-float registers */
    FEW = 4,         /* the smaller number of ROWS that has code of its own */
    GROUPS = 8,      /* groups of ROWS images that use a block of weights while it is in cache */
    MAX_LAYERS = 64,
    SHORT = 1 << 23, /* multiplications that take a few tenths of a millisecond at most */
};

/* Sums of COLUMNS outputs for `rows` rows. Each of the `count` inputs has its index in `places` and
 * ROWS values in `numbers`, one for each row. */
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

/* Collect the inputs of up to ROWS rows that are not 0 in every row: their indices in `places`, and
 * their values in `numbers`, with 0 for missing rows. Returns how many there are. */
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

/* One layer for up to GROUPS · ROWS rows, (n, in) to (n, out); rows of `x` are `x_step` floats
 * apart. `weights` are blocks of COLUMNS outputs, each a line of biases and a line for each input.
 * All rows use a block before the next one is loaded. `numbers` and `places` are scratch memory. */
VECTOR_VERSIONS static void layer(Py_ssize_t n, const float *restrict x, Py_ssize_t x_step,
                                  Py_ssize_t in, const float *restrict weights, Py_ssize_t out,
                                  int relu, float *restrict y, float *restrict numbers,
                                  int32_t *restrict places)
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
            else /* fewer would be no faster, as loading the weights takes the time */
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

/* Floats in a layer's weights: full blocks, with biases. */
static Py_ssize_t numbers_of(Py_ssize_t in, Py_ssize_t out)
{
    return (out + COLUMNS - 1) / COLUMNS * (in + 1) * COLUMNS;
}

/* Read the layers' sizes, such as (784, 256, 64, 20) and (10, 64, 256, 784). Returns 1, or 0 with
 * ValueError set. */
static int read_sizes(shape *s, PyObject *encoder, PyObject *decoder)
{
    PyObject *const parts[2] = {encoder, decoder};
    memset(s, 0, sizeof *s);
    for (int part = 0; part < 2; part++) {
        if (!PyTuple_Check(parts[part]) || PyTuple_GET_SIZE(parts[part]) < 2 ||
            s->count + PyTuple_GET_SIZE(parts[part]) - 1 > MAX_LAYERS) {
            PyErr_Format(PyExc_ValueError,
                         "sizes are tuples of at least 2 numbers, for at most %d layers",
                         MAX_LAYERS);
            return 0;
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts[part]); i++) {
            Py_ssize_t size = PyLong_AsSsize_t(PyTuple_GET_ITEM(parts[part], i));
            if (size < 1 || size > INT32_MAX / COLUMNS) {
                if (!PyErr_Occurred())
                    PyErr_Format(PyExc_ValueError, "a layer's size is %zd, expected 1 to %d", size,
                                 INT32_MAX / COLUMNS);
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
        PyErr_SetString(PyExc_ValueError, "the decoder's sizes do not match the encoder's");
        return 0;
    }
    return 1;
}

/* Compute the layers from `start` on for n rows, `max_rows` at a time. `start` is 0 for images, or
 * the decoder's first layer for latents. `scratch` holds 3 · max_rows · widest floats. */
static void compute(const shape *s, Py_ssize_t start, const float *weights, int relu_head,
                    const float *inputs, float *heads, float *logits, Py_ssize_t n,
                    Py_ssize_t max_rows, float *scratch, int32_t *places)
{
    float *const numbers = scratch, *const one = numbers + s->widest * max_rows;
    float *const other = one + s->widest * max_rows;
    const Py_ssize_t p = s->in[0], width = 2 * s->latents;
    for (Py_ssize_t i = 0; i < start; i++)
        weights += numbers_of(s->in[i], s->out[i]);
    for (Py_ssize_t first = 0; first < n; first += max_rows) {
        const Py_ssize_t rows = n - first < max_rows ? n - first : max_rows;
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

/* Get a float32 array of `count` numbers in any shape. Returns 1, or 0 with ValueError set. */
static int floats(Py_buffer *into, PyObject *object, const char *name, Py_ssize_t count, int flags)
{
    if (!get_floats(into, object, name, flags))
        return 0;
    if (into->len != count * (Py_ssize_t)sizeof(float)) {
        PyErr_Format(PyExc_ValueError, "%s has %zd numbers, expected %zd", name,
                     into->len / (Py_ssize_t)sizeof(float), count);
        return 0;
    }
    return 1;
}

/* Check all arguments, then compute: from images, or from latents if `heads` is NULL. */
static PyObject *run(PyObject *number, PyObject *const objects[ARRAYS], PyObject *encoder,
                     PyObject *decoder, int relu_head)
{
    shape s;
    const Py_ssize_t n = PyLong_AsSsize_t(number);
    if ((n == -1 && PyErr_Occurred()) || !read_sizes(&s, encoder, decoder))
        return NULL;
    if (n < 0 || n > PY_SSIZE_T_MAX / (Py_ssize_t)sizeof(float) / s.widest) {
        PyErr_Format(PyExc_ValueError, "n is %zd, expected 0 to what memory can hold", n);
        return NULL;
    }
    const Py_ssize_t start = objects[HEADS] == NULL ? s.encoders : 0;
    Py_buffer arrays[ARRAYS];
    memset(arrays, 0, sizeof arrays);
    float *scratch = NULL;
    int32_t *places = NULL;
    if (floats(&arrays[INPUTS], objects[INPUTS], start ? "z" : "pixels", n * s.in[start], 0) &&
        floats(&arrays[WEIGHTS], objects[WEIGHTS], "weights", s.numbers, 0) &&
        (start || floats(&arrays[HEADS], objects[HEADS], "heads", n * 2 * s.latents,
                         PyBUF_WRITABLE)) &&
        floats(&arrays[LOGITS], objects[LOGITS], "logits", n * s.in[0], PyBUF_WRITABLE)) {
        const Py_ssize_t groups = n < GROUPS * ROWS ? (n + ROWS - 1) / ROWS : GROUPS;
        scratch = malloc((size_t)(s.widest * 3 * groups * ROWS + 1) * sizeof(float));
        places = malloc((size_t)(s.widest * groups + 1) * sizeof(int32_t));
        if (scratch == NULL || places == NULL) {
            PyErr_NoMemory();
        } else {
            PyThreadState *state = release_gil_if(n > SHORT / s.numbers);
            compute(&s, start, arrays[WEIGHTS].buf, relu_head, arrays[INPUTS].buf,
                    arrays[HEADS].buf, arrays[LOGITS].buf, n, groups * ROWS, scratch, places);
            reacquire_gil(state);
        }
    }
    free(scratch);
    free(places);
    release_buffers(arrays, ARRAYS);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forward_doc,
"forward(n, pixels, weights, encoder, decoder, relu_head, heads, logits)\n--\n\n"
"Encode n images and decode z = μ, for model.engine.forward.\n\n"
"Reads `pixels`, (n, P), and writes `heads`, (n, 2D), and `logits`, (n, P); all are C-contiguous\n"
"float32. `encoder` and `decoder` are the layers' sizes; `weights` come from\n"
"model.engine.forward.weights_in_blocks. Raises ValueError for sizes or arrays that do not match.");

static PyObject *forward(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!check_argument_count("forward", count, 8))
        return NULL;
    const int relu_head = PyObject_IsTrue(args[5]);
    if (relu_head < 0)
        return NULL;
    PyObject *const objects[ARRAYS] = {
        [INPUTS] = args[1], [WEIGHTS] = args[2], [HEADS] = args[6], [LOGITS] = args[7]};
    return run(args[0], objects, args[3], args[4], relu_head);
}

PyDoc_STRVAR(decode_doc,
"decode(n, z, weights, encoder, decoder, logits)\n--\n\n"
"Decode n latents, (n, D), to `logits`, (n, P). The other arguments are those of forward().");

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!check_argument_count("decode", count, 6))
        return NULL;
    PyObject *const objects[ARRAYS] = {
        [INPUTS] = args[1], [WEIGHTS] = args[2], [HEADS] = NULL, [LOGITS] = args[5]};
    return run(args[0], objects, args[3], args[4], 0);
}

static PyMethodDef methods[] = {
    FASTCALL_METHOD(forward),
    FASTCALL_METHOD(decode),
    {NULL, NULL, 0, NULL},
};

/* Add the constants. WIDE says whether the processor has the AVX-512 registers that ROWS and
 * COLUMNS are made for, and this binary has code for them. */
static int prepare(PyObject *module)
{
    int wide = 0;
#if HAS_VECTOR_VERSIONS
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

DEFINE_MODULE(_layers, "model.engine._layers", "A fully connected network on one core.")
