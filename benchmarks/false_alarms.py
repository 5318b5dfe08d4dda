"""How often networks trained by `vae train` call new clean images anomalies, over many seeds.

    python -m benchmarks.false_alarms --data data --photos photos
                                             writes results/false_alarms.{json,md}

Each seed draws images, trains on them by the command's own defaults, and scores others that were
not drawn. Digits are MNIST's training images. Photographs are shots of parts, a subfolder for each,
below `train` and `test-normal` of PHOTOS; the new images are of other parts. Without --photos, that
part is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import RESULTS, made_with
from model.__main__ import main as vae
from model.bundle.bundle import load_bundle
from model.datasets.load import load_images, load_unseen
from model.engine.engine import Engine

ALPHAS: Final = (0.05, 0.01)

SEEDS: Final = 20

SIZES: Final = (30, 100, 300)

COPIES: Final = 10

NEW_IMAGES: Final = 2_000

PARTS_FOR_TRAINING: Final = 0.8

PHOTO_SIZE: Final = 32
"""Longer side of the photographs: 64, the default, would take four times as long."""

CHUNK: Final = 128


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained on."""

    images: str
    """`digits` or `photographs`."""
    n: int = 0
    """Number of digits; 0: all photographs of the chosen parts."""
    copies: int = 1
    grouped: bool = False

    def __str__(self) -> str:
        """As in the table."""
        if self.images == "photographs":
            how = "with `--group folder`" if self.grouped else "as they come, which is warned of"
            return f"photographs by part, {how}"
        return f"{self.n} digits" + (f", {self.copies} copies of each" if self.copies > 1 else "")


def cases(photos: Path | None) -> Iterator[Case]:
    """All rows of the table."""
    for copies in (1, COPIES):
        for n in SIZES:
            yield Case(images="digits", n=n, copies=copies)
    if photos is not None:
        for grouped in (True, False):
            yield Case(images="photographs", grouped=grouped)


def measure(case: Case, seed: int, data: Path, photos: Path | None) -> dict[str, Any]:
    """Train on what `case` and `seed` choose, and score new images: a rate for each alpha."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        options = ["--seed", str(seed), "--threads", "1"]
        if case.images == "digits":
            new = _digits(root / "images", case, seed, data / "mnist")
        else:
            assert photos is not None  # noqa: S101 - there is no such case without
            _link_parts(root, seed, photos)
            new = None
            options += ["--size", str(PHOTO_SIZE), *(["--group", "folder"] if case.grouped else [])]
        said = StringIO()
        with redirect_stdout(said):
            status = vae(
                ["train", "--data", str(root / "images"), "--out", str(root / "out"), *options]
            )
        if status:
            raise RuntimeError(f"{case}, seed {seed}: {said.getvalue()}")
        bundle = load_bundle(root / "out")
        if new is None:
            new = load_unseen(root / "new", image_shape=bundle.config.image_shape)[0].images
        engine, calibration = Engine(bundle, device="cpu", threads=1), bundle.calibration
        assert calibration is not None  # noqa: S101 - it was just trained
        name = next(iter(engine.scores))
        scores = [engine.score(new[i : i + CHUNK], name).score for i in range(0, len(new), CHUNK)]
        p = calibration.p_values(name, np.concatenate(scores))
        return {
            "case": asdict(case),
            "seed": seed,
            "calibrated_on": calibration.n,
            "rates": {f"{alpha:g}": float((p <= alpha).mean()) for alpha in ALPHAS},
            "warned": "--group folder keeps them together" in said.getvalue(),
        }


def _digits(folder: Path, case: Case, seed: int, mnist: Path) -> NDArray[np.uint8]:
    """Write the digits to train on as PNG files, and return others, (N, 1, 28, 28)."""
    digits = load_images(mnist, "train", image_shape=(1, 28, 28)).images
    order = np.random.default_rng(seed).permutation(len(digits))
    folder.mkdir()
    for number, index in enumerate(order[: case.n]):
        for copy in range(case.copies):
            Image.fromarray(digits[index, 0]).save(folder / f"{number:04}-{copy}.png")
    return digits[order[case.n : case.n + NEW_IMAGES]]


def _link_parts(root: Path, seed: int, photos: Path) -> None:
    """Link random parts, of both folders, into `images`, and the others into `new`."""
    parts = sorted(part.resolve() for part in photos.glob("*/*") if _is_normal_part(part))
    order = np.random.default_rng(seed).permutation(len(parts))
    trained = int(len(parts) * PARTS_FOR_TRAINING)
    for name, chosen in (("images", order[:trained]), ("new", order[trained:])):
        (root / name).mkdir()
        for index in chosen:
            (root / name / parts[index].name).symlink_to(parts[index], target_is_directory=True)


def _is_normal_part(part: Path) -> bool:
    return part.is_dir() and part.parent.name in ("train", "test-normal")


def summary(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the rates for each case."""
    rows = []
    for case in dict.fromkeys(json.dumps(result["case"]) for result in results):
        own = [result for result in results if json.dumps(result["case"]) == case]
        rates = {alpha: [result["rates"][alpha] for result in own] for alpha in own[0]["rates"]}
        rows.append(
            {
                "case": str(Case(**json.loads(case))),
                "seeds": len(own),
                "calibrated_on": float(np.mean([result["calibrated_on"] for result in own])),
                "warned": sum(result["warned"] for result in own),
                "mean": {alpha: float(np.mean(values)) for alpha, values in rates.items()},
                "sd": {alpha: float(np.std(values)) for alpha, values in rates.items()},
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = " | ".join(f"α = {alpha:g}" for alpha in ALPHAS)
    lines = [
        f"| trained on | calibration images | {heads} | warned of near-copies |",
        "| --- | ---: |" + " ---: |" * (len(ALPHAS) + 1),
    ]
    for row in rows:
        rates = " | ".join(
            f"{row['mean'][f'{alpha:g}']:.3f} ± {row['sd'][f'{alpha:g}']:.3f}" for alpha in ALPHAS
        )
        lines.append(
            f"| {row['case']} | {row['calibrated_on']:.0f} | {rates} | "
            f"{row['warned']} of {row['seeds']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cases, in as many processes as there are cores, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds mnist")
    parser.add_argument("--photos", type=Path, help="folder of parts, below train and test-normal")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    jobs = [
        (case, seed, arguments.data, arguments.photos)
        for case in cases(arguments.photos)
        for seed in range(arguments.seeds)
    ]
    results = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for result in pool.map(measure, *zip(*jobs, strict=True)):
            results.append(result)
            print(f"{Case(**result['case'])}, seed {result['seed']}: {result['rates']}", flush=True)
    rows = summary(results)
    content = {"made_with": made_with(), "rows": rows, "results": results}
    (RESULTS / "false_alarms.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "false_alarms.md").write_text(table(rows))
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
