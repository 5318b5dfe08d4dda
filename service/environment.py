"""The environment's `VAE_…` variables: which are settings, and what to say about the others.

Kubernetes puts variables for each Service of a namespace into its pods, and for a Service named
`vae` their names look like settings. `VAE_PORT=tcp://10.0.0.1:8000` is one of these service links.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Final

PREFIX: Final = "VAE_"

CLIENT_KEY: Final = "VAE_API_KEY"
"""The key that `vae score` sends. Its name is nearly that of the service's own keys."""

DATA_DIR: Final = "VAE_DATA_DIR"
"""Where `vae train` and its siblings look for data sets."""

END_LINKS: Final = "set enableServiceLinks: false in the pod's spec"

LINK: Final = re.compile(r"(?:tcp|udp|sctp)://(?P<address>.+):[0-9]{1,5}")
"""The value of a service link's `…_PORT`: the Service's cluster IP, which is never a name."""

LINK_NAME: Final = re.compile(r".+_PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?")
"""Names of the links whose value is a `LINK`."""

LINK_PART: Final = re.compile(r".+_PORT_[0-9]+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)")
"""Names that nobody gives to anything else, whatever the value."""

SERVICE_PORT: Final = re.compile(r"_SERVICE_PORT(?=_|$)")
"""Followed by the name of the Service's port, if that has one."""

MISSPELT: Final = 0.7
"""Similarity from which a name is taken for a misspelt one: `prot` and `port` have 0.75."""

ALIKE: Final = 0.6
"""Similarity for a suggestion if no name shares the words: `alfa` and `alpha` have 0.67."""

MAX_SUGGESTIONS: Final = 3


def read(environ: Mapping[str, str], settings: Collection[str]) -> dict[str, str]:
    """The value of each setting that the environment has, by the setting's name.

    White space around a value is ignored: a file with Windows line ends leaves a carriage
    return there. An empty value means unset, and a service link in place of the port counts as
    unset too. Names are read in any case; capitals win.
    """
    found = {}
    for variable in sorted(environ, reverse=True):  # capitals come last
        name, value = _setting(variable), environ[variable].strip()
        if name in settings and value and not (name == "port" and is_link(value)):
            found[name] = value
    return found


def warnings(
    environ: Mapping[str, str], settings: Collection[str], *, has_keys: bool
) -> Iterator[str]:
    """One line for each variable that has no effect, or not the one that its author may expect.

    `has_keys` says whether callers need an API key. Values are not shown: one may be a key.
    """
    for variable in sorted(environ):
        name, value = _setting(variable), environ[variable].strip()
        if name in settings:
            if name == "port" and is_link(value):
                yield (
                    f"{variable} is {value}, a service link: Kubernetes sets it for a Service "
                    "named vae. It is not the port to listen on and counts as unset; to end this, "
                    f"{END_LINKS}, or rename the Service"
                )
            elif (
                value.lower() in ("", "null")
                and name in ("api_keys", "api_keys_file")
                and not has_keys
            ):
                shown = value or "empty"
                yield f"{variable} is {shown}, which means unset, and there are no other API keys"
            elif len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                yield (
                    f"{variable} has quotes around its value, and they count as part of it; "
                    "docker's --env-file, for one, does not remove them"
                )
        elif variable == CLIENT_KEY:
            if value and not has_keys:
                yield (
                    f"{CLIENT_KEY} is the key that vae score sends; the service reads its own from "
                    "VAE_API_KEYS_FILE or VAE_API_KEYS, and has none"
                )
        elif name and variable != DATA_DIR and not is_link_variable(variable, environ):
            close = [PREFIX + known.upper() for known in nearest(name, [*settings, "data_dir"])]
            hint = f"did you mean {' or '.join(close)}?" if close else "--help lists the settings"
            yield f"{variable} is not a setting and has no effect; {hint}"


def is_link(value: str) -> bool:
    """Whether a value is the address of a service link, such as `tcp://10.0.0.1:8000`."""
    match = LINK.fullmatch(value)
    return match is not None and _is_address(match["address"])


def is_link_variable(variable: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable is one of those that Kubernetes sets for a Service.

    Some of their names could also be a misspelt setting's, and then the value decides; for
    `VAE_SERVICE_PORT`, whether there is a `VAE_SERVICE_HOST`.
    """
    value = environ[variable]
    if variable.endswith("_SERVICE_HOST"):
        return _is_address(value)
    if LINK_PART.fullmatch(variable) or (LINK_NAME.fullmatch(variable) and is_link(value)):
        return True
    services = (variable[: found.start()] for found in SERVICE_PORT.finditer(variable))
    return value.isdecimal() and any(f"{name}_SERVICE_HOST" in environ for name in services)


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The known names that are like an unknown one.

    That is one, if one is spelled nearly the same. Otherwise they are those that share its words:
    `timeout` has several.
    """
    words = set(name.split("_"))
    sharing = [own for own in known if words <= set(own.split("_")) or set(own.split("_")) <= words]
    return (
        get_close_matches(name, known, n=1, cutoff=MISSPELT)
        or get_close_matches(name, sharing, n=MAX_SUGGESTIONS, cutoff=0)
        or get_close_matches(name, known, n=1, cutoff=ALIKE)
    )


def _setting(variable: str) -> str:
    """The name that a variable would have as a setting; empty if it does not begin with `VAE_`."""
    name = variable.lower()
    prefix = PREFIX.lower()
    return name.removeprefix(prefix) if name.startswith(prefix) else ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
