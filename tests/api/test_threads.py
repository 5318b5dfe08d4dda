"""Long work runs off the event loop, in threads that small requests do not wait for."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any, cast

import numpy as np
import orjson
import pytest
from httpx import AsyncClient
from numpy.typing import NDArray

from service.api.open_inference import messages as infer_request
from service.api.open_inference import routes as open_inference
from service.api.state import SMALL_BODY_BYTES
from service.app import App
from service.codecs import image_files, json_bodies
from service.codecs import registry as media
from service.codecs.offload import in_thread
from tests.api.helpers import HANG_S, base64_file, image_file, problem, uint8_body

pytestmark = pytest.mark.anyio

LARGE = cast("dict[str, Any]", media.LARGE_WRITERS)

RAW = {"Content-Type": "application/octet-stream"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@contextmanager
def busy(threads: Executor) -> Iterator[None]:
    """All of them with work that does not end."""
    over = threading.Event()
    works = [threads.submit(over.wait, HANG_S) for _ in range(8)]
    try:
        yield
    finally:
        over.set()
        for work in works:
            work.result()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that read and wrote."""
    names: list[str] = []

    def noted(module: Any, name: str) -> Any:
        work = getattr(module, name)

        def note(*args: Any, **options: Any) -> Any:
            names.append(threading.current_thread().name.rpartition("_")[0])
            return work(*args, **options)

        monkeypatch.setattr(module, name, note)
        return note

    noted(open_inference, "_rows")
    noted(open_inference, "infer_response")
    written = noted(media, "write_large_npy")
    monkeypatch.setitem(LARGE, media.NPY, (media.INLINE_BINARY_NUMBERS, written))
    written = noted(media, "write_large_json")
    monkeypatch.setitem(LARGE, media.JSON, (media.INLINE_JSON_NUMBERS, written))
    note = noted(json_bodies, "read_json_latents")
    monkeypatch.setitem(cast("dict[str, Any]", media.LATENT_READERS), media.JSON, note)
    return names


def form_of(*images: NDArray[np.uint8]) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
    return b"".join(head + image_file(image) + b"\r\n" for image in images) + b"--x--\r\n"


def infer_body(n: int, text: str = "0.5") -> bytes:
    numbers = ",".join([text] * 784 * n)
    return b'{"inputs":[{"name":"images","datatype":"FP32","shape":[%d,784],"data":[%b]}]}' % (
        n,
        numbers.encode(),
    )


