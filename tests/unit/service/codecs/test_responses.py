"""Results as JSON, .npy and raw numbers, whole and in pieces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import orjson
import pytest
from starlette.responses import Response

from service.codecs import responses as writers
from service.codecs.responses import (
    ChunkedResponse,
    Result,
    json_response,
    without_grey_channel,
    write_json,
    write_large_json,
    write_large_npy,
    write_large_raw,
    write_npy,
    write_raw,
)


def test_json_takes_arrays_however_they_lie_in_memory() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"whole": array, "columns": array[:, :2], "turned": array.T, "back": array[::-1]}
    answer = orjson.loads(bytes(json_response(views).body))
    assert answer == {name: view.tolist() for name, view in views.items()}


def test_a_channel_of_its_own_is_left_out() -> None:
    assert without_grey_channel(np.zeros((2, 1, 4, 5), dtype=np.float32)).shape == (2, 4, 5)
    assert without_grey_channel(np.zeros((2, 3, 4, 5), dtype=np.float32)).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("write", "write_large"), [(write_npy, write_large_npy), (write_raw, write_large_raw)]
)
def test_large_arrays_are_the_same_in_pieces(
    write: Callable[[Result], Response],
    write_large: Callable[[Result], ChunkedResponse],
    channels: int,
    uint8: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers, "PIECE_BYTES", 10)
    images = np.random.default_rng(0).random((7, 2, 3, channels), dtype=np.float32)
    answer = Result(fields={}, array=images.transpose(0, 3, 1, 2), drawable=True, uint8=uint8)
    large, small = write_large(answer), write(answer)
    assert len(large.pieces) > 3
    assert b"".join(large.pieces) == small.body
    assert large.headers == small.headers


def test_large_json_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "PIECE_NUMBERS", 10)
    images = np.random.default_rng(0).random((7, 2, 3), dtype=np.float32)
    fields = {
        "model": 'a "name"',
        "images": images,
        "mse": images[:, 0, 0],
        "turned": images.T,
        "none": None,
    }
    answer = Result(fields=fields, array=images)
    large, small = write_large_json(answer), write_json(answer)
    assert b"".join(large.pieces) == small.body
    assert large.headers == small.headers
