"""`python -m model`, as a user types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.__main__ import main
from model.bundle import load_bundle
from model.engine import Engine
from model.training.card import model_card
from model.training.train import held_out_indices
from tests.unit.samples import encoded, write_idx

OPTIONS = {
    "train": {
        *("--data", "--out", "--name", "--overwrite", "--resume"),
        *("--size", "--channels", "--latent-size", "--hidden", "--head"),
        *("--epochs", "--batch-size", "--learning-rate", "--seed", "--threads", "--device"),
    },
    "import": {"checkpoint", "--out", "--name", "--overwrite", "--head", "--image-shape"},
    "download": {"name", "--data"},
}
BUNDLE_FILES = {"README.md", "config.json", "model.safetensors"}
N_TRAIN, N_TEST, EPOCHS = 600, 100, 30
NETWORK = ["--hidden", "24", "12", "--latent-size", "4"]
LONG = [*NETWORK, "--epochs", str(EPOCHS), "--batch-size", "16", "--threads", "1"]
SHORT = [*NETWORK, "--epochs", "1", "--threads", "1"]
PATIENCE_S = 60


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command in this process."""
    try:
        status: object = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    captured = capsys.readouterr()
    return Ended(status, captured.out, captured.err)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """Digits in IDX files, to train on and to test with."""
    test = digits[N_TRAIN : N_TRAIN + N_TEST]
    return write_idx(tmp_path_factory.mktemp("data") / "digits", digits[:N_TRAIN], test)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, idx: Path) -> Path:
    """A bundle trained on them, without a break."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    assert main(["train", "--data", str(idx), "--out", str(out), *LONG]) == 0
    return out


# What a training writes


def test_a_bundle_and_nothing_else(trained: Path) -> None:
    assert files(trained) == BUNDLE_FILES
    bundle = load_bundle(trained)
    assert bundle.name == "mine"
    assert bundle.config.hidden_sizes == (24, 12)
    assert bundle.config.latent_size == 4
    assert (trained / "README.md").read_text(encoding="utf-8") == model_card(bundle)
    assert bundle.version in model_card(bundle)


def test_its_figures_are_true(trained: Path, digits: NDArray[np.uint8]) -> None:
    bundle = load_bundle(trained)
    engine = Engine(bundle, device="cpu", threads=1)
    sets = {
        "held_out": digits[:N_TRAIN][held_out_indices(N_TRAIN, seed=0)],
        "test": digits[N_TRAIN : N_TRAIN + N_TEST],
    }
    assert set(bundle.metrics) == set(sets)
    for name, images in sets.items():
        scores, recorded = engine.score(images), bundle.metrics[name]
        assert recorded["n"] == len(images)
        assert float(scores.mse.mean()) == pytest.approx(recorded["mse"], rel=1e-4)
        assert float(scores.kl.mean()) == pytest.approx(recorded["kl"], rel=1e-4)
        assert recorded["mse"] < recorded["mse_sampled"] < 0.1
        assert isinstance(recorded["negative_elbo"], float)


def test_it_says_where_it_comes_from(trained: Path, idx: Path) -> None:
    provenance = load_bundle(trained).provenance
    assert provenance["data_set"] == "digits"
    assert set(provenance["files_sha256"]) == files(idx)
    assert provenance["images_held_out"] == N_TRAIN // 6
    assert provenance["images_trained_on"] == N_TRAIN - N_TRAIN // 6
    assert provenance["epochs"] == EPOCHS
    assert provenance["batch_size"] == 16
    assert provenance["seed"] == 0
    assert provenance["threads"] == 1
    assert provenance["skipped_files"] == 0
    assert 1 <= provenance["best_epoch"] <= EPOCHS
    assert {"python", "torch", "numpy"} <= set(provenance["versions"])
    assert str(idx.parent) not in (trained / "config.json").read_text()


def test_it_tells_the_figures(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert (ended.status, ended.err) == (0, "")
    bundle = load_bundle(tmp_path / "out")
    for name in ("held_out", "test"):
        assert f"{bundle.metrics[name]['mse']:.5f}" in ended.out
    for word in ("epoch 1/1", "loss", "MSE", "KL", bundle.version):
        assert word in ended.out


def test_the_seed_decides_the_version(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = []
    for number, seed in enumerate(["7", "7", "8"]):
        out = tmp_path / str(number)
        assert run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--seed", seed).status == 0
        versions.append(load_bundle(out).version)
    assert versions[0] == versions[1] != versions[2]


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(20):
        image = Image.new("RGB", (10 + number, 30), (number * 10, 200, 50))
        (pictures / f"{number:02}.png").write_bytes(encoded(image))
    (pictures / "broken[red].png").write_bytes(b"broken")
    out = tmp_path / "out"
    size = ["--channels", "3", "--size", "12", "--name", "colours"]
    ended = run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size)
    assert ended.status == 0
    assert "broken[red].png" in ended.out
    assert "1 files skipped, 20 read" in ended.out
    bundle = load_bundle(tmp_path / "out")
    assert bundle.name == "colours"
    assert bundle.config.image_shape == (3, 12, 12)
    assert bundle.provenance["skipped_files"] == 1
    assert set(bundle.metrics) == {"held_out"}


def test_an_npz_gives_the_image_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "my.npz", images=images)
    ended = run(capsys, "train", "--data", tmp_path / "my.npz", "--out", tmp_path / "o", *SHORT)
    assert ended.status == 0
    assert load_bundle(tmp_path / "o").config.image_shape == (3, 6, 9)


def test_the_relu_head(idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    ended = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--head", "relu")
    assert ended.status == 0
    bundle = load_bundle(out)
    assert bundle.config.head == "relu"
    assert bundle.pixel_variance is None
    assert bundle.metrics["test"]["negative_elbo"] is None


def test_the_threads_are_as_many_as_asked_for(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    try:
        command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
        assert run(capsys, *command, "--threads", "2").status == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert load_bundle(tmp_path / "out").provenance["threads"] == 2


def test_the_environment_may_name_the_data(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAE_DATA_DIR", str(tmp_path / "nowhere"))
    out = tmp_path / "out"
    assert "nowhere" in run(capsys, "train", "--out", out, *SHORT).err
    monkeypatch.setenv("VAE_DATA_DIR", str(idx))
    assert run(capsys, "train", "--out", out, *SHORT).status == 0
    assert load_bundle(out).provenance["data_set"] == "digits"
    monkeypatch.delenv("VAE_DATA_DIR")
    ended = run(capsys, "train", "--out", tmp_path / "other", *SHORT)
    assert ended.status == 2
    assert "--data" in ended.err


# What it refuses


def test_an_older_bundle_is_not_overwritten_unasked(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    assert run(capsys, *command).status == 0
    version = load_bundle(tmp_path / "out").version
    for more in ([], ["--resume"]):
        ended = run(capsys, *command, "--seed", "1", *more)
        assert ended.status == 2
        assert "--overwrite" in ended.err
        assert len(ended.err.splitlines()) == 1
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
    ended = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert str(data) in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "0"),
        ("--epochs", "-1"),
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
    ended = run(capsys, *command, "--overwrite", option, value)
    assert ended.status == 2
    assert "epoch 1" not in ended.out
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("seed", [2**32, 10**13, 2**63, 10**30])
def test_a_large_seed_is_used_or_refused_in_words(
    seed: int, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    ended = run(capsys, *command, "--seed", str(seed))
    assert ended.status == 0 or "seed" in ended.err


def test_an_output_directory_with_an_odd_name(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets mean something to the library that prints."""
    out = tmp_path / "a[red]b[/]c"
    ended = run(capsys, "train", "--data", idx, "--out", out, *SHORT)
    assert ended.status == 0
    assert out.name in ended.out.replace("\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--out", "x", "--data", "y", "--head", "tanh"],
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
    ended = run(capsys, *arguments)
    assert ended.status == 2
    assert "error: " in ended.err
    assert "Traceback" not in ended.err


