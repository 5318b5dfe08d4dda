"""The reconstruction error of a PCA, against exact decompositions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from model.training.pca import PCA_COMPONENTS, PcaError


def test_the_pca_error_is_what_ten_components_miss() -> None:
    generator = np.random.default_rng(0)
    basis = generator.uniform(0, 25, (10, 48))
    inside = np.rint(generator.uniform(0, 1, (90, 10)) @ basis).astype(np.uint8)
    images = inside.reshape(90, 3, 4, 4)
    error = PcaError(images[:60])
    noise = generator.integers(0, 255, (9, 3, 4, 4), dtype=np.uint8)
    assert error(images[60:]).max() < 1e-5  # rounding to whole grey levels
    assert error(noise).min() > 1e-2
    flat = images[60:].reshape(30, -1) / 255
    fitted = images[:60].reshape(60, -1) / 255
    _, _, directions = np.linalg.svd(fitted - fitted.mean(axis=0), full_matrices=False)
    offset = flat - fitted.mean(axis=0)
    missed = offset - offset @ directions[:10].T @ directions[:10]
    assert error(images[60:]) == pytest.approx(np.square(missed).mean(axis=1), rel=0.05, abs=1e-8)


def test_images_that_are_all_alike_do_not_stop_it() -> None:
    images = np.zeros((6, 1, 4, 4), np.uint8)
    assert PcaError(images)(images).tolist() == [0] * 6


@pytest.mark.parametrize("case", ["digits", "noise", "few", "few pixels"])
def test_it_agrees_with_an_exact_decomposition(case: str, digits: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 3, 24, 24), dtype=np.uint8)
    images = {
        "digits": digits[:400],
        "noise": noise,
        "few": digits[:6],
        "few pixels": digits[:50, :, 10:13, 10:13],
    }[case]
    fitted, others = images[: len(images) * 2 // 3], images[len(images) * 2 // 3 :]
    flat, other = (part.reshape(len(part), -1) / 255 for part in (fitted, others))
    exact = PCA(min(PCA_COMPONENTS, *flat.shape), svd_solver="full").fit(flat)
    missed = other - exact.inverse_transform(exact.transform(other))
    wanted = np.square(missed).mean(axis=1)
    assert PcaError(fitted)(others) == pytest.approx(wanted, rel=0.01, abs=1e-9)


def test_it_is_the_same_each_time_and_leaves_the_random_generator_alone(
    digits: NDArray[np.uint8],
) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = PcaError(digits[:90])(digits[90:99])
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert PcaError(digits[:90])(digits[90:99]).tolist() == first.tolist()


def test_it_needs_no_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'sklearn', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import model.training.pca\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)  # noqa: S603
