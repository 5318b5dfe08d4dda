"""Puts the parts together."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from threading import get_native_id
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_compress import CompressMiddleware

from service.access.policy import Access
from service.access.rates import Buckets
from service.api import images as routes
from service.api.docs_page import PageHeaders
from service.api.open_inference import routes as open_inference
from service.api.openapi import openapi_of
from service.api.state import Service
from service.errors import ServiceError, error_response, response_to
from service.http.fast_routes import DirectRoutes
from service.http.lifecycle import ContextMiddleware, Contexts, OwnAnswer, RequestContext
from service.inference.admission import CLOSE_S, Inference
from service.inference.batching import MicroBatcher
from service.inference.health import Health
from service.inference.loading import load_engine
from service.limits.byte_budget import Room
from service.limits.deadlines import Deadlines
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger("service")

DECODERS = 2
"""Threads that decode image files: each may hold some hundred megabytes while it does.
There is one more for small bodies."""

DECODERS_NICE = 5
"""Those of large bodies are nice to the rest: of a core that all want, one gets a quarter."""

LEAST_PRIORITY = 19
"""Of Linux."""

WRITERS = 2
"""Threads that write large answers: more would keep the interpreter from the event loop."""

COMPRESS_BYTES = 4096
"""JSON answers from here on are compressed for callers who accept that. Levels are the fastest:
JSON numbers shrink to half by them, and to little less by the slower ones. Arrays of floats are
left as they are: gzip took eight times as long as the rest of the answer, and saved 3 %."""

EXPOSED = (
    *("X-Request-ID", "X-Model-Version", "Server-Timing", "X-Tensor-Shape", "X-Tensor-Dtype"),
    *("Inference-Header-Content-Length", "RateLimit", "RateLimit-Policy", "Retry-After"),
    *("Traceparent", "WWW-Authenticate"),
)
"""Headers of answers that a page of another origin may read, where such pages may ask at all."""

DESCRIPTION = """\
A Variational Autoencoder behind HTTP. Images go in as JSON, arrays or image files; latents, images
and anomaly scores come out as JSON, arrays or PNG. Every problem is `application/problem+json` and
names the value and the limit that it broke.
"""


class App:
    """The hot routes, and behind them FastAPI for all else."""

    def __init__(self, fastapi: FastAPI, direct: DirectRoutes, cors_origins: list[str]) -> None:
        self.state = fastapi.state
        self._fastapi = fastapi
        self._direct = direct
        self._serve: ASGIApp = self._route
        self._is_bare = not cors_origins
        if cors_origins:
            self._serve = CORSMiddleware(
                self._route,
                allow_origins=cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED,
            )

    def refuse(self, scope: Scope) -> OwnAnswer | None:
        """The answer to a request that finds the queue full, where that needs no middleware."""
        return self._direct.refuse(scope) if self._is_bare else None

    def openapi(self) -> dict[str, Any]:
        """The page that describes it."""
        return self._fastapi.openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._serve(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) in self._direct:
            scope["app"] = self
            await self._direct(scope, receive, send)
        else:
            await self._fastapi(scope, receive, send)


def create_app(settings: Settings, buckets: Buckets | None = None) -> App:
    """An app with its network in memory, warmed up: it is ready when this returns.

    `buckets` are what its API keys may send, if it shares them with other processes. Raises
    `BundleError`, `DeviceError` or `KeysError`, each with a message of one line.
    """
    access = Access(settings, buckets)
    engine = load_engine(settings)
    metrics = Metrics(bundle=engine.bundle.name, version=engine.bundle.version)
    room = Room(settings.max_queue_bytes)
    batcher = MicroBatcher(
        max_batch_rows=settings.max_batch_images or engine.best_batch,
        max_queue_rows=settings.max_queue_images,
        room=room,
        on_batch=lambda images, seconds: note_batch(images, seconds),
    )
    metrics.watch_queue(lambda: batcher.queued_rows, lambda: room.taken)
    health = Health(
        lambda: app.state.service.inference,
        batcher,
        metrics,
        stall_timeout_s=settings.stall_timeout_s,
    )

    def note_batch(images: int, seconds: float) -> None:
        metrics.observe_batch(images, seconds)
        health.note_pass()

    decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder", initializer=_stand_back)
    small_decoders = ThreadPoolExecutor(1, thread_name_prefix="small-decoder")
    writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(health.watch())
        yield
        watch.cancel()
        for threads in (decoders, small_decoders, writers):
            threads.shutdown(wait=False, cancel_futures=True)
        if not await asyncio.to_thread(batcher.close, CLOSE_S):
            log.error("the batch that runs does not end: it is left behind")

    app = FastAPIOffline(
        redoc_url=None,
        redirect_slashes=False,
        title="VAE service",
        version=version("vae-service"),
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.room = room
    app.include_router(routes.router)
    app.include_router(open_inference.router)
    on_error = {
        ServiceError: _service_error,
        HTTPException: _http_exception,
        RequestValidationError: _validation_error,
    }
    for kind, handler in on_error.items():
        app.add_exception_handler(kind, handler)
    compress = partial(
        CompressMiddleware, minimum_size=COMPRESS_BYTES, brotli=False, gzip_level=1, zstd_level=1
    )
    contexts = Contexts(
        metrics=metrics,
        access=access,
        timeout_s=settings.request_timeout_s,
        room=room,
        retry_after_s=lambda: batcher.retry_after_s,
    )

    def use(service: Service) -> None:
        """From here on requests that begin are answered by this one."""
        engine = service.inference.engine
        app.state.service = service
        contexts.use(service, engine.bundle.version)
        metrics.set_model(engine.bundle.name, engine.bundle.version)
        app.openapi_schema = None
        app.openapi = openapi_of(  # type: ignore[method-assign] # as FastAPI's documentation does
            app,
            engine.bundle.config,
            engine.scores,
            settings.max_images_per_request,
            access.takes_keys,
        )

    loading = asyncio.Lock()

    async def reload() -> Service:
        """Put the bundle, as it is on disk now, in the place of the one in memory.

        It is loaded, checked and warmed up beside it first. Requests under way keep theirs, and
        batches are of one of them each. Raises `BundleError`; then all is as before.
        """
        async with loading:
            engine = await asyncio.to_thread(load_engine, settings)
            use(replace(app.state.service, inference=Inference(engine, batcher, metrics)))
            log.info("%s, version %s, was loaded", engine.bundle.name, engine.bundle.version)
            current: Service = app.state.service
            return current

    use(
        Service(
            settings=settings,
            inference=Inference(engine, batcher, metrics),
            metrics=metrics,
            decoders=decoders,
            small_decoders=small_decoders,
            writers=writers,
            deadlines=Deadlines(),
            health=health,
            reload=reload,
        )
    )
    direct = DirectRoutes(
        routes=routes.direct() | open_inference.direct(),
        contexts=contexts,
        on_error=on_error,
        pack=compress,
        pack_bytes=COMPRESS_BYTES,
        is_full=lambda: batcher.is_full,
        check_room=lambda: app.state.service.inference.check_room(),
    )
    # Middleware is put around what is there already: the last one is the first to see a request.
    app.add_middleware(PageHeaders)
    app.add_middleware(compress)
    app.add_middleware(ContextMiddleware, contexts=contexts)
    return App(app, direct, settings.cors_origin_list)


def _stand_back() -> None:
    """Give this thread less of the processor than the others, where threads have priorities.

    A kernel that shares a core evenly has the event loop and the inference thread wait some
    milliseconds for each decoder.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            itself = get_native_id()
            least = min(LEAST_PRIORITY, os.getpriority(os.PRIO_PROCESS, itself) + DECODERS_NICE)
            os.setpriority(os.PRIO_PROCESS, itself, least)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101 - for mypy: registered for this type
    return response_to(error, request.url.path, RequestContext.of(request).request_id)


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
