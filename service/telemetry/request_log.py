"""The log, as text or JSON: one line per request, and all other messages in the same format."""

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

PLAIN_PATH: Final = re.compile(r"[!#-&(-~]+")
"""Paths that need no quotes in text: nothing in them could end the line or look like a field."""

MAX_PATH: Final = 256
"""Characters of a path in the log; the rest is cut off."""

MAX_MESSAGE: Final = 2048
"""Characters of a message in the log; the rest is cut off."""

MAX_TRACEBACK: Final = 8192
"""Characters of a traceback in the log. Its end is kept, as that shows the reason."""

CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    code: f"\\u{code:04x}" for code in (0x2028, 0x2029)
}
"""Escapes for characters that could forge a line or control a terminal, including line breaks."""


class RequestRecord(NamedTuple):
    """What is logged about an answered request."""

    time: float
    """Seconds since 1970."""
    request_id: str
    method: str
    route: str
    """The route template, as in metrics."""
    path: str | None
    """None if there is no such route: unknown paths are not logged."""
    status: int
    seconds: float
    queue_s: float
    infer_s: float
    images: int
    model_version: str
    trace: Trace | None
    key: str | None
    """Name of the API key; None without one."""


class Lines(Protocol):
    """Formats log lines. Each ends with a line break."""

    def of_request(self, request: RequestRecord) -> bytes:
        """The line for a request."""

    def of_record(self, record: logging.LogRecord) -> bytes:
        """The line for a log record."""


class Clock:
    """Formats times as in RFC 3339, in UTC. The text of the current second is cached."""

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
    """Lines for people."""

    def __init__(self) -> None:
        self._clock = Clock()

    def of_request(self, request: RequestRecord) -> bytes:
        """`2026-01-31T12:00:00.123Z INFO POST /encode 200 1.8 ms, queue 0.1, infer 0.9 id=…`."""
        path = "-" if request.path is None else request.path[:MAX_PATH]
        if not PLAIN_PATH.fullmatch(path):
            path = json.dumps(path)  # ASCII, with control characters escaped
        extra = ""
        if request.images:
            extra = f" images={request.images}"
        if request.key is not None:
            extra += f" key={json.dumps(request.key)}"
        if request.trace is not None:
            extra += f" traceparent={request.trace.traceparent} parent={request.trace.parent_id}"
        return (
            f"{self._clock.text(request.time)} INFO {request.method} {path} {request.status} "
            f"{request.seconds * 1e3:.1f} ms, queue {request.queue_s * 1e3:.1f}, "
            f"infer {request.infer_s * 1e3:.1f} id={request.request_id} "
            f"model={request.model_version}{extra}\n"
        ).encode()

    def of_record(self, record: logging.LogRecord) -> bytes:
        """`2026-01-31T12:00:00.123Z ERROR reason`, with any traceback indented below."""
        lines = [f"{self._clock.text(record.created)} {record.levelname} {_message(record)}"]
        lines += [f"    {line}" for line in _traceback(record).splitlines()]
        return "".join(line.translate(CONTROLS) + "\n" for line in lines).encode(errors="replace")


class JsonLines:
    """Lines for machines: one JSON object per line."""

    def __init__(self) -> None:
        self._clock = Clock()

    def of_request(self, request: RequestRecord) -> bytes:
        """`{"time": …, "level": "info", "request_id": …, …}`."""
        line: dict[str, Any] = {
            "time": self._clock.text(request.time),
            "level": "info",
            "request_id": request.request_id,
            "method": request.method,
            "route": request.route,
            "status": request.status,
            "ms": round(request.seconds * 1e3, 3),
            "queue_ms": round(request.queue_s * 1e3, 3),
            "infer_ms": round(request.infer_s * 1e3, 3),
            "model_version": request.model_version,
        }
        if request.path is not None:
            line["path"] = request.path[:MAX_PATH]
        if request.images:
            line["images"] = request.images
        if request.key is not None:
            line["key"] = request.key
        if request.trace is not None:
            line["traceparent"], line["parent_id"] = request.trace
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
    """Passes records to the writer. Never blocks or raises."""

    def __init__(self, lines: Lines, writer: LogWriter[RequestRecord]) -> None:
        super().__init__()
        self._lines = lines
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, to be written at once."""
        self._writer.add(self._lines.of_record(record))
        self._writer.hurry()

    def flush(self) -> None:
        """Wait briefly until all lines are written. `logging.shutdown` calls this."""
        self._writer.flush()


class RequestLog:
    """The log of requests. Nothing is logged before `start` is called."""

    def __init__(self) -> None:
        self.add: Callable[[RequestRecord], None] | None = None
        """Logs a request; None if requests are not logged."""

    def start(self, writer: LogWriter[RequestRecord]) -> None:
        """Log requests to `writer` from now on."""
        self.add = writer.add


request_log: Final = RequestLog()
"""There is one per process, like the root logger."""


def set_up_logging(level: str, form: Format) -> None:
    """Log to stderr, at `level` and above. Requests are logged if that includes info."""
    lines: Lines = JsonLines() if form == "json" else TextLines()
    writer = LogWriter(STDERR, lambda lost: lines.of_record(_loss_record(lost)), lines.of_request)
    logging.basicConfig(level=level.upper(), handlers=[LogHandler(lines, writer)])
    logging.captureWarnings(capture=True)
    for name in ("asyncio", "PIL"):
        logging.getLogger(name).setLevel("WARNING")  # their debug messages are not useful here
    if logging.getLogger().isEnabledFor(logging.INFO):
        request_log.start(writer)
    sys.excepthook = _log_uncaught


def _loss_record(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log lines could not be written",
            "args": (lines,),
        }
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("uncaught exception, the process ends", exc_info=(kind, error, trace))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()[:MAX_MESSAGE]
    except Exception:  # wrong arguments of a message must not fail a request
        return str(record.msg)[:MAX_MESSAGE]


def _traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(format_exception(*record.exc_info))[-MAX_TRACEBACK:]


def _json(line: dict[str, Any]) -> bytes:
    """Encode as ASCII, as some readers take U+2028 and the like for line breaks."""
    try:
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot encode
        text = b"\xff"
    if text.isascii():
        return text
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
