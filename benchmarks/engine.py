"""The network without a server: `Engine.score` in a loop, compared with a large matrix product.

`python -m benchmarks.engine` uses one core and prints JSON. Each batch size is measured between two
products of 2048³, so a core that is slower for a while is slower for both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

BATCHES: Final = tuple(2**power for power in range(11))

QUICK_BATCHES: Final = (64, 128, 256)

SCORES: Final = ("fused", "mse")

SIDE: Final = 2048
"""Of the square matrices: large enough for a product to reach the core's peak."""

REPEATS: Final = 3

MEASURE_S: Final = 0.1
"""Of one batch size in one repeat."""

FLOAT32: Final = "float32"
BFLOAT16: Final = "bfloat16"


def flops_an_image(sizes: Sequence[Sequence[int]]) -> int:
    """Operations of fully connected layers, given their widths: two for each weight.

    >>> flops_an_image([(784, 256, 64, 20), (10, 64, 256, 784)])
    872192
    """
    return 2 * sum(wide * high for widths in sizes for wide, high in pairwise(widths))


def images_per_s(score: Callable[[], object], images: int, seconds: float = MEASURE_S) -> float:
    """The speed of `score`, which takes `images` images a call; the first call does not count."""
    score()
    calls, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        score()
        calls += 1
    return calls * images / took


def product(dtype: str) -> Callable[[], float]:
    """A function that multiplies two square matrices and returns FLOP/s."""
    import torch

    left, right = (torch.randn(SIDE, SIDE).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)

    def run() -> float:
        started = time.perf_counter()
        torch.mm(left, right, out=out)
        return float(2 * SIDE**3 / (time.perf_counter() - started))

    run()
    return run


def measure(batches: Sequence[int], repeats: int) -> dict[str, Any]:
    """Images/s by dtype, score and batch size, and their FLOP/s as a share of the products'.

    Images are uint8, as in raw bodies, and noise: digits are mostly black, and the network skips
    zeros. `bulk_images_per_s` is measured with the digits that the raw workloads send.
    """
    import numpy as np
    import torch

    from benchmarks.workloads import BULK_IMAGES, bulk_pixels
    from model.bundle.bundle import find_bundle, load_bundle
    from model.engine.engine import Engine

    bundle = load_bundle(find_bundle("mnist"))
    config = bundle.config
    flops = flops_an_image([config.encoder_sizes, config.decoder_sizes])
    images = np.random.default_rng(0).integers(0, 256, (max(batches), config.pixels), np.uint8)
    engines = {
        dtype: Engine(bundle, device="cpu", threads=1, dtype=dtype) for dtype in (FLOAT32, BFLOAT16)
    }
    products = {dtype: product(dtype) for dtype in (FLOAT32, BFLOAT16)}
    torch.set_num_threads(1)
    speeds: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    shares: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = {dtype: [run()] for dtype, run in products.items()}
    for _ in range(repeats):
        for batch in batches:
            for dtype, engine in engines.items():
                rows = images[:batch]
                for score in SCORES:
                    run = partial(engine.score, rows, score)
                    speed = images_per_s(run, batch)
                    before, after = peaks[dtype][-1], products[dtype]()
                    peaks[dtype].append(after)
                    speeds[dtype, score, batch].append(speed)
                    shares[dtype, score, batch].append(speed * flops * 2 / (before + after))
    digits = bulk_pixels()[:BULK_IMAGES]
    bulk = [
        images_per_s(lambda: engines[FLOAT32].score(digits, SCORES[0]), BULK_IMAGES)
        for _ in range(3 * repeats)
    ]
    speeds_and_shares: dict[str, Any] = {
        dtype: {score: {} for score in SCORES} for dtype in engines
    }
    for (dtype, score, batch), values in speeds.items():
        speeds_and_shares[dtype][score][str(batch)] = {
            "images_per_s": statistics.median(values),
            "of_product": statistics.median(shares[dtype, score, batch]),
        }
    return {
        "flops_an_image": flops,
        "product_flops_per_s": {name: statistics.median(values) for name, values in peaks.items()},
        "dtypes": speeds_and_shares,
        "bulk_images_per_s": statistics.median(bulk),
    }


def main() -> None:
    """Measure `Engine.score` on one core, and print the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="three batch sizes, once")
    parser.add_argument("--batches", type=int, nargs="+", help="these sizes instead")
    given = parser.parse_args()
    batches = given.batches or (QUICK_BATCHES if given.quick else BATCHES)
    # Before torch is imported, which counts the cores it may use.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(measure(batches, 1 if given.quick else REPEATS)))


if __name__ == "__main__":
    main()
