"""How far a long command is: a bar on a terminal, and elsewhere a line every few seconds."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.status import Status

from model.datasets.download import LINE_S
from model.training.train import Step


class _Bars(Progress):
    """Bars on a terminal. Elsewhere nothing can be redrawn, so lines are printed: one in `LINE_S`,
    and one at the end."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        super().__init__(*columns, console=console, disable=not console.is_interactive)
        self._printed_s = time.monotonic()
        self._line = ""

    def _report(self, line: str, task: TaskID) -> None:
        """Say how far a task is."""
        if not self.disable:
            return
        self._line = line
        if time.monotonic() - self._printed_s >= LINE_S:
            remaining = self.tasks[task].time_remaining
            self._print(line if remaining is None else f"{line}  {_clock(remaining)} left")

    def _print(self, line: str) -> None:
        self._printed_s = time.monotonic()
        self._line = ""
        self.console.print(line)

    def stop(self) -> None:
        """End the bars."""
        super().stop()
        if self._line:
            self._print(self._line)


class TrainingProgress(_Bars):
    """Shows the steps of several networks, one after the other."""

    def __init__(self, console: Console, networks: int) -> None:
        super().__init__(
            TextColumn("{task.description}step {task.fields[step]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]}  MSE {task.fields[mse]}  KL {task.fields[kl]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._networks = networks
        self.steps_per_fold: int | None = None
        """Of the networks after the first; None before it is trained."""
        self._task = self.add_task("", total=None, loss="", mse="", kl="", step="")

    def show(self, step: Step, network: int = 0) -> None:
        """Show a step of a network, counted from 0. The bar is of all networks."""
        which = f"network {network + 1}/{self._networks}  " if self._networks > 1 else ""
        steps = self.steps_per_fold if network and self.steps_per_fold else step.steps
        total, completed = self._networks * steps, network * steps + step.step
        at = f"{step.step:,}/{steps:,}"
        loss = f"{step.loss:.1f}" if abs(step.loss) >= 1 else f"{step.loss:.4f}"
        mse, kl = f"{step.mse:.4f}", f"{step.kl:.1f}"
        self.update(
            self._task,
            description=which,
            total=total,
            completed=completed,
            step=at,
            loss=loss,
            mse=mse,
            kl=kl,
        )
        percent = f"{100 * completed / total:.0f} %"
        self._report(f"{which}step {at}  {percent}  loss {loss}  MSE {mse}  KL {kl}", self._task)

    def show_fold(self, number: int, step: Step) -> None:
        """Show a step of the network of a fold after the first, counted from 0."""
        self.show(step, number + 1)


class FittingProgress(_Bars):
    """Shows how far the detectors of several networks are."""

    def __init__(self, console: Console, networks: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._networks = networks
        self._images = self.add_task("features of the images", total=None)
        self._steps: TaskID | None = None

    def show_images(self, done: int, total: int) -> None:
        """Show of how many images the features are known."""
        self.update(self._images, total=total, completed=done)
        self._report(f"features of the images {done:,}/{total:,}", self._images)

    def show_step(self, number: int, step: int, steps: int) -> None:
        """Show a step of the detector `number`, counted from 0. The bar is of all of them."""
        if self._steps is None:
            self._steps = self.add_task("")
        which = f" {number + 1}/{self._networks}" if self._networks > 1 else ""
        self.update(
            self._steps,
            description=f"detector{which}",
            total=self._networks * steps,
            completed=number * steps + step,
        )
        self._report(f"detector{which}  step {step:,}/{steps:,}", self._steps)


class Stage:
    """Shows what is being done, where it is not known how far it is.

    On a terminal a spinner; elsewhere a line every `LINE_S`, so none if it takes less.
    """

    def __init__(self, console: Console, text: str) -> None:
        self._console = console
        self._text = text
        self._status = Status(text, console=console) if console.is_interactive else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._print_lines, daemon=True)

    def update(self, text: str) -> None:
        """Go on to something else."""
        self._text = text
        if self._status is not None:
            self._status.update(text)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
        else:
            self._over.set()
            self._thread.join()

    def _print_lines(self) -> None:
        started = time.monotonic()
        while not self._over.wait(LINE_S):
            elapsed = _clock(time.monotonic() - started)
            self._console.print(f"{self._text.removesuffix(' …')}: {elapsed} so far")


def _clock(seconds: float) -> str:
    """As rich's bars have it.

    >>> _clock(75), _clock(3_675.4)
    ('0:01:15', '1:01:15')
    """
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
