"""Random draws, seeded per request, so that they do not depend on what shares a batch."""

from __future__ import annotations

import secrets

import numpy as np

from model.results import Encoding, Floats

MAX_SEED = 2**64 - 1


def standard_normal(shape: tuple[int, ...], seed: int | None) -> Floats:
    """Draw ε ~ N(0, I), float32. The same `seed` gives the same numbers; None takes a new seed."""
    generator = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    return generator.standard_normal(shape, dtype=np.float32)


def draw(posterior: Encoding, seed: int | None) -> Floats:
    """Draw z = μ + σ·ε from each posterior: (N, D)."""
    return posterior.mu + posterior.sigma * standard_normal(posterior.mu.shape, seed)
