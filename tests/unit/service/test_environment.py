"""The environment's `VAE_…` variables: service links, empty values, misspelt names."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from service import environment
from service.settings import Settings
from tests.service_links import LINKS

FIELDS = Settings.model_fields


def links_of(prefix: str, port: int, protocol: str = "TCP") -> dict[str, str]:
    """The links of another Service: `VAE_API` for one named `vae-api`."""
    renamed = {name.replace("VAE", prefix, 1): value for name, value in LINKS.items()}
    return {
        name.replace("8000_TCP", f"{port}_{protocol}"): value.replace("tcp", protocol.lower())
        for name, value in renamed.items()
    }


def warnings(variables: dict[str, str], *, has_keys: bool = True) -> list[str]:
    return list(environment.warnings(variables, FIELDS, has_keys=has_keys))


# Service links


@pytest.mark.parametrize(
    "value",
    [
        "tcp://10.0.0.1:8000",
        "tcp://10.96.233.7:80",
        "udp://10.0.0.1:53",
        "sctp://10.0.0.1:132",
        "tcp://[fd00:10:96::1]:8000",
    ],
)
def test_a_service_link_is_no_port(value: str) -> None:
    assert environment.read({"VAE_PORT": value, "VAE_HOST": "::1"}, FIELDS) == {"host": "::1"}
    (said,) = warnings({"VAE_PORT": value})
    for word in ("VAE_PORT", value, "Kubernetes", "Service named vae", "enableServiceLinks: false"):
        assert word in said


@pytest.mark.parametrize(
    "value", ["tcp://vae:8000", "http://10.0.0.1:8000", "10.0.0.1:8000", "tcp://10.0.0.1", "80"]
)
def test_what_is_not_plainly_a_link_stays(value: str) -> None:
    assert environment.read({"VAE_PORT": value}, FIELDS) == {"port": value}
    assert warnings({"VAE_PORT": value}) == []


@pytest.mark.parametrize(
    "links",
    [
        LINKS,
        links_of("VAE_SERVICE", 80),
        links_of("VAE_API", 8000, "UDP"),
        {name: value.replace("10.0.0.1", "fd00::1") for name, value in LINKS.items()},
    ],
    ids=["vae", "vae-service", "vae-api", "IPv6"],
)
def test_links_are_not_taken_for_misspelt_settings(links: dict[str, str]) -> None:
    """And a port that the manifest sets is one: it wins over the link."""
    assert len(links) == 8
    assert warnings(links | {"VAE_PORT": "8000"}) == []


@pytest.mark.parametrize(
    ("variables", "meant"),
    [
        ({"VAE_SERVICE_PORT": "9000"}, "VAE_PORT"),
        ({"VAE_SERVICE_HOST": "example.org"}, "VAE_HOST"),
        ({"VAE_HTTP_PORT": "9000"}, "VAE_PORT"),
    ],
)
def test_what_only_looks_like_a_link_s_name_is_misspelt(
    variables: dict[str, str], meant: str
) -> None:
    (said,) = warnings(variables)
    assert said.endswith(f"did you mean {meant}?")


# Values


@pytest.mark.parametrize("empty", ["", " ", "\t", "\r"])
def test_empty_means_unset(empty: str) -> None:
    assert environment.read({f"VAE_{name.upper()}": empty for name in FIELDS}, FIELDS) == {}


def test_white_space_around_a_value_does_not_count() -> None:
    found = environment.read({"VAE_HOST": " ::1\r", "VAE_BUNDLE": "my bundle\n"}, FIELDS)
    assert found == {"host": "::1", "bundle": "my bundle"}


def test_names_are_read_in_any_case_and_capitals_win() -> None:
    assert environment.read({"vae_port": "1", "Vae_Workers": "2"}, FIELDS) == {
        "port": "1",
        "workers": "2",
    }
    for order in (1, -1):
        both = dict([("vae_port", "1"), ("VAE_PORT", "2")][::order])
        assert environment.read(both, FIELDS) == {"port": "2"}


def test_quotes_are_named_and_kept() -> None:
    for value in ('"mnist"', "'mnist'"):
        assert environment.read({"VAE_BUNDLE": value}, FIELDS) == {"bundle": value}
        (said,) = warnings({"VAE_BUNDLE": value})
        assert "VAE_BUNDLE" in said
        assert "quotes" in said
    assert warnings({"VAE_BUNDLE": "it's", "VAE_HOST": '"'}) == []


# Names


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("VAE_PROT", {"VAE_PORT"}),
        ("vae_prot", {"VAE_PORT"}),
        ("VAE_LOGLEVEL", {"VAE_LOG_LEVEL"}),
        ("VAE_API_KEY_FILE", {"VAE_API_KEYS_FILE"}),
        ("VAE_BATCH_SIZE", {"VAE_MAX_BATCH_IMAGES"}),
        ("VAE_NUM_WORKERS", {"VAE_WORKERS"}),
        ("VAE_ALFA", {"VAE_ALPHA"}),
        ("VAE_DATA_DIRS", {"VAE_DATA_DIR"}),
        ("VAE_LOG", {"VAE_LOG_LEVEL", "VAE_LOG_FORMAT"}),
    ],
)
def test_an_unknown_name_gets_the_nearest_known(variable: str, meant: set[str]) -> None:
    (said,) = warnings({variable: "a-value"})
    assert said.startswith(f"{variable} is not a setting")
    assert set(said.partition("did you mean ")[2].rstrip("?").split(" or ")) == meant
    assert "a-value" not in said, "which may be a key"


def test_a_name_that_is_like_no_other_gets_no_suggestion() -> None:
    (said,) = warnings({"VAE_XYZZY": "1"})
    assert "did you mean" not in said
    assert "--help" in said


def test_known_names_and_other_families_get_no_warning() -> None:
    known: Iterable[str] = (f"VAE_{name.upper()}" for name in FIELDS)
    others = ("VAE_DATA_DIR", "VAE_API_KEY", "VAEX_PORT", "VAE", "VAE_", "PORT", "MY_VAE_PORT")
    assert warnings(dict.fromkeys((*known, *others), "1")) == []


@pytest.mark.parametrize("variable", ["VAE_API_KEYS", "VAE_API_KEYS_FILE"])
@pytest.mark.parametrize(("value", "shown"), [("", "empty"), ("null", "null")])
def test_unset_keys_are_named_where_there_are_no_others(
    variable: str, value: str, shown: str
) -> None:
    (said,) = warnings({variable: value}, has_keys=False)
    assert said.startswith(f"{variable} is {shown}, which means unset")
    assert warnings({variable: value}, has_keys=True) == []


def test_the_client_s_key_is_not_the_service_s() -> None:
    (said,) = warnings({"VAE_API_KEY": "a-key-of-16-chars"}, has_keys=False)
    assert "VAE_API_KEYS" in said
    assert "a-key" not in said
    assert warnings({"VAE_API_KEY": "a-key-of-16-chars"}, has_keys=True) == []
