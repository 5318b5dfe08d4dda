"""Composes the app from its parts."""

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
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.policy import Access
from service.access.rates import Buckets
from service.api import (
    calibration,
    card,
    configuration,
    images,
    operations,
    preprocess,
    recent,
)
from service.api.docs_page import PageHeaders, add_docs
from service.api.open_inference import routes as open_inference
from service.api.openapi import openapi_of
from service.api.page.routes import add_page
from service.api.plans import planners
from service.api.state import Service
from service.http.direct import DirectRequests
from service.http.fast_routes import fast_routes
from service.http.lifecycle import LifecycleMiddleware, RequestLifecycle
from service.http.prefix import Prefixes, PrefixMiddleware
from service.http.prepared import PreparedResponse
from service.inference.admission import CLOSE_S, Inference
from service.inference.batching import MicroBatcher
from service.inference.health import Health
from service.inference.loading import load_engine
from service.inference.recent import RecentImages
from service.limits.byte_budget import ByteBudget
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger("service")

DECODER_THREADS = 2
"""Threads that decode large bodies, each of which may need several hundred megabytes meanwhile. One
more thread decodes small bodies."""

DECODER_NICENESS = 10
"""Niceness of these threads. On a contended core, one of them gets about a tenth of the time."""

MAX_NICENESS = 19
"""The maximum on Linux."""

WRITER_THREADS = 2
"""Threads that encode large answers. More would keep the interpreter from the event loop."""

EXPOSED_HEADERS = (
    *("X-Request-ID", "X-Model-Version", "Server-Timing", "X-Tensor-Shape", "X-Tensor-Dtype"),
    *("Inference-Header-Content-Length", "RateLimit", "RateLimit-Policy", "Retry-After"),
    *("Traceparent", "WWW-Authenticate", "X-Warnings", "X-Image-Files", "Allow"),
)
"""Response headers that pages of the origins in `cors_origins` may read."""

ROUTERS = (
    images.router,
    preprocess.router,
    operations.router,
    calibration.router,
    card.router,
    configuration.router,
    recent.router,
    open_inference.router,
)

DESCRIPTION = """\
A Variational Autoencoder behind HTTP. Images go in as JSON, arrays or image files; latents, images
and anomaly scores come out as JSON, arrays or PNG. Every error is `application/problem+json` and
names the value and the limit that it exceeds.
"""


