/* What the project's C extensions share: Python's headers, macros, argument and buffer checks, and
 * the boilerplate of a module.
 *
 * It lies in model/ because service/ may depend on model/ and not the other way round, in C as in
 * Python, and because a source distribution and a Docker image contain the two packages and nothing
 * else to include from. pyproject.toml puts the project's root on the include path, so all of them
 * say #include "model/extension.h", and names this file under `depends`, so that it is part of the
 * source distribution and a change to it recompiles them.
 *
 * Functions are `static inline`, as an extension need not use all of them.
 */

#ifndef MODEL_EXTENSION_H
#define MODEL_EXTENSION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One binary for all x86-64 machines: the compiler emits a function three times, and the loader
 * picks the version with the widest vectors that the processor has. Older compilers do not know
 * these architecture names, and only glibc supports the selection. */
#if defined(__x86_64__) && defined(__GLIBC__) && \
    ((!defined(__clang__) && __GNUC__ >= 12) || (defined(__clang__) && __clang_major__ >= 18))
#define HAS_VECTOR_VERSIONS 1
#define VECTOR_VERSIONS \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HAS_VECTOR_VERSIONS 0
#define VECTOR_VERSIONS
#endif

/* Part of each version of a VECTOR_VERSIONS function. A call would prevent vectorisation. */
#define INLINE static inline __attribute__((always_inline))

/* Release the GIL for work that takes long, and reacquire it. NULL stands for work so short that it
 * keeps the GIL: a thread that releases it may wait 5 ms to get it back (sys.setswitchinterval). */
static inline PyThreadState *release_gil_if(int takes_long)
{
    return takes_long ? PyEval_SaveThread() : NULL;
}

static inline void reacquire_gil(PyThreadState *state)
{
    if (state != NULL)
        PyEval_RestoreThread(state);
}

/* Returns 1, or 0 with TypeError set. */
static inline int check_argument_count(const char *function, Py_ssize_t count, Py_ssize_t expected)
{
    if (count == expected)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, %zd given", function, expected, count);
    return 0;
}

/* Get a C-contiguous float32 array, writable if `flags` has PyBUF_WRITABLE. Returns 1, or 0 with
 * ValueError set. Either way the view is for release_buffers(). */
static inline int get_floats(Py_buffer *view, PyObject *object, const char *name, int flags)
{
    if (PyObject_GetBuffer(object, view, PyBUF_ND | PyBUF_FORMAT | flags) < 0) {
        PyErr_Clear(); /* the type and the text of the exception depend on the object */
        PyErr_Format(PyExc_ValueError, "%s is not a %sC-contiguous array", name,
                     flags & PyBUF_WRITABLE ? "writable " : "");
        view->obj = NULL;
        return 0;
    }
    const char *type = view->format == NULL ? "B" : view->format;
    if (view->itemsize != sizeof(float) || strcmp(type, "f") != 0) {
        PyErr_Format(PyExc_ValueError, "%s has the type %s, expected f (float32)", name, type);
        return 0;
    }
    return 1;
}

/* Release views that were zeroed and then, some of them or all, filled by get_floats(). */
static inline void release_buffers(Py_buffer *views, int count)
{
    for (int i = 0; i < count; i++)
        if (views[i].obj != NULL)
            PyBuffer_Release(&views[i]);
}

/* An entry of a module's method table: the function `name`, with `name`_doc as its docstring. */
#define FASTCALL_METHOD(name) \
    {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

/* The definition of a module with the tables `methods` and `slots`, and its PyInit_ function. */
#define DEFINE_MODULE(name, full_name, doc)           \
    static struct PyModuleDef definition = {          \
        PyModuleDef_HEAD_INIT,                        \
        .m_name = full_name,                          \
        .m_doc = doc,                                 \
        .m_methods = methods,                         \
        .m_slots = slots,                             \
    };                                                \
    PyMODINIT_FUNC PyInit_##name(void)                \
    {                                                 \
        return PyModuleDef_Init(&definition);         \
    }

#endif
