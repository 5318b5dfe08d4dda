"""Ctrl-C, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle
from model.commands.progress import TrainingProgress
from model.training.train import Step
from tests.unit.model.commands.command_line import (
    BUNDLE_FILES,
    LONG,
    N_TRAIN,
    NETWORK,
    PATIENCE_S,
    SHORT,
    Result,
    contents,
    files,
    lines,
    run,
)
from tests.unit.model.commands.photographs import folder_of
from tests.unit.samples import assert_one_line, write_idx


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "model", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ctrl_c_keeps_what_was_learnt_and_resume_ends_it(
    idx: Path,
    trained: Path,
    tmp_path: Path,
    digits: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
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

    negatives = write_idx(tmp_path / "x", 255 - digits[:N_TRAIN])
    for command_line in (
        ["train", "--data", str(negatives), *command[3:]],
        [*command, "--folds", "2"],
    ):
        other = run(capsys, *command_line, "--resume")
        assert other.status == 2
        assert_one_line(ValueError(other.err.strip()), "was trained with", "use the same value")
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

    monkeypatch.setattr("model.commands.training_images.load_images", interrupted)
    result = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert result.status == 130
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("network", "step", "complete"),
    [(0, 60, 1), (1, 3, 1), (2, 30, 2), (3, 1, 3)],
    ids=["first", "second", "third", "last"],
)
def test_ctrl_c_during_one_of_several_networks(
    network: int,
    step: int,
    complete: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The images that the complete ones held out calibrate, and --resume ends as if unbroken."""
    data = folder_of(tmp_path / "data", [f"{number:02}.png" for number in range(40)])
    options = [*NETWORK, "--folds", "4", "--steps", "150", "--threads", "1", "--name", "mine"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(capsys, "train", "--data", data, "--out", whole, *options).status == 0

    command = ["train", "--data", str(data), "--out", str(out), *options]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "show", interrupting(network, step))
        result = run(capsys, *command)
    assert (result.status, result.err) == (130, "")
    said = lines(result)
    early = load_bundle(out)
    assert said[-1] == early.metrics["held_out"]["verdict"]
    assert said[-2] == "stopped early; the same command with --resume continues"
    assert files(out) == BUNDLE_FILES | {"checkpoint.safetensors"}
    assert early.provenance["finished"] is False
    assert early.provenance["networks"] == complete
    assert early.calibration is not None
    assert early.calibration.n == early.metrics["held_out"]["n"] == 10 * complete

    for other in (["--folds", "2"], ["--group", "([0-9])$"]):
        refused = run(capsys, *command, "--resume", *other)
        assert refused.status == 2
        assert_one_line(ValueError(refused.err.strip()), "was trained with data")
    assert run(capsys, *command, "--resume").status == 0
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("folds", ["1", "4"])
def test_ctrl_c_before_the_first_checkpoint_promises_no_resume(
    folds: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nor does a checkpoint that another training left there."""
    data = folder_of(tmp_path / "data", [f"{number:02}.png" for number in range(40)])
    out = tmp_path / "out"
    options = [*NETWORK, "--folds", folds, "--steps", "150", "--threads", "1"]
    command = ["train", "--data", str(data), "--out", str(out), *options]

    def interrupted(step: int, *more: str) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(TrainingProgress, "show", interrupting(0, step))
            result = run(capsys, *command, *more)
        assert (result.status, result.err) == (130, "")
        return result

    early = interrupted(5)
    assert "--resume" not in early.out
    assert "stopped early, before the first checkpoint; the same command with --overwrite" in (
        early.out
    )
    assert "--resume" not in load_bundle(out).metrics["held_out"]["verdict"]
    assert files(out) == BUNDLE_FILES
    assert "--resume" in interrupted(60, "--overwrite").out
    assert "checkpoint.safetensors" in files(out)
    again = interrupted(5, "--overwrite", "--seed", "3")
    assert "--resume" not in again.out, "the checkpoint is of seed 0"
    resumed = interrupted(60, "--resume")
    assert "stopped early; the same command with --resume continues" in resumed.out
    assert run(capsys, *command, "--resume").status == 0


def test_ctrl_c_after_the_training_says_that_it_need_not_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the images are scored that calibrate."""
    data = folder_of(tmp_path / "data", [f"{number:02}.png" for number in range(40)])
    out = tmp_path / "out"
    options = [*NETWORK, "--folds", "1", "--steps", "150", "--threads", "1"]
    command = ["train", "--data", str(data), "--out", str(out), *options]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("model.commands.train.calibrated", interrupted)
        result = run(capsys, *command)
    assert (result.status, result.err) == (130, "stopped\n")
    assert lines(result)[-1] == (
        "the bundle is not written; the same command with --resume continues"
    )
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "show", interrupted)
        assert run(capsys, *command, "--resume").status == 0, "no step is left"
    assert files(out) == BUNDLE_FILES


def test_a_log_is_not_silent_while_it_trains(idx: Path, tmp_path: Path) -> None:
    """Standard output is a pipe here, as in a container or a batch job."""
    process = start(
        *("train", "--data", idx, "--out", tmp_path / "out", "--folds", "1"),
        *("--hidden", "512", "256", "--steps", "200000", "--batch-size", "128"),
    )
    assert process.stdout is not None
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    found = []
    for line in process.stdout:
        if re.match(r"step [\d,]+/200,000  \d+ %  loss ", line):
            found.append((time.monotonic(), line))
        if len(found) == 2:
            break
    timer.cancel()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "")
    (first_s, first), (second_s, second) = found
    assert 3 < second_s - first_s < 30
    assert first != second
    assert first.endswith(" left\n")


def interrupting(network: int, step: int) -> Callable[..., None]:
    """As `TrainingProgress.show`, with Ctrl-C at this step of this network."""

    def show(_: TrainingProgress, at: Step, of: int = 0) -> None:
        if (of, at.step) == (network, step):
            raise KeyboardInterrupt

    return show


def test_resume_without_a_checkpoint_starts_from_scratch(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--resume")
    assert (result.status, result.err) == (0, "")
    assert f"there is no {out / 'checkpoint.safetensors'} to resume from" in result.out
