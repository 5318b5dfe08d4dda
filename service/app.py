"""Puts the parts together."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
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

from service.access.policy import Access
from service.access.rates import Buckets
from service.api import images, operations
from service.api.docs_page import PageHeaders
from service.api.open_inference import routes as open_inference
from service.api.openapi import openapi_of
from service.api.state import Service
from service.http.fast_routes import fast_routes
from service.http.lifecycle import LifecycleMiddleware, RequestLifecycle
from service.http.prepared import PreparedResponse
from service.inference.admission import CLOSE_S, Inference
from service.inference.batching import MicroBatcher
from service.inference.health import Health
from service.inference.loading import load_engine
from service.limits.byte_budget import ByteBudget
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
    """The fast routes, and FastAPI for all others."""

    def __init__(
        self,
        fastapi: FastAPI,
        lifecycle: RequestLifecycle,
        is_full: Callable[[], bool],
        cors_origins: list[str],
    ) -> None:
        self.state = fastapi.state
        self._fastapi = fastapi
        self._lifecycle = lifecycle
        self._is_full = is_full
        self._fast = fast_routes(images.router, open_inference.router)
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

    def refuse(self, scope: Scope) -> PreparedResponse | None:
        """The answer to a fast request that finds the queue full, if it needs no middleware."""
        if not self._is_bare or not self._is_full():
            return None
        found = self._fast.get((scope["method"], scope["path"]))
        if found is None:
            return None
        scope["route"] = found.route
        return self._lifecycle.refuse(scope)

    def openapi(self) -> dict[str, Any]:
        """The page that describes it."""
        return self._fastapi.openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._serve(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http":
            found = self._fast.get((scope["method"], scope["path"]))
        if found is None:
            await self._fastapi(scope, receive, send)
        else:
            scope["app"] = self
            scope["route"] = found.route
            await self._lifecycle.serve(scope, receive, send, found.handler)


def create_app(settings: Settings, buckets: Buckets | None = None) -> App:
    """An app with its network in memory, warmed up: it is ready when this returns.

    `buckets` are what its API keys may send, if it shares them with other processes. Raises
    `BundleError`, `DeviceError` or `KeysError`, each with a message of one line.
    """
    access = Access(settings, buckets)
    engine = load_engine(settings)
    metrics = Metrics(bundle=engine.bundle.name, version=engine.bundle.version)
    budget = ByteBudget(settings.max_queue_bytes)
    batcher = MicroBatcher(
        max_batch_rows=settings.max_batch_images or engine.best_batch,
        max_queue_rows=settings.max_queue_images,
        budget=budget,
        on_batch=lambda images, seconds: note_batch(images, seconds),
    )
    metrics.watch_queue(lambda: batcher.queued_rows, lambda: budget.reserved)
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
    app.state.budget = budget
    app.include_router(images.router)
    app.include_router(operations.router)
    app.include_router(open_inference.router)
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _raise)
    lifecycle = RequestLifecycle(
        metrics=metrics,
        access=access,
        timeout_s=settings.request_timeout_s,
        budget=budget,
        check_queue_capacity=batcher.check_capacity,
    )

    def use(service: Service) -> None:
        """From here on requests that begin are answered by this one."""
        engine = service.inference.engine
        app.state.service = service
        lifecycle.use(service, engine.bundle.version)
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
            health=health,
            reload=reload,
        )
    )
    # Middleware is put around what is there already: the last one is the first to see a request.
    app.add_middleware(PageHeaders)
    app.add_middleware(LifecycleMiddleware, lifecycle=lifecycle)
    return App(app, lifecycle, lambda: batcher.is_full, settings.cors_origin_list)


async def _raise(_: Request, error: Exception) -> Response:
    """Leave the framework's own errors to the lifecycle, which answers all others too."""
    raise error


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
