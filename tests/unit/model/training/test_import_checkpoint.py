"""Checkpoints of the tutorial's code: loaded with the same numbers, and never run."""

from __future__ import annotations

import argparse
import io
import math
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from model.__main__ import main
from model.bundle.bundle import load_bundle
from model.bundle.checks import BundleError
from model.engine.engine import Engine
from model.training.import_checkpoint import import_checkpoint
from model.training.loss import tutorial_loss
from tests.unit.samples import assert_one_line, damaged


class Tutorial(nn.Module):
    """The tutorial's network, written out anew from its description."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, 256),
            nn.ReLU(),
            nn.Linear(256, 64),
            nn.ReLU(),
            nn.Linear(64, 20),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(10, 64),
            nn.ReLU(),
            nn.Linear(64, 256),
            nn.ReLU(),
            nn.Linear(256, 784),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x̂, μ, σ and the KL of a batch."""
        mu, sigma = self.encoder(x).chunk(2, dim=1)
        h = mu + sigma * torch.randn_like(sigma)
        kld = (
            0.5
            * torch.sum(mu**2 + sigma**2 - torch.log(1e-8 + sigma**2) - 1)
            / (len(x) * math.prod(x.shape[1:]))
        )
        return self.decoder(h), mu, sigma, kld


@pytest.fixture(scope="module", params=["fresh", "trained", "large"])
def tutorial(request: pytest.FixtureRequest, digits: NDArray[np.uint8]) -> Tutorial:
    """As it starts, after some steps on digits, and with weights far from any start."""
    torch.manual_seed(0)
    network = Tutorial()
    if request.param == "large":
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(2)
    elif request.param == "trained":
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        x = torch.from_numpy(digits[:256].reshape(256, 784)).float() / 255
        for _ in range(20):
            x_hat, _, _, kld = network(x)
            optimizer.zero_grad()
            (nn.functional.mse_loss(x_hat, x) + kld).backward()
            optimizer.step()
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def imported(tutorial: Tutorial, tmp_path: Path) -> Path:
    """The bundle that the command line makes of it."""
    torch.save(tutorial.state_dict(), tmp_path / "checkpoint.pt")
    assert main(["import", str(tmp_path / "checkpoint.pt"), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_the_state_dict_is_the_same(tutorial: Tutorial, imported: Path) -> None:
    loaded = load_bundle(imported).network().state_dict()
    expected = tutorial.state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_the_numbers_are_the_same(
    tutorial: Tutorial, imported: Path, digits: NDArray[np.uint8]
) -> None:
    images = digits[:50]
    x = torch.from_numpy(images.reshape(50, 784)).float() / 255
    torch.manual_seed(7)
    x_hat, mu, sigma, kld = tutorial(x)
    torch.manual_seed(7)
    noise = torch.randn_like(sigma)
    loaded = load_bundle(imported)
    output = loaded.network()(x, noise)
    loss = tutorial_loss(x, output)
    assert_close(output.images, x_hat)
    assert_close(output.posterior.mean, mu)
    assert_close(output.posterior.std, sigma)
    assert_close(output.posterior.kl().mean() / 784, kld)
    assert_close(loss.total, nn.functional.mse_loss(x_hat, x) + kld)


def test_the_engine_serves_the_same_numbers(
    tutorial: Tutorial, imported: Path, digits: NDArray[np.uint8]
) -> None:
    images = digits[50:100]
    x = torch.from_numpy(images.reshape(50, 784)).float() / 255
    torch.manual_seed(7)
    x_hat, mu, sigma, kld = (tensor.numpy() for tensor in tutorial(x))
    torch.manual_seed(7)
    z = mu + sigma * torch.randn(50, 10).numpy()
    engine = Engine(load_bundle(imported), device="cpu", threads=1)
    encoding = engine.encode(images)
    np.testing.assert_allclose(encoding.mu, mu, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(encoding.sigma, sigma, rtol=1e-6, atol=1e-6)
    decoded = engine.decode(z).images.reshape(50, 784)
    np.testing.assert_allclose(decoded, x_hat, rtol=1e-6, atol=1e-6)
    kl = engine.score(images).kl.mean() / 784
    np.testing.assert_allclose(kl, kld, rtol=1e-6, atol=1e-6)


def test_a_dead_sigma_is_no_infinity(imported: Path, digits: NDArray[np.uint8]) -> None:
    """A ReLU gives σ = 0 exactly; log(0 + 1e-8) keeps the KL finite."""
    engine = Engine(load_bundle(imported), device="cpu")
    assert (engine.encode(digits[:50]).sigma == 0).any()
    assert np.isfinite(engine.score(digits[:50]).kl).all()


def test_the_bundle_says_what_it_is(capsys: pytest.CaptureFixture[str], imported: Path) -> None:
    bundle = load_bundle(imported)
    assert bundle.config.head == "relu"
    assert bundle.name == "out"
    assert bundle.provenance["imported_from"] == "checkpoint.pt"
    assert bundle.pixel_variance is None
    card = (imported / "README.md").read_text(encoding="utf-8")
    assert bundle.version in card
    assert "collapses" in card
    assert bundle.version in capsys.readouterr().out


# Other networks


def sequential(*sizes: int) -> nn.Sequential:
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


def state(pixels: int = 16, hidden: tuple[int, ...] = (6, 4), latent: int = 2) -> dict[str, Tensor]:
    """A small state dict of the tutorial's form."""
    module = nn.ModuleDict(
        {
            "encoder": sequential(pixels, *hidden, 2 * latent),
            "decoder": sequential(latent, *reversed(hidden), pixels),
        }
    )
    return dict(module.state_dict())


def saved(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize(
    ("hidden", "latent"), [((6, 4), 2), ((8,), 1), ((), 3), ((9, 8, 7, 6, 5, 4), 2)]
)
def test_widths_follow_from_the_shapes(
    hidden: tuple[int, ...], latent: int, tmp_path: Path
) -> None:
    path = saved(state(hidden=hidden, latent=latent), tmp_path / "my.pt")
    config = import_checkpoint(path, name="my").config
    assert config.image_shape == (1, 4, 4)
    assert config.hidden_sizes == hidden
    assert config.latent_size == latent


def run(tmp_path: Path, value: object, *options: str) -> int:
    path = saved(value, tmp_path / "my.pt")
    return main(["import", str(path), "--out", str(tmp_path / "out"), *options])


def test_an_image_that_is_not_square(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, state(pixels=30)) == 2
    error = capsys.readouterr().err
    assert "30 pixels" in error
    assert "--image-shape" in error
    assert run(tmp_path, state(pixels=30), "--image-shape", "1", "5", "6") == 0
    assert load_bundle(tmp_path / "out").config.image_shape == (1, 5, 6)


def test_an_image_in_colour(tmp_path: Path) -> None:
    assert run(tmp_path, state(pixels=36), "--image-shape", "3", "3", "4") == 0
    assert load_bundle(tmp_path / "out").config.image_shape == (3, 3, 4)


def test_the_other_head_and_a_name(tmp_path: Path) -> None:
    assert run(tmp_path, state(), "--head", "log_variance", "--name", "mine") == 0
    bundle = load_bundle(tmp_path / "out")
    assert (bundle.config.head, bundle.name) == ("log_variance", "mine")


def test_an_older_bundle_is_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    assert run(tmp_path, state()) == 0
    version = load_bundle(tmp_path / "out").version
    assert run(tmp_path, state()) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert load_bundle(tmp_path / "out").version == version
    assert run(tmp_path, state(), "--overwrite") == 0
    assert load_bundle(tmp_path / "out").version != version


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in state().items()}
    bundle = import_checkpoint(saved(weights, tmp_path / "my.pt"), name="my")
    for name, tensor in bundle.weights.items():
        assert torch.equal(tensor, weights[name].float())


def test_parameters_and_the_old_file_format_load_too(tmp_path: Path) -> None:
    network = Tutorial()
    torch.save(
        dict(network.named_parameters()),
        tmp_path / "my.pt",
        _use_new_zipfile_serialization=False,
    )
    bundle = import_checkpoint(tmp_path / "my.pt", name="my")
    bundle.save(tmp_path / "out", "")
    loaded = load_bundle(tmp_path / "out").weights
    assert torch.equal(loaded["encoder.0.weight"], network.state_dict()["encoder.0.weight"])


# Checkpoints that hold a state dict


def renamed(weights: dict[str, Tensor], pattern: str, by: str) -> dict[str, Tensor]:
    return {re.sub(pattern, by, name): tensor for name, tensor in weights.items()}


Wrap = Callable[[dict[str, Tensor]], object]

WRAPPED: dict[str, tuple[Wrap, str]] = {
    "model": (lambda w: {"model": w}, "model"),
    "state_dict": (lambda w: {"state_dict": w, "epoch": 3, "lr": [0.1], "name": "x"}, "state_dict"),
    "any name": (lambda w: {"my vae": w}, "my vae"),
    "with an optimizer": (
        lambda w: {
            "model_state_dict": w,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        },
        "model_state_dict",
    ),
    "two deep": (lambda w: {"a": {"b": w}}, "a.b"),
    "DataParallel": (lambda w: renamed(w, "^", "module."), ""),
    "compiled": (lambda w: renamed(w, "^", "_orig_mod."), ""),
    "both": (lambda w: renamed(w, "^", "_orig_mod.module."), ""),
    "parts compiled": (lambda w: renamed(w, r"^(\w+)", r"\1._orig_mod"), ""),
    "Lightning": (
        lambda w: {
            "state_dict": renamed(w, "^", "model.") | {"loss.weight": torch.ones(2)},
            "best": torch.tensor(0.1),
            "pytorch-lightning_version": "2.4.0",
            "loops": {"fit_loop": {"state_dict": {}}},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        },
        "state_dict.model",
    ),
    "beside other values": (lambda w: {**w, "epoch": 3, "loss": 0.1}, ""),
    "in its own values": (lambda w: {"model": renamed(w, "^", "module.vae.")}, "model.vae"),
    "in parts": (
        lambda w: {
            part: {
                name.removeprefix(f"{part}."): tensor
                for name, tensor in w.items()
                if name.startswith(part)
            }
            for part in ("encoder", "decoder")
        },
        "",
    ),
    "ordered": (lambda w: OrderedDict(state_dict=OrderedDict(w)), "state_dict"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_state_dict_is_found_where_people_keep_it(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrap, key = WRAPPED[kind]
    weights = state()
    assert run(tmp_path, wrap(weights)) == 0
    shown = capsys.readouterr().out
    bundle = load_bundle(tmp_path / "out")
    assert set(bundle.weights) == set(weights)
    assert all(torch.equal(bundle.weights[name], weights[name]) for name in weights)
    assert bundle.provenance.get("state_dict", "") == key
    assert (f"found the state dict at {key!r}" in shown) == bool(key)
    left_out = "left out 2 other tensors (best, state_dict.loss.weight)"
    assert (left_out in shown) == (kind == "Lightning")


def test_a_key_chooses_among_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, ema = state(), state()
    value = {"model": plain, "averaged": renamed(ema, "^", "module.ema.")}
    assert run(tmp_path, value) == 2
    assert "--key chooses 'model' or 'averaged.ema'" in capsys.readouterr().err
    assert run(tmp_path, value, "--key", "averaged.ema") == 0
    found = load_bundle(tmp_path / "out").weights
    assert torch.equal(found["encoder.0.weight"], ema["encoder.0.weight"])
    assert run(tmp_path, value, "--overwrite", "--key", "none") == 2
    assert "holds no state dict at 'none': there is 'model' or 'averaged.ema'" in (
        capsys.readouterr().err
    )
    assert run(tmp_path, {"epoch": 3}, "--overwrite", "--key", "model") == 2
    assert "there is none at all" in capsys.readouterr().err


def test_a_dict_that_holds_itself_ends(tmp_path: Path) -> None:
    value: dict[str, object] = {"model": state()}
    value["again"] = value
    assert run(tmp_path, value) == 0


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"best": np.float64(0.1)}, "numpy"),
        ({"out": Path("runs")}, "pathlib"),
    ],
)
def test_objects_in_a_checkpoint_are_named_and_not_loaded(
    value: dict[str, object], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved({"model": state(), **value}, tmp_path / "my.pt")
    message = refused(path, tmp_path, capsys)
    assert re.search(rf"it holds an object of {name}\S*, which could run code", message)
    assert "torch.save(vae.state_dict(), path)" in message


def test_hostile_names_are_shown_safely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[31mred\n" + 1_000 * "x"
    path = saved({name: {"fc.weight\n": torch.ones(2)}}, tmp_path / "my.pt")
    message = refused(path, tmp_path, capsys)
    assert "\x1b" not in message
    assert len(message) < 500


# What is refused


class Trap:
    """Runs a call when it is unpickled."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = (call, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def refused(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which the command line refuses `path`, leaving nothing behind."""
    assert main(["import", str(path), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert "weights_only" not in captured.err  # torch's text suggests to switch it off
    assert not (tmp_path / "out").exists()
    return captured.err


@pytest.mark.parametrize("place", ["value", "key", "whole", "raw", "old"])
@pytest.mark.parametrize("kind", ["system", "touch", "eval"])
def test_a_malicious_pickle_is_refused_and_not_run(
    kind: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sprung = tmp_path / "sprung"
    traps = {
        "system": Trap(os.system, f"touch {sprung}"),
        "touch": Trap(Path.touch, sprung),
        "eval": Trap(eval, f"open({str(sprung)!r}, 'w')"),
    }
    trap = traps[kind]
    path = tmp_path / "evil.pt"
    match place:
        case "value":
            torch.save({**state(), "encoder.0.weight": trap}, path)
        case "key":
            torch.save({**state(), "extra": [{"deep": trap}]}, path)
        case "whole":
            torch.save(trap, path)
        case "raw":
            path.write_bytes(pickle.dumps(trap))
        case "old":
            torch.save({**state(), "extra": trap}, path, _use_new_zipfile_serialization=False)
    assert "evil.pt" in refused(path, tmp_path, capsys)
    assert not sprung.exists()


@pytest.mark.filterwarnings("always")
def test_torchs_warnings_are_not_shown(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    refused(tmp_path / "plain.pt", tmp_path, capsys)
    assert len(recwarn) == 0


def test_the_traps_would_spring(tmp_path: Path) -> None:
    """So that the test above tests something."""
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(os.system, f"touch {sprung}")))  # noqa: S301
    assert sprung.exists()


def test_a_packed_archive_is_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = saved(state() | {"zeros": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for member in source.infolist():
            out.writestr(member.filename, source.read(member))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    assert "packed.pt has" in refused(path, tmp_path, capsys)


def test_a_tensor_larger_than_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One number, seen as 2⁴⁰: torch saves the one, and how to look at it."""
    vast = torch.zeros(1, dtype=torch.float64).expand(1 << 20, 1 << 20)
    path = saved(state() | {"encoder.0.weight": vast}, tmp_path / "vast.pt")
    assert path.stat().st_size < 1_000_000
    message = refused(path, tmp_path, capsys)
    assert "encoder.0.weight claims 8,796,093,022,208 bytes, but the file stores only 8" in message


def test_a_whole_module_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(Tutorial(), tmp_path / "whole.pt")
    message = refused(path, tmp_path, capsys)
    assert "whole.pt" in message
    assert "state_dict()" in message


def test_a_missing_file_is_told_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(tmp_path / "nowhere.pt", tmp_path, capsys)
    assert "nowhere.pt" in message
    assert "no such file" in message.lower()


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state().items() if key != name}


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "encoder.0.weight"),
        ([], "no state dict"),
        (torch.ones(3), "no state dict"),
        ({"encoder.0.weight": 5}, "no state dict"),
        ({0: torch.ones(3)}, "no state dict"),
        ({"fc1.weight": torch.ones(3, 4)}, "fc1.weight"),
        ({"net": {"fc1.weight": torch.ones(3, 4)}, "epoch": 3}, "holds net.fc1.weight: expected"),
        ({"epoch": 3, "optimizer": {}}, "no state dict"),
        ({"model": {}}, "no state dict"),
        ({"model": without("decoder.4.weight")}, "decoder.4.weight"),
        ({"model": {**state(), "extra": torch.ones(1)}}, "odd.pt, at 'model': "),
        ({"preencoder.0.weight": torch.ones(6, 16)}, "preencoder.0.weight"),
        ({"model": state(), "ema": state()}, "--key chooses 'model' or 'ema'"),
        ({**prefixed("a", state()), **prefixed("b.c", state())}, "--key chooses 'a' or 'b.c'"),
        ({"model": state(), "bad": {"encoder.0.weight": 5}, "ema": state()}, "'model' or 'ema'"),
        (without("encoder.0.weight"), ""),
        (without("encoder.2.weight"), ""),
        (without("encoder.4.bias"), "encoder.4.bias"),
        (without("decoder.4.weight"), "decoder.4.weight"),
        ({**state(), "extra": torch.ones(1)}, "extra"),
        ({**state(), "encoder.0.weight": torch.ones(6, 16, 1)}, "encoder.0.weight"),
        ({**state(), "encoder.2.weight": torch.ones(4, 5)}, "encoder.2.weight"),
        ({**state(), "encoder.4.weight": torch.ones(5, 4)}, "even"),
        ({**state(), "decoder.0.bias": torch.ones(5)}, "decoder.0.bias"),
        ({**state(), "decoder.0.bias": torch.full((4,), torch.nan)}, "NaN"),
        ({**state(), "decoder.0.bias": torch.ones(4, dtype=torch.complex64)}, "decoder.0.bias"),
        ({**state(), "decoder.0.bias": torch.ones(4).to_sparse()}, "decoder.0.bias"),
        ({**state(), "decoder.0.bias": torch.ones(4, device="meta")}, "decoder.0.bias"),
    ],
)
def test_other_tensors_are_refused(
    value: object, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(value, tmp_path / "odd.pt")
    assert reason in refused(path, tmp_path, capsys)


@pytest.mark.parametrize("shape", [["1", "3", "4"], ["2", "2", "4"], ["1", "-4", "-4"]])
def test_an_image_shape_that_does_not_fit(
    shape: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, state(), "--image-shape", *shape) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def serialised(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_reported_or_read(
    zipped: bool, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(data.draw(damaged(serialised(state(), _use_new_zipfile_serialization=zipped))))
    try:
        import_checkpoint(path, name="my")
    except BundleError as error:
        assert_one_line(error)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As failed downloads leave it, or a wrong file name."""
    path = tmp_path / "my.pt"
    whole = saved(state(), path).read_bytes()
    for content, words in (
        (b"", "my.pt is empty"),
        (whole[: len(whole) // 2], "my.pt is cut short"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer, not",
        ),
        (b"<!DOCTYPE html><html>sign in</html>", "is a web page, not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG file, not a checkpoint"),
        (b"PK", "is not a file of plain tensors"),
    ):
        path.write_bytes(content)
        assert main(["import", str(path), "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
