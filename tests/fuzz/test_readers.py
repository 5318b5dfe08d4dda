"""A small budget of what `make fuzz` does to the readers."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from typing import Final

import pytest

from benchmarks.reliability.mutation import mutate
from service.codecs import npy
from tests.fuzz.target import IMAGE_TYPES, LATENT_TYPES, read_any, seeds

RUNS: Final = 5_000
TIMEOUT_S: Final = 120


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
def test_damaged_bodies_are_read_or_refused() -> None:
    good = list(seeds())
    for index in range(RUNS):
        numbers = random.Random(index)
        data = mutate(numbers, numbers.choice(good), good)
        try:
            read_any(data)
        except Exception as error:
            raise AssertionError(f"input {index} is {data!r}") from error


def test_every_reader_has_a_good_body() -> None:
    first = {seed[0] for seed in seeds()}
    assert first == {*range(len(IMAGE_TYPES) + len(LATENT_TYPES)), 0xFF} - {len(IMAGE_TYPES)}


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "tests.fuzz.readers", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel here")
def test_atheris_finds_nothing() -> None:
    # Its limit of memory is off: the kernel counts what this process has had as the child's peak.
    done = fuzz(f"-runs={RUNS}", "-seed=1", "-rss_limit_mb=0")
    assert done.returncode == 0, done.stderr[-2_000:]
    assert f"Done {RUNS} runs" in done.stderr


def test_an_error_that_is_no_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above test something."""
    monkeypatch.setattr(npy, "MAX_NPY_HEADER_BYTES", "x")
    body = next(seed for seed in seeds() if seed[1:7] == b"\x93NUMPY")
    with pytest.raises(TypeError):
        read_any(body)
