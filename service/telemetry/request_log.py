"""What is logged, as text or as JSON: a line a request, and all other lines in the same format."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from traceback import format_exception
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson

from service.telemetry.log_writer import LogWriter
from service.telemetry.trace_context import Trace

log = logging.getLogger("service")

STDERR: Final = 2

Format = Literal["text", "json"]

SAFE: Final = re.compile(r"[!#-~]+")
"""A path that text shows as it is: nothing in it could end the line or look like another field."""

MAX_PATH: Final = 256
"""Characters of a path in a line."""

MAX_MESSAGE: Final = 2048
"""Characters of a message."""

MAX_TRACEBACK: Final = 8192
"""Characters of a traceback: its end, where the reason stands."""

CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}
"""Characters that could forge a line or command a terminal, escaped. Newlines are among them."""


class Ended(NamedTuple):
    """A request that has been answered."""

    time: float
    """Seconds since 1970."""
    request_id: str
    method: str
    route: str
    """As metrics name it."""
    path: str | None
    """Of a route that is known; what else is asked for is not logged."""
    status: int
    seconds: float
    queue_s: float
    infer_s: float
    images: int
    model_version: str
    trace: Trace | None
    key: str | None
    """Name of the API key."""


class Lines(Protocol):
    """Makes lines, each with its line break."""

    def of_request(self, ended: Ended) -> bytes:
        """A request's line."""

    def of_record(self, record: logging.LogRecord) -> bytes:
        """Any other."""


class Clock:
    """The time of day as RFC 3339 has it, in UTC. Seconds are formatted once each."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, now: float) -> str:
        """`2026-01-31T12:00:00.123Z` for seconds since 1970."""
        second = int(now)
        if second != self._second:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text, self._second = text, second
        return f"{self._text}.{int((now - second) * 1e3):03d}Z"


class TextLines:
    """For people."""

    def __init__(self) -> None:
        self._clock = Clock()

    def of_request(self, ended: Ended) -> bytes:
        """`2026-01-31T12:00:00.123Z INFO POST /encode 200 1.8 ms, queue 0.1, infer 0.9 id=…`."""
        path = "-" if ended.path is None else ended.path[:MAX_PATH]
        if not SAFE.fullmatch(path):
            path = json.dumps(path)  # ASCII, with control characters escaped
        more = ""
        if ended.images:
            more = f" images={ended.images}"
        if ended.key is not None:
            more += f" key={json.dumps(ended.key)}"
        if ended.trace is not None:
            more += f" traceparent={ended.trace.traceparent} parent={ended.trace.parent_id}"
        return (
            f"{self._clock.text(ended.time)} INFO {ended.method} {path} {ended.status} "
            f"{ended.seconds * 1e3:.1f} ms, queue {ended.queue_s * 1e3:.1f}, "
            f"infer {ended.infer_s * 1e3:.1f} id={ended.request_id} "
            f"model={ended.model_version}{more}\n"
        ).encode()

    def of_record(self, record: logging.LogRecord) -> bytes:
        """`2026-01-31T12:00:00.123Z ERROR why`, and a traceback below, indented."""
        lines = [f"{self._clock.text(record.created)} {record.levelname} {_message(record)}"]
        lines += [f"    {line}" for line in _traceback(record).splitlines()]
        return "".join(line.translate(CONTROLS) + "\n" for line in lines).encode(errors="replace")


class JsonLines:
    """For machines: an object a line."""

    def __init__(self) -> None:
        self._clock = Clock()

    def of_request(self, ended: Ended) -> bytes:
        """`{"time": …, "level": "info", "request_id": …, …}`."""
        line: dict[str, Any] = {
            "time": self._clock.text(ended.time),
            "level": "info",
            "request_id": ended.request_id,
            "method": ended.method,
            "route": ended.route,
            "status": ended.status,
            "ms": round(ended.seconds * 1e3, 3),
            "queue_ms": round(ended.queue_s * 1e3, 3),
            "infer_ms": round(ended.infer_s * 1e3, 3),
            "model_version": ended.model_version,
        }
        if ended.path is not None:
            line["path"] = ended.path[:MAX_PATH]
        if ended.images:
            line["images"] = ended.images
        if ended.key is not None:
            line["key"] = ended.key
        if ended.trace is not None:
            line["traceparent"], line["parent_id"] = ended.trace
        return _json(line)

    def of_record(self, record: logging.LogRecord) -> bytes:
        """`{"time": …, "level": "error", "message": …, "traceback": …}`."""
        line = {
            "time": self._clock.text(record.created),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        if traceback := _traceback(record):
            line["traceback"] = traceback
        return _json(line)


class LogHandler(logging.Handler):
    """Hands records to the writer: nobody waits, and nobody sees an error."""

    def __init__(self, lines: Lines, writer: LogWriter[Ended]) -> None:
        super().__init__()
        self._lines = lines
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written now."""
        self._writer.add(self._lines.of_record(record))
        self._writer.hurry()

    def flush(self) -> None:
        """Wait a moment for what has not been written; `logging.shutdown` calls this at the end."""
        self._writer.flush()


class RequestLog:
    """Where lines of requests go: nowhere, until `start` has been called."""

    def __init__(self) -> None:
        self.add: Callable[[Ended], None] | None = None
        """Logs a request."""

    def start(self, writer: LogWriter[Ended]) -> None:
        """Log requests from now on."""
        self.add = writer.add


request_log: Final = RequestLog()
"""This process's, as the root logger is."""


def set_up_logging(level: str, form: Format) -> None:
    """Log to stderr from `level` on, this process's requests too if that is info or debug."""
    lines: Lines = JsonLines() if form == "json" else TextLines()
    writer = LogWriter(STDERR, lambda lost: lines.of_record(_lost(lost)), lines.of_request)
    logging.basicConfig(level=level.upper(), handlers=[LogHandler(lines, writer)])
    logging.captureWarnings(capture=True)
    for name in ("asyncio", "PIL"):
        logging.getLogger(name).setLevel("WARNING")  # their debug lines are not about requests
    if logging.getLogger().isEnabledFor(logging.INFO):
        request_log.start(writer)
    sys.excepthook = _uncaught


def _lost(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log lines could not be written",
            "args": (lines,),
        }
    )


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("the process ends", exc_info=(kind, error, trace))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()[:MAX_MESSAGE]
    except Exception:  # arguments that do not fit are no reason to fail a request
        return str(record.msg)[:MAX_MESSAGE]


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(format_exception(*record.exc_info))[-MAX_TRACEBACK:]


def _json(line: dict[str, Any]) -> bytes:
    """In ASCII: some who read lines take U+2028 and the like for ends of them."""
    try:
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half of a surrogate pair, which UTF-8 has no form for
        text = b"\xff"
    if text.isascii():
        return text
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
