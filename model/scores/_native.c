/* The Python module around _scores.h: checks arrays, releases the GIL, and scores row by row. */

#include "_scores.h"

enum { SHORT = 1 << 15 }; /* numbers, of pixels and mixture, that take some 10 µs at most */

/* Get a float32 array of so many dimensions. Returns 1, or 0 with ValueError set. */
static int floats(Py_buffer *into, PyObject *object, const char *name, int dimensions, int flags)
{
    if (!get_floats(into, object, name, flags))
        return 0;
    if (into->ndim != dimensions) {
        PyErr_Format(PyExc_ValueError, "%s has %d dimensions, expected %d", name, into->ndim,
                     dimensions);
        return 0;
    }
    return 1;
}

/* Returns 1, or 0 with ValueError set. */
static int expect(const char *name, Py_ssize_t value, Py_ssize_t expected)
{
    if (value == expected)
        return 1;
    PyErr_Format(PyExc_ValueError, "%s is %zd, expected %zd", name, value, expected);
    return 0;
}

/* Returns 1, or 0 with ValueError set. */
static int read_statistics(task *t, const float *values, Py_ssize_t count)
{
    const Py_ssize_t d = t->latents, component_size = 1 + d + d * (d + 1) / 2;
    const Py_ssize_t components = (count - SCALE) / component_size;
    if (components < LANES || components % LANES || count != SCALE + components * component_size) {
        PyErr_Format(PyExc_ValueError,
                     "statistics has %zd numbers, expected %d + K * %zd for %zd latents, "
                     "K a multiple of %d",
                     count, (int)SCALE, component_size, d, (int)LANES);
        return 0;
    }
    memcpy(&t->scale, values, sizeof t->scale);
    t->mixture.groups = components / LANES;
    t->mixture.numbers = values + SCALE;
    return 1;
}

enum { PIXELS, LOGITS, HEADS, FIXED, STATISTICS, OUT, ARRAYS };

