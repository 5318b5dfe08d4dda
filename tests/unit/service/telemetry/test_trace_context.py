"""Trace context: reading and writing traceparent."""

from __future__ import annotations

import pytest

from service.telemetry.trace_context import join_trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


def test_the_trace_is_kept_and_the_span_is_ours() -> None:
    first, second = (join_trace(f"00-{TRACE}-{CALLER}-01") for _ in range(2))
    assert first is not None
    assert second is not None
    version, trace, span, flags = first.traceparent.split("-")
    assert (version, trace, flags, first.parent_id) == ("00", TRACE, "01", CALLER)
    assert len({span, CALLER, second.traceparent.split("-")[2]}) == 3


@pytest.mark.parametrize(
    ("sent", "kept"), [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03"), ("08", "00")]
)
def test_flags_that_have_no_meaning_yet_are_cleared(sent: str, kept: str) -> None:
    trace = join_trace(f"00-{TRACE}-{CALLER}-{sent}")
    assert trace is not None
    assert trace.traceparent.endswith(f"-{kept}")


@pytest.mark.parametrize("more", ["", "-", "-what-will-be"])
def test_known_fields_of_later_versions_are_read(more: str) -> None:
    trace = join_trace(f"cc-{TRACE}-{CALLER}-01{more}")
    assert trace is not None
    assert trace.traceparent.startswith(f"00-{TRACE}-")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "00",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-1",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE}-{CALLER}-01-",
        f"cc-{TRACE}-{CALLER}-01more",
        f"0-{TRACE}-{CALLER}-01",
        f" 00-{TRACE}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01\n",
        f"00-{TRACE[:-1]}٣-{CALLER}-01",
        f"cc-{TRACE}-{CALLER}-01-\nforged",
    ],
)
def test_an_invalid_header_is_no_trace(wrong: str) -> None:
    assert join_trace(wrong) is None
