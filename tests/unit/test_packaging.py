"""What gets installed, and how: pyproject.toml, constraints.txt, Dockerfile and Makefile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from model.bundle.bundle import load_bundle

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
PACKAGES = ("model", "service", "vae")
TARGETS = re.findall(r"[\w-]+", MAKEFILE.split(".PHONY:")[1].splitlines()[0])


# Modules that are run with `python -m`


def runnable_modules() -> list[str]:
    """`service`, `service.keys` and so on: each file that does something when run."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts).removesuffix(".__main__"))
    return found


@pytest.mark.parametrize("module", runnable_modules())
def test_every_runnable_module_has_a_help(module: str) -> None:
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert "--help" in done.stdout


def test_the_runnable_modules_are_found() -> None:
    wanted = {"model", "service", "service.client", "service.healthcheck", "service.keys", "vae"}
    assert wanted <= set(runnable_modules())


# Metadata


def test_the_command_is_what_the_entry_point_names() -> None:
    ((name, value),) = PROJECT["scripts"].items()
    assert name == "vae"
    assert callable(EntryPoint(name, value, "console_scripts").load())


def test_the_license_is_there_and_named() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    (name,) = PROJECT["license-files"]
    assert "Apache License" in (ROOT / name).read_text(encoding="utf-8")
    # Beside an SPDX expression, setuptools refuses them.
    assert not [text for text in PROJECT["classifiers"] if text.startswith("License ::")]


def test_every_package_is_installed_and_copied_into_the_container() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    (files,) = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)
    assert {*PROJECT["license-files"], PROJECT["readme"], "pyproject.toml"} <= set(files.split())
    found = [
        pattern.strip("*")
        for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    ]
    assert sorted(found) == sorted(PACKAGES)
    for package in PACKAGES:
        assert f"COPY {package} ./{package}" in dockerfile.splitlines()
    for name in (*files.split(), *PACKAGES):
        assert f"!{name}" in sent


def test_every_constraint_is_one_exact_version() -> None:
    names = []
    for line in CONSTRAINTS:
        match = re.fullmatch(r"([\w.-]+)==[\w.]+", line)
        assert match, line
        names.append(canonicalize_name(match[1]))
    assert len(set(names)) == len(names)


def required(extras: dict[str, list[str]]) -> Iterator[str]:
    """Names of all that is installed with the project and `extras`, however indirectly."""
    waiting = [(Requirement(text), "") for texts in extras.values() for text in texts]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name == PROJECT["name"] or (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        yield name
        for text in requires(name) or []:
            waiting += [(Requirement(text), extra) for extra in ("", *requirement.extras)]


def test_the_constraints_cover_every_dependency_of_every_extra() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS}
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    assert set(required(extras)) - pinned == set()


# The Makefile


def make(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("VAE_", "MAKE"))
    }
    return subprocess.run(  # noqa: S603 - our own Makefile
        ["make", "--no-print-directory", *arguments],  # noqa: S607
        cwd=directory,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with the Makefile and what its stamps depend on, and no environment yet."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    return tmp_path


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(checkout: Path) -> Path:
    """A checkout whose environment is there; its Python is this one, and its code ours."""
    python = f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} "$@"'
    script(checkout / ".venv/bin/python", python)
    for stamp in (".serve", ".train", ".evaluate", ".test"):
        (checkout / ".venv" / stamp).touch()
    return checkout


