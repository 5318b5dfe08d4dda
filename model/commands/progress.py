"""The progress bars of a training."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from model.training.train import Step


class TrainingProgress(Progress):
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
        self.update(
            self._task,
            description=which,
            total=self._networks * steps,
            completed=network * steps + step.step,
            step=f"{step.step:,}/{steps:,}",
            loss=f"{step.loss:.1f}" if abs(step.loss) >= 1 else f"{step.loss:.4f}",
            mse=f"{step.mse:.4f}",
            kl=f"{step.kl:.1f}",
        )

    def show_fold(self, number: int, step: Step) -> None:
        """Show a step of the network of a fold after the first, counted from 0."""
        self.show(step, number + 1)


class FittingProgress(Progress):
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
