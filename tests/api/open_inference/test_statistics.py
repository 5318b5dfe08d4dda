"""Triton's listings: the repository's index, and statistics with real counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from httpx import AsyncClient
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
)

from service.app import App
from service.inference import health
from tests.api.helpers import SMALL, engine_of, hold, queue_holds
from tests.api.open_inference.helpers import MODELS, Arrays, document, error, tensor
from tests.processes import Server, metric, running

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")
ZERO = {"count": 0, "ns": 0}


@pytest.fixture
def fresh() -> Iterator[Server]:
    """A service that nobody has asked anything."""
    with running() as server:
        yield server


def client_of(server: Server, concurrency: int = 1) -> Any:
    return triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=concurrency)


def stats_of(client: Any, model: str, version: str = "") -> dict[str, Any]:
    (found,) = client.get_inference_statistics(model, version)["model_stats"]
    assert found["name"] == model
    found_: dict[str, Any] = found
    return found_


def counts(stats: dict[str, Any]) -> dict[str, int]:
    return {name: item["count"] for name, item in stats["inference_stats"].items()}


# The index


@pytest.mark.parametrize("ready", [None, True, False])
def test_the_index(client: Any, http: httpx.Client, version: str, ready: bool | None) -> None:
    expected = [
        {"name": name, "version": version, "state": "READY", "reason": ""} for name in MODELS
    ]
    if ready is None:
        assert client.get_model_repository_index() == expected
    body = {} if ready is None else {"ready": ready}
    assert http.post("/v2/repository/index", json=body).json() == expected


@pytest.mark.parametrize(
    ("content", "mentioned"),
    [(b"{", ["JSON"]), (b"[]", ["array"]), (b'{"raedy": 1}', ["'raedy'", "ready"]),
     (b'{"ready": 1}', ["ready", "true or false"])],
)  # fmt: skip
def test_a_wrong_request_for_the_index(
    http: httpx.Client, content: bytes, mentioned: list[str]
) -> None:
    error(http.post("/v2/repository/index", content=content), 400, *mentioned)


@pytest.mark.anyio
async def test_the_index_while_nothing_works(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    monkeypatch.setattr(engine_of(small_app), "score", broken)
    found = (await small_client.post("/v2/repository/index")).json()
    assert [(item["name"], item["state"]) for item in found] == [
        (name, "UNAVAILABLE") for name in MODELS
    ]
    assert "forward pass" in found[0]["reason"]
    assert (await small_client.post("/v2/repository/index", json={"ready": True})).json() == []


# Statistics


def test_counts_are_those_of_the_requests(fresh: Server, rows: Arrays) -> None:
    with client_of(fresh) as client:
        version = client.get_model_metadata("encode")["versions"][0]
        found = client.get_inference_statistics()["model_stats"]
        assert [item["name"] for item in found] == list(MODELS)
        for item in found:
            assert item["version"] == version
            assert item["last_inference"] == item["inference_count"] == 0
            assert item["execution_count"] == 0
            assert item["batch_stats"] == []
            assert set(item["inference_stats"]) == {"success", "fail", "cache_hit", *STAGES}
            assert all(value == ZERO for value in item["inference_stats"].values())

        began = time.time()
        for n in (1, 3, 4):
            client.infer("encode", [tensor("images", rows["images"][:n])])
        for wrong in (np.zeros((1, 5), np.float32), np.full((1, 784), 2, np.float32)):
            with pytest.raises(InferenceServerException):
                client.infer("encode", [tensor("images", wrong)])
        client.infer("decode", [tensor("z", rows["z"])], version)

        stats = stats_of(client, "encode")
        assert stats == stats_of(client, "encode", version)
        assert stats["inference_count"] == 8
        assert stats["execution_count"] == 3
        expected = {"success": 3, "fail": 2, "cache_hit": 0} | dict.fromkeys(STAGES, 3)
        assert counts(stats) == expected
        sizes = [(item["batch_size"], item["compute_infer"]["count"]) for item in
                 stats["batch_stats"]]  # fmt: skip
        assert sizes == [(1, 1), (4, 2)], "three are rounded up to four"
        times = {name: item["ns"] for name, item in stats["inference_stats"].items()}
        assert times["fail"] > 0
        assert 0 < times["compute_infer"] < times["success"]
        assert sum(times[stage] for stage in STAGES) <= times["success"]
        passes = sum(item["compute_infer"]["ns"] for item in stats["batch_stats"])
        assert passes == pytest.approx(times["compute_infer"], rel=0.01)
        assert began - 1 <= stats["last_inference"] / 1e3 <= time.time() + 1

        assert stats_of(client, "decode")["inference_count"] == 4
        assert counts(stats_of(client, "reconstruct"))["success"] == 0
        assert client.get_inference_statistics()["model_stats"][0] == stats


def test_native_requests_and_probes_are_not_counted(fresh: Server, rows: Arrays) -> None:
    with fresh.client() as http, client_of(fresh) as client:
        body = {"images": rows["images"].reshape(4, 784).tolist()}
        for _ in range(3):
            http.post("/encode", json=body).raise_for_status()
            http.post("/anomaly-score", json=body).raise_for_status()
            http.get("/readyz").raise_for_status()
        for model in ("encode", "anomaly-score"):
            assert stats_of(client, model)["execution_count"] == 0


def test_a_request_of_many_images_takes_many_passes(fresh: Server) -> None:
    with client_of(fresh) as client:
        client.infer("encode", [tensor("images", np.zeros((1_000, 784), np.uint8))])
        stats = stats_of(client, "encode")
        assert stats["inference_count"] == 1_000
        assert stats["execution_count"] == 8
        assert {item["batch_size"] for item in stats["batch_stats"]} <= {128}
        assert counts(stats)["success"] == 1


def test_an_unknown_model_or_version_has_none(client: Any, version: str) -> None:
    for arguments in (("nothing",), ("nothing", version), ("encode", "1")):
        with pytest.raises(InferenceServerException) as caught:
            client.get_inference_statistics(*arguments)
        assert caught.value.status() == "404"


@pytest.mark.anyio
async def test_requests_that_a_full_queue_refuses_have_failed(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient
) -> None:
    async def infer(n: int) -> httpx.Response:
        body = document("z", np.zeros((n, 10), np.float32))
        return await small_client.post("/v2/models/decode/infer", json=body)

    held = hold(monkeypatch, small_app, "decode")
    beside = [asyncio.create_task(infer(1))]
    await held.begun()
    beside.append(asyncio.create_task(infer(SMALL.max_queue_images)))
    await queue_holds(small_client, SMALL.max_queue_images)
    scope = {"type": "http", "method": "POST", "path": "/v2/models/decode/infer", "headers": []}
    refused = small_app.refuse(scope)
    assert refused is not None, "before there is a task for it"
    assert refused.status == 503
    assert (await infer(1)).status_code == 503
    held.let_go()
    await asyncio.gather(*beside)
    (stats,) = (await small_client.get("/v2/models/decode/stats")).json()["model_stats"]
    assert counts(stats)["fail"] == 2
    assert (counts(stats)["success"], stats["inference_count"]) == (2, 9)


def test_they_are_metrics_too(fresh: Server, rows: Arrays) -> None:
    with client_of(fresh) as client, fresh.client() as http:
        client.infer("encode", [tensor("images", rows["images"])])
        assert metric(http, "vae_infer_images_total", model="encode") == 4
        of = {"model": "encode", "outcome": "success"}
        assert metric(http, "vae_infer_requests_total", **of) == 1
        assert metric(http, "vae_infer_passes_total", model="encode", batch_size="4") == 1
        assert metric(http, "vae_infer_seconds_total", model="encode", stage="queue") >= 0


# As perf_analyzer measures


class Load:
    """`concurrency` threads that ask one after another, each with a client's connection of its
    own, until the block ends. As perf_analyzer does, with tritonclient."""

    def __init__(self, server: Server, concurrency: int, model: str, images: Any) -> None:
        self._server, self._model, self._images = server, model, images
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.latencies_s: list[float] = []
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(concurrency)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        inputs = [tensor("images", self._images)]
        with client_of(self._server) as client:
            while not self._stop.is_set():
                began = time.perf_counter()
                try:
                    client.infer(self._model, inputs)
                except InferenceServerException as error:
                    self.failures.append(error)
                    return
                with self._lock:
                    self.latencies_s.append(time.perf_counter() - began)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_measurement_as_perf_analyzer_s(rows: Arrays, workers: int) -> None:
    """It reads the statistics before and after each load, and trusts their differences."""
    with running("--workers", str(workers)) as server, client_of(server) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("anomaly-score")
        assert "statistics" in client.get_server_metadata()["extensions"]
        for concurrency in (1, 8):
            before = stats_of(client, "anomaly-score")
            with Load(server, concurrency, "anomaly-score", rows["images"]) as load:
                time.sleep(0.7)
            after = stats_of(client, "anomaly-score")
            assert load.failures == []
            n = len(load.latencies_s)
            assert n > 10 * concurrency

            def grown(name: str, before: Any = before, after: Any = after) -> tuple[int, float]:
                old, new = (stats["inference_stats"][name] for stats in (before, after))
                return new["count"] - old["count"], (new["ns"] - old["ns"]) / 1e9

            assert grown("success")[0] == n
            assert grown("fail")[0] == 0
            assert after["inference_count"] - before["inference_count"] == 4 * n
            passes = after["execution_count"] - before["execution_count"]
            assert 0 < passes <= n
            if concurrency == 1:
                assert passes == n
            elif workers == 1:
                assert passes < n, "requests share passes"
            by_size = sum(item["compute_infer"]["count"] for item in after["batch_stats"])
            assert by_size == after["execution_count"]
            for stage in STAGES:
                assert grown(stage)[0] == n
            in_server = sum(grown(stage)[1] for stage in STAGES)
            assert 0 < in_server <= grown("success")[1] <= sum(load.latencies_s)