/* Check all arguments, then compute. Returns 1, or 0 with an exception set. */
static int run(Py_buffer arrays[ARRAYS], PyObject *const *objects, score_name name,
               Py_ssize_t worst)
{
    if (!floats(&arrays[PIXELS], objects[PIXELS], "pixels", 2, 0) ||
        !floats(&arrays[LOGITS], objects[LOGITS], "logits", 2, 0) ||
        !floats(&arrays[HEADS], objects[HEADS], "heads", 2, 0) ||
        !floats(&arrays[FIXED], objects[FIXED], "constants", 1, 0) ||
        !floats(&arrays[OUT], objects[OUT], "out", 2, PyBUF_WRITABLE))
        return 0;
    const Py_ssize_t n = arrays[PIXELS].shape[0], p = arrays[PIXELS].shape[1];
    const Py_ssize_t width = arrays[HEADS].shape[1];
    if (!expect("the number of logits' rows", arrays[LOGITS].shape[0], n) ||
        !expect("the number of logits' columns", arrays[LOGITS].shape[1], p) ||
        !expect("the number of heads' rows", arrays[HEADS].shape[0], n) ||
        !expect("the number of constants", arrays[FIXED].shape[0], CONSTANTS) ||
        !expect("the number of out's rows", arrays[OUT].shape[0], 3) ||
        !expect("the number of out's columns", arrays[OUT].shape[1], n))
        return 0;
    if (worst < 1 || worst > p) {
        PyErr_Format(PyExc_ValueError, "worst is %zd, expected 1 to %zd, the number of pixels",
                     worst, p);
        return 0;
    }
    if (width < 2 || width % 2) {
        PyErr_Format(PyExc_ValueError, "heads has %zd columns, expected twice the latents", width);
        return 0;
    }
    task t = {.pixels = p, .latents = width / 2, .worst = worst};
    memcpy(&t.fixed, arrays[FIXED].buf, sizeof t.fixed);
    Py_ssize_t numbers = 0;
    if (objects[STATISTICS] != Py_None) {
        const Py_buffer *b = &arrays[STATISTICS];
        if (!floats(&arrays[STATISTICS], objects[STATISTICS], "statistics", 1, 0) ||
            !read_statistics(&t, b->buf, numbers = b->shape[0]))
            return 0;
    } else if (name == FUSED || name == LATENT_DENSITY) {
        PyErr_Format(PyExc_ValueError, "%s needs statistics", SCORE_NAMES[name]);
        return 0;
    }
    float *scratch = malloc((size_t)(p + (t.mixture.groups + t.latents) * LANES) * sizeof(float));
    if (scratch == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    const float *x = arrays[PIXELS].buf, *logits = arrays[LOGITS].buf;
    const float *heads = arrays[HEADS].buf;
    float *out = arrays[OUT].buf;
    PyThreadState *state = release_gil_if(n > SHORT / (p + numbers));
    for (Py_ssize_t i = 0; i < n; i++) {
        float result[3];
        score_image(&t, name, x + i * p, logits + i * p, heads + i * width, scratch, result);
        for (int row = 0; row < 3; row++)
            out[row * n + i] = result[row];
    }
    reacquire_gil(state);
    free(scratch);
    return 1;
}

PyDoc_STRVAR(score_doc,
"score(name, pixels, logits, heads, worst, constants, statistics, out)\n--\n\n"
"The score, MSE and KL of N images, for model.scores.native.\n\n"
"All arrays are C-contiguous float32. `pixels` in [0, 1] and `logits`, the decoder's output\n"
"before its sigmoid, are (N, P); `heads`, (N, 2D), is μ, then log σ² before its clamp. `worst` is\n"
"the number of pixels that mse_top5 averages. `constants` are the two bounds of log σ²,\n"
"PEARSON_FLOOR, CONTRAST_FLOOR and TINY. `statistics` is None or comes from\n"
"model.scores.native.statistics_in_groups. Writes score, MSE and KL to `out`, (3, N); they are\n"
"undefined for an image with a number that is not finite. Raises ValueError for an unknown name\n"
"and for arrays of other types or shapes.");

static PyObject *score(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!check_argument_count("score", count, 8))
        return NULL;
    const char *requested = PyUnicode_AsUTF8(args[0]);
    if (requested == NULL)
        return NULL;
    int name = 0;
    while (name < SCORES && strcmp(requested, SCORE_NAMES[name]) != 0)
        name++;
    if (name == SCORES) {
        PyErr_Format(PyExc_ValueError, "no score is named %s", requested);
        return NULL;
    }
    Py_ssize_t worst = PyLong_AsSsize_t(args[4]);
    if (worst == -1 && PyErr_Occurred())
        return NULL;
    PyObject *const objects[ARRAYS] = {[PIXELS] = args[1],     [LOGITS] = args[2],
                                       [HEADS] = args[3],      [FIXED] = args[5],
                                       [STATISTICS] = args[6], [OUT] = args[7]};
    Py_buffer arrays[ARRAYS];
    memset(arrays, 0, sizeof arrays);
    int done = run(arrays, objects, (score_name)name, worst);
    release_buffers(arrays, ARRAYS);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

/* Check all arguments, then compute. Returns 1, or 0 with an exception set. */
static int run_errors(Py_buffer arrays[3], PyObject *const *objects)
{
    if (!floats(&arrays[0], objects[0], "pixels", 2, 0) ||
        !floats(&arrays[1], objects[1], "logits", 2, 0) ||
        !floats(&arrays[2], objects[2], "out", 2, PyBUF_WRITABLE))
        return 0;
    const Py_ssize_t n = arrays[0].shape[0], p = arrays[0].shape[1];
    const Py_ssize_t k = arrays[2].shape[1];
    if (!expect("the number of out's rows", arrays[2].shape[0], n) ||
        !expect("the number of logits' rows", arrays[1].shape[0], n * k) ||
        !expect("the number of logits' columns", arrays[1].shape[1], p))
        return 0;
    const float *x = arrays[0].buf, *logits = arrays[1].buf;
    float *out = arrays[2].buf;
    PyThreadState *state = release_gil_if(p > 0 && n * k > SHORT / p);
    for (Py_ssize_t i = 0; i < n; i++)
        errors_of(x + i * p, logits + i * k * p, p, k, out + i * k);
    reacquire_gil(state);
    return 1;
}

PyDoc_STRVAR(errors_doc,
"errors(pixels, logits, out)\n--\n\n"
"Mean squared errors of K reconstructions of each of N images, for model.scores.native.\n\n"
"All arrays are C-contiguous float32. Reads `pixels` in [0, 1], (N, P), and `logits`, the\n"
"decoder's output before its sigmoid, (N · K, P); writes `out`, (N, K). Raises ValueError for\n"
"arrays of other types or shapes.");

static PyObject *errors(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (!check_argument_count("errors", count, 3))
        return NULL;
    Py_buffer arrays[3];
    memset(arrays, 0, sizeof arrays);
    int done = run_errors(arrays, args);
    release_buffers(arrays, 3);
    if (!done)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    FASTCALL_METHOD(errors),
    FASTCALL_METHOD(score),
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

DEFINE_MODULE(_native, "model.scores._native", "The scores of model.scores.deterministic.")
