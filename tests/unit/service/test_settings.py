"""Settings: each has its reason, and a flag wins over the environment over the default."""

from __future__ import annotations

import contextlib
import os
import re

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.__main__ import main, settings_source
from service.settings import Settings, explain


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VAE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    return capsys.readouterr().out


def of_flags(*flags: str) -> Settings:
    return CliApp.run(Settings, cli_args=list(flags))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_its_reason_in_the_help(help_text: str, name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    words = " ".join(help_text.split())
    assert f"--{name.replace('_', '-')} " in words
    assert " ".join(description.split())[:40] in words


def test_the_help_reads_well(help_text: str) -> None:
    assert help_text.startswith("usage: python -m service")
    assert "Serve a Variational Autoencoder" in help_text
    for word in ("==SUPPRESS==", "null", " int ", " str ", " float "):
        assert word not in help_text
    assert len(help_text.split("\n\n")[0].splitlines()) == 1, "a usage of one line"
    assert "\n    Each flag" not in help_text
    assert max(map(len, help_text.splitlines())) <= 100
    assert help_text.replace("\n", "").isprintable()
    assert "(default: null)" not in help_text
    for name, field in Settings.model_fields.items():
        if field.default is not None:
            flag = f"--{name.replace('_', '-')} "
            shown = " ".join(help_text.split("options:")[1].split(flag)[1].split())
            default = str(field.default).replace("False", "false")
            assert f"(default: {default})" in shown.split(" --")[0]


def test_the_help_names_no_type_of_the_code(help_text: str) -> None:
    """Every value is called by a word such as FILE or SECONDS, or by what it may be."""
    shown = re.findall(r"^  --(\S+) (\S+)", help_text, re.MULTILINE)
    assert {name.replace("-", "_") for name, _ in shown} >= set(Settings.model_fields)
    for name, metavar in shown:
        if name != "version":
            assert re.fullmatch(r"[A-Z_]+|\[?\{[a-z0-9]+(,[a-z0-9]+)+\}\]?", metavar), (
                name,
                metavar,
            )
            assert not {"null", "str", "int", "float"} & set(re.findall(r"\w+", metavar))


def test_a_setting_that_an_operator_would_look_for_is_there() -> None:
    expected = (
        "host port bundle device dtype workers threads log_level max_batch_images max_queue_images"
    )
    expected += " max_images_per_request max_body_bytes request_timeout_s"
    assert set(expected.split()) <= set(Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "0.0.0.0"),  # noqa: S104 - only read
        ("port", "0"),
        ("port", "65535"),
        ("api_keys_file", "/run/secrets/api-keys"),
        ("api_keys", "a-key-of-16-chars,another-key-of-24-chars"),
        ("allow_anonymous", "True"),
        ("cors_origins", "https://example.org,http://localhost:3000"),
        ("page", "False"),
        ("root_path", "/vae"),
        ("trusted_proxies", "10.0.0.0/8,192.0.2.1"),
        ("bundle", "fashion-mnist"),
        ("device", "cuda:1"),
        ("threads", "3"),
        ("workers", "2"),
        ("dtype", "bfloat16"),
        ("max_batch_images", "64"),
        ("max_queue_images", "10000"),
        ("max_images_per_request", "10"),
        ("max_body_bytes", "1000"),
        ("max_image_pixels", "1000"),
        ("request_timeout_s", "1.5"),
        ("alpha", "0.05"),
        ("recent_images", "100"),
        ("shutdown_delay_s", "0.5"),
        ("shutdown_timeout_s", "5"),
        ("max_queue_bytes", "100000000"),
        ("header_timeout_s", "1.5"),
        ("keep_alive_s", "5.0"),
        ("max_connections", "100"),
        ("stall_timeout_s", "3.0"),
        ("log_level", "debug"),
        ("log_format", "json"),
    ],
)
def test_environment_and_flag_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    flag = of_flags(f"--{name.replace('_', '-')}", value)
    monkeypatch.setenv(f"VAE_{name.upper()}", value)
    assert Settings() == of_flags() == flag
    assert str(getattr(flag, name)) == value


