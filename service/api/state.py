"""What the handlers of one app share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from service.inference.admission import Inference
from service.inference.health import Health
from service.settings import Settings
from service.telemetry.metrics import Metrics

SMALL_BODY_BYTES: Final = 65_536
"""Bodies up to here have threads of their own: a photo or two, or dozens of 28×28 images."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the handlers need. Another one takes its place when a bundle is loaded; a request keeps
    the one that it began with."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    decoders: Executor
    """Reads large bodies and decodes image files, few at a time. One of 25 megapixels was seen to
    take 25 to 130 MB as a PNG or a plain JPEG, up to 300 as a progressive JPEG, and 420 as a WebP,
    of whose pixels libwebp and Pillow make four copies."""
    small_decoders: Executor
    """The same for small bodies, which would wait for seconds behind some large ones."""
    writers: Executor
    """Writes large answers."""
    health: Health
    reload: Callable[[], Awaitable[Service]]
    """Loads the bundle again; see `service.inference.loading`."""

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that answers this request."""
        service: Service = request.scope["state"]["service"]
        return service

    def decoders_for(self, body: bytes) -> Executor:
        """Those that are to read it."""
        return self.small_decoders if len(body) <= SMALL_BODY_BYTES else self.decoders

    @property
    def name(self) -> str:
        """The bundle's name: `model` in answers."""
        return self.inference.engine.bundle.name

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.inference.engine.bundle.version

    @property
    def latent_size(self) -> int:
        """D."""
        return self.inference.engine.bundle.config.latent_size
