"""API keys: what a file and a setting may hold, and how a file is followed."""

from __future__ import annotations

import logging
import os
import re
import time
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import keys
from service.access.keys import (
    MAX_FILE_BYTES,
    Key,
    Keys,
    KeysError,
    digest_of,
    digest_of_header,
    read_scopes,
)
from service.keys import main

CLOCK_S = 0.02
"""Kernels date files by a clock that moves every 10 ms, or more often."""

ALICE, BOB = "alice's-key-is-long-enough", "bob's-key-is-long-enough-too"


def find(keys: Keys, authorization: str) -> Key | None:
    digest = digest_of_header(authorization)
    return None if digest is None else keys.of_digest(digest)


def line(name: str, key: str, *options: str) -> str:
    return " ".join([name, sha256(key.encode()).hexdigest(), *options]) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CHECK_INTERVAL_S", 0.0)


def test_a_line_says_what_a_key_may_do(file: Path) -> None:
    bob = line("bob", BOB, "rate=1000", "scopes=infer,metrics", "# until summer")
    file.write_text("# ours\n\n" + line("alice", ALICE) + bob)
    found = Keys(file, None)
    alice, other = find(found, f"Bearer {ALICE}"), find(found, f"Bearer {BOB}")
    assert alice
    assert (alice.name, alice.scopes, alice.rate) == ("alice", read_scopes("infer"), None)
    assert other
    assert (other.name, other.scopes, other.rate) == ("bob", read_scopes("infer,metrics"), 1000)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_in_any_case(scheme: str) -> None:
    assert find(Keys(None, ALICE), scheme + ALICE)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE[:-1]}",
        f"Bearer {sha256(ALICE.encode()).hexdigest()}",
        "Bearer \xff\u20ac",
    ],
)
def test_anything_else_is_no_key(value: str) -> None:
    assert find(Keys(None, ALICE), value) is None


@given(st.text(st.characters(max_codepoint=255)))
def test_no_header_causes_an_error(value: str) -> None:
    found = Keys(None, ALICE)
    assert find(found, value) is None
    assert find(found, f"Bearer {value}") is None


