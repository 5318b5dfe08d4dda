"""Where the network runs: the only file that knows the name of an accelerator."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor


class DeviceError(ValueError):
    """The device does not exist here. The message says which ones do."""


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` to a device that is there.

    `auto` is the first GPU if there is one, and the CPU otherwise. Raises `DeviceError`.
    """
    count = torch.cuda.device_count() if name != "cpu" else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", name)
    if not match:
        raise DeviceError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N")
    index = int(match[1] or 0)
    if index >= count:
        raise DeviceError(f"device is {name!r}, but this machine has {count} CUDA devices")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """`cpu`, or a GPU's index and name."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def accelerator_of(device: torch.device) -> CudaAccelerator | None:
    """What batches are staged on; None for the CPU, which reads them where they are."""
    return CudaAccelerator(device) if device.type == "cuda" else None


class CudaAccelerator:
    """A GPU, with a stream of its own, and passes recorded as CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # Products in TF32 would agree with the CPU to 1e-3 only.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU reads and writes by itself."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the GPU."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """A CUDA graph of `work`, and its result, which each replay writes over."""
        with torch.cuda.stream(self._stream):
            work()  # what libraries set up at their first call is no part of a graph
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                output = work()
        return graph.replay, output

    def stream(self) -> AbstractContextManager[object]:
        """`with` it, what is asked for goes to this stream."""
        context: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return context

    def synchronize(self) -> None:
        """Wait for the stream. Raises what has gone wrong on the GPU."""
        self._stream.synchronize()
