"""The range of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codecs.arrays import unit_pixels
from service.errors import InvalidContentError
from tests.unit.service.codecs.bodies import read


@given(st.integers(0, 255), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
@settings(deadline=None, max_examples=60)
def test_pixels_in_range_are_taken(value: int, index: int, dtype: str) -> None:
    number = value if dtype == "uint8" else value / 255
    images: list[Any] = [[0] * 20 for _ in range(10)]
    images[index][index] = number
    found = unit_pixels(read({"images": images, "dtype": dtype}))
    assert found.dtype == np.float32
    assert found[index, index] == pytest.approx(value / 255, abs=1e-7)
    assert found.sum() == pytest.approx(value / 255, abs=1e-6)


OUTSIDE = st.floats(max_value=-1e-6) | st.floats(min_value=255.001, max_value=1e300)


@given(OUTSIDE.filter(np.isfinite), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
@settings(deadline=None, max_examples=60)
def test_pixels_out_of_range_are_named(value: float, index: int, dtype: str) -> None:
    images: list[Any] = [[0] * 20 for _ in range(10)]
    images[index][7] = value
    with pytest.raises(InvalidContentError, match=rf"images\[{index}\] .* pixel 7") as refusal:
        read({"images": images, "dtype": dtype})
    assert refusal.value.loc == ["body", "images", index]
