"""`vae score`: folders, options, files that it writes, and its exit status, in real processes."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from model.bundle.bundle import find_bundle, load_bundle
from model.scores.calibration import benjamini_hochberg
from service.client import Client
from service.client.__main__ import main
from tests.api.client.helpers import Images, ask, free_port
from tests.api.helpers import image_file, uint8_body
from tests.processes import Server, running

ROOT = Path(__file__).parents[3]

Done = subprocess.CompletedProcess[bytes]

SCORE = [sys.executable, "-m", "vae", "score"]

ANOMALY = 3

READER_GONE = 141


def run(
    server: Server | str,
    *arguments: object,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    **environment: str,
) -> Done:
    url = server if isinstance(server, str) else server.url
    return subprocess.run(  # noqa: S603 - our own command
        [*SCORE, "--url", url, *map(str, arguments)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def said(done: Done) -> list[str]:
    """The lines of standard error, which never are a traceback."""
    lines = done.stderr.decode().splitlines()
    assert not any("Traceback" in line for line in lines), done.stderr
    return lines


def rows(done: Done) -> list[dict[str, Any]]:
    """The objects of --json."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def names(done: Done) -> list[str]:
    return [row["file"] for row in rows(done)]


@pytest.fixture
def folder(four: Images, tmp_path: Path) -> Path:
    """`four` at several depths, and other files."""
    found = tmp_path / "photos"
    for name, image in zip(("b.png", "a/1.png", "a/c/2.bmp", "a/10.webp"), four, strict=True):
        path = found / name
        path.parent.mkdir(parents=True, exist_ok=True)
        formats = {".bmp": "BMP", ".webp": "WEBP"}
        path.write_bytes(image_file(image, formats.get(path.suffix, "PNG")))
    (found / "notes.txt").write_text("x")
    (found / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (found / ".cache").mkdir()
    (found / ".cache/1.png").write_bytes(b"x")
    return found


# Which images


def test_a_folder_is_scored_whole_and_what_is_left_out_is_said(
    server: Server, folder: Path, http: httpx.Client, four: Images
) -> None:
    done = run(server, "photos", "--json", cwd=folder.parent)
    assert done.returncode == 0
    assert names(done) == [
        f"photos/{name}" for name in ("a/1.png", "a/10.webp", "a/c/2.bmp", "b.png")
    ]
    expected = ask(http, "/anomaly-score", uint8_body(four))["score"]
    assert [row["score"] for row in rows(done)] == pytest.approx(
        [expected[i] for i in (1, 3, 2, 0)], rel=1e-4
    )
    assert said(done) == [
        "photos: 4 images",
        "photos: left out 1 folder: hidden: its name starts with a dot (.cache)",
        "photos: left out 1 .txt: not an image (notes.txt)",
        "photos: left out 1 .heic: this format is not read (phone.heic)",
    ]


def test_folders_and_files_together(server: Server, folder: Path) -> None:
    done = run(server, "b.png", "a", "a/c", "--json", cwd=folder)
    assert (done.returncode, said(done)) == (0, [])
    assert names(done) == ["b.png", "a/1.png", "a/10.webp", "a/c/2.bmp", "a/c/2.bmp"]
    done = run(server, ".", "--json", cwd=folder / "a")
    assert names(done) == ["1.png", "10.webp", "c/2.bmp"]


def test_a_folder_without_images_is_no_success(
    server: Server, tmp_path: Path, folder: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.gif").write_bytes(b"GIF89a")
    done = run(server, "empty", "photos/b.png", cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2, "the others are scored"
    assert said(done) == [
        "empty: no image files in this folder",
        "empty: left out 1 .gif: this format is not read (a.gif)",
    ]


def test_standard_input(server: Server, paths: list[Path]) -> None:
    data = paths[0].read_bytes()
    expected = rows(run(server, paths[0], "--json"))[0]
    done = run(server, "-", "--json", stdin=data)
    assert (done.returncode, rows(done)) == (0, [expected | {"file": "-"}])
    done = run(server, paths[1], "-", "--json", stdin=data)
    assert names(done) == [str(paths[1]), "-"]


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        (b"", "standard input is empty"),
        (b"not an image", "400"),
        (b"\x93NUMPY\x01\0", ".npy"),
        (b"b.png\na/1.png\n", "xargs"),
        (b"b.png\0a/1.png\0", "xargs"),
    ],
)
def test_a_standard_input_that_is_no_image(
    server: Server, folder: Path, stdin: bytes, told: str
) -> None:
    done = run(server, "-", "b.png", stdin=stdin, cwd=folder)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2, "the other is scored"
    (line,) = said(done)
    assert line.startswith("-: ")
    assert told in line


def test_file_names_that_are_not_text(server: Server, paths: list[Path], tmp_path: Path) -> None:
    strange = [b"caf\xe9.png", b"two\nlines.png", "ü.png".encode(), b" "]
    for name in strange:
        (tmp_path / os.fsdecode(name)).write_bytes(paths[0].read_bytes())
    done = run(server, ".", "--csv", "out.csv", cwd=tmp_path, LC_ALL="C.UTF-8")
    assert done.returncode == 0
    table = done.stdout.decode().splitlines()
    assert [line.split("  ")[0].strip() for line in table[1:]] == [
        "caf\\xe9.png",
        "two\\nlines.png",
        "ü.png",
    ]
    with (tmp_path / "out.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        found = {os.fsencode(row["file"]) for row in csv.DictReader(file)}
    assert found == set(strange[:3]), "the files' own names"


def test_errors_of_single_files_lose_no_other(server: Server, folder: Path) -> None:
    (folder / "a/broken.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "a/empty.png").touch()
    (folder / "a/text.jpg").write_text("hello")
    done = run(server, "a", "none.png", "b.png", "--json", cwd=folder)
    assert done.returncode == 1
    assert names(done) == ["a/1.png", "a/10.webp", "a/c/2.bmp", "b.png"]
    broken, empty, text, missing = said(done)
    assert broken.startswith("a/broken.png: 400 Bad Request: ")
    assert empty == "a/empty.png: the file is empty"
    assert text.startswith("a/text.jpg: 400 Bad Request: ")
    assert missing == "none.png: No such file or directory"


# Options


def test_rate_and_score(server: Server, folder: Path, http: httpx.Client, four: Images) -> None:
    done = run(server, folder, "--alpha", "0.9", "--score", "mse", "--json")
    expected = ask(http, "/anomaly-score?alpha=0.9&score=mse", uint8_body(four))
    order = [1, 3, 2, 0]
    assert [row["score"] for row in rows(done)] == pytest.approx(
        [expected["score"][i] for i in order], rel=1e-4
    )
    assert [row["is_anomaly"] for row in rows(done)] == [expected["is_anomaly"][i] for i in order]
    assert any(expected["is_anomaly"])


def test_the_false_discovery_rate_is_of_the_whole_run(
    server: Server, http: httpx.Client, digits: Images, tmp_path: Path
) -> None:
    """Not of each request: as of one request with all the images."""
    for i, image in enumerate(digits[:12]):
        (tmp_path / f"{i:02}.png").write_bytes(image_file(image))
    for alpha in ("0.1", "0.5", "0.9"):
        done = run(server, ".", "--fdr", "--alpha", alpha, "--json", cwd=tmp_path)
        found = [row["is_anomaly"] for row in rows(done)]
        body = uint8_body(digits[:12])
        together = ask(http, f"/anomaly-score?fdr=bh&alpha={alpha}", body)
        alone = ask(http, f"/anomaly-score?alpha={alpha}", body)["is_anomaly"]
        assert found == together["is_anomaly"]
        if alpha == "0.9":
            p_values = np.array(together["p_value"])
            assert found == (p_values <= benjamini_hochberg(p_values, 0.9)).tolist()
            assert any(found)
        elif found != alone:
            break
    else:
        pytest.fail("no rate here tells the two apart")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--alpha", "2"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--score", "nope"], "nope"),
    ],
)
def test_what_the_service_refuses_of_options_is_said_once(
    server: Server, folder: Path, arguments: list[str], told: str
) -> None:
    done = run(server, "a", "b.png", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = said(done)
    assert told in line
    assert line.endswith("; 4 images were not scored")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--alpha", "5%"], "--alpha"),
        ([""], "empty name"),
        (["--csv", ""], "empty name"),
        (["--maps", ""], "empty name"),
        (["--csv", "b.png"], "b.png"),
        (["--csv", "new.JPG"], "new.JPG"),
        (["--csv", "none/x.csv"], "none/x.csv"),
        (["--csv", "a"], "Is a directory"),
        (["--maps", "notes.txt"], "notes.txt"),
        (["--maps", "a/../a"], "another folder"),
        (["--json", "--csv", "-"], "choose one"),
        (["--url", "localhost:8000"], "http://localhost:8000"),
    ],
)
def test_options_that_cannot_be_carried_out(
    server: Server, folder: Path, arguments: list[str], told: str
) -> None:
    before = (folder / "b.png").read_bytes()
    done = run(server, "a", "b.png", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in said(done)[-1]
    assert (folder / "b.png").read_bytes() == before


def test_files_and_options_come_in_any_order(server: Server, folder: Path) -> None:
    done = run(server, "b.png", "--alpha", "0.5", "a/1.png", "--json", "-", stdin=b"", cwd=folder)
    assert names(done) == ["b.png", "a/1.png"]
    assert [line.split(":")[0] for line in said(done)] == ["-"]
    done = run(server, "b.png", "--json", "a/1.png", "--jsno", cwd=folder)
    assert done.returncode == 2
    assert said(done)[0].startswith("usage: vae score ")
    assert said(done)[-1].endswith("unrecognized arguments: --jsno")


# What is written


def test_a_csv_file_beside_the_table(server: Server, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    done = run(server, folder, "--csv", out)
    assert len(done.stdout.splitlines()) == 5
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = rows(run(server, folder, "--json"))
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, same in zip(found, expected, strict=True):
        assert row["file"] == same["file"]
        assert row["is_anomaly"] == str(same["is_anomaly"]).lower()
        for key in ("score", "p_value", "mse", "kl"):
            assert float(row[key]) == same[key]
    printed = run(server, folder, "--csv", "-")
    assert printed.stdout == out.read_bytes()


@pytest.fixture(scope="module")
def uncalibrated(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The service with a bundle that has no calibration."""
    directory = tmp_path_factory.mktemp("bundle") / "plain"
    replace(load_bundle(find_bundle("mnist")), calibration=None).save(directory, "")
    with running("--bundle", str(directory)) as server:
        yield server


def test_without_a_calibration_nothing_is_invented(uncalibrated: Server, folder: Path) -> None:
    done = run(uncalibrated, "b.png", "--csv", "-", "--fdr", cwd=folder)
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    assert row["p_value"] == row["is_anomaly"] == ""
    done = run(uncalibrated, "b.png", "--fail-on-anomaly", cwd=folder)
    assert done.returncode == 1, "an image that cannot be judged is not passed"
    assert "no p-values" in said(done)[-1]


def test_a_rate_that_no_image_can_reach(server: Server, folder: Path) -> None:
    """Of 9,999 calibration images the smallest p-value is 1/10,000."""
    done = run(server, "b.png", "--alpha", "1e-9", cwd=folder)
    assert done.returncode == 0
    (line,) = said(done)
    assert line.startswith("alpha 1e-09 is below the smallest p-value")
    done = run(server, "b.png", "--alpha", "1e-9", "--fail-on-anomaly", cwd=folder)
    assert done.returncode == 1, "a check that can never fail is none"


def test_maps_have_names_of_their_own(server: Server, folder: Path, tmp_path: Path) -> None:
    """Also where two files differ by suffix, by case, or by the folder that they were given in."""
    data = (folder / "b.png").read_bytes()
    for name in ("b.jpg", "B.PNG", "b.png.png", "maps/old.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").write_bytes(data)
    done = run(
        server, ".", "../other/b.png", other / "b.png", "-", "--maps", "maps", "--json",
        cwd=folder, stdin=data,
    )  # fmt: skip
    assert done.returncode == 0
    assert ".: left out 1 folder: where --maps writes (maps)" in said(done)
    maps = {row["file"]: row["map"] for row in rows(done)}
    assert maps["b.png"] in {"maps/b.png.png", "maps/b.png-2.png"}
    assert maps["a/c/2.bmp"] == "maps/a/c/2.bmp.png"
    assert maps["../other/b.png"] == "maps/other/b.png.png"
    assert maps["-"] == "maps/stdin.png"
    assert len({name.casefold() for name in maps.values()}) == len(maps) == 10
    for name in maps.values():
        with Image.open(folder / name) as image:
            assert (image.format, image.size) == ("PNG", (252, 252))
    assert (folder / "maps/old.png").read_bytes() == data, "what was there stays"


def test_maps_are_no_images_of_later_runs(server: Server, folder: Path) -> None:
    run(server, ".", "--maps", "a/maps", cwd=folder)
    again = run(server, ".", "--json", cwd=folder)
    assert len(names(again)) == 4
    assert ".: left out 1 folder: heat maps of vae score, whose images are plots (a/maps)" in (
        said(again)
    )
    (folder / "mixed").mkdir()
    (folder / "mixed/own.png").write_bytes((folder / "b.png").read_bytes())
    run(server, "b.png", "--maps", "mixed", cwd=folder)
    third = run(server, "mixed", ".", "--json", cwd=folder)
    assert "mixed/own.png" in names(third), "a folder that held photographs is still one"


def test_maps_never_replace_an_image(server: Server, folder: Path) -> None:
    """Neither one that is scored nor another."""
    data = (folder / "b.png").read_bytes()
    (folder / "b.png.png").write_bytes(data)
    (folder / "b.png.png.png").write_bytes(data)
    (folder / "b.png.png-2.png").symlink_to("nowhere")
    done = run(server, "b.png", "b.png.png", "--maps", ".", "--json", cwd=folder)
    assert done.returncode == 0
    assert [row["map"] for row in rows(done)] == ["b.png-2.png", "b.png.png-3.png"]
    for name in ("b.png.png", "b.png.png.png"):
        assert (folder / name).read_bytes() == data
    assert not (folder / "nowhere").exists()


def test_a_run_replaces_the_maps_of_an_earlier_one(server: Server, folder: Path) -> None:
    """In a folder of its own, which then does not grow with each run."""
    for score in ("mse", "kl"):
        done = run(server, "b.png", "--maps", "new", "--json", "--score", score, cwd=folder)
        assert [row["map"] for row in rows(done)] == ["new/b.png.png"]
    (folder / "new/b.png.png").write_bytes(b"an old map")
    run(server, "b.png", "--maps", "new", cwd=folder)
    assert (folder / "new/b.png.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((folder / "new").iterdir())) == 2


def test_maps_never_replace_the_image_that_they_show(server: Server, folder: Path) -> None:
    (folder / "maps").mkdir()
    (folder / "maps/.heat-maps").touch()
    data = (folder / "b.png").read_bytes()
    (folder / "maps/b.png.png").write_bytes(data)
    done = run(server, "maps/b.png.png", "b.png", "--maps", "maps", "--json", cwd=folder)
    assert [row["map"] for row in rows(done)] == ["maps/maps/b.png.png.png", "maps/b.png-2.png"]
    assert (folder / "maps/b.png.png").read_bytes() == data


def test_a_map_is_that_of_the_score(server: Server, http: httpx.Client, folder: Path) -> None:
    run(server, "b.png", "--maps", "m", "--invert", "--score", "mse", cwd=folder)
    asked = http.post(
        "/anomaly-score?map=true&scale=9&score=mse&invert=true",
        content=(folder / "b.png").read_bytes(),
        headers={"Accept": "image/png"},
    )
    assert (folder / "m/b.png.png").read_bytes() == asked.content


def test_a_map_that_cannot_be_written_loses_no_score(server: Server, folder: Path) -> None:
    (folder / "m").mkdir()
    (folder / "m/.heat-maps").touch()
    (folder / "m/a/1.png.png").mkdir(parents=True)
    scores = [row["score"] for row in rows(run(server, "a", "b.png", "--json", cwd=folder))]
    options = ("--maps", "m", "--json", "--csv", "out.csv", "--alpha", "0.999")
    for more in ([], ["--fail-on-anomaly"], ["--fdr"]):
        done = run(server, "a", "b.png", *options, *more, cwd=folder)
        assert done.returncode == 1
        (line,) = said(done)
        assert line == "a/1.png: its map m/a/1.png.png cannot be written: Is a directory"
        assert [row["score"] for row in rows(done)] == pytest.approx(scores)
        assert [row["map"] for row in rows(done)] == [
            None,
            *(f"m/{name}.png" for name in ("a/10.webp", "a/c/2.bmp", "b.png")),
        ]
        with (folder / "out.csv").open(newline="") as file:
            assert [row["map"] for row in csv.DictReader(file)][:2] == ["", "m/a/10.webp.png"]


def test_a_map_that_the_service_refuses_loses_no_score(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no more images are sent, if it refuses all maps."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_error(403)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            scores = {"score": [1.0], "p_value": None, "is_anomaly": None, "mse": [0.5], "kl": [2]}
            body = json.dumps({**scores, "score_type": "mse", "alpha": 0.1, "threshold": None})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    monkeypatch.chdir(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        status = main(["score", "--url", url, "--json", "--maps", "m", *["b.png"] * 3])
        other.shutdown()
    out, errors = capsys.readouterr()
    assert status == 1
    assert [json.loads(line)["map"] for line in out.splitlines()] == [None]
    first, last = errors.splitlines()
    assert first.startswith("b.png: its map cannot be made: 403 ")
    assert last.endswith("; 2 images were not scored")


# Warnings


@pytest.fixture
def dark(four: Images, tmp_path: Path) -> Path:
    """A digit as a 12-bit camera's software stores it: 12 bits in 16, which look black."""
    path = tmp_path / "dark.png"
    Image.fromarray((four[0, 0].astype(np.uint16) << 4) | 15).save(path)
    return path


def test_what_the_service_warns_of_is_said_of_each_image(
    server: Server, folder: Path, dark: Path, http: httpx.Client
) -> None:
    dark.rename(folder / "dark.png")
    (warning,) = http.post("/anomaly-score", content=(folder / "dark.png").read_bytes()).json()[
        "warnings"
    ]
    for more in ([], ["--maps", "m"], ["--fdr"]):
        done = run(server, "b.png", "dark.png", "--json", *more, cwd=folder)
        assert done.returncode == 0
        (line,) = said(done)
        assert line.startswith("dark.png: warning: ")
        assert "--bits 12" in line
        assert "?bits" not in line
        assert [row.get("warnings") for row in rows(done)] == [None, [warning]]


def test_the_bits_of_a_camera_may_be_given(server: Server, dark: Path, paths: list[Path]) -> None:
    maps = dark.parent / "m"
    done = run(server, dark, "--bits", "12", "--json", "--maps", maps)
    assert (done.returncode, said(done)) == (0, [])
    (row,) = rows(done)
    (same,) = rows(run(server, paths[0], "--json", "--maps", maps))
    assert row["score"] == pytest.approx(same["score"], rel=1e-3)
    assert row["score"] != rows(run(server, dark, "--json"))[0]["score"]
    shown, wanted = (np.asarray(Image.open(found["map"]), np.float64) for found in (row, same))
    assert np.abs(shown - wanted).mean() < 1, "the map, too, is of 12 bits"
    done = run(server, dark, dark, "--bits", "99")
    assert done.returncode == 2
    assert said(done)[0].endswith("; 2 images were not scored")


# Exit status


def test_scripts_can_fail_on_an_anomaly(server: Server, folder: Path) -> None:
    strange = ["b.png", "--alpha", "0.999"]
    assert run(server, *strange, cwd=folder).returncode == 0
    assert run(server, *strange, "--fail-on-anomaly", cwd=folder).returncode == ANOMALY
    normal = ["b.png", "--alpha", "0.0001"]
    assert run(server, *normal, "--fail-on-anomaly", cwd=folder).returncode == 0
    everything = run(server, *strange, "--fdr", "--fail-on-anomaly", cwd=folder)
    assert everything.returncode == ANOMALY
    broken = run(server, *strange, "none.png", "--fail-on-anomaly", cwd=folder)
    assert broken.returncode == 1, "an incomplete result"


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv", "-"], ["--fdr"]])
def test_it_ends_quietly_when_its_reader_goes(
    server: Server, folder: Path, options: Sequence[str]
) -> None:
    files = " ".join(["b.png"] * 50)
    command = shlex.join([*SCORE, "--url", server.url, *options])
    done = subprocess.run(  # noqa: S603 - our own command
        ["bash", "-c", f"{command} {files} | head -1; exit ${{PIPESTATUS[0]}}"],  # noqa: S607
        capture_output=True,
        timeout=60,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    ends = {READER_GONE, 0} if "--fdr" in options else {READER_GONE}  # its lines come all at once
    assert done.returncode in ends
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 1


def test_a_full_disk_is_one_line(server: Server, folder: Path) -> None:
    for options in ("> /dev/full", "--csv /dev/full"):
        command = shlex.join([*SCORE, "--url", server.url, "b.png"])
        done = subprocess.run(  # noqa: S603 - our own command
            ["bash", "-c", f"{command} {options}"],  # noqa: S607
            capture_output=True,
            timeout=60,
            check=False,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1
        (line,) = said(done)
        assert "No space left" in line


def test_ctrl_c_is_quiet_and_keeps_what_was_scored(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    command = [*SCORE, "--url", server.url, "--csv", str(out), *["b.png"] * 5_000]
    process = subprocess.Popen(  # noqa: S603 - our own command
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    for _ in range(4):  # a head and three rows
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"")
    assert len(list(csv.DictReader(io.StringIO(out.read_text())))) >= 3


def test_a_service_that_is_not_there_is_said_once(folder: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    done = run(url, "a", "b.png", "--fail-on-anomaly", cwd=folder)
    assert time.monotonic() - started < 20, "not tried anew for each"
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = said(done)
    assert line.startswith(f"{url}/anomaly-score: no connection (Connection refused); ")
    assert line.endswith("; 4 images were not scored")


@pytest.mark.parametrize(
    ("status", "requests"), [(501, 1), (403, 1), (302, 1), (502, 3), (504, 3), (413, 4)]
)
def test_another_server_and_a_proxy(folder: Path, status: int, requests: int) -> None:
    """After how many images it is clear that none will be scored."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            seen.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        done = run(url, "a", "b.png", cwd=folder)
        other.shutdown()
    assert (done.returncode, done.stdout) == (1, b"")
    assert len(seen) == requests
    lines = said(done)
    assert len(lines) == requests
    assert all(f"{url}/anomaly-score was " in line for line in lines)
    assert ("were not scored" in lines[-1] or "was not scored" in lines[-1]) == (requests < 4)


def test_a_slow_image_is_one_error_and_a_dead_service_three(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection that breaks may be about one image; three in a row are not."""
    broken: list[bool] = [True, False, True, True, True, False]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if broken.pop(0):
                self.close_connection = True
                return
            scores = {
                "score": [1.0],
                "p_value": None,
                "is_anomaly": None,
                "mse": [0.5],
                "kl": [2.0],
            }
            body = json.dumps({**scores, "score_type": "mse", "alpha": 0.1, "threshold": None})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    monkeypatch.setattr("service.client.score.Client", partial(Client, max_attempts=1))
    monkeypatch.chdir(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as flaky:
        threading.Thread(target=flaky.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{flaky.server_port}"
        status = main(["score", "--url", url, "--json", *["b.png"] * 6])
        flaky.shutdown()
    out, errors = capsys.readouterr()
    assert status == 1
    assert len(out.splitlines()) == 1
    lines = errors.splitlines()
    assert [line.split(":")[0] for line in lines] == ["b.png", "b.png", "b.png", "http"]
    assert all("the connection broke" in line for line in lines)
    assert lines[-1].endswith("; 2 images were not scored")


def test_a_wrong_key_is_said_once(tmp_path: Path, folder: Path) -> None:
    keys = tmp_path / "keys"
    made = subprocess.run(
        [sys.executable, "-m", "vae", "keys", "alice"], capture_output=True, text=True, check=True
    )
    (line,) = [line for line in made.stdout.splitlines() if line.startswith("alice")]
    keys.write_text(line + "\n")
    with running("--api-keys-file", str(keys)) as server:
        for key in ("wrong", ""):
            done = run(server, "a", "b.png", cwd=folder, VAE_API_KEY=key)
            assert done.returncode == 1
            (told,) = said(done)
            assert told.startswith("401 ")
            assert told.endswith("; 4 images were not scored")


def test_the_exit_statuses_are_in_the_help_and_the_docs() -> None:
    done = run("http://127.0.0.1:1", "--help")
    shown = " ".join(done.stdout.decode().split())
    assert "3 with --fail-on-anomaly" in shown
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for option in (
        "--alpha",
        "--score",
        "--bits",
        "--fdr",
        "--csv",
        "--maps",
        "--fail-on-anomaly",
        "--url",
    ):
        assert option in shown
        assert f"`{option}" in text
