"""The settings: `VAE_PORT=9000` in the environment, or `--port 9000` as a flag."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service import environment

ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,*]+")
"""Scheme, host and port, as browsers send them, without a path or a trailing slash."""

ROOT_PATH: Final = re.compile(r"(/[\w.~!$&'()*+,;=:@%-]+)+", re.ASCII)
"""One or more segments of a path, as in RFC 3986, without a trailing slash."""

Network = IPv4Network | IPv6Network


REASONS: Final = {
    "bool_parsing": "it should be true or false",
    "int_parsing": "it should be a whole number, without a unit",
    "int_from_float": "it should be a whole number",
    "float_parsing": "it should be a number, with a point and without a unit",
    "string_too_short": "it should not be empty",
}
"""What to say instead of pydantic's own reasons, which are about types."""


def _cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class EnvironmentSource(EnvSettingsSource):
    """Reads the settings from the environment as `service.environment` does."""

    def __call__(self) -> dict[str, Any]:
        """The values that the environment has, as text."""
        return dict(environment.read(os.environ, self.settings_cls.model_fields))


class Settings(BaseSettings):
    """Serve a Variational Autoencoder over HTTP.

    Each flag can also be set in the environment: --max-batch-images 64 is VAE_MAX_BATCH_IMAGES=64.
    A flag overrides the environment, which overrides the default. An empty variable counts as
    unset.
    """

    model_config = SettingsConfigDict(
        env_prefix=environment.PREFIX,
        extra="ignore",
        frozen=True,
        cli_kebab_case=True,
        hide_input_in_errors=True,  # the input may be an API key
    )

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on; the default accepts connections from this machine only",
    )
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 picks a free one")
    api_keys_file: str | None = Field(
        None,
        min_length=1,
        description="file with one line per API key, as made by vae keys; read again when it "
        "changes",
    )
    api_keys: str | None = Field(
        None,
        repr=False,
        description="comma-separated API keys of 16 characters or more, valid for everything; for "
        "secret managers. Never as a flag, which other users of the machine can see",
    )
    allow_anonymous: bool = Field(
        False,
        description="if no API keys are set, answer anyone who can reach the service, even on an "
        "address that is not loopback",
    )
    tls_cert_file: str | None = Field(
        None,
        min_length=1,
        description="PEM file with the certificate and its chain; turns on HTTPS",
    )
    tls_key_file: str | None = Field(
        None,
        min_length=1,
        description="PEM file with the certificate's private key, without a password",
    )
    cors_origins: str | None = Field(
        None,
        min_length=1,
        description="comma-separated origins whose web pages may call the service from a browser, "
        "such as https://example.org; * allows any",
    )
    page: bool = Field(
        True,
        description="whether browsers get the page at /; its files and what it shows need no "
        "internet access",
    )
    root_path: str | None = Field(
        None,
        description="path under which a reverse proxy serves this service, such as /vae; the proxy "
        "may remove it from the paths that it forwards, or leave it there",
    )
    trusted_proxies: str | None = Field(
        None,
        description="comma-separated addresses or networks of reverse proxies, such as "
        "10.0.0.0/8, whose X-Forwarded-Prefix is trusted; it overrides root_path",
    )
    bundle: str = Field(
        "mnist",
        min_length=1,
        description="network to serve: the name of a shipped bundle (mnist, mnist-conv, mnist-2d, "
        "fashion-mnist, fashion-mnist-conv) or a bundle's directory",
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto takes the first GPU, or the CPU if there is "
        "none",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="data type of the matrix products; bfloat16 is faster on a GPU and on a CPU "
        "with AMX. Scores change slightly, so each type has its own calibration",
    )
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that share the port, each with its own copy of the weights",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads per forward pass; if unset, the cores divided by the workers "
        "(half the cores for a single worker), but at most 4, since small networks gain nothing "
        "from more",
    )
    max_batch_images: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="images per forward pass; if unset, 128 on a CPU, where larger batches are no "
        "faster and make others wait, 512 there in half precision, and 8 with a detector; on a GPU "
        "8192 of 28x28 and fewer of larger images (32 of 256x256 in colour), at most 32 with a "
        "detector",
    )
    max_queue_images: int = Field(
        16_384,
        ge=1,
        description="images that may wait in the queue; requests beyond that get 503 at once "
        "instead of a long wait",
    )
    max_queue_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="bytes that may be held at once: bodies being received, images in the queue, "
        "and results and responses being sent",
    )
    max_images_per_request: int = Field(
        8_192, ge=1, description="images per request; bounds the memory that one response takes"
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="bytes per request body; the default fits 8,192 float32 images of 28x28 as "
        "raw numbers",
    )
    max_image_pixels: int = Field(
        25_000_000,
        ge=1,
        le=89_478_485,  # beyond this, Pillow warns, and at twice this it refuses
        description="pixels per image file, checked in its header before decoding, and per PNG or "
        "GIF response; the default fits large photographs",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds that a request may take before it gets 504; a caller can ask for "
        "less with X-Request-Timeout",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        le=86_400,
        description="seconds for a TLS handshake, for the headers of a request (then 408), for "
        "the rest of a body whose request is already answered, and for a response to make "
        "progress",
    )
    keep_alive_s: float = Field(
        65.0,
        gt=0,
        le=86_400,
        description="seconds that a connection may be idle between requests; should be longer "
        "than the idle timeout of a load balancer in front",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="connections per process; beyond that, the connection that has been idle "
        "longest is closed, or the new one gets 503. Lowered, with a warning, to what the limit "
        "on open files allows",
    )
    stall_timeout_s: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds without a successful forward pass, while requests are waiting, before "
        "/livez fails; soon after, the process exits with status 70 to be restarted",
    )
    alpha: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false-alarm rate on clean images if the request sets none; an image is an "
        "anomaly if p_value ≤ alpha",
    )
    recent_images: int = Field(
        0,
        ge=0,
        le=1000,
        description="scored images that are kept in memory, each reduced to at most 64 pixels a "
        "side, for GET /recent and the page; 0 keeps none",
    )
    shutdown_delay_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="seconds after SIGTERM in which new connections are still answered while "
        "/readyz says 503; as long as a load balancer takes to notice",
    )
    shutdown_timeout_s: int = Field(
        30,
        ge=1,
        le=86_400,
        description="seconds to finish the accepted requests once the listener has closed",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest level logged to stderr; info logs one line per request"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="text for people, or json for machines, one object per line"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - passed by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment; pydantic puts flags before both."""
        return init_settings, EnvironmentSource(settings_cls)

    @property
    def cors_origin_list(self) -> list[str]:
        """`cors_origins` as a list."""
        return [origin.strip() for origin in (self.cors_origins or "").split(",") if origin.strip()]

    @property
    def trusted_proxy_networks(self) -> tuple[Network, ...]:
        """`trusted_proxies` as networks; an address is a network of one."""
        texts = (self.trusted_proxies or "").split(",")
        return tuple(ip_network(text.strip(), strict=False) for text in texts if text.strip())

    def url(self, host: str, port: int) -> str:
        """The address of the service under a host name or an IP address."""
        scheme = "http" if self.tls_cert_file is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def inference_threads(self) -> int:
        """`threads`, or a default: a single worker leaves half the cores to HTTP."""
        return self.threads or max(1, min(4, _cores() // max(2, self.workers)))

    @model_validator(mode="before")
    @classmethod
    def _null_means_unset(cls, values: Any) -> Any:
        """For settings that are unset by default. For others, null is a value like any other."""
        if not isinstance(values, dict):
            return values
        unset = {name for name, field in cls.model_fields.items() if field.default is None}
        return {
            name: None if name in unset and is_null(value) else value
            for name, value in values.items()
        }

    @field_validator("device", "dtype", "log_level", "log_format", mode="before")
    @classmethod
    def _words_in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _warn_is_warning(cls, value: object) -> object:
        return "warning" if isinstance(value, str) and value.lower() == "warn" else value

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, text: str | None) -> str | None:
        for origin in (text or "*").split(","):
            if origin.strip() != "*" and not ORIGIN.fullmatch(origin.strip()):
                raise ValueError(
                    f"{origin.strip()[:64]!r} is not an origin such as https://example.org; "
                    "several are separated by commas"
                )
        return text

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, text: str | None) -> str | None:
        if text is None or not (path := text.rstrip("/")):
            return None
        if not ROOT_PATH.fullmatch(path):
            raise ValueError(f"{text[:64]!r} is not a path such as /vae")
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, text: str | None) -> str | None:
        for part in (text or "").split(","):
            try:
                if part.strip():
                    ip_network(part.strip(), strict=False)
            except ValueError:
                raise ValueError(
                    f"{part.strip()[:64]!r} is not an address or network such as 10.0.0.0/8"
                ) from None
        return text

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError(
                "tls_cert_file (VAE_TLS_CERT_FILE) and tls_key_file (VAE_TLS_KEY_FILE) are set "
                "together or not at all"
            )
        return self

    @model_validator(mode="after")
    def _request_fits_into_queue(self) -> Self:
        if self.max_images_per_request > self.max_queue_images:
            raise ValueError(
                f"max_images_per_request is {self.max_images_per_request} > max_queue_images "
                f"{self.max_queue_images}: such a request could never be queued"
            )
        if self.max_body_bytes > self.max_queue_bytes:
            raise ValueError(
                f"max_body_bytes is {self.max_body_bytes} > max_queue_bytes "
                f"{self.max_queue_bytes}: such a body could never be accepted"
            )
        return self


def is_null(value: object) -> bool:
    """Whether a value is the word null, in any case."""
    return isinstance(value, str) and value.lower() == "null"


def explain(error: ValidationError) -> str:
    """Which settings cannot be used and why, in one line.

    For example `port (VAE_PORT) is 'x': it should be a whole number, without a unit`.
    """
    return "; ".join(_explain_one(item) for item in error.errors())


def _explain_one(item: object) -> str:
    assert isinstance(item, dict)  # noqa: S101 - for mypy: pydantic's own type is a TypedDict
    message = item["msg"].removeprefix("Value error, ")
    reason: str = REASONS.get(item["type"], message[:1].lower() + message[1:])
    if not item["loc"]:
        return reason
    name, value = str(item["loc"][0]), item["input"]
    if is_null(value):
        reason = "this setting has no null; leave it out for its default"
    elif name == "port" and "://" in str(value):
        reason = (
            "this is an address, and the setting is a number. If Kubernetes set it, for a Service "
            f"named vae, {environment.END_LINKS}"
        )
    elif item["type"] in REASONS and Settings.model_fields[name].default is None:
        reason += ", or null for unset"
    return f"{name} ({environment.PREFIX}{name.upper()}) is {value!r}: {reason}"
