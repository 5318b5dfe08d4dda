"""The backend for NVIDIA GPUs: passes are recorded as CUDA graphs and replayed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Lock
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.backend import Backend
from model.engine.forward import TORCH
from model.engine.oom_backoff import OomBackoff, join_columns
from model.engine.passes import Passes, heads_and_logits
from model.engine.rows import Rows
from model.engine.sampled_passes import SampledPasses
from model.engine.staging import Accelerator, Buffers, Staging
from model.results import Decoding, Draws, Encoding, Floats, Reconstructions, ScoreMaps, Scores
from model.scores.detected import DETECTED_SCORES
from model.scores.sampled import errors_by_torch

BATCH_PIXELS: Final = 8192 * 28 * 28
"""Numbers in the images of one batch: as float32 they are 26 MB in pinned memory, and as many again
for each kind of pass whose result is images. The largest batch that was measured, see
docs/performance.md."""

MAX_BATCH: Final = 8192
"""For images smaller than 28×28: by default, a request has no more."""

DETECTOR_BATCH: Final = 32
"""Images in one batch with a detector, whose backbone sees each at 256 pixels a side, however small
it is."""

RECORDING: Final = Lock()
"""Held while a graph is recorded: CUDA allows one recording at a time in a process, and a bundle
that is being loaded again records in another thread than the one that serves."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away: if it destroys another engine's graphs while one is
    recorded, it breaks the recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def preferred_batch(bundle: Bundle) -> int:
    """Images in one batch, a power of two: 8192 of 28×28, and fewer the larger they are."""
    fitting = max(1, BATCH_PIXELS // bundle.config.pixels)
    most = min(fitting, MAX_BATCH if bundle.detector is None else DETECTOR_BATCH)
    return 1 << (most.bit_length() - 1)


class CudaAccelerator:
    """A GPU with a stream of its own.

    All recordings take their temporary memory from one pool, so that together they need no more
    than the largest. That is safe because one runs at a time, and its result is copied before the
    next one starts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's
        # Products in TF32 would agree with the CPU to 1e-3 only.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._pool = torch.cuda.graph_pool_handle()
        # A pool whose last graph is gone cannot be used again, so one graph stays.
        self._first = self.record(lambda: torch.zeros(1, device=device))

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the host that the GPU reads and writes directly."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Memory of the GPU. Raises `torch.OutOfMemoryError`."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record `work` as a CUDA graph.

        Returns a function that replays it, and its result, which every replay overwrites.
        """
        with RECORDING, _no_collection(), torch.cuda.stream(self._stream):
            work()  # the first call sets up libraries, which must not become part of the graph
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # By default, an allocation in any other thread would break the recording.
            mode = "thread_local"
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                output = work()
        return graph.replay, output

    def stream(self) -> AbstractContextManager[object]:
        """Inside `with`, work goes to this GPU's own stream."""
        context: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return context

    def synchronize(self) -> None:
        """Wait for the stream. Raises the GPU's errors."""
        self._stream.synchronize()


class CudaBackend(Backend):
    """A bundle's network on a GPU.

    `device` is where tensors live, `accelerator` how rows get there; tests pass the host for both.
    The sampled passes are not recorded: their sizes vary with the number of draws.
    """

    runtime = TORCH
    may_run_inline = False
    image_dtypes = (np.uint8, np.float32)  # each has recordings of its own

    def __init__(
        self, bundle: Bundle, device: torch.device, dtype: str, accelerator: Accelerator, name: str
    ) -> None:
        self.name = name
        self.preferred_batch = preferred_batch(bundle)
        self._config = bundle.config
        self._detected = () if bundle.detector is None else DETECTED_SCORES
        self._accelerator = accelerator
        self._passes = Passes(bundle, device, dtype)
        network = self._passes.network
        self._sampled = SampledPasses(
            bundle, network, device, partial(heads_and_logits, network), errors_by_torch(network)
        )
        self._max_rows = self.preferred_batch
        self._buffers = Buffers(accelerator)
        self._stagings: dict[str, Staging] = {}
        self._drawn_reconstructions: OomBackoff[Reconstructions] | None = None
        self._draws: dict[int, OomBackoff[Draws]] = {}

    def prepare(self, max_rows: int) -> Sequence[int]:
        """Record the powers of two: an unrecorded size would make its first client wait.

        The largest come first, as smaller ones find room in their memory.
        """
        self._max_rows = max_rows
        sizes = {1, max_rows} | {1 << power for power in range(max_rows.bit_length())}
        return sorted(sizes, reverse=True)

    def max_rows(self, kind: str) -> int:
        """Rows in one batch of a pass that has run before, such as `encode` or `score mse`."""
        return self._stagings[kind].max_rows

    @torch.inference_mode()
    def encode(self, images: Rows) -> Encoding:
        """See `Backend`."""
        columns = self._staging("encode", self._passes.encode)(images)  # (N, 2D)
        mean, std = np.split(columns, 2, axis=1)
        return Encoding(mean, std)

    @torch.inference_mode()
    def decode(self, z: Rows) -> Decoding:
        """See `Backend`."""
        staging = self._staging("decode", self._passes.decode, self._config.latent_size)
        return Decoding(self._as_images(staging(z)))

    @torch.inference_mode()
    def reconstruct(self, images: Rows) -> Reconstructions:
        """See `Backend`."""
        columns = self._staging("reconstruct", self._passes.reconstruct)(images)  # (N, P + 1)
        return Reconstructions(self._as_images(columns[:, :-1]), columns[:, -1])

    @torch.inference_mode()
    def score(self, images: Rows, name: str) -> Scores:
        """See `Backend`."""
        if name in self._detected:  # one recording for all of them, as they are one pass
            columns = self._staging("detected scores", self._passes.detected_scores)(images)
            mse, kl, *scores = columns.T
            return Scores(scores[self._detected.index(name)], mse, kl)
        staging = self._staging(f"score {name}", partial(self._passes.score, name))
        return Scores(*staging(images).T)

    @torch.inference_mode()
    def score_map(self, images: Rows, name: str) -> ScoreMaps:
        """See `Backend`."""
        staging = self._staging(f"map {name}", partial(self._passes.score_map, name))
        columns = staging(images)  # (N, 3 + P)
        score, mse, kl = columns[:, :3].T
        return ScoreMaps(score, mse, kl, self._as_images(columns[:, 3:]))

    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """See `Backend`."""
        if self._drawn_reconstructions is None:
            run = self._sampled.reconstruct
            self._drawn_reconstructions = OomBackoff(run, join_columns, self._max_rows)
        return self._drawn_reconstructions(rows)

    def draw(self, rows: Rows, draws: int) -> Draws:
        """See `Backend`."""
        if draws not in self._draws:
            run = partial(self._sampled.draw, draws=draws)
            self._draws[draws] = OomBackoff(run, join_columns, self._max_rows)
        return self._draws[draws](rows)

    def _staging(
        self, kind: str, run: Callable[[Tensor], Tensor], width: int | None = None
    ) -> Staging:
        """The staging of one kind of pass, over rows of P numbers unless `width` is given."""
        if kind not in self._stagings:
            width = width or self._config.pixels
            self._stagings[kind] = Staging(
                self._accelerator, self._buffers, run, width, self._max_rows
            )
        return self._stagings[kind]

    def _as_images(self, pixels: Floats) -> Floats:
        return pixels.reshape(-1, *self._config.image_shape)  # (N, C, H, W)