class App:
    """The fast routes, and FastAPI for all others. CORS wraps both, and both see paths without the
    prefix of a reverse proxy. `direct` begins requests that need none of these."""

    def __init__(
        self,
        fastapi: FastAPI,
        lifecycle: RequestLifecycle,
        direct: DirectRequests,
        is_full: Callable[[], bool],
        cors_origins: list[str],
        prefixes: Prefixes,
    ) -> None:
        self.state = fastapi.state
        self._fastapi = fastapi
        self._lifecycle = lifecycle
        self.direct = direct
        self._is_full = is_full
        self._fast = fast_routes(images.router, open_inference.router)
        self._serve: ASGIApp = self._route
        self._has_cors = bool(cors_origins)
        if cors_origins:
            self._serve = CORSMiddleware(
                self._route,
                allow_origins=cors_origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )
        self._prefixes = prefixes if prefixes.exist else None
        if prefixes.exist:
            self._serve = PrefixMiddleware(self._serve, prefixes)

    def refuse(self, scope: Scope) -> PreparedResponse | None:
        """The refusal of a request for a fast route while the queue is full; None to serve it.

        With CORS, refusals need its headers, so requests take the normal way.
        """
        if self._has_cors or not self._is_full():
            return None
        if self._prefixes is not None:
            scope = self._prefixes.strip(scope)
        fast_route = self._fast.get((scope["method"], scope["path"]))
        if fast_route is None:
            return None
        scope["route"] = fast_route.route
        response = self._lifecycle.refuse(scope)
        if response is not None:
            open_inference.note_refusal(scope, self._lifecycle.metrics)
        return response

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self._fastapi.openapi()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._serve(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        fast_route = None
        if scope["type"] == "http":
            fast_route = self._fast.get((scope["method"], scope["path"]))
        if fast_route is None:
            await self._fastapi(scope, receive, send)
        else:
            scope["app"] = self
            scope["route"] = fast_route.route
            await self._lifecycle.serve(scope, receive, send, fast_route.handler)


def create_app(settings: Settings, buckets: Buckets | None = None) -> App:
    """Create the app and load its network. The app is ready when this returns.

    `buckets` holds the rate limits of API keys if other processes share them. Raises
    `BundleError`, `DeviceError` or `KeysError`, each with a one-line message.
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

    kept = RecentImages(settings.recent_images) if settings.recent_images else None
    decoders = ThreadPoolExecutor(
        DECODER_THREADS, thread_name_prefix="decoder", initializer=_lower_priority
    )
    small_decoders = ThreadPoolExecutor(1, thread_name_prefix="small-decoder")
    writers = ThreadPoolExecutor(WRITER_THREADS, thread_name_prefix="writer")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(health.watch())
        yield
        watch.cancel()
        for threads in (decoders, small_decoders, writers):
            threads.shutdown(wait=False, cancel_futures=True)
        if not await asyncio.to_thread(batcher.close, CLOSE_S):
            log.error("the current batch did not finish in time and is abandoned")

    app = FastAPI(
        openapi_url=None,  # `add_docs` adds these
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        title="VAE service",
        version=version("vae-service"),
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    app.state.budget = budget
    add_docs(app)
    add_page(app, has_page=settings.page)
    app.state.routes = list(app.routes)
    for router in ROUTERS:
        app.state.routes += router.routes
        app.include_router(router)
    for error_type in (HTTPException, RequestValidationError):
        app.add_exception_handler(error_type, _raise)
    lifecycle = RequestLifecycle(
        metrics=metrics,
        access=access,
        timeout_s=settings.request_timeout_s,
        budget=budget,
        check_queue_capacity=batcher.check_capacity,
    )
    prefixes = Prefixes(settings)
    direct = DirectRequests(lifecycle, batcher, prefixes)

    def use(service: Service) -> None:
        """Answer requests that begin from now on with `service`."""
        engine = service.inference.engine
        app.state.service = service
        lifecycle.use(service, engine.bundle.version)
        direct.use(planners(service))
        metrics.set_model(engine.bundle.name, engine.bundle.version)
        app.openapi_schema = None
        app.openapi = openapi_of(  # type: ignore[method-assign] # as in FastAPI's documentation
            app,
            engine,
            settings.max_images_per_request,
            access.takes_keys,
        )

    loading = asyncio.Lock()

    async def reload() -> Service:
        """Replace the bundle in memory with the one on disk.

        The new one is loaded, checked and warmed up first. Running requests keep the old one, and
        no batch mixes the two. If this raises `BundleError` or `DeviceError`, the old one stays.
        """
        async with loading:
            engine = await asyncio.to_thread(load_engine, settings)
            inference = Inference(engine, batcher, metrics, kept)
            use(replace(app.state.service, inference=inference))
            log.info(
                "bundle %s, version %s, was loaded, computed by %s",
                engine.bundle.name,
                engine.bundle.version,
                engine.runtime,
            )
            current: Service = app.state.service
            return current

    use(
        Service(
            settings=settings,
            inference=Inference(engine, batcher, metrics, kept),
            metrics=metrics,
            decoders=decoders,
            small_decoders=small_decoders,
            writers=writers,
            recent=kept,
            health=health,
            reload=reload,
        )
    )
    # Each middleware wraps the earlier ones: the last one added is the first to see a request.
    app.add_middleware(PageHeaders)
    app.add_middleware(LifecycleMiddleware, lifecycle=lifecycle)
    return App(app, lifecycle, direct, lambda: batcher.is_full, settings.cors_origin_list, prefixes)


async def _raise(_: Request, error: Exception) -> Response:
    """Leave the framework's errors to the lifecycle, which answers all errors."""
    raise error


def _lower_priority() -> None:
    """Lower the priority of this thread, on systems where threads have priorities of their own.

    With equal priorities on one core, the event loop and the inference thread would wait for a few
    milliseconds for each decoder.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            thread = get_native_id()
            niceness = min(MAX_NICENESS, os.getpriority(os.PRIO_PROCESS, thread) + DECODER_NICENESS)
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