def test_keys_of_the_setting_may_do_everything(file: Path) -> None:
    file.write_text(line("bob", BOB))
    found = Keys(file, f"{ALICE}, another-key-of-enough-length")
    key = find(found, f"Bearer {ALICE}")
    assert key
    assert (key.name, key.scopes) == ("key-1", read_scopes("infer,metrics,admin"))
    assert find(found, "Bearer another-key-of-enough-length")
    assert find(found, f"Bearer {BOB}")


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        ("short-key-of-15", "key 1 has 15 characters < minimum 16"),
        (f"{ALICE},short", "key 2 has 5 characters < minimum 16"),
        ("sixteen and more characters", "key 1 has characters"),
        ("schlüssel-mit-umlauten", "key 1 has characters"),
        (",", "no keys"),
        ("", "no keys"),
        (f"{ALICE},{ALICE}", "key-1 and key-2 have the same digest"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_and_not_shown(plain: str, reason: str) -> None:
    with pytest.raises(KeysError, match=reason) as refused:
        Keys(None, plain)
    assert "\n" not in str(refused.value)
    for key in filter(None, plain.split(",")):
        assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no keys"),
        ("# nothing\n", "has no keys"),
        (ALICE, "line 1: the name is not"),
        (f"alice {ALICE}\n", "line 1: the second word is not a SHA-256"),
        ("\nalice\n", "line 2: the second word is not a SHA-256"),
        (line("alice", ALICE, "scopes=root"), "scope 'root' is not one of infer, metrics, admin"),
        (line("alice", ALICE, "scopes="), "scope '' is not one of"),
        (line("alice", ALICE, "rate=0"), "rate '0' is not a whole number from 1"),
        (line("alice", ALICE, "rate=1.5"), "rate '1.5' is not"),
        (line("alice", ALICE, "rate=\u0663"), "rate '\u0663' is not"),
        (line("alice", ALICE, ALICE), "only scopes=… and rate=… may follow"),
        (line("alice", ALICE) + line("alice", BOB), "alice and alice have the same name"),
        (line("alice", ALICE) + line("bob", ALICE), "alice and bob have the same digest"),
        ("#" * MAX_FILE_BYTES + "\n", "has more than 524,288 bytes"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_not_shown(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(KeysError, match=re.escape(reason)) as refused:
        Keys(file, None)
    assert "\n" not in str(refused.value)
    assert ALICE not in str(refused.value)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_may_have_a_byte_order_mark(file: Path, encoding: str, end: str) -> None:
    """As PowerShell and Windows' editors write it."""
    text = "# schlüssel" + end + (line("alice", ALICE) + line("bob", BOB)).replace("\n", end)
    mark = "" if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    file.write_bytes((mark + text).encode(encoding))
    found = Keys(file, None)
    for name, key in (("alice", ALICE), ("bob", BOB)):
        got = find(found, f"Bearer {key}")
        assert got
        assert got.name == name


def test_files_with_marks_may_be_joined(file: Path) -> None:
    parts = (line("alice", ALICE), line("bob", BOB))
    file.write_bytes(b"".join(part.encode("utf-8-sig") for part in parts))
    found = Keys(file, None)
    assert find(found, f"Bearer {ALICE}")
    assert find(found, f"Bearer {BOB}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (line("alice", ALICE).encode("utf-16-le"), "line 1: there are null bytes"),
        (line("alice", ALICE).encode("utf-16-be"), "line 1: there are null bytes"),
        (
            line("alice", ALICE).encode() + line("bob", BOB).encode("utf-16-le"),
            "line 2: there are null bytes",
        ),
        (
            line("alice", ALICE).encode("utf-16") + line("bob", BOB).encode(),
            "(read as UTF-16-LE, as the file begins)",
        ),
        (
            line("alice", ALICE).encode("utf-16") + line("bobby", BOB).encode(),
            "(read as UTF-16-LE, as the file begins)",
        ),
        (b"\xff\xfe", "has no keys"),
        (b"\xef\xbb\xbf", "has no keys"),
    ],
)
def test_an_encoding_that_cannot_be_read_is_named(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(KeysError, match=re.escape(reason)) as refused:
        Keys(file, None)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(file: Path) -> None:
    with pytest.raises(KeysError, match=r"VAE_API_KEYS_FILE.* is .*: No such file"):
        Keys(file, None)


@pytest.mark.usefixtures("_always_look")
def test_a_change_counts_from_the_next_look(file: Path) -> None:
    file.write_text(line("alice", ALICE))
    found = Keys(file, None)
    file.write_text(line("bob", BOB))
    assert find(found, f"Bearer {BOB}")
    assert find(found, f"Bearer {ALICE}") is None
    new = file.with_name("new")
    new.write_text(line("alice", ALICE))
    new.replace(file)  # another file of the same size, as an editor or Kubernetes puts it there
    assert find(found, f"Bearer {ALICE}")
    assert find(found, f"Bearer {BOB}") is None


@pytest.mark.usefixtures("_always_look")
@pytest.mark.parametrize("text", [None, "broken\n", line("alice", BOB) + "eve\n"])
def test_keys_stay_while_the_file_is_broken(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(line("alice", ALICE))
    found = Keys(file, None)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    for _ in range(3):
        assert find(found, f"Bearer {ALICE}")
        assert find(found, f"Bearer {BOB}") is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith("the keys read before stay valid")
    file.write_text(line("bob", BOB))
    assert find(found, f"Bearer {BOB}")


@pytest.mark.usefixtures("_always_look")
@pytest.mark.parametrize("text", ["", "# nobody\n"])
def test_an_emptied_key_file_admits_nobody(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(line("alice", ALICE))
    found = Keys(file, BOB)
    file.write_text(text)
    for _ in range(3):
        assert find(found, f"Bearer {ALICE}") is None
        assert find(found, f"Bearer {BOB}"), "which is not of the file"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith(
        "has no keys; the keys read from it before are no longer valid"
    )
    file.write_text(line("alice", ALICE))
    assert find(found, f"Bearer {ALICE}")


@pytest.mark.usefixtures("_always_look")
def test_a_file_that_could_not_be_read_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it is the same file: whatever the reason was may have passed."""
    file.write_text(line("alice", ALICE))
    found = Keys(file, None)
    file.write_text(line("bob", BOB))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        for _ in range(3):
            assert find(found, f"Bearer {ALICE}")
    (record,) = caplog.records
    assert record.getMessage().endswith("Permission denied; the keys read before stay valid")
    assert find(found, f"Bearer {BOB}")
    assert find(found, f"Bearer {ALICE}") is None


@pytest.mark.usefixtures("_always_look")
def test_a_change_with_an_old_date_counts_too(file: Path) -> None:
    """As of `cp -p`: the kernel's own date cannot be set."""
    file.write_text(line("alice", ALICE))
    found, before = Keys(file, None), file.stat()
    time.sleep(CLOCK_S)
    file.write_text(line("alice", BOB))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find(found, f"Bearer {BOB}")
    assert find(found, f"Bearer {ALICE}") is None


def test_a_file_is_looked_at_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(line("alice", ALICE))
    now = 100.0
    monkeypatch.setattr(keys, "monotonic", lambda: now)
    found = Keys(file, None)
    looks = []
    stat = Path.stat

    def look(path: Path) -> os.stat_result:
        looks.append(path)
        return stat(path)

    monkeypatch.setattr(Path, "stat", look)
    for now in (100.5, 101.0, 101.1, 101.9, 102.5):  # noqa: B007 - read by the clock
        assert find(found, f"Bearer {ALICE}")
    assert looks == [file, file]


def test_no_key_is_kept(file: Path) -> None:
    file.write_text(line("bob", BOB))
    found = Keys(file, ALICE)
    find(found, f"Bearer {BOB}")
    assert ALICE not in repr(vars(found))
    assert BOB not in repr(vars(found))


def test_a_new_key_works(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alice", "--scopes", "infer,admin", "--rate", "50"]) == 0
    shown = capsys.readouterr()
    key = shown.err.split()[-1]
    assert len(key) >= 43
    assert key not in shown.out
    file.write_text(shown.out)
    found = find(Keys(file, None), f"Bearer {key}")
    assert found
    assert (found.name, found.scopes, found.rate) == ("alice", read_scopes("infer,admin"), 50)
    assert found.digest == digest_of(key)
    main(["alice"])
    assert key not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a b"], "the name is not"),
        (["#"], "the name is not"),
        (["alice", "--scopes", "root"], "scope 'root'"),
        (["alice", "--rate", "fast"], "rate 'fast'"),
        ([], "NAME"),
    ],
)
def test_wrong_arguments_make_no_key(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert reason in shown.err
    assert shown.out == ""


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for word in ("VAE_API_KEYS_FILE", "infer, metrics, admin", "images per second", "example"):
        assert word in shown


def test_a_file_may_be_a_link_that_is_swapped(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets."""
    for name, key in (("one", ALICE), ("two", BOB)):
        (tmp_path / name).write_text(line(name, key))
    link = tmp_path / "keys"
    link.symlink_to("one")
    found = Keys(link, None)
    link.with_name("next").symlink_to("two")
    link.with_name("next").replace(link)
    found._next_check_at = 0.0
    assert find(found, f"Bearer {BOB}")
