"""What the handlers of one app share."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

from starlette.requests import Request

from service.deadlines import Deadlines
from service.inference import Inference
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the handlers need; `create_app` puts it into `app.state.service`."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    decoders: Executor
    """Decodes image files: few at a time, as each may take 100 MB."""
    deadlines: Deadlines
    """Of bodies that are on their way."""

    @classmethod
    def of(cls, request: Request) -> Service:
        """The service that answers this request."""
        service: Service = request.app.state.service
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
