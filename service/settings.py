"""What can be set: `VAE_PORT=9000` in the environment, or `--port 9000`."""

from __future__ import annotations

import os
import re
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@,*]+")
"""Scheme, host and port, as browsers send them: no path, not even a slash."""


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Settings(BaseSettings):
    """Serve a Variational Autoencoder over HTTP.

    Each flag can be set in the environment too: --max-batch-images 64 is VAE_MAX_BATCH_IMAGES=64.
    A flag wins over the environment, and that over the default.
    """

    model_config = SettingsConfigDict(
        env_prefix="VAE_",
        extra="ignore",
        frozen=True,
        cli_kebab_case=True,
        cli_prog_name="python -m service",
        hide_input_in_errors=True,  # the keys are among it
    )

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address to listen on; the default is reached from this machine only",
    )
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    api_keys_file: str | None = Field(
        None,
        min_length=1,
        description="who may ask: a file with a line for each API key, made by python -m "
        "service.keys; read again when it changes",
    )
    api_keys: str | None = Field(
        None,
        repr=False,
        description="comma-separated API keys of 16 characters or more that may do everything; "
        "for secret managers, and not as a flag, which other users of the machine see",
    )
    allow_anonymous: bool = Field(
        False,
        description="without API keys, let anyone ask who reaches an address that is not loopback",
    )
    tls_cert_file: str | None = Field(
        None,
        min_length=1,
        description="certificate in PEM, with those that lead to its root; makes it https",
    )
    tls_key_file: str | None = Field(
        None, min_length=1, description="the certificate's private key in PEM, without a password"
    )
    cors_origins: str | None = Field(
        None,
        min_length=1,
        description="comma-separated origins whose pages may ask from a browser, as "
        "https://example.org; * is any",
    )
    bundle: str = Field(
        "mnist",
        min_length=1,
        description="the network: a name that ships (mnist, mnist-conv, mnist-2d, fashion-mnist, "
        "fashion-mnist-conv) or a bundle's directory",
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto takes the first GPU if there is one",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="what products are computed in; bfloat16 is faster on a GPU, and on a CPU with "
        "AMX. Scores differ a little, and have their own calibration",
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
        description="CPU threads of one forward pass; unset is the cores divided by the workers, "
        "or half of them for a single worker, and at most 4: small networks gain nothing from more",
    )
    max_batch_images: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="images in one forward pass; unset is 128 on a CPU, where more is no faster "
        "and others wait for it, and 8192 on a GPU",
    )
    max_queue_images: int = Field(
        16_384,
        ge=1,
        description="images that may wait; past it requests get 503 at once, not a long wait",
    )
    max_queue_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="bytes that may wait: of bodies on their way in, of images in the queue, and "
        "of results and answers on their way out",
    )
    max_images_per_request: int = Field(
        8_192, ge=1, description="images in one request; bounds the memory that one answer takes"
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="bytes of one body; room for 8,192 float images of 28x28 as raw numbers",
    )
    max_image_pixels: int = Field(
        25_000_000,
        ge=1,
        le=89_478_485,  # past it Pillow warns, and soon refuses
        description="pixels of one image file, read off its header, and of one PNG answer; room "
        "for large photographs",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds a request may take, then 504; a caller may ask for less by "
        "X-Request-Timeout",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        le=86_400,
        description="seconds for a TLS handshake; for a request's head to arrive, then 408; for "
        "what is left of a body whose request is answered; and for an answer to get on",
    )
    keep_alive_s: float = Field(
        65.0,
        gt=0,
        le=86_400,
        description="seconds that a connection may idle between requests; more than the idle time "
        "of a load balancer in front",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="connections of one process; past it the one that idles longest is closed, or "
        "the new one gets 503; fewer, with a warning, where the system allows fewer open files",
    )
    stall_timeout_s: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds in which no forward pass works though one is wanted, after which "
        "/livez fails and, soon, the process ends with status 70, to be started again",
    )
    alpha: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="false-alarm rate on clean images, where a request names none: an image is an "
        "anomaly if p_value ≤ alpha",
    )
    shutdown_delay_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="seconds after SIGTERM in which new connections are still answered, while "
        "/readyz says 503: as long as a load balancer takes to notice",
    )
    shutdown_timeout_s: int = Field(
        30,
        ge=1,
        le=86_400,
        description="seconds to finish what was accepted when the listener has closed",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged to stderr; info has a line for each request"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="of the log: text for people, json for machines, an object a line"
    )

    @property
    def cors_origin_list(self) -> list[str]:
        """`cors_origins`, one by one."""
        return [origin.strip() for origin in (self.cors_origins or "").split(",") if origin.strip()]

    @property
    def inference_threads(self) -> int:
        """`threads`, or what suits this machine: a single worker leaves half the cores to HTTP."""
        return self.threads or max(1, min(4, _cores() // max(2, self.workers)))

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, text: str | None) -> str | None:
        for origin in (text or "*").split(","):
            if origin.strip() != "*" and not ORIGIN.fullmatch(origin.strip()):
                raise ValueError(f"{origin.strip()[:64]!r} is no origin, as https://example.org is")
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
                f"{self.max_queue_bytes}: such a body could never be taken in"
            )
        return self
