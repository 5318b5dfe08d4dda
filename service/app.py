"""Puts the parts together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette_compress import CompressMiddleware

from model.bundle import find_bundle, load_bundle
from model.engine import Engine
from service import open_inference, routes
from service.context import ContextMiddleware, Contexts, RequestContext
from service.deadlines import Deadlines
from service.direct import DirectRoutes
from service.errors import ServiceError, error_response
from service.inference import Inference
from service.metrics import Metrics
from service.openapi import openapi_of
from service.settings import Settings
from service.state import Service

log = logging.getLogger("service")

DECODERS = 2
"""Threads that decode image files: each may hold some hundred megabytes while it does."""

COMPRESS_BYTES = 4096
"""JSON answers from here on are compressed for callers who accept that. Levels are the fastest:
JSON numbers shrink to half by them, and to little less by the slower ones. Arrays of floats are
left as they are: gzip took eight times as long as the rest of the answer, and saved 3 %."""

DESCRIPTION = """\
A Variational Autoencoder behind HTTP. Images go in as JSON, arrays or image files; latents, images
and anomaly scores come out as JSON, arrays or PNG. Every problem is `application/problem+json` and
names the value and the limit that it broke.
"""


class App:
    """The hot routes, and behind them FastAPI for all else."""

    def __init__(self, fastapi: FastAPI, direct: DirectRoutes) -> None:
        self.state = fastapi.state
        self.openapi = fastapi.openapi
        self._fastapi = fastapi
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) in self._direct:
            scope["app"] = self
            await self._direct(scope, receive, send)
        else:
            await self._fastapi(scope, receive, send)


def create_app(settings: Settings) -> App:
    """An app with its network in memory, warmed up: it is ready when this returns.

    Raises `BundleError` or `DeviceError`, each with a message of one line.
    """
    engine = Engine(
        load_bundle(find_bundle(settings.bundle)),
        device=settings.device,
        threads=settings.inference_threads,
        dtype=settings.dtype,
    )
    max_batch_images = settings.max_batch_images or engine.best_batch
    engine.warm_up(max_batch_images)
    bundle = engine.bundle
    calibration = engine.calibration
    if calibration is not None and settings.alpha < (least := 1 / (calibration.n + 1)):
        log.warning(
            "alpha is %g, and the bundle's calibration of %d images knows no p-value below %.2g: "
            "no image will be an anomaly",
            *(settings.alpha, calibration.n, least),
        )
    metrics = Metrics(bundle=bundle.name, version=bundle.version)
    inference = Inference(
        engine,
        metrics,
        max_batch_images=max_batch_images,
        max_queue_images=settings.max_queue_images,
    )

    decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        decoders.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(inference.close)

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="VAE service",
        version=version("vae-service"),
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.service = Service(
        settings=settings,
        inference=inference,
        metrics=metrics,
        decoders=decoders,
        deadlines=Deadlines(),
    )
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    on_error = {
        ServiceError: _service_error,
        HTTPException: _http_exception,
        RequestValidationError: _validation_error,
    }
    for kind, handler in on_error.items():
        app.add_exception_handler(kind, handler)
    app.openapi = openapi_of(app, bundle.config, engine.scores, settings.max_images_per_request)  # type: ignore[method-assign] # as FastAPI's documentation does
    compress = partial(
        CompressMiddleware, minimum_size=COMPRESS_BYTES, brotli=False, gzip_level=1, zstd_level=1
    )
    contexts = Contexts(
        model_version=bundle.version, metrics=metrics, timeout_s=settings.request_timeout_s
    )
    direct = DirectRoutes(
        routes=routes.direct() | open_inference.direct(),
        contexts=contexts,
        on_error=on_error,
        pack=compress,
        pack_bytes=COMPRESS_BYTES,
    )
    # Middleware is put around what is there already: the last one is the first to see a request.
    app.add_middleware(compress)
    app.add_middleware(ContextMiddleware, contexts=contexts)
    return App(app, direct)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - for mypy: registered for this type
    return error_response(
        request.url.path,
        error.status,
        error.detail,
        request_id=RequestContext.of(request).request_id,
        errors=error.errors,
        headers=error.headers,
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    """The framework's own: no such route, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for mypy: registered for this type
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"there is no {request.url.path[:128]} here; /docs lists what there is"
    elif error.status_code == 405:
        allowed = headers.get("Allow", "another method")
        detail = f"{request.url.path[:128]} takes {allowed}, not {request.method[:32]}"
    return error_response(
        request.url.path,
        error.status_code,
        detail,
        request_id=RequestContext.of(request).request_id,
        headers=headers,
    )


async def _validation_error(request: Request, error: Exception) -> Response:
    """A query parameter or a field with a wrong value."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for mypy, as above
    errors: list[dict[str, Any]] = [
        {"loc": list(item["loc"]), "msg": _message(item)} for item in error.errors()
    ]
    return error_response(
        request.url.path,
        422,
        "; ".join(item["msg"] for item in errors),
        request_id=RequestContext.of(request).request_id,
        errors=errors,
    )


def _message(item: dict[str, Any]) -> str:
    """`alpha is '2': input should be less than 1`."""
    name = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
    reason = item["msg"][:1].lower() + item["msg"][1:]
    if item["type"] == "extra_forbidden":
        return f"{name[:64]!r} is no known parameter here"
    if item["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {str(item['input'])[:64]!r}: {reason}"