@pytest.mark.parametrize("name", Settings.model_fields)
def test_null_is_unset_where_that_is_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Elsewhere it is a value like any other, by flag and in the environment alike."""
    flag, variable = f"--{name.replace('_', '-')}", f"VAE_{name.upper()}"
    for value in ("null", "NULL"):
        source = settings_source("")
        got = []
        for flags, in_environment in (([flag, value], False), ([], True)):
            if in_environment:
                monkeypatch.setenv(variable, value)
            try:
                settings = CliApp.run(Settings, cli_args=flags, cli_settings_source=source)
                got.append(getattr(settings, name))
            except ValidationError as error:
                got.append(explain(error))
            monkeypatch.delenv(variable, raising=False)
        assert got[0] == got[1]
        if Settings.model_fields[name].default is None:
            assert got[0] is None
        else:
            assert value in (got[0], got[0].upper()) or "this setting has no null" in got[0]


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("log_level", "INFO", "info"),
        ("log_level", "Warning", "warning"),
        ("log_level", "WARN", "warning"),
        ("log_format", "JSON", "json"),
        ("dtype", "BFloat16", "bfloat16"),
        ("device", "CUDA:1", "cuda:1"),
    ],
)
def test_words_are_read_in_any_case(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: str
) -> None:
    assert getattr(of_flags(f"--{name.replace('_', '-')}", value), name) == meant
    monkeypatch.setenv(f"VAE_{name.upper()}", value)
    assert getattr(Settings(), name) == meant


def test_a_service_link_leaves_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_PORT", "tcp://10.0.0.1:8000")
    assert Settings().port == Settings.model_fields["port"].default
    assert of_flags("--port", "9000").port == 9000


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    default = of_flags().port
    monkeypatch.setenv("VAE_PORT", "9001")
    assert of_flags().port == 9001 != default
    assert of_flags("--port", "9002").port == 9002
    assert Settings(port=9003).port == 9003


def test_all_settings_are_in_the_examples_above() -> None:
    marks = test_environment_and_flag_mean_the_same.pytestmark  # type: ignore[attr-defined]
    named = {name for name, _ in marks[0].args[1]} | {"tls_cert_file", "tls_key_file"}
    assert named == set(Settings.model_fields)


def test_a_certificate_comes_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = of_flags("--tls-cert-file", "a.pem", "--tls-key-file", "b.pem")
    monkeypatch.setenv("VAE_TLS_CERT_FILE", "a.pem")
    with pytest.raises(ValidationError, match="together or not at all"):
        Settings()
    monkeypatch.setenv("VAE_TLS_KEY_FILE", "b.pem")
    assert Settings() == flags


def test_keys_do_not_show_in_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "a-key-that-nobody-may-see"
    assert key not in repr(Settings(api_keys=key))
    monkeypatch.setenv("VAE_API_KEYS", key)
    for flags in (["--port", "x"], ["--max-queue-images", "1"], ["--nope"]):
        with contextlib.suppress(SystemExit):
            assert main(flags) == 2
        shown = capsys.readouterr()
        assert shown.err
        assert key not in shown.err + shown.out
    with pytest.raises(ValidationError) as refused:
        Settings(max_queue_images=1)
    assert key not in str(refused.value)


def test_origins_one_by_one() -> None:
    assert Settings().cors_origin_list == []
    assert Settings(cors_origins="https://a.org, http://b:80").cors_origin_list == [
        "https://a.org",
        "http://b:80",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", ""),
        ("port", -1),
        ("port", 65_536),
        ("api_keys_file", ""),
        ("allow_anonymous", "perhaps"),
        ("tls_cert_file", ""),
        ("cors_origins", ""),
        ("cors_origins", "example.org"),
        ("cors_origins", "https://example.org/"),
        ("cors_origins", "https://a.org,,"),
        ("bundle", ""),
        ("threads", 0),
        ("threads", 1025),
        ("max_batch_images", 0),
        ("max_queue_images", 0),
        ("max_images_per_request", 0),
        ("max_body_bytes", 0),
        ("max_image_pixels", 0),
        ("request_timeout_s", 0),
        ("request_timeout_s", float("nan")),
        ("request_timeout_s", float("inf")),
        ("alpha", 0),
        ("alpha", 1),
        ("alpha", float("nan")),
        ("shutdown_timeout_s", 0),
        ("log_level", "loud"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_a_request_must_fit_into_the_queue() -> None:
    assert Settings(max_images_per_request=8, max_queue_images=8).max_queue_images == 8
    with pytest.raises(ValidationError, match=r"max_images_per_request is 9 .* max_queue_images 8"):
        Settings(max_images_per_request=9, max_queue_images=8)


def test_a_body_must_fit_into_the_queue() -> None:
    assert Settings(max_body_bytes=8, max_queue_bytes=8).max_queue_bytes == 8
    with pytest.raises(ValidationError, match=r"max_body_bytes is 9 .* max_queue_bytes 8") as told:
        Settings(max_body_bytes=9, max_queue_bytes=8)
    assert len(told.value.errors()) == 1


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_other_variables_of_the_family_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_DATA_DIR", "/data")
    assert Settings() == Settings.model_validate({})


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 2), (64, 4)])
def test_threads_leave_half_of_a_small_machine_to_http(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert Settings().inference_threads == threads
    assert Settings(workers=2).inference_threads == threads
    assert Settings(workers=1024).inference_threads == 1
    assert Settings(threads=7).inference_threads == 7


def test_names_carry_their_unit() -> None:
    for name, field in Settings.model_fields.items():
        if re.search(r"second", field.description or ""):
            assert name.endswith("_s")
