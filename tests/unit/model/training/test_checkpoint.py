"""Checkpoints of an unfinished training: saved completely or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    adam_tensors,
    load_checkpoint,
    restore_adam,
    save_checkpoint,
)
from model.vae import VAE
from tests.unit.samples import TINY, assert_one_line, damaged, tiny_bundle

RUN = {"config": TINY.to_json(), "epochs": 5, "seed": 0, "data": {"a.gz": "00ff"}}


def stepped() -> tuple[VAE, torch.optim.Adam]:
    """A network after three steps of Adam."""
    network = tiny_bundle().network().train().requires_grad_()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.rand(4, TINY.pixels)).images.sum().backward()
        optimizer.step()
    return network, optimizer


def checkpoint(epoch: int = 2) -> Checkpoint:
    network, optimizer = stepped()
    return Checkpoint(
        epoch=epoch,
        step=3 * epoch,
        history=((3, 0.25), (3 * epoch, -0.1)),
        weights=network.state_dict(),
        optimizer=adam_tensors(optimizer),
        best_step=3,
        best_loss=-0.1,
        best_weights=tiny_bundle(seed=1).weights,
    )


SAVED = checkpoint()


def same(one: Checkpoint, other: Checkpoint) -> bool:
    def numbers(checkpoint: Checkpoint) -> tuple[object, ...]:
        best = (checkpoint.best_step, checkpoint.best_loss)
        return (checkpoint.epoch, checkpoint.step, checkpoint.history, *best)

    groups = [
        (one.weights, other.weights),
        (one.optimizer, other.optimizer),
        (one.best_weights, other.best_weights),
    ]
    return numbers(one) == numbers(other) and all(
        set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a) for a, b in groups
    )


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, SAVED, RUN)
    assert same(load_checkpoint(path, RUN), SAVED)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_adam_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    network, optimizer = stepped()
    optimizer_state = adam_tensors(optimizer)
    saved = replace(SAVED, weights=network.state_dict(), optimizer=optimizer_state)
    save_checkpoint(tmp_path / "checkpoint", saved, RUN)
    loaded = load_checkpoint(tmp_path / "checkpoint", RUN)
    copy = VAE(TINY)
    copy.load_state_dict(dict(loaded.weights))
    restored = torch.optim.Adam(copy.parameters(), lr=0.01)
    restore_adam(restored, loaded.optimizer)
    pixels = torch.rand(4, TINY.pixels)
    for model, adam in ((network, optimizer), (copy, restored)):
        adam.zero_grad()
        model(pixels).images.sum().backward()
        adam.step()
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, copy.state_dict()[name])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 6),
        ("seed", 1),
        ("data", {"a.gz": "ff00"}),
        ("data", None),
        ("config", replace(TINY, latent_size=4).to_json()),
        ("batch_size", 32),
    ],
)
def test_that_of_another_run_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, SAVED, RUN)
    with pytest.raises(CheckpointError, match=key) as raised:
        load_checkpoint(path, RUN | {key: value})
    assert_one_line(raised.value, path)


def test_a_later_save_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, SAVED, RUN)
    later = checkpoint(epoch=3)
    save_checkpoint(path, later, RUN)
    assert same(load_checkpoint(path, RUN), later)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_save_cut_short_leaves_the_older_one(
    method: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, SAVED, RUN)
    write = Path.write_bytes

    def fail(target: Path, argument: Any) -> None:
        if method == "write_bytes":
            write(target, argument[: len(argument) // 2])
        raise error

    monkeypatch.setattr(Path, method, fail)
    with pytest.raises(type(error)):
        save_checkpoint(path, checkpoint(epoch=3), RUN)
    monkeypatch.undo()
    assert same(load_checkpoint(path, RUN), SAVED)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 100, b"PK\x03\x04", b"{}"])
def test_a_file_that_is_no_checkpoint_is_reported(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path, RUN)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere", RUN)


def test_a_bundles_weights_are_no_checkpoint(tmp_path: Path) -> None:
    tiny_bundle().save(tmp_path, "")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "model.safetensors", RUN)


def test_every_truncation_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, SAVED, RUN)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=path.name):
            load_checkpoint(path, RUN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved checkpoint, in a directory for all examples of a property."""
    path = tmp_path_factory.mktemp("damaged") / "whole"
    save_checkpoint(path, SAVED, RUN)
    return path


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_reported(whole: Path, data: st.DataObject) -> None:
    """A training that goes on from other numbers would claim a provenance that is not its own."""
    path = whole.with_name("damaged")
    path.write_bytes(data.draw(damaged(whole.read_bytes())))
    try:
        loaded = load_checkpoint(path, RUN)
    except CheckpointError as error:
        assert_one_line(error, path)
    else:
        assert same(loaded, SAVED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"F32"', b'"I32"'),
        (b"[7,20]", b"[20,7]"),
        (b"[6]", b"[3]"),
        (b"weights/decoder.0.bias", b"weights/decoder.1.bias"),
    ],
)
def test_damage_to_the_header_is_reported(old: bytes, new: bytes, whole: Path) -> None:
    data = whole.read_bytes()
    assert old in data
    path = whole.with_name("damaged")
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, RUN)


def test_tensors_are_not_shared_with_the_network(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    shared: dict[str, Tensor] = dict(SAVED.weights)
    save_checkpoint(path, replace(SAVED, best_weights=shared), RUN)
    assert same(load_checkpoint(path, RUN), replace(SAVED, best_weights=shared))
