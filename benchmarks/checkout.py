"""A git ref in a temporary worktree, ready to run: C extensions built, modules compiled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_config_var
from typing import Final

from benchmarks.peers.environment import ROOT, last_lines
from benchmarks.peers.tree import uninterrupted

BUILD: Final = "from setuptools import setup; setup()"

TIMEOUT_S: Final = 120.0
"""For git or the compiler."""


class CheckoutError(Exception):
    """A ref does not exist, or cannot be built. One line says why."""


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """The files of a commit in a temporary worktree, prepared to run; removed in any case.

    Raises `CheckoutError`.
    """
    commit = commit_of(ref)
    with tempfile.TemporaryDirectory(prefix="vae-checkout-") as scratch:
        root = Path(scratch, "tree")
        try:
            git("worktree", "add", "--quiet", "--detach", str(root), commit)
            prepare(root)
            yield root
        finally:
            # Forced twice, as git keeps a worktree locked while it is being added.
            git("worktree", "remove", "--force", "--force", str(root), check=False)


def prepare(root: Path) -> None:
    """Build a checkout, and compile its modules, so that its first start is as fast as the next.

    Raises `CheckoutError`.
    """
    build(root)
    _run([sys.executable, "-m", "compileall", "-q", "model", "service"], root)


def build(root: Path) -> None:
    """Build the C extensions of a checkout in place, unless they are newer than their sources.

    Raises `CheckoutError` if one cannot be built. The project declares them optional, so setuptools
    would only warn, and the figures would be those of the slow fallback.
    """
    config = root / "pyproject.toml"
    project = tomllib.loads(config.read_text())
    modules = project.get("tool", {}).get("setuptools", {}).get("ext-modules", [])
    suffix = get_config_var("EXT_SUFFIX")
    built = {m["name"]: root / (m["name"].replace(".", "/") + suffix) for m in modules}
    sources = {m["name"]: [*m["sources"], *m.get("depends", ())] for m in modules}

    def is_stale(name: str) -> bool:
        paths = [config, *(root / source for source in sources[name])]
        return _written(built[name]) < max(map(_written, paths))

    stale = {name: _written(built[name]) for name in built if is_stale(name)}
    if not stale:
        return
    with tempfile.TemporaryDirectory(prefix="vae-build-") as scratch:
        places = [f"--build-temp={scratch}/temp", f"--build-lib={scratch}/lib"]
        command = [sys.executable, "-c", BUILD, "build_ext", "--inplace", *places]
        status, output = _run(command, root)
    failed = [name for name, before in stale.items() if _written(built[name]) == before]
    if status or failed:
        what = ", ".join(failed) or "an extension"
        raise CheckoutError(f"{what} of {root} cannot be built: {last_lines(output, 2)}")


def _written(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def commit_of(ref: str) -> str:
    """The short name of the commit that a ref stands for. Raises `CheckoutError`."""
    return git("rev-parse", "--verify", "--quiet", "--short", f"{ref}^{{commit}}", what=ref).strip()


def commits_between(span: str) -> list[tuple[str, str]]:
    """Commits of `A..B` with A itself, oldest first: short name and subject of each.

    Raises `CheckoutError`.
    """
    first, dots, last = span.partition("..")
    if not (first and dots and last):
        raise CheckoutError(f"{span!r} is no range of commits, such as 8d2c344..HEAD")
    form = ("log", "--reverse", "--first-parent", "--format=%h %s")
    lines = git("log", "-1", "--format=%h %s", commit_of(first)).splitlines()
    lines += git(*form, f"{commit_of(first)}..{commit_of(last)}").splitlines()
    return [(name, subject) for name, _, subject in (line.partition(" ") for line in lines)]


def git(*arguments: str, check: bool = True, what: str = "") -> str:
    """What git prints. Raises `CheckoutError` if it fails, unless `check` is False."""
    status, output = _run(["git", *arguments], ROOT)
    if status and check:
        reason = f"there is no commit {what}" if what else last_lines(output)
        raise CheckoutError(f"git {arguments[0]}: {reason}")
    return output


def _run(command: Sequence[str], directory: Path) -> tuple[int, str]:
    """Exit status and output. If it is interrupted, everything that the command started is killed.

    Raises `CheckoutError` if the command cannot be run, or takes longer than `TIMEOUT_S`.
    """
    process = None
    try:
        with uninterrupted():
            process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckoutError(f"{command[0]}: {error}") from error
    finally:
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, output
