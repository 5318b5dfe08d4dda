"""Draws, each from its request's own seed: the same whatever shared its batch."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # its module loads torch
    from model.results import Encoding, Floats

MAX_SEED = 2**64 - 1


def standard_normal(shape: tuple[int, ...], seed: int | None) -> Floats:
    """ε ~ N(0, I), float32. The same `seed` gives the same numbers; None takes a fresh one."""
    generator = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    return generator.standard_normal(shape, dtype=np.float32)


def draw(posterior: Encoding, seed: int | None) -> Floats:
    """z = μ + σ·ε."""
    return posterior.mu + posterior.sigma * standard_normal(posterior.mu.shape, seed)
