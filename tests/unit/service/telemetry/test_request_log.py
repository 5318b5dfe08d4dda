"""Log lines: complete, in one format, and impossible for a caller to forge."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.request_log import (
    MAX_MESSAGE,
    MAX_PATH,
    MAX_TRACEBACK,
    Clock,
    JsonLines,
    Lines,
    RequestRecord,
    TextLines,
)
from service.telemetry.trace_context import Trace

ENDED = RequestRecord(
    time=1_769_860_800.123,
    request_id="f00d",
    method="POST",
    route="/v2/models/{name}/infer",
    path="/v2/models/encode/infer",
    status=200,
    seconds=0.0123,
    queue_s=0.0004,
    infer_s=0.0009,
    images=3,
    model_version="0123456789ab",
    trace=Trace("00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01", "00f067aa0ba902b7"),
    key="laboratory",
)
BARE = ENDED._replace(path=None, route="none", status=404, images=0, trace=None, key=None)

anything = st.text(st.characters() | st.sampled_from("\r\n\x1b\x85\u2028\"' ="), max_size=300)
formats = pytest.mark.parametrize("lines", [TextLines(), JsonLines()], ids=["text", "json"])


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("service", logging.ERROR, __file__, 1, message, args, exc_info)


def raised(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_request_as_json() -> None:
    line = json.loads(JsonLines().of_request(ENDED))
    assert datetime.fromisoformat(line.pop("time")).tzinfo == UTC
    assert line == {
        "level": "info",
        "request_id": "f00d",
        "method": "POST",
        "route": "/v2/models/{name}/infer",
        "path": "/v2/models/encode/infer",
        "status": 200,
        "ms": 12.3,
        "queue_ms": 0.4,
        "infer_ms": 0.9,
        "images": 3,
        "model_version": "0123456789ab",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01",
        "parent_id": "00f067aa0ba902b7",
        "key": "laboratory",
    }


def test_what_is_not_known_is_left_out() -> None:
    left_out = {"path", "images", "traceparent", "parent_id", "key"}
    whole, bare = (set(json.loads(JsonLines().of_request(ended))) for ended in (ENDED, BARE))
    assert whole - bare == left_out
    text = TextLines().of_request(BARE).decode()
    assert " POST - 404 " in text
    assert not any(f"{name}=" in text for name in ("images", "traceparent", "parent", "key"))


def test_a_request_as_text() -> None:
    time, line = TextLines().of_request(ENDED).decode().split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo == UTC
    assert line == (
        "INFO POST /v2/models/encode/infer 200 12.3 ms, queue 0.4, infer 0.9 id=f00d "
        'model=0123456789ab images=3 key="laboratory" '
        "traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01 "
        "parent=00f067aa0ba902b7\n"
    )


@formats
@given(path=anything, key=anything)
def test_a_request_is_one_line_for_any_path(lines: Lines, path: str, key: str) -> None:
    check_one_line(lines, lines.of_request(ENDED._replace(path=path, key=key)))


@given(path=anything)
def test_a_path_cannot_look_like_other_fields(path: str) -> None:
    line = TextLines().of_request(BARE._replace(path=path)).decode()
    shown = line.split(" INFO POST ")[1].rsplit(" 404 12.3 ms, ")[0]
    assert len(line.split(" 404 12.3 ms, queue 0.4, infer 0.9 id=f00d ")[-1].split()) == 1
    if shown.startswith('"'):
        assert json.loads(shown) == path[:MAX_PATH]
    else:
        assert shown == path
        assert not set(shown) & set(" \"'")


@formats
@given(message=anything)
def test_any_other_message_is_one_line_too(lines: Lines, message: str) -> None:
    check_one_line(lines, lines.of_record(record("%s", message)))
    check_one_line(lines, lines.of_record(record(message)))


@formats
@given(message=anything)
def test_a_traceback_cannot_look_like_another_line(lines: Lines, message: str) -> None:
    first, *others = (
        lines.of_record(record("failed", error=raised(message))).decode().split("\n")[:-1]
    )
    if isinstance(lines, JsonLines):
        assert not others
        assert "Traceback" in json.loads(first)["traceback"]
    else:
        assert first.endswith(" ERROR failed")
        assert len(others) >= 3
        for line in others:
            assert line.startswith("    ")
            check_no_controls(line)


def check_one_line(lines: Lines, line: bytes) -> None:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    text = line[:-1].decode()
    if isinstance(lines, JsonLines):
        assert isinstance(json.loads(text), dict)
        assert text.splitlines() == [text]
    else:
        check_no_controls(text)


def check_no_controls(line: str) -> None:
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in line)


@formats
def test_arguments_that_do_not_fit_cost_no_line(lines: Lines) -> None:
    assert b"%d of %d" in lines.of_record(record("%d of %d", 1))


@formats
def test_lines_are_bounded(lines: Lines) -> None:
    long = "\0" * 1_000_000
    line = lines.of_record(record(long, error=raised(long)))
    assert len(line) < 8 * (MAX_MESSAGE + MAX_TRACEBACK) + 1000
    line = lines.of_request(ENDED._replace(path=long))
    assert len(line) < 8 * MAX_PATH + 1000


def test_the_end_of_a_traceback_is_what_is_kept() -> None:
    line = json.loads(JsonLines().of_record(record("failed", error=raised("x" * 9000 + "why"))))
    assert line["traceback"].endswith("why\n")


def test_the_time_of_day() -> None:
    clock = Clock()
    for seconds in (0.0, 0.5, 1_769_860_800.999, 1_769_860_801.0, 3.25):  # clocks may be set back
        expected = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
        assert clock.text(seconds) == expected.replace("+00:00", "Z")


def test_a_record_says_level_and_message() -> None:
    line = json.loads(JsonLines().of_record(record("%s is %d", "x", 3)))
    assert (line["level"], line["message"], set(line)) == (
        "error",
        "x is 3",
        {"time", "level", "message"},
    )


def test_no_traceback_where_nothing_was_raised() -> None:
    none = logging.LogRecord("s", logging.ERROR, __file__, 1, "m", (), (None, None, None))
    assert set(json.loads(JsonLines().of_record(none))) == {"time", "level", "message"}
