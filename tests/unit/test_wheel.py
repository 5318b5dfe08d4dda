"""A source distribution, the wheel that is built from it, and what the wheel can do by itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from model.bundle.bundle import PRETRAINED, pretrained_names

pytestmark = pytest.mark.slow  # compiles the C extensions

ROOT = Path(__file__).parents[2]

EXTENSIONS = ("model.engine._layers", "model.scores._native", "service.codecs._json")

TIMEOUT_S = 300

SERVE_FROM_THE_WHEEL = f"""
import importlib
import numpy as np
from model.bundle.bundle import find_bundle, load_bundle
from model.engine.engine import Engine

for name in {EXTENSIONS}:
    print(name, importlib.import_module(name).__file__)
bundle = find_bundle("mnist-conv")
print("bundle", bundle)
engine = Engine(load_bundle(bundle), device="cpu", threads=1)
assert engine.is_right(engine.score(engine.probe, "mse"))
"""


def built(source: Path, target: Path, kind: str) -> Path:
    """What setuptools' build backend makes of a source tree, without pip and so without network."""
    build = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    target.mkdir()
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", build],
        cwd=source,
        env=os.environ | {"PYTHONPATH": ""},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=TIMEOUT_S,
    )
    (file,) = target.iterdir()
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a copy of what the Dockerfile copies, so that the checkout is left as it is."""
    directory = tmp_path_factory.mktemp("sdist")
    source = directory / "source"
    source.mkdir()
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (files,) = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)
    for name in files.split():
        shutil.copy(ROOT / name, source)
    for package in re.findall(r"^COPY (\w+) \./\1$", dockerfile, re.MULTILINE):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    return built(source, directory / "dist", "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (source,) = directory.iterdir()
    return built(source, directory / "dist", "wheel")


def test_it_carries_the_weights_and_the_recipes(wheel: Path) -> None:
    """`pip install .`, as the Dockerfile has it, must give a package that can serve."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for bundle in pretrained_names():
        for path in (PRETRAINED / bundle).rglob("*.*"):
            assert f"model/pretrained/{path.relative_to(PRETRAINED).as_posix()}" in names
        assert f"model/training/recipes/{bundle}.toml" in names
    assert not any(name.startswith("tests") for name in names)


def test_it_serves_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    """The extensions, compiled from the source distribution alone, and a shipped bundle."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler ({compiler}) here")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)  # noqa: S202 - our own wheel
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", SERVE_FROM_THE_WHEEL],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    places = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(places) == {*EXTENSIONS, "bundle"}
    for place in places.values():
        assert Path(place).is_relative_to(installed)
