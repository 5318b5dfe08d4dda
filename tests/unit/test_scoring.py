"""Scores from an image and its reconstruction."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import mean_squared_error as of_sklearn

from model.scoring import SCORES, mean_squared_error


def test_the_mean_is_over_each_images_pixels() -> None:
    x, y = torch.rand(2, 5, 30, generator=torch.Generator().manual_seed(0))
    expected = of_sklearn(x.T, y.T, multioutput="raw_values")
    np.testing.assert_allclose(mean_squared_error(x, y), expected, rtol=1e-5)


def test_the_default_comes_first() -> None:
    assert SCORES[0] == "mse"
    assert len(set(SCORES)) == len(SCORES)
