"""The objects of infer requests: their fields and parameters, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import simdjson

from service.codecs.json_numbers import type_name
from service.errors import BadBodyError

CONTENT_TYPE: Final = "np"
"""MLServer's clients say with this that a tensor is an array, which is so here in any case."""

MAX_FIELDS: Final = 64
"""Maximum fields of an object, unknown ones included: reading millions of them takes long."""


def read_fields(
    value: Any, where: str, known: Sequence[str], expected: Sequence[str] | None = None
) -> dict[str, Any]:
    """The fields of an object that are `known`.

    Others are refused, with what is `expected`, or else ignored: they are meant for other servers.
    Raises `BadBodyError`, also for what is not an object or has too many fields.
    """
    if not isinstance(value, simdjson.Object):
        raise BadBodyError(f"{where} is {type_name(value)}, expected an object")
    fields: dict[str, Any] = {}
    for number, key in enumerate(value):
        if number == MAX_FIELDS:
            raise BadBodyError(f"{where} has more than {MAX_FIELDS} fields")
        if key in fields:  # also limits the lookups below, which scan the object
            raise BadBodyError(f"{where} has the field {key} twice")
        if key in known:
            fields[key] = value[key]
        elif expected is not None:
            raise BadBodyError(
                f"{key[:64]!r} is not a known parameter in {where}, expected {', '.join(expected)}"
            )
    return fields


def described(value: Any) -> str:
    """A JSON value for error messages: numbers as they are, other values by their type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value)[:32] if number else type_name(value)


def read_string(fields: Mapping[str, Any], name: str, where: str) -> str:
    """A field that has to be a string. Raises `BadBodyError`."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadBodyError(f"{where}.{name} is {type_name(value)}, expected a string")
    return value


def read_parameters(
    fields: Mapping[str, Any], where: str, known: Sequence[str], own: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a request or a tensor: those of the protocol, which are `known`, and the
    model's own.

    Raises `BadBodyError` for any other, as it would be ignored silently.
    """
    value = fields.get("parameters")
    if value is None:
        return {}, {}
    expected = (*own, *(name for name in known if name != "classification"))
    found = read_fields(value, where, (*known, *own), expected)
    if (kind := found.pop("content_type", CONTENT_TYPE)) != CONTENT_TYPE:
        raise BadBodyError(
            f"{where}.content_type is {str(kind)[:32]!r}, expected {CONTENT_TYPE!r}: tensors are "
            "arrays here"
        )
    of_model = {name: found.pop(name) for name in own if name in found}
    for name, item in of_model.items():
        if isinstance(item, simdjson.Array | simdjson.Object):
            raise BadBodyError(f"{where}.{name} is {type_name(item)}, expected a single value")
    return found, of_model


def read_boolean(parameters: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    """A parameter that is true or false; `default` if it is null or missing. Raises
    `BadBodyError`."""
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadBodyError(f"{where}.{name} is {described(value)}, expected true or false")
    return value
