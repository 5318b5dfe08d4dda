"""Makes a bare checkout ready to run, and says what it runs on."""

from __future__ import annotations

import platform
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.checkout import CheckoutError, build
from benchmarks.machine import hardware
from benchmarks.peers.environment import ROOT

PACKAGES: Final = ("numpy", "fastapi", "uvicorn", "uvloop", "httptools", "pydantic")


def write_metadata(site: Path) -> None:
    """Make `importlib.metadata.version` find this project, whose sources run from the checkout.

    Does nothing if it is installed. `site` is a folder on the path.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with suppress(PackageNotFoundError):
        version(project["name"])
        return
    name = project["name"].replace("-", "_")
    folder = site / f"{name}-{project['version']}.dist-info"
    folder.mkdir(parents=True)
    lines = ("Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}")
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def compile_c_parts() -> str:
    """Compile the C extensions in place. Returns `compiled`, or why they are missing.

    Everything runs without them: torch and other libraries do their work, more slowly.
    """
    try:
        build(ROOT)
    except CheckoutError as error:
        return f"not compiled, {error}"
    return "compiled"


def describe(device: str) -> dict[str, Any]:
    """The machine, the device and the versions."""
    import torch

    from model.engine.device import describe_device, resolve_device

    found = resolve_device(device)
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    name = describe_device(found)
    if found.type == "cuda":
        name += f", {torch.cuda.get_device_properties(found).total_memory / 2**30:.0f} GiB"
        versions["CUDA"] = str(torch.version.cuda)
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call] # torch's
        versions["cuDNN"] = str(cudnn)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"device": name, "hardware": hardware(), "versions": versions}