def commands(directory: Path, *arguments: str) -> list[list[str]]:
    """The words of each command that make would run, as the shell splits them."""
    done = make(directory, "--dry-run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_help_has_one_line_per_target() -> None:
    done = make(ROOT, "help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["make", target] for target in TARGETS]
    assert len({len("".join(re.findall(r"^make \S+ +", line))) for line in lines}) == 1, (
        "one column"
    )
    assert max(map(len, lines)) <= 110
    assert make(ROOT).stdout == done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_arguments_with_spaces(target: str, installed: Path) -> None:
    values = ["DATA=my images", "OUT=my out", "BUNDLE=my bundle", "REF=my ref"]
    lists = ["ANOMALIES='my set' data/kmnist", "ARGS=-k 'my test'"]
    words = [word for line in commands(installed, target, *values, *lists) for word in line]
    assert words
    assert "my" not in words
    given = {
        "train": {"my images", "my out", "my test"},
        "evaluate": {"my images", "my out", "my bundle", "my set", "data/kmnist"},
        "bench-against": {"my ref"},
        "bench-quality": {"my images", "my images/mnist"},
        "test": {"my test"},
        "test-all": {"my test"},
    }
    assert given.get(target, set()) <= set(words)


@pytest.mark.parametrize("path", ["it's mine", 'a "b"', "a;b", "a*", "a  b", "&", "(a)", "a`b`"])
def test_a_path_is_one_word_whatever_its_characters(path: str, installed: Path) -> None:
    (line,) = commands(installed, "train", f"DATA={path}")
    assert line == [".venv/bin/python", "-m", "model", "train", "--data", path]


def test_a_tilde_is_the_home_directory(installed: Path) -> None:
    """Not every shell expands it in `DATA=~/images`."""
    (line,) = commands(installed, "train", "DATA=~/my images")
    assert line[-1] == f"{Path.home()}/my images"


def test_evaluate_needs_no_anomalies_and_takes_several(installed: Path) -> None:
    usual = ["evaluate", "BUNDLE=mnist", "DATA=data/mnist"]
    (line,) = commands(installed, *usual)
    assert "--anomalies" not in line
    (line,) = commands(installed, *usual, "ANOMALIES=data/fashion-mnist data/kmnist")
    assert line[-3:] == ["--anomalies", "data/fashion-mnist", "data/kmnist"]


def test_quick_tests_are_the_default_and_named_tests_are_run_as_named(installed: Path) -> None:
    pytest_line = [".venv/bin/python", "-m", "pytest"]
    parallel = [*pytest_line, "-n", "2", "--dist", "loadfile"]
    assert commands(installed, "test") == [[*parallel, "-m", "not slow"]]
    assert commands(installed, "test", "ARGS=tests/x.py::test") == [[*parallel, "tests/x.py::test"]]
    assert commands(installed, "test-all") == [
        [*parallel, "-m", "not slow"],
        [*pytest_line, "-m", "slow"],
    ]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["train"], "DATA"),
        (["evaluate", "DATA=x"], "BUNDLE"),
        (["evaluate", "BUNDLE=x"], "DATA"),
        (["bench-quality"], "DATA"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_installed(
    arguments: list[str], missing: str, checkout: Path
) -> None:
    done = make(checkout, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert f"{missing} is missing: make {arguments[0]} " in line
    assert not (checkout / ".venv").exists()


def test_the_environment_may_name_the_data(installed: Path) -> None:
    done = make(installed, "--dry-run", "train", VAE_DATA_DIR="/somewhere")
    assert done.stdout.split() == [".venv/bin/python", "-m", "model", "train"]


def test_training_on_a_folder_whose_name_has_a_space(installed: Path) -> None:
    (installed / "my images").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(installed / "my images" / "some noise.npz", images=images)
    tiny = "ARGS=--epochs 1 --hidden 8 --latent-size 2 --threads 1"
    done = make(installed, "train", "DATA=my images/some noise.npz", "OUT=runs/my own", tiny)
    assert done.returncode == 0, done.stderr
    assert load_bundle(installed / "runs/my own").provenance["data_set"] == "some noise"


@pytest.mark.slow
def test_evaluation_without_anomalies(installed: Path) -> None:
    """The whole command, with spaces in both paths."""
    (installed / "my images").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    np.savez(installed / "my images" / "noise.npz", images=images)
    arguments = ["BUNDLE=mnist", "DATA=my images/noise.npz", "OUT=my results"]
    done = make(installed, "evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    assert (installed / "my results" / "evaluation.md").is_file()


# Its environment


@pytest.fixture
def fake(checkout: Path) -> Path:
    """A Python whose environments write down what is asked of them in `log`.

    pip fails while there is a file `broken`.
    """
    inner = script(
        checkout / "inner",
        'echo "$@" >> log; case "$*" in "-m pip"*) [ ! -e broken ] ;; esac',
    )
    return script(
        checkout / "fake-python",
        f'case "$1" in -c) exec {shlex.quote(sys.executable)} "$@" ;; esac\n'
        f'echo "$@" >> log; rm -rf .venv; mkdir -p .venv/bin; cp {inner.name} .venv/bin/python',
    )


def log_of(checkout: Path) -> list[str]:
    """What was done since the last call: `venv`, the name of what pip installs, or a module."""
    log = checkout / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split()[-1] if "pip" in line else line.split()[1] for line in lines]


def test_serve_installs_what_serving_needs_and_test_adds_its_tools(
    checkout: Path, fake: Path
) -> None:
    python = f"PYTHON=./{fake.name}"
    done = make(checkout, "serve", python)
    assert done.returncode == 0, done.stderr
    assert "about a minute" in done.stdout.splitlines()[0]
    assert log_of(checkout) == ["venv", ".[onnxruntime]", "service"]
    assert make(checkout, "serve", python).returncode == 0
    assert log_of(checkout) == ["service"]
    steps: list[tuple[str, list[str]]] = [
        ("train", [".[photographs]"]),
        ("evaluate", [".[evaluate]"]),
        ("test", [".[dev]"]),
        ("evaluate", []),
    ]
    for target, installs in steps:
        done = make(checkout, target, python, "BUNDLE=x", "DATA=y")
        assert done.returncode == 0, done.stderr
        assert log_of(checkout)[:-1] == installs


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt", "model/a/b.c"])
def test_a_change_of_what_is_installed_installs_again(
    changed: str, checkout: Path, fake: Path
) -> None:
    python = f"PYTHON=./{fake.name}"
    (checkout / "model/a").mkdir(parents=True)
    (checkout / "model/a/b.c").touch()
    assert make(checkout, "test", python).returncode == 0
    assert log_of(checkout) == ["venv", ".[onnxruntime]", ".[dev]", "pytest"]
    later = (checkout / ".venv/.test").stat().st_mtime + 1
    os.utime(checkout / changed, (later, later))
    assert make(checkout, "test", python).returncode == 0
    assert log_of(checkout) == ["venv", ".[onnxruntime]", ".[dev]", "pytest"]


def test_a_broken_installation_leaves_no_stamp(checkout: Path, fake: Path) -> None:
    python = f"PYTHON=./{fake.name}"
    (checkout / "broken").touch()
    assert make(checkout, "serve", python).returncode == 2
    assert not (checkout / ".venv/.serve").exists()
    (checkout / "broken").unlink()
    log_of(checkout)
    assert make(checkout, "serve", python).returncode == 0
    assert log_of(checkout) == ["venv", ".[onnxruntime]", "service"]
    (checkout / "broken").touch()
    assert make(checkout, "test", python).returncode == 2
    assert not (checkout / ".venv/.test").exists()
    assert (checkout / ".venv/.serve").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sys.version_info, sys.version = (3, 10, 9), '3.10.9 (old)'", "Python >= 3.11 is needed"),
        ("sys.modules['ensurepip'] = None", "has no venv module"),
        (None, "there is no no-such-python"),
    ],
)
def test_a_python_that_will_not_do(change: str | None, reason: str, checkout: Path) -> None:
    code = f"import sys; {change}; exec(sys.argv[1])"
    run = f'exec {shlex.quote(sys.executable)} -c "{code}" "$2"'
    name = "no-such-python" if change is None else f"./{script(checkout / 'other', run).name}"
    done = make(checkout, "serve", f"PYTHON={name}")
    assert done.returncode == 2
    told, end = done.stderr.splitlines()  # the second is make's own
    assert reason in told
    assert "make PYTHON=python3.12" in told
    assert "Error 1" in end
    assert not (checkout / ".venv").exists()
