"""The progress bar of a training, and the console that it is shown on."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from model.commands.common import standard_output
from model.commands.progress import TrainingProgress
from model.training.train import Step


def shown(progress: TrainingProgress) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(progress.get_renderable())
    return file.getvalue()


def at(step: int, steps: int = 1_500) -> Step:
    return Step(step=step, steps=steps, loss=-12241.8, mse=0.0195, kl=11.2)


def test_one_network() -> None:
    progress = TrainingProgress(Console(file=io.StringIO()), 1)
    progress.show(at(375))
    text = shown(progress)
    assert text.startswith("step 375/1,500 ")
    assert " 25% loss -12241.8  MSE 0.0195  KL 11.2 " in text


def test_the_bar_is_of_all_networks() -> None:
    """Those after the first take as many steps as its best weights."""
    progress = TrainingProgress(Console(file=io.StringIO()), 10)
    progress.show(at(750))
    assert shown(progress).startswith("network 1/10  step 750/1,500 ")
    assert "  5% loss" in shown(progress)
    progress.steps_per_fold = 1_000
    progress.show_fold(0, at(1))
    assert shown(progress).startswith("network 2/10  step 1/1,000 ")
    assert " 10% loss" in shown(progress)
    progress.show_fold(8, at(1_000))
    assert shown(progress).startswith("network 10/10  step 1,000/1,000 ")
    assert "100% loss" in shown(progress)
    assert len(shown(progress).splitlines()) == 1


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_are_wrapped_for_a_terminal_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    line = "word " * 30 + ":smile: [red]"
    standard_output().print(line)
    assert (len(file.getvalue().splitlines()) > 1) == is_terminal
    assert file.getvalue().split() == line.split()
