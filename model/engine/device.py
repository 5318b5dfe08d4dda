"""The device that a network runs on: every decision that depends on the hardware."""

from __future__ import annotations

import re

import torch

from model.bundle.bundle import Bundle
from model.engine.backend import Backend
from model.engine.cpu import CpuBackend
from model.engine.cuda import CudaAccelerator, CudaBackend
from model.engine.staging import Accelerator


class DeviceError(ValueError):
    """There is no such device. The message says what was expected or what the machine has."""


def choose_backend(bundle: Bundle, device: torch.device, dtype: str) -> Backend:
    """The backend for `device`, with a copy of the bundle's network whose products are `dtype`."""
    accelerator = accelerator_of(device)
    if accelerator is None:
        return CpuBackend(bundle, dtype)
    return CudaBackend(bundle, device, dtype, accelerator, describe_device(device))


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names on this machine.

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
        devices = f"{count} CUDA device{'' if count == 1 else 's'}"
        raise DeviceError(f"device is {name!r}, but this machine has {devices}")
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """`cpu`, or a GPU's index and model, as `cuda:0 (NVIDIA H100)`."""
    if device.type == "cpu":
        return "cpu"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def accelerator_of(device: torch.device) -> Accelerator | None:
    """The accelerator through which batches are staged; None for the CPU, which needs none."""
    return CudaAccelerator(device) if device.type == "cuda" else None
