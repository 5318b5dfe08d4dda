"""Ctrl-C, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model.bundle.bundle import load_bundle
from tests.unit.model.commands.command_line import (
    BUNDLE_FILES,
    LONG,
    N_TRAIN,
    PATIENCE_S,
    SHORT,
    files,
    run,
)
from tests.unit.samples import write_idx


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "model", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ctrl_c_keeps_what_was_learnt_and_resume_ends_it(
    idx: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    command = ["train", "--data", str(idx), "--out", str(out), *LONG]
    process = start(*command)
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in output
    assert files(out) == BUNDLE_FILES | {"checkpoint.safetensors"}
    early = load_bundle(out)
    assert early.metrics["test"]["mse"] < 0.3

    assert run(capsys, *command).status == 2  # as there is a bundle
    other = run(capsys, *command, "--resume", "--seed", "1")
    assert other.status == 2
    assert "seed" in other.err
    assert load_bundle(out).version == early.version

    images = np.full((N_TRAIN, 1, 28, 28), 7, np.uint8)
    other = run(
        capsys, "train", "--data", write_idx(tmp_path / "x", images), *command[3:], "--resume"
    )
    assert other.status == 2
    assert "data" in other.err
    assert load_bundle(out).version == early.version

    assert run(capsys, *command, "--resume").status == 0
    assert files(out) == BUNDLE_FILES
    assert load_bundle(out).version == load_bundle(trained).version != early.version


def test_ctrl_c_before_the_first_step_is_quiet(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it reads the data: nothing is written and no traceback shown."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.commands.train.load_images", interrupted)
    result = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert result.status == 130
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
