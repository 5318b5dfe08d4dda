"""The route for the settings in force, without what is secret."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final, Literal, get_origin

from fastapi import APIRouter
from starlette.requests import Request

from service import environment
from service.api import schemas
from service.api.openapi import responses
from service.api.state import Service
from service.codecs.registry import JSON
from service.settings import Settings

SHOWN: Final = frozenset({"host", "cors_origins", "root_path", "trusted_proxies", "device"})
"""Texts that are shown as they are. Any other text that may be anything is only said to be set, so
that a new setting is secret until someone adds it here."""

FILES: Final = frozenset({"api_keys_file", "tls_cert_file", "tls_key_file", "bundle"})
"""Paths, of which only the last part is shown, as in all answers."""

IS_SET: Final = "set"

router = APIRouter()


@router.get(
    "/settings",
    tags=["service"],
    summary="The settings in force",
    responses=responses(schemas.SettingsAnswer, [JSON]),
)
async def settings(request: Request) -> dict[str, Any]:
    """Each setting with its value, its default and what it sets. Of paths, only the last part is
    shown, and of secrets, only that they are set."""
    found = Service.of(request).settings
    return {
        "settings": [
            {
                "name": name,
                "variable": f"{environment.PREFIX}{name.upper()}",
                "value": _shown(name, getattr(found, name)),
                "default": field.default,
                "description": field.description,
            }
            for name, field in Settings.model_fields.items()
        ]
    }


def _shown(name: str, value: object) -> object:
    """A setting's value as callers may see it."""
    if not isinstance(value, str) or name in SHOWN:
        return value
    if name in FILES:
        return PurePath(value).name or IS_SET  # "." and "/" have no last part
    is_choice = get_origin(Settings.model_fields[name].annotation) is Literal
    return value if is_choice else IS_SET
