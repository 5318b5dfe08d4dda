"""What the commands refuse, and how they say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.bundle.bundle import load_bundle
from tests.unit.model.commands.command_line import SHORT, contents, run
from tests.unit.samples import assert_one_line


def test_an_older_bundle_is_not_overwritten_unasked(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    assert run(capsys, *command).status == 0
    version = load_bundle(tmp_path / "out").version
    for more in ([], ["--resume"]):
        result = run(capsys, *command, "--seed", "1", *more)
        assert result.status == 2
        assert "--overwrite" in result.err
        assert len(result.err.splitlines()) == 1
        assert load_bundle(tmp_path / "out").version == version
    assert run(capsys, *command, "--seed", "1", "--overwrite").status == 0
    assert load_bundle(tmp_path / "out").version != version


@pytest.mark.parametrize(
    "content",
    [None, {}, {"a.png": b"broken"}, {"train-images-idx3-ubyte": b"broken"}, {"a.txt": b"text"}],
    ids=["absent", "empty", "broken image", "broken IDX", "text"],
)
def test_data_that_cannot_be_used(
    content: dict[str, bytes] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    if content is not None:
        data.mkdir()
        for name, text in content.items():
            (data / name).write_bytes(text)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert str(data) in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "0"),
        ("--steps", "-1"),
        ("--folds", "0"),
        ("--folds", "601"),
        ("--normal-label", "0"),
        ("--group", "folder"),
        ("--batch-size", "0"),
        ("--learning-rate", "0"),
        ("--learning-rate", "-0.1"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "1e10"),
        ("--latent-size", "0"),
        ("--hidden", "0"),
        ("--threads", "0"),
        ("--threads", "-1"),
        ("--seed", "-1"),
        ("--size", "0"),
        ("--size", "-28"),
        ("--size", "14"),
        ("--channels", "3"),
        ("--augment", "-0.1"),
        ("--augment", "0.51"),
        ("--augment", "nan"),
        ("--device", "gpu"),
        ("--device", "cuda:99"),
        ("--name", " "),
    ],
)
def test_a_wrong_value_is_one_line_and_costs_nothing(
    option: str, value: str, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the bundle that was to be overwritten is still there."""
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    assert run(capsys, *command).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    result = run(capsys, *command, "--overwrite", option, value)
    assert result.status == 2
    assert "step " not in result.out
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_epochs_below_one_and_beside_steps(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), "--epochs", "0"]
    assert_one_line(ValueError(run(capsys, *command).err.strip()), "--epochs is 0", "1 to")
    both = run(capsys, *command, "--steps", "1")
    assert both.status == 2
    assert "--epochs" in both.err
    assert "--steps" in both.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seed", [2**32, 10**13, 2**63, 10**30])
def test_a_large_seed_is_used_or_refused_in_words(
    seed: int, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    result = run(capsys, *command, "--seed", str(seed))
    assert result.status == 0 or "seed" in result.err


def test_an_output_directory_with_an_odd_name(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets and colons mean something to the library that prints."""
    out = tmp_path / "a[red]b[/]c:smile:"
    result = run(capsys, "train", "--data", idx, "--out", out, *SHORT)
    assert result.status == 0
    assert f"wrote {out}, version" in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--out", "x", "--data", "y", "--head", "tanh"],
        ["train", "--out", "x", "--data", "y", "--arch", "transformer"],
        ["train", "--out", "x", "--data", "y", "--recipe", "minst"],
        ["train", "--out", "x", "--recipe", "mnist"],
        ["calibrate", "--bundle", "x"],
        ["calibrate", "--data", "x"],
        ["calibrate", "--bundle", "x", "--data", "y", "--split", "valid"],
        ["train", "--out", "x", "--data", "y", "--epochs", "many"],
        ["import"],
        ["download", "minst", "--data", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VAE_DATA_DIR", raising=False)
    result = run(capsys, *arguments)
    assert result.status == 2
    assert "error: " in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", ["nowhere", "minst", ""])
def test_an_unknown_bundle_is_told(
    name: str, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / name) if name == "nowhere" else name
    result = run(capsys, "calibrate", "--bundle", bundle, "--data", idx)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", repr(bundle), "fashion-mnist")


def test_a_damaged_bundle_is_told_and_left_alone(
    mine: Path, idx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "model.safetensors").write_bytes(b"damaged")
    before = contents(mine)
    result = run(capsys, "calibrate", "--bundle", mine, "--data", idx)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", mine, "damaged")
    assert contents(mine) == before


@pytest.mark.parametrize(
    "command", [["download", "mnist"], ["calibrate", "--bundle", "x", "--data", "y"]]
)
def test_an_unknown_option_shows_the_usage_of_the_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, *command, "--fly")
    assert result.status == 2
    assert result.err.startswith(f"usage: python -m model {command[0]} ")
    assert result.err.endswith("error: unrecognized arguments: --fly\n")