async def test_one_small_form_or_file_does_not_wait_for_large_ones(
    app: App, client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    with busy(app.state.service.decoders):
        answer = await client.post("/encode", content=form_of(*four), headers=FORM)
        assert answer.status_code == 200
        answer = await client.post("/encode", json={"images": [base64_file(four[0])]})
        assert answer.status_code == 200
        large = form_of(*np.repeat(four, 1 + SMALL_BODY_BYTES // len(image_file(four[0])), axis=0))
        headers = FORM | {"X-Request-Timeout": "0.5"}
        problem(await client.post("/encode", content=large, headers=headers), 504, "not decoded")
    with busy(app.state.service.small_decoders):  # nor the other way round
        assert (await client.post("/encode", content=large, headers=FORM)).status_code == 200


async def test_writing_does_not_wait_for_decoding(app: App, client: AsyncClient) -> None:
    with busy(app.state.service.decoders), busy(app.state.service.small_decoders):
        answer = await client.post("/reconstruct", content=bytes(784 * 100), headers=RAW)
        assert len(answer.json()["images"]) == 100


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priorities")
async def test_decoders_of_large_bodies_stand_back(app: App) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = priority()
    large = app.state.service.decoders.submit(priority).result()
    small = app.state.service.small_decoders.submit(priority).result()
    assert large == min(19, own + 10)
    assert small == own


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/reconstruct", bytes(784 * 100)),
        ("/v2/models/reconstruct/infer", infer_body(100, "0")),
    ],
)
async def test_a_deadline_holds_while_the_answer_is_written(
    app: App, client: AsyncClient, path: str, content: bytes
) -> None:
    headers = RAW | {"X-Request-Timeout": "0.3"}
    with busy(app.state.service.writers):
        answer = await client.post(path, content=content, headers=headers)
    if path == "/reconstruct":
        problem(answer, 504, "the response was not written within the request's 0.3 s")
    else:
        assert answer.status_code == 504
        assert "not written" in answer.text


async def test_a_deadline_holds_while_large_bodies_are_read(app: App, client: AsyncClient) -> None:
    headers = {"X-Request-Timeout": "0.5", "Content-Type": "application/json"}
    latents = b'{"z":[%b]}' % b",".join([b"[%b]" % b",".join([b"0.125"] * 10)] * 5000)
    with busy(app.state.service.decoders):
        answer = await client.post("/decode", content=latents, headers=headers)
        problem(answer, 504, "the latents were not read")
        path = "/v2/models/encode/infer"
        answer = await client.post(path, content=infer_body(100), headers=headers)
        assert answer.status_code == 504
        assert "not read" in answer.text


async def test_abandoned_work_is_freed() -> None:
    """Neither past its time nor when the caller has gone."""
    with ThreadPoolExecutor(1) as threads, busy(threads):
        for gone, closure in product((False, True), (False, True)):
            images = np.zeros(10)
            seen = weakref.ref(images)
            late = perf_counter() + (HANG_S if gone else 0.05)
            work = partial(np.sum, images)
            job = asyncio.ensure_future(
                in_thread(threads, late, "late", work)
                if closure
                else in_thread(threads, late, "late", np.sum, images)
            )
            del images, work
            await asyncio.sleep(0)
            assert seen() is not None
            if gone:
                job.cancel()
            with pytest.raises(asyncio.CancelledError if gone else TimeoutError):
                await job
            del job
            await asyncio.sleep(0.01)
            gc.collect()
            assert seen() is None


async def test_a_result_has_room_until_it_is_written(app: App, client: AsyncClient) -> None:
    budget = app.state.budget
    with busy(app.state.service.writers):
        job = asyncio.ensure_future(client.post("/decode", json={"n": 1000, "seed": 1}))
        async with asyncio.timeout(HANG_S):
            while budget.reserved < 1000 * 784 * 4:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
    assert (await job).status_code == 200
    assert budget.reserved == 0


async def test_decoders_give_others_a_turn(
    client: AsyncClient, four: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(image_files, "TURN_S", -1.0)
    monkeypatch.setattr(image_files, "sleep", pauses.append)
    files = [base64_file(image) for image in four]
    assert (await client.post("/encode", content=form_of(*four), headers=FORM)).is_success
    assert len(pauses) == 3
    assert (await client.post("/encode", json={"images": files})).is_success
    assert len(pauses) == 6
    headers = {"Content-Type": "image/png"}
    assert (await client.post("/encode", content=image_file(four[0]), headers=headers)).is_success
    assert len(pauses) == 6, "one file may be decoded on the event loop"


async def test_which_threads_read_and_write(client: AsyncClient, seen: list[str]) -> None:
    """Short work is done on the event loop, where there is no change of threads to wait for."""
    main = threading.current_thread().name.rpartition("_")[0]
    path = "/v2/models/reconstruct/infer"
    for n, expected in ((1, [main, main]), (100, ["decoder", "writer"])):
        answer = await client.post(path, content=infer_body(n))
        assert answer.status_code == 200
        assert seen == expected
        seen.clear()
    for n, expected in ((1, [main]), (5000, ["decoder", "writer"])):
        answer = await client.post("/decode", json={"z": [[0.0625] * 10] * n})
        assert answer.status_code == 200
        assert seen == expected
        seen.clear()
    answer = await client.post("/decode", json={"n": 400}, headers={"Accept": "application/x-npy"})
    assert answer.status_code == 200
    assert seen == [main, "writer"]


async def test_a_large_infer_answer_is_the_same_in_pieces(
    client: AsyncClient, digits: NDArray[np.uint8]
) -> None:
    """JSON and binary, and both."""
    images = digits[:100]
    path = "/v2/models/reconstruct/infer"
    body = infer_request_of(images)
    native = (await client.post("/reconstruct", json=uint8_body(images))).json()
    whole = (await client.post(path, json=body)).json()
    assert [output["name"] for output in whole["outputs"]] == ["images", "mse"]
    expected = np.array(native["images"], np.float32).ravel()
    np.testing.assert_allclose(whole["outputs"][0]["data"], expected, rtol=1e-5, atol=1e-6)
    assert whole["outputs"][0]["shape"] == [100, 1, 28, 28]
    for name in ("images", "mse"):
        body["outputs"] = [
            {"name": output, "parameters": {"binary_data": output == name}}
            for output in ("images", "mse")
        ]
        answer = await client.post(path, json=body)
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[infer_request.LENGTH_HEADER])
        found = {
            output["name"]: output for output in orjson.loads(answer.content[:length])["outputs"]
        }
        array = np.frombuffer(answer.content[length:], "<f4")
        assert found[name]["parameters"] == {"binary_data_size": array.nbytes}
        np.testing.assert_allclose(array, np.ravel(native[name]), rtol=1e-5, atol=1e-6)
        other = next(output for output in found if output != name)
        np.testing.assert_allclose(
            found[other]["data"], np.ravel(native[other]), rtol=1e-5, atol=1e-6
        )


def infer_request_of(images: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": list(images.shape),
                "data": images.ravel().tolist(),
            }
        ]
    }