# Its help


@pytest.mark.parametrize("command", OPTIONS)
def test_help_describes_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = run(capsys, command, "--help")
    assert ended.status == 0
    _, *entries = re.split(r"\n  (?=\S)", ended.out)
    described = {}
    for entry in entries:
        flags, _, text = entry.split("\n\n")[0].replace("\n", "  ").partition("  ")
        described[flags.split()[0].strip(",").replace("{fashion-mnist", "name")] = text.strip()
    names = {name.split(",")[0] for name in described}
    assert OPTIONS[command] <= names
    assert all(described.values())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, "--help")
    assert ended.status == 0
    assert all(re.search(rf"^    {command} +\w", ended.out, re.M) for command in OPTIONS)


# Ctrl-C, in a process of its own


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "model", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ctrl_c_keeps_what_was_learnt_and_resume_ends_it(
    idx: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    command = ["train", "--data", str(idx), "--out", str(out), *LONG]
    process = start(*command)
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in output
    assert files(out) == BUNDLE_FILES | {"checkpoint.safetensors"}
    early = load_bundle(out)
    assert early.metrics["test"]["mse"] < 0.3

    assert run(capsys, *command).status == 2  # as there is a bundle
    other = run(capsys, *command, "--resume", "--seed", "1")
    assert other.status == 2
    assert "seed" in other.err
    assert load_bundle(out).version == early.version

    images = np.full((N_TRAIN, 1, 28, 28), 7, np.uint8)
    other = run(
        capsys, "train", "--data", write_idx(tmp_path / "x", images), *command[3:], "--resume"
    )
    assert other.status == 2
    assert "data" in other.err
    assert load_bundle(out).version == early.version

    assert run(capsys, *command, "--resume").status == 0
    assert files(out) == BUNDLE_FILES
    assert load_bundle(out).version == load_bundle(trained).version != early.version


def test_ctrl_c_before_the_first_step_is_quiet(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it reads the data: nothing is written and no traceback shown."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.__main__.load_images", interrupted)
    ended = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert ended.status == 130
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
