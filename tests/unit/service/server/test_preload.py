"""What is imported before anything is served."""

from __future__ import annotations

import subprocess
import sys

PRELOAD = "from service.server.preload import preload; preload()"


def run(code: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_garbage_collector_leaves_it_alone() -> None:
    code = """
import gc
from service.server.preload import preload
collections = []
gc.callbacks.append(lambda phase, info: collections.append(info["generation"]))
preload()
print(len(collections), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1_000)
print(gc.isenabled())
"""
    assert run(code) == "0 True True\nTrue\n"


def test_it_leaves_cuda_alone() -> None:
    """A process forked from one that has used CUDA cannot use it. Even asking for the number of
    devices may initialise the driver."""
    code = f"""
import torch

def refuse(*_):
    raise AssertionError("this uses CUDA")

for name in ("init", "_lazy_init", "is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, refuse)

{PRELOAD}
print(torch.cuda.is_initialized())
"""
    assert run(code) == "False\n"


def test_no_module_keeps_a_random_generator() -> None:
    """Workers are forked, and would all draw the same numbers from it. The generators of the
    modules `random` and `secrets` are safe."""
    code = f"""
{PRELOAD}
import random, sys
import numpy as np
import torch

kinds = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
print([
    (name, key)
    for name, module in sys.modules.items() if name.split(".")[0] in ("model", "service")
    for key, value in vars(module).items() if isinstance(value, kinds)
])
"""
    assert run(code) == "[]\n"


def test_it_leaves_onnx_runtime_to_workers_whose_bundle_has_graphs() -> None:
    """Others need not wait for it, and a fork does not copy its threads."""
    found = "[name for name in sys.modules if name.split('.')[0] in ('onnx', 'onnxruntime')]"
    assert run(f"{PRELOAD}; import sys; print({found})") == "[]\n"
