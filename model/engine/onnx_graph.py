"""A part of a network as an ONNX graph, computed by ONNX Runtime on the CPU.

The runtime is optional (`pip install 'vae-service[onnxruntime]'`). It is imported for the first
graph, so that whoever needs none does not wait for it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

from model.bundle.checks import BundleError
from model.results import Floats

FATAL: Final = 4
"""The runtime's log level: errors are exceptions here, and warnings are about its own internals."""


MAX_ROWS: Final = 32
"""Rows in one pass; more are cut. The runtime keeps the memory of its largest pass for good, and
from 16 rows on an image takes the same time in larger ones."""


def import_runtime() -> ModuleType | None:
    """The module `onnxruntime`, or None where it is not installed or does not load."""
    try:
        import onnxruntime
    except ImportError:  # also of a library that the runtime needs
        return None
    module: ModuleType = onnxruntime
    return module


class OnnxGraph:
    """A graph with one float32 input and one float32 output, (N, …) each: numpy in, numpy out.

    A pass uses as many threads as torch does at the time. They sleep while there is nothing to do:
    by default the runtime's threads spin, on cores that other workers need.

    Make it in the process that uses it: a fork does not copy its threads.

    Raises `BundleError` if the runtime cannot read the graph, and `RuntimeError` without a runtime.
    """

    def __init__(self, name: str, data: bytes) -> None:
        runtime = import_runtime()
        if runtime is None:
            raise RuntimeError("onnxruntime is not installed")
        self._runtime = runtime
        self.runtime = f"ONNX Runtime {runtime.__version__}"
        """The runtime, for people."""
        self._name = name
        self._data = data
        self._session = self._new_session()
        self._input = self._only("input", self._session.get_inputs())
        output = self._only("output", self._session.get_outputs())
        self.widths = tuple(self._input.shape[1:]), tuple(output.shape[1:])
        """The shapes of one row of the input and of the output, as the graph declares them."""

    def __call__(self, rows: Floats) -> Floats:
        """Rows, (N, …), of any memory order, to new rows, (N, …)."""
        if self._threads != torch.get_num_threads():
            self._session = self._new_session()
        if len(rows) <= MAX_ROWS:
            return self._run(rows)
        starts = range(0, len(rows), MAX_ROWS)
        return np.concatenate([self._run(rows[start : start + MAX_ROWS]) for start in starts])

    def _run(self, rows: Floats) -> Floats:
        (output,) = self._session.run(None, {self._input.name: np.ascontiguousarray(rows)})
        result: Floats = output
        return result

    def _new_session(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # takes 1.6 times the memory, and makes no pass faster
        options.log_severity_level = FATAL
        try:
            return self._runtime.InferenceSession(
                self._data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's exceptions derive from Exception directly
            raise BundleError(
                f"the {self._name} graph cannot be read by {self.runtime}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error

    def _only(self, kind: str, values: Any) -> Any:
        """The value, if there is exactly one and it is float32."""
        types = [value.type for value in values]
        if types != ["tensor(float)"]:
            raise BundleError(
                f"the {self._name} graph has {kind}s {types}, expected one tensor(float)"
            )
        return values[0]
