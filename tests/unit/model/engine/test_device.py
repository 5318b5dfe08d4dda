"""Names of devices, on machines with and without them."""

from __future__ import annotations

import pytest
import torch

from model.engine.device import DeviceError, describe_device, resolve_device
from model.engine.engine import Engine
from tests.unit.samples import tiny_bundle


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As many CUDA devices as the test's parameter says."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


@pytest.mark.parametrize("gpus", [0, 1, 2], indirect=True)
def test_the_cpu_is_always_there(gpus: int) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert describe_device(resolve_device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (1, "auto", "cuda:0"),
        (2, "auto", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
def test_a_device_that_is_there(gpus: int, name: str, device: str) -> None:
    assert resolve_device(name) == torch.device(device)


@pytest.mark.parametrize(
    ("gpus", "name"),
    [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:2"), (2, "cuda:99")],
    indirect=["gpus"],
)
def test_a_device_that_is_not_there_is_one_clear_line(gpus: int, name: str) -> None:
    with pytest.raises(DeviceError) as raised:
        Engine(tiny_bundle(), device=name)
    devices = "1 CUDA device" if gpus == 1 else f"{gpus} CUDA devices"
    assert str(raised.value) == f"device is {name!r}, but this machine has {devices}"
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("gpus", [0, 2], indirect=True)
@pytest.mark.parametrize(
    "name",
    ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "cpu:0", "cuda:0\n", "mps"],
)
def test_what_is_no_device_is_one_clear_line(gpus: int, name: str) -> None:
    with pytest.raises(DeviceError) as raised:
        Engine(tiny_bundle(), device=name)
    assert f"device is {name!r}, expected auto, cpu, cuda or cuda:N" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
