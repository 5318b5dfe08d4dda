"""Rows of numbers from JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from service.codecs.json_numbers import fields, items, number_rows, parse_json
from service.errors import InvalidContentError


def rows(value: Any, shapes: list[tuple[int, ...]]) -> NDArray[np.float64]:
    body = orjson.dumps({"x": value})
    return number_rows(items(fields(parse_json(body), ["x"]), "x"), "x", shapes, body.count(b"["))


def test_numbers_may_have_one_of_several_shapes() -> None:
    shapes = [(2, 2), (4,)]
    found = rows([[[1, 2], [3, 4]], [5, 6, 7, 8.5]], shapes)
    assert found.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8.5]]
    with pytest.raises(InvalidContentError, match=r"x\[1\] is an array of shape \[3\]") as refusal:
        rows([[1, 2, 3, 4], [1, 2, 3]], shapes)
    assert refusal.value.loc == ["body", "x", 1]


@pytest.mark.parametrize("wrong", [True, None, "1", [1], {}, "x", []])
def test_non_numbers_are_not_converted(wrong: Any) -> None:
    for value in ([[0.5, wrong]], [[1, wrong]], [[wrong, wrong]], [[0, 1], [wrong, 1]]):
        with pytest.raises(InvalidContentError, match=rf"x\[{len(value) - 1}\]"):
            rows(value, [(2,)])


@pytest.mark.parametrize(
    "value", [[[[1, 2], []]], [[[1], [2]]], [[[1, 2, 3], [4]]], [[[[1], 2], [3, 4]]]]
)
def test_as_many_numbers_in_another_shape_are_refused(value: Any) -> None:
    with pytest.raises(InvalidContentError, match=r"x\[0\]"):
        rows(value, [(2, 2), (2,)])
