"""The contract between `Engine` and the hardware: what a backend computes, and on whose terms.

`model.engine.cpu` and `model.engine.cuda` implement it, `model.engine.device` chooses one. To add a
device, write another implementation, let `choose_backend` return it, and add it to
tests/unit/model/engine/test_backend.py, which holds every backend to this contract.

N rows, P = C·H·W pixels each, D latent dimensions, K draws.

Input. `Rows`, one array or several that form one batch, of any memory order; a backend neither
changes them nor keeps a reference. Where a method takes images, they are uint8 (0..255) or floats
in [0, 1], with P numbers in a row. An empty batch is not allowed.

Output. Named tuples of `model.results`: float32, in the order of the input, and computed row by
row, so that a row's result does not depend on the rows beside it (to the bit where the network is
computed in C, to rounding elsewhere). The arrays belong to the caller: no later call writes to
them, and the caller may.

Precision. Matrix products are computed in the type that the backend was made with (`float32`,
`bfloat16` or `float16`); scores, errors and everything that is returned, in float32.

Threads. One call at a time. A backend reuses its buffers, so callers queue (the service does in
`service.inference.batching`). Different backends may run at once.

Errors. `ValueError` for rows of another width, `KeyError` for an unknown score; the next call works
again. `torch.OutOfMemoryError` only if not even one row fits; until then a backend splits the
batch. Anything else, such as a CUDA error, means that the device has failed: later calls may fail
as well, and `service.inference.health` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from model.engine.rows import Rows
from model.results import Decoding, Draws, Encoding, Reconstructions, ScoreMaps, Scores


class Backend(Protocol):
    """A network on one device. The module's docstring states the terms of every method."""

    name: str
    """The device, for people: `cpu`, or a GPU's index and model."""

    runtime: str
    """What computes the network there, for people: `C`, or a library and its version. It also says
    what computes the detector, if that is something else."""

    preferred_batch: int
    """Images in one pass from which on larger batches are no faster per image."""

    may_run_inline: bool
    """Whether a short pass may run on an event loop. Not on a GPU, whose driver may hang."""

    image_dtypes: tuple[type[np.uint8 | np.float32], ...]
    """Types of images that take different paths, each of which `Engine.warm_up` runs once."""

    def prepare(self, max_rows: int) -> Sequence[int]:
        """Expect batches of up to `max_rows`, and return the sizes to warm up, in order.

        Called before the first pass, if at all. Later batches may still be larger.
        """
        ...

    def encode(self, images: Rows) -> Encoding:
        """The posterior N(μ, diag σ²) of each image."""
        ...

    def decode(self, z: Rows) -> Decoding:
        """The image of each latent, (N, D)."""
        ...

    def reconstruct(self, images: Rows) -> Reconstructions:
        """Each image encoded and decoded at z = μ."""
        ...

    def score(self, images: Rows, name: str) -> Scores:
        """The score `name` of each image, one of `model.scores.deterministic.offered_scores`."""
        ...

    def score_map(self, images: Rows, name: str) -> ScoreMaps:
        """The same, with the map of the score: see `Engine.score_map`."""
        ...

    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """Each image encoded and decoded at z = μ + σ·ε.

        `rows` are floats, (N, P + D): pixels in [0, 1], then ε.
        """
        ...

    def draw(self, rows: Rows, draws: int) -> Draws:
        """The likelihood of each image given each of K = `draws` draws z = μ + σ·ε.

        `rows` are floats, (N, P + K·D): pixels in [0, 1], then the K draws' ε. Raises `ValueError`
        for a network without a pixel variance.
        """
        ...
