"""The ONNX graphs of a bundle on disk. Any bytes will do: reading a bundle parses none."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.bundle import graph_files
from model.bundle.bundle import PRETRAINED, load_bundle, pretrained_names
from model.bundle.checks import BundleError
from model.evaluation.card import model_card
from tests.unit.model.bundle.helpers import BUNDLE_FILES, WHOLE, edit, refused
from tests.unit.samples import assert_one_line

GRAPHS = {"encoder": b"the encoder", "decoder": b"the decoder", "stem": b""}
WITH_GRAPHS = replace(WHOLE, graphs=GRAPHS)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    WITH_GRAPHS.save(tmp_path / "bundle", model_card(WITH_GRAPHS))
    return tmp_path / "bundle"


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_they_come_back_as_they_were_saved(directory: Path) -> None:
    loaded = load_bundle(directory)
    assert loaded.graphs == GRAPHS
    assert loaded.version == WITH_GRAPHS.version
    assert files(directory) == BUNDLE_FILES | {"encoder.onnx", "decoder.onnx", "stem.onnx"}


def test_each_is_part_of_the_version() -> None:
    """Same version, same scores."""
    changes = [
        {},
        GRAPHS,
        GRAPHS | {"encoder": b"another"},
        {"encoder": GRAPHS["encoder"]},
        GRAPHS | {"encoder": GRAPHS["decoder"], "decoder": GRAPHS["encoder"]},
        {"head" if name == "stem" else name: data for name, data in GRAPHS.items()},
    ]
    versions = {replace(WHOLE, graphs=graphs).version for graphs in changes}
    assert len(versions) == len(changes)
    backwards = dict(reversed(list(GRAPHS.items())))
    assert replace(WHOLE, graphs=backwards).version == WITH_GRAPHS.version
    assert len(WITH_GRAPHS.version) == 16


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_the_version_is_what_the_card_says_it_is(directory: Path) -> None:
    card = (directory / "README.md").read_text()
    (command,) = [part for part in card.split("`") if part.startswith("sha256sum")]
    assert command == "sha256sum decoder.onnx encoder.onnx model.safetensors stem.onnx | sha256sum"
    done = subprocess.run(  # noqa: S602 - our own command
        command, shell=True, cwd=directory, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(WITH_GRAPHS.version)
    assert f"`{WITH_GRAPHS.version}`" in card


@pytest.mark.parametrize("name", pretrained_names())
def test_a_bundle_without_graphs_is_as_before(name: str, tmp_path: Path) -> None:
    """Its version is the hash of its weights, and saving it again writes the same bytes."""
    bundle = load_bundle(PRETRAINED / name)
    weights = (PRETRAINED / name / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest().startswith(bundle.version)
    assert bundle.graphs == {}
    bundle.save(tmp_path, (PRETRAINED / name / "README.md").read_text(encoding="utf-8"))
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (PRETRAINED / name / path.name).read_bytes(), path.name


@pytest.mark.parametrize("data", [b"", b"the encodes", b"the encoder "])
def test_another_graph_is_refused(data: bytes, directory: Path) -> None:
    (directory / "encoder.onnx").write_bytes(data)
    assert "encoder.onnx is damaged: its sha256 is not the one in config.json" in refused(directory)


def test_a_missing_graph_is_named(directory: Path) -> None:
    (directory / "decoder.onnx").unlink()
    assert "decoder.onnx" in refused(directory)


def test_too_large_a_graph_is_refused_unread(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "MAX_GRAPH_BYTES", 10)
    with pytest.raises(BundleError, match=r"encoder.onnx has 11 bytes > maximum 10"):
        WITH_GRAPHS.save(directory.parent / "new", "")
    assert not (directory.parent / "new").exists()
    whole = Path.read_bytes

    def only_others(path: Path) -> bytes:
        assert path.suffix != ".onnx"
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", only_others)
    assert "decoder.onnx has 11 bytes > maximum 10" in refused(directory)


@pytest.mark.parametrize("name", ["", "../secret", "a.b", "A", "a/b", "x" * 33, "a\n", "1"])
def test_a_name_is_no_path(name: str, directory: Path) -> None:
    """config.json may be anyone's."""
    (directory.parent / "secret.onnx").write_bytes(b"")
    edit(directory, graphs={name: hashlib.sha256(b"").hexdigest()})
    assert "wrong name" in refused(directory)
    with pytest.raises(BundleError) as raised:
        replace(WHOLE, graphs={name: b""}).save(directory.parent / "new", "")
    assert_one_line(raised.value, "wrong name")


@pytest.mark.parametrize("value", [[], "encoder", 7, True, {"encoder": 7}, {"encoder": None}])
def test_a_wrong_field_is_reported(value: object, directory: Path) -> None:
    edit(directory, graphs=value)
    assert "graphs is no object of sha256 strings" in refused(directory)


def test_saved_without_graphs_it_keeps_none_of_an_earlier_one(directory: Path) -> None:
    (directory / "mine.onnx").write_bytes(b"a user's own, which no bundle names")
    replace(WITH_GRAPHS, graphs={"stem": b"new"}).save(directory, "")
    assert files(directory) == BUNDLE_FILES | {"stem.onnx", "mine.onnx"}
    assert load_bundle(directory).graphs == {"stem": b"new"}
    WHOLE.save(directory, "")
    assert files(directory) == BUNDLE_FILES | {"mine.onnx"}
    assert "graphs" not in json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"graphs": 7}', '{"graphs": {"../x": "0"}}'])
def test_saving_over_what_is_no_bundle(text: str, directory: Path) -> None:
    (directory.parent / "x.onnx").write_bytes(b"")
    (directory / "config.json").write_text(text)
    WITH_GRAPHS.save(directory, "")
    assert load_bundle(directory).graphs == GRAPHS
    assert (directory.parent / "x.onnx").exists()


def test_reading_a_bundle_imports_no_onnx() -> None:
    code = """
import sys
import model.bundle.bundle
print([name for name in sys.modules if name.startswith("onnx")])
"""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
