"""`python -m service`: what it says when it is ready, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from service import __main__ as command
from service.settings import Settings


@pytest.fixture(autouse=True)
def _only_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that runs the tests keeps its streams and its logging."""
    monkeypatch.setattr(command, "open_standard_streams", lambda: None)
    monkeypatch.setattr(command, "set_up_logging", lambda *_: None)
    monkeypatch.setattr(command, "check_certificate", lambda *_: None)
    monkeypatch.setattr(command, "_check_address", lambda *_: None)


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ([], "http://127.0.0.1:8000"),
        (["--port", "9000"], "http://127.0.0.1:9000"),
        (["--host", "localhost"], "http://localhost:8000"),
        (["--host", "0.0.0.0", "--allow-anonymous", "true"], "http://127.0.0.1:8000"),  # noqa: S104
        (["--host", "::1"], "http://[::1]:8000"),
        (["--host", "::", "--allow-anonymous", "true"], "http://[::1]:8000"),
        (["--tls-cert-file", "a", "--tls-key-file", "b"], "https://127.0.0.1:8000"),
        (["--page", "false"], "http://127.0.0.1:8000/docs"),
        (["--port", "0"], None),  # nobody knows it yet
    ],
)
def test_when_ready_it_logs_the_address_to_open(
    flags: list[str],
    address: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def serve(settings: Settings, *, on_ready: Callable[[], object], buckets: object) -> None:
        assert caplog.messages == []
        on_ready()

    monkeypatch.setattr("service.server.server.serve", serve)
    with caplog.at_level(logging.INFO, "service"):
        assert command.main(flags) == 0
    assert caplog.messages == ([] if address is None else [f"open {address} in a browser"])


def test_ctrl_c_before_it_is_ready_is_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.server.server.serve", interrupted)
    assert command.main([]) == 130
    assert capsys.readouterr().err == ""
