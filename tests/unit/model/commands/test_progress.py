"""The progress of a training, as a bar and as lines, and the console that it is shown on."""

from __future__ import annotations

import io
import re
import sys
import threading
import time

import pytest
from rich.console import Console
from rich.progress import Progress

from model.commands import progress as progress_module
from model.commands.common import standard_output
from model.commands.progress import FittingProgress, Stage, TrainingProgress
from model.datasets.download import LINE_S
from model.training.train import Step


def shown(progress: Progress) -> str:
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


def fitting(networks: int) -> FittingProgress:
    return FittingProgress(Console(file=io.StringIO()), networks)


def test_the_features_of_images_are_counted() -> None:
    progress = fitting(3)
    progress.show_images(16, 64)
    (text,) = shown(progress).splitlines()
    assert text.startswith("features of the images ")
    assert " 25% " in text


@pytest.mark.parametrize(
    ("networks", "number", "name", "percent"),
    [(1, 0, "detector ", 50), (4, 0, "detector 1/4 ", 12), (4, 3, "detector 4/4 ", 88)],
)
def test_the_steps_of_all_detectors_are_one_bar(
    networks: int, number: int, name: str, percent: int
) -> None:
    progress = fitting(networks)
    progress.show_images(64, 64)
    progress.show_step(number, 750, 1_500)
    features, steps = shown(progress).splitlines()
    assert "100%" in features
    assert steps.startswith(name)
    assert f" {percent}% " in steps
    progress.show_step(networks - 1, 1_500, 1_500)
    assert "100%" in shown(progress).splitlines()[1]


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


# Without a terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which passes as the test says."""
    now = [100.0]
    monkeypatch.setattr("model.commands.progress.time.monotonic", lambda: now[0])
    return now


def test_a_line_every_few_seconds(clock: list[float]) -> None:
    file = io.StringIO()
    with TrainingProgress(Console(file=file, width=200), 2) as progress:
        for step in range(1, 1_001):
            clock[0] += 0.01
            progress.show(at(step, 1_000))
        clock[0] += 1
        progress.steps_per_fold = 500
        progress.show_fold(0, at(250))
    lines = file.getvalue().splitlines()
    figures = "loss -12241.8  MSE 0.0195  KL 11.2"
    assert [line.split("  KL 11.2")[0] + "  KL 11.2" for line in lines] == [
        f"network 1/2  step 500/1,000  25 %  {figures}",
        f"network 1/2  step 1,000/1,000  50 %  {figures}",
        f"network 2/2  step 250/500  75 %  {figures}",
    ]
    assert re.search(r"  \d:\d\d:\d\d left$", lines[0])


def test_the_last_line_is_printed_once(clock: list[float]) -> None:
    file = io.StringIO()
    with TrainingProgress(Console(file=file, width=200), 1) as progress:
        clock[0] += LINE_S
        progress.show(at(1_500))
    assert len(file.getvalue().splitlines()) == 1


def test_detectors_too(clock: list[float]) -> None:
    file = io.StringIO()
    with FittingProgress(Console(file=file, width=200), 3) as progress:
        for done in (64, 128):
            clock[0] += LINE_S
            progress.show_images(done, 128)
        clock[0] += LINE_S
        progress.show_step(1, 7, 2_000)
    found = [re.sub(r"  \d:\d\d:\d\d left$", "", line) for line in file.getvalue().splitlines()]
    assert found == [
        "features of the images 64/128",
        "features of the images 128/128",
        "detector 2/3  step 7/2,000",
    ]


def test_a_terminal_has_the_bar_alone(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, force_interactive=True)
    with TrainingProgress(console, 1) as progress:
        clock[0] += LINE_S
        progress.show(at(375))
    assert " 25%" in file.getvalue()
    assert "25 %" not in file.getvalue()


@pytest.mark.parametrize("takes_long", [True, False])
def test_a_stage_without_known_progress(takes_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(progress_module, "LINE_S", 0.02 if takes_long else 60)
    console = Console(file=file, width=200)
    with Stage(console, "reading") as stage:
        deadline = time.monotonic() + 10
        while takes_long and "reading" not in file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stage.update("drawing …")
        while takes_long and "drawing" not in file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    shown = file.getvalue()
    assert bool(shown) == takes_long
    assert all(re.fullmatch(r"(reading|drawing): 0:00:\d\d so far", x) for x in shown.splitlines())
    time.sleep(0.1)
    assert file.getvalue() == shown, "nothing more after the end"


def test_a_stage_ends_with_its_error() -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Stage(Console(file=file), "reading"):
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if "_print_lines" in thread.name]


def test_a_stage_on_a_terminal_is_a_spinner() -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=True, force_interactive=True)
    with Stage(console, "reading") as stage:
        stage.update("drawing")
    assert "so far" not in file.getvalue()
    assert "drawing" in file.getvalue()
