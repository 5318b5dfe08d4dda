"""Find the network's state dict in what `torch.save` wrote: alone, or within a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from model.bundle.checks import BundleError
from model.datasets.folder import printable, some

FIRST: Final = "encoder.0.weight"
"""The name by which a state dict is recognised."""

WRAPPERS: Final = frozenset({"module", "_orig_mod"})
"""Parts of names that DataParallel and torch.compile add, before a network or a part of it."""

MAX_DEPTH: Final = 4
"""Dots before a dict that is searched, so about as many dicts around it; Lightning has one."""

MAX_NAME: Final = 64
"""Characters of a name in messages; a file may hold any."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of a network."""

    key: str
    """Where they were found, as in `state_dict.model`; empty for the file's own names."""
    tensors: Mapping[str, Tensor]
    """By the names that the network gives them."""
    others: tuple[str, ...]
    """Names of tensors beside those of the network."""


def find_state_dict(loaded: object, key: str | None = None) -> StateDict:
    """The one state dict in a loaded file, or the one at `key` if there are several.

    Dicts within dicts are read as one, with names such as `model.encoder.0.weight`, so it makes no
    difference which part of a name is a key and which a prefix.

    Raises `BundleError`, without the file's name, if there is none, or more than one and no `key`.
    """
    tensors = dict(_tensors(loaded, "", set()))
    found = {candidate.key: candidate for candidate in _candidates(tensors)}
    if key is not None and key not in found:
        there = f"there is {_listed(found)}" if found else "there is none at all"
        raise BundleError(f"holds no state dict at {_shown(key)!r}: {there}")
    if key is not None:
        return found[key]
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise BundleError(f"holds several state dicts: --key chooses {_listed(found)}")
    if not tensors and loaded != {}:
        raise BundleError("holds no state dict: expected a mapping of names to tensors")
    names = some(sorted(map(_shown, tensors)), 4) or "nothing"
    raise BundleError(
        f"holds {names}: expected the matrices {FIRST}, encoder.2.weight …, the last with an even "
        "number of rows"
    )


def _tensors(value: object, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a dict and in those within it, each dict once, as one may hold itself."""
    if not isinstance(value, dict) or id(value) in seen or prefix.count(".") > MAX_DEPTH:
        return
    seen.add(id(value))
    for name, inner in value.items():
        if not isinstance(name, str):
            continue
        if isinstance(inner, Tensor):
            yield f"{prefix}{name}", inner
        else:
            yield from _tensors(inner, f"{prefix}{name}.", seen)


def _candidates(tensors: Mapping[str, Tensor]) -> Iterator[StateDict]:
    """The networks among the tensors: one for each prefix of `FIRST`."""
    plain = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):  # both with and without a wrapper
        plain = dict(tensors)
    for name in plain:
        prefix = name.removesuffix(FIRST)
        if prefix == name or (prefix and not prefix.endswith(".")):
            continue
        inside = [other for other in plain if other.startswith(prefix)]
        yield StateDict(
            key=prefix.rstrip("."),
            tensors={other.removeprefix(prefix): plain[other] for other in inside},
            others=tuple(sorted(_shown(other) for other in plain if not other.startswith(prefix))),
        )


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _listed(found: Mapping[str, StateDict]) -> str:
    names = [repr(_shown(key)) if key else "'' (the file's own names)" for key in found]
    return " or ".join(names)


def _shown(name: str) -> str:
    return printable(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…")
