"""What the handlers of one app share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from service.inference.admission import Inference, ScoreOptions
from service.inference.health import Health
from service.inference.recent import RecentImages
from service.settings import Settings
from service.telemetry.metrics import Metrics

SMALL_BODY_BYTES: Final = 65_536
"""Bodies up to this size, enough for a photo or two or dozens of 28×28 images, are decoded by
threads of their own."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the handlers need. A reload replaces it by a new one; a request keeps the one that it
    began with."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    decoders: Executor
    """Reads large bodies and decodes image files, few at a time because of the memory it takes: for
    an image of 25 megapixels we measured 25 to 130 MB as a PNG or baseline JPEG, up to 300 MB as a
    progressive JPEG, and 420 MB as a WebP, since libwebp and Pillow make four copies of its
    pixels. A baseline JPEG that is scaled down while it is decoded usually takes less than 10."""
    small_decoders: Executor
    """Does the same for small bodies, which would otherwise wait seconds behind large ones."""
    writers: Executor
    """Encodes large responses."""
    recent: RecentImages | None
    """The images that were scored last; None if none are kept."""
    health: Health
    reload: Callable[[], Awaitable[Service]]
    """Loads the bundle from disk again; see `service.inference.loading`."""

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that handles this request."""
        service: Service = request.scope["state"]["service"]
        return service

    def decoders_for(self, body: bytes) -> Executor:
        """The threads that decode this body, chosen by its size."""
        return self.small_decoders if len(body) <= SMALL_BODY_BYTES else self.decoders

    @property
    def name(self) -> str:
        """The bundle's name: `model` in responses."""
        return self.inference.engine.bundle.name

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.inference.engine.bundle.version

    @property
    def default_score(self) -> ScoreOptions:
        """How images are scored if a request does not say."""
        return ScoreOptions(name=self.inference.engine.scores[0], alpha=self.settings.alpha)

    @property
    def latent_size(self) -> int:
        """D, the size of a latent."""
        return self.inference.engine.bundle.config.latent_size
