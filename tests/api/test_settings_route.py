"""GET /settings: what is in force, and nothing that is secret."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from httpx import AsyncClient

from service.api.configuration import FILES, SHOWN
from service.app import App, create_app
from service.settings import Settings
from tests.api.helpers import SMALL, client_of

pytestmark = pytest.mark.anyio

KEY = "a-key-that-no-answer-may-show"


async def shown(client: AsyncClient) -> dict[str, dict[str, Any]]:
    answer = await client.get("/settings")
    assert answer.status_code == 200
    (settings,) = answer.json().values()
    return {setting["name"]: setting for setting in settings}


def use(app: App, **changed: Any) -> None:
    service = app.state.service
    settings = Settings.model_construct(**(service.settings.model_dump() | changed))
    app._lifecycle.use(replace(service, settings=settings), service.version)


def texts() -> list[str]:
    """Settings that may be any text."""
    return [
        name
        for name, field in Settings.model_fields.items()
        if str in (field.annotation, *get_args(field.annotation))
    ]


async def test_all_that_are_in_force(small_client: AsyncClient) -> None:
    found = await shown(small_client)
    assert list(found) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        setting = found[name]
        assert setting["variable"] == f"VAE_{name.upper()}"
        assert setting["value"] == getattr(SMALL, name)
        assert setting["default"] == field.default
        assert setting["description"] == field.description
    assert found["max_batch_images"]["value"] == 4
    assert found["max_batch_images"]["default"] is None


async def test_no_secret_and_no_directory_can_be_seen(
    small_app: App, small_client: AsyncClient
) -> None:
    assert {"api_keys", "bundle", "tls_key_file"} <= set(texts())
    secrets = {name: f"/secret-place-of-{name}!/value-of-{name}!" for name in texts()}
    use(small_app, **secrets)
    found = await shown(small_client)
    text = (await small_client.get("/settings")).text
    for name in texts():
        value = found[name]["value"]
        assert (secrets[name] in text) is (name in SHOWN)
        assert (f"/secret-place-of-{name}!" in text) is (name in SHOWN)
        assert (f"value-of-{name}!" in text) is (name in SHOWN | FILES)
        assert value == (
            secrets[name] if name in SHOWN else f"value-of-{name}!" if name in FILES else "set"
        )
    assert found["api_keys"]["value"] == "set"


async def test_what_may_be_shown_is_chosen_for_each_text() -> None:
    """A new one fails here: add it to `SHOWN` or `FILES`, or to what is secret."""
    assert SHOWN | FILES | {"api_keys"} == set(texts())


@pytest.mark.parametrize(
    ("bundle", "expected"),
    [("mnist", "mnist"), ("runs/mine", "mine"), ("/srv/mine/", "mine"), (".", "set")],
)
async def test_a_bundle_s_directory(
    small_app: App, small_client: AsyncClient, bundle: str, expected: str
) -> None:
    use(small_app, bundle=bundle)
    assert (await shown(small_client))["bundle"]["value"] == expected


async def test_real_keys_are_not_shown() -> None:
    settings = SMALL.model_copy(update={"api_keys": KEY})
    async with client_of(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        assert (await shown(client))["api_keys"]["value"] == "set"
        assert KEY not in (await client.get("/settings")).text
