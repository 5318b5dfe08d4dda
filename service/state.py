"""What the handlers of one app share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from starlette.requests import Request

from service.deadlines import Deadlines
from service.health import Health
from service.inference import Inference
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the handlers need. Another one takes its place when a bundle is loaded; a request keeps
    the one that it began with."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    decoders: Executor
    """Decodes image files, few at a time, as each may take 100 MB; and writes large JSON."""
    deadlines: Deadlines
    """Of bodies that are on their way."""
    health: Health
    reload: Callable[[], Awaitable[Service]]
    """Loads the bundle again; see `service.loading`."""

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that answers this request."""
        service: Service = request.scope["state"]["service"]
        return service

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
