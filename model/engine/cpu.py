"""The backend for the CPU: C or ONNX Runtime where they are there and faster, torch otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.engine.backend import Backend
from model.engine.forward import TORCH, ForwardOutput, choose_detector, choose_forward
from model.engine.half_conv import use_half_conv
from model.engine.passes import Passes
from model.engine.rows import Rows, concatenate_scaled
from model.engine.sampled_passes import SampledPasses, as_numpy
from model.results import Decoding, Draws, Encoding, Floats, Reconstructions, ScoreMaps, Scores
from model.scores.detected import DETECTED_SCORES
from model.scores.native import NativeScores, errors_in_c
from model.scores.sampled import errors_by_torch

PREFERRED_BATCHES: Final = {"float32": 128, "bfloat16": 512, "float16": 512}
"""By type. Products of half precision need more rows to reach their peak, with AMX or without."""


DETECTOR_BATCH: Final = 8
"""With a detector, an image takes ten milliseconds, in any batch: a small one holds up less."""


class CpuBackend(Backend):
    """A bundle's network on the CPU.

    The network itself is computed by `model.engine.forward`, and what follows it by
    `model.scores.native`; each of them falls back to torch by itself.
    """

    name = "cpu"
    may_run_inline = True
    image_dtypes = (np.uint8,)  # floats take the same path

    def __init__(self, bundle: Bundle, dtype: str) -> None:
        self.preferred_batch = (
            PREFERRED_BATCHES[dtype] if bundle.detector is None else DETECTOR_BATCH
        )
        device = torch.device("cpu")
        self._config = bundle.config
        detector = choose_detector(bundle)
        self._passes = Passes(bundle, device, dtype, detector)
        self._network = self._passes.network
        use_half_conv(self._network)
        self._forward = choose_forward(self._network, bundle.graphs)
        self.runtime = self._forward.runtime
        by = TORCH if detector is None else detector.runtime
        if bundle.detector is not None and by != self.runtime:
            self.runtime += f", its detector by {by}"
        self._native = NativeScores.of(bundle.config, bundle.statistics)
        errors = (
            errors_in_c(self._forward.decode) if self._native else errors_by_torch(self._network)
        )
        self._sampled = SampledPasses(bundle, self._network, device, self._heads_and_logits, errors)

    def prepare(self, max_rows: int) -> Sequence[int]:
        """Nothing is kept for a size but the views of a buffer."""
        return sorted({1, max_rows})

    @torch.inference_mode()
    def encode(self, images: Rows) -> Encoding:
        """See `Backend`."""
        heads = self._forward(images).heads.copy()  # the next pass overwrites them
        posterior = self._network.posterior(torch.from_numpy(heads))
        return Encoding(as_numpy(posterior.mean), as_numpy(posterior.std))

    @torch.inference_mode()
    def decode(self, z: Rows) -> Decoding:
        """See `Backend`."""
        latents = concatenate_scaled(z, self._config.latent_size)
        logits = torch.from_numpy(self._forward.decode(latents))
        return Decoding(self._as_images(logits.sigmoid()))

    @torch.inference_mode()
    def reconstruct(self, images: Rows) -> Reconstructions:
        """See `Backend`."""
        output = self._forward(images)
        decoded = self._as_images(torch.from_numpy(output.logits).sigmoid())
        return Reconstructions(decoded, self._score("mse", output).mse)

    def score(self, images: Rows, name: str) -> Scores:
        """See `Backend`."""
        return self._score(name, self._forward(images))

    @torch.inference_mode()
    def score_map(self, images: Rows, name: str) -> ScoreMaps:
        """See `Backend`."""
        output = self._forward(images)
        if name in DETECTED_SCORES:
            columns = self._passes.map_columns(name, *map(torch.from_numpy, output))
            score, mse, kl = columns[:, :3].numpy().T
            return ScoreMaps(score, mse, kl, self._as_images(columns[:, 3:]))
        pixels, logits = torch.from_numpy(output.pixels), torch.from_numpy(output.logits)
        errors = (pixels - logits.sigmoid()).square()
        return ScoreMaps(*self._score(name, output), self._as_images(errors))

    def reconstruct_drawn(self, rows: Rows) -> Reconstructions:
        """See `Backend`."""
        return self._sampled.reconstruct(rows)

    def draw(self, rows: Rows, draws: int) -> Draws:
        """See `Backend`."""
        return self._sampled.draw(rows, draws)

    def _score(self, name: str, output: ForwardOutput) -> Scores:
        pixels, heads, logits = output
        if self._native and name in self._native.names:
            return Scores(*self._native(name, pixels, logits, heads))
        columns = self._score_columns(name, output)
        if self._native:  # the MSE and the KL are the same bits whichever score they come with
            return Scores(columns[:, 0], *self._native("mse", pixels, logits, heads)[1:])
        return Scores(*columns.T)

    @torch.inference_mode()
    def _score_columns(self, name: str, output: ForwardOutput) -> Floats:
        pixels, heads, logits = map(torch.from_numpy, output)
        return self._passes.score_columns(name, pixels, heads, logits).numpy()  # (N, 3)

    def _heads_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        _, heads, logits = self._forward(pixels.numpy())
        return torch.from_numpy(heads), torch.from_numpy(logits)

    def _as_images(self, pixels: Tensor) -> Floats:
        return as_numpy(pixels).reshape(-1, *self._config.image_shape)  # (N, C, H, W)
