"""Where the network runs: the only file that knows the name of an accelerator."""

from __future__ import annotations

import re

import torch


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
