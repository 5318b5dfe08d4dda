"""How well anomalies are detected: the benchmarks of the literature, over several seeds.

    python -m benchmarks.quality --data data      writes results/quality.json and quality.md

`data` holds the directories mnist, fashion-mnist and kmnist. Every task trains a network, which
takes minutes on a core. Finished tasks are kept in runs/quality, so a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.machine import RESULTS, made_with
from benchmarks.quality_tables import markdown
from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.commands.common import today
from model.commands.train_options import RECIPES as RECIPE_FILES
from model.config import VAEConfig, conv_sizes
from model.datasets.load import load_images
from model.engine.engine import Engine
from model.training.cross_fit import as_bundle
from model.training.goodness_of_fit import evaluate_fit
from model.training.train import TrainOptions, train

Images = NDArray[np.uint8]

KEPT: Final = Path("runs/quality")
SHAPE: Final = (1, 28, 28)
OTHERS: Final = {"mnist": ("fashion-mnist", "kmnist"), "fashion-mnist": ("mnist", "kmnist")}

RECIPES: Final = {"mlp": "mnist", "conv": "mnist-conv"}
"""The file in `model/training/recipes` for each architecture; Fashion-MNIST's recipes are alike."""

CHANGES: Final[dict[str, dict[str, Any]]] = {
    "full/mlp": {},
    "full/conv": {},
    "one-class/mlp": {"epochs": 120, "augment": 0.0},
    "one-class/conv": {"epochs": 50},
    "left-out/mlp": {"epochs": 30},
    "left-out/conv": {"epochs": 8},
}
"""What each kind of task changes in its recipe. One-class trains longer, as it has a tenth of the
images; left-out trains shorter, as there are ten such tasks."""


@dataclass(frozen=True)
class Task:
    """One training, and the anomalies that its network has to detect."""

    kind: str
    """full: all classes are clean; one-class: only `label` is; left-out: all but `label` are."""
    data_set: str
    arch: str
    seed: int
    label: int | None = None

    @property
    def name(self) -> str:
        """The name of its file in runs/quality."""
        label = "" if self.label is None else f"-{self.label}"
        return f"{self.kind}-{self.data_set}-{self.arch}{label}-seed{self.seed}"


def options_of(task: Task) -> TrainOptions:
    """The options that a task is trained with."""
    recipe = tomllib.loads((RECIPE_FILES / f"{RECIPES[task.arch]}.toml").read_text())
    names = {field.name for field in fields(TrainOptions)}
    chosen = {name: value for name, value in recipe.items() if name in names}
    return replace(TrainOptions(seed=task.seed), **chosen | CHANGES[f"{task.kind}/{task.arch}"])


def tasks(seeds: Sequence[int]) -> Iterator[Task]:
    """All tasks, seed by seed."""
    for seed in seeds:
        for arch in ("mlp", "conv"):
            for data_set in OTHERS:
                yield Task("full", data_set, arch, seed)
                for label in range(10):
                    yield Task("one-class", data_set, arch, seed, label)
            for label in range(10):
                yield Task("left-out", "mnist", arch, seed, label)


def measure(task: Task, data: Path) -> dict[str, Any]:
    """Train, then compute the AUROC of every deterministic score for each set of anomalies."""
    torch.set_num_threads(1)
    directory = data / task.data_set
    of_training = load_images(directory, "train", image_shape=SHAPE)
    of_test = load_images(directory, "test", image_shape=SHAPE)
    images, test = of_training.images, of_test.images
    anomalies: dict[str, Images]
    if task.kind == "full":
        anomalies = {
            name: load_images(data / name, "test", image_shape=SHAPE).images
            for name in OTHERS[task.data_set]
        }
        anomalies["upside down"] = test[:, :, ::-1].copy()
        anomalies["mirrored"] = test[:, :, :, ::-1].copy()
    else:
        labels, test_labels = of_training.labels, of_test.labels
        if labels is None or test_labels is None:
            raise ValueError(f"{directory} has no labels, which {task.kind} tasks need")
        wanted = task.kind == "one-class"
        images = images[(labels == task.label) == wanted]
        clean = (test_labels == task.label) == wanted
        anomalies = {"the others" if wanted else "the one": test[~clean]}
        test = test[clean]
    engine = Engine(_trained(task, images), device="cpu")
    names = [name for name in engine.scores if name not in engine.sampled_scores]
    clean_scores = _scores(engine, test, names)
    return asdict(task) | {
        "options": asdict(options_of(task)),
        "made_with": made_with(),
        "fit": asdict(evaluate_fit(engine.bundle.network(), torch.from_numpy(_flat(test)))),
        "auroc": {
            name: _aurocs(clean_scores, _scores(engine, strange, names))
            for name, strange in anomalies.items()
        },
    }


def _trained(task: Task, images: Images) -> Bundle:
    conv = task.arch == "conv"
    if task.kind == "full" and task.seed == 0:  # the shipped bundle was trained exactly so
        return load_bundle(find_bundle(f"{task.data_set}-conv" if conv else task.data_set))
    config = VAEConfig(
        architecture="conv" if conv else "mlp",
        image_shape=SHAPE,
        hidden_sizes=conv_sizes(SHAPE) if conv else VAEConfig().hidden_sizes,
        latent_size=32 if conv else VAEConfig().latent_size,
    )
    return as_bundle(train(config, images, options_of(task)), task.name)


def _scores(engine: Engine, images: Images, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    parts = np.array_split(images, max(1, len(images) // 500))
    return {
        name: np.concatenate([engine.score(part, name).score for part in parts]) for name in names
    }


def _aurocs(
    clean: dict[str, NDArray[np.float32]], strange: dict[str, NDArray[np.float32]]
) -> dict[str, float]:
    return {
        name: float(
            roc_auc_score(
                np.repeat([0, 1], [len(clean[name]), len(strange[name])]),
                np.concatenate([clean[name], strange[name]]),
            )
        )
        for name in clean
    }


def _flat(images: Images) -> Images:
    return images.reshape(len(images), -1)


def is_done(task: Task) -> bool:
    """Whether a result is kept, from a training with the options it would have now."""
    path = KEPT / f"{task.name}.json"
    return path.exists() and json.loads(path.read_text())["options"] == asdict(options_of(task))


def main() -> None:
    """Run the tasks that are not done yet, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("VAE_DATA_DIR", "data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="trainings at a time; by default as many as there are cores",
    )
    parser.add_argument("--only", help="run only tasks whose names begin with this")
    arguments = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    todo = [
        task
        for task in tasks(arguments.seeds)
        if task.name.startswith(arguments.only or "") and not is_done(task)
    ]
    # Spawned: torch's threads do not survive a fork.
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(measure, task, arguments.data): task for task in todo}
        for number, future in enumerate(as_completed(running), start=1):
            task = running[future]
            (KEPT / f"{task.name}.json").write_text(json.dumps(future.result()))
            print(f"{number} of {len(todo)}: {task.name}", flush=True)
    finished = [json.loads(path.read_text()) for path in sorted(KEPT.glob("*.json"))]
    results = {
        "command": "make bench-quality",
        "date": today(),
        **made_with(),
        "tasks": finished,
    }
    (RESULTS / "quality.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "quality.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
