"""The servers that are compared: how each is started, how requests and answers look."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

from numpy.typing import NDArray

from benchmarks.peers import environment
from benchmarks.peers.common import SCORE
from benchmarks.peers.photographs import Photograph
from benchmarks.peers.sample import fixed_answer

Request = tuple[str, dict[str, str], bytes]
"""Path, headers, body."""

Body = tuple[dict[str, str], bytes]
"""Headers and body."""

BOUNDARY: Final = "boundary-of-the-benchmark"


def _rows(images: NDArray[Any]) -> dict[str, Any]:
    return {"images": images.tolist()}


def _open_inference(images: NDArray[Any]) -> dict[str, Any]:
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "FP32"}
    return {"inputs": [tensor | {"data": images.ravel().tolist()}]}


def _as_json(value: object) -> Body:
    return {"Content-Type": "application/json"}, json.dumps(value, separators=(",", ":")).encode()


def _base64(photograph: Photograph) -> str:
    return b64encode(photograph.data).decode()


def _file(photograph: Photograph) -> Body:
    return {"Content-Type": photograph.media_type}, photograph.data


def _form(photograph: Photograph) -> Body:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="photo"\r\n'
        f"Content-Type: {photograph.media_type}\r\n\r\n"
    )
    end = f"\r\n--{BOUNDARY}--\r\n"
    body = head.encode() + photograph.data + end.encode()
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body


def _base64_json(photograph: Photograph) -> Body:
    return _as_json({"photo": _base64(photograph)})


def _base64_tensor(photograph: Photograph) -> Body:
    """By the Open Inference Protocol, as MLServer's codec for base64 reads it."""
    tensor = {"name": "photo", "shape": [1, 1], "datatype": "BYTES"}
    content_type = {"parameters": {"content_type": "base64"}}
    return _as_json({"inputs": [tensor | content_type | {"data": [_base64(photograph)]}]})


def _binary_tensor(photograph: Photograph) -> Body:
    """By the Open Inference Protocol with Triton's extension for binary tensors."""
    data = len(photograph.data).to_bytes(4, "little") + photograph.data
    tensor = {"name": "photo", "shape": [1, 1], "datatype": "BYTES"}
    size = {"parameters": {"binary_data_size": len(data)}}
    _, head = _as_json({"inputs": [tensor | size]})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return headers, head + data


def _score(answer: Any) -> Any:
    return answer["score"]


def _first_output(answer: Any) -> Any:
    return answer["outputs"][0]["data"]


@dataclass(frozen=True, kw_only=True)
class Server:
    """One of the compared servers.

    A server without `packages` is a peer: it has an environment of its own, with the versions in
    its requirements. Others run in the service's environment, and the versions of `packages` are
    reported. A server is `fixed` if it gives the same answer whatever was sent. `environment` may
    refer to a `{scratch}` directory, which is removed in the end, and to a `{spare_port}`.

    Those with a `photograph_body` can score photographs; it makes a body of one. They have JPEG
    files decoded at their full size, unless one `scales_jpeg`.
    """

    name: str
    title: str
    module: str
    path: str = "/score"
    to_json: Callable[[NDArray[Any]], dict[str, Any]] = _rows
    from_json: Callable[[Any], Any] = _score
    score: str = SCORE
    photograph_body: Callable[[Photograph], Body] | None = None
    scales_jpeg: bool = False
    fixed: bool = False
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether it has an environment of its own."""
        return not self.packages

    @property
    def versions(self) -> dict[str, str]:
        """Versions of its packages, its own first."""
        if self.is_peer:
            return environment.requirements(self.name)
        return {name: version(name) for name in self.packages}

    def command(self, port: int, flags: Sequence[str] = ()) -> list[str]:
        """The command that starts it."""
        python = str(environment.python(self.name)) if self.is_peer else sys.executable
        answer = ["--answer", fixed_answer()] if self.fixed else []
        return [python, "-m", self.module, "--port", str(port), *self.flags, *answer, *flags]

    def request(self, images: NDArray[Any]) -> Request:
        """A request with images (N, 784) in [0, 1] as JSON numbers."""
        return self.path, *_as_json(self.to_json(images))

    def photograph_request(self, photograph: Photograph) -> Request:
        """A request with one photograph, to a server that was started with `--bundle`."""
        if self.photograph_body is None:
            raise ValueError(f"{self.name} takes no photographs")
        return self.path, *self.photograph_body(photograph)

    def scores(self, answer: bytes) -> list[float]:
        """The scores in an answer."""
        return [float(score) for score in self.from_json(json.loads(answer))]


WITH_FASTAPI: Final = ("fastapi", "uvicorn")

RAY: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_PORT": "{spare_port}",
    "RAY_SERVE_HAPROXY_STATS_PORT": "{spare_port}",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{scratch}/haproxy/haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "{scratch}/haproxy/admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "{scratch}/haproxy/metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{scratch}/haproxy",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{scratch}/haproxy/server-state",
}
"""Read when Ray is imported. `benchmarks/peers/ray_serve.py` says why these."""


def _v2_server(
    name: str, title: str, module: str, photograph_body: Callable[[Photograph], Body]
) -> Server:
    """A server that implements the Open Inference Protocol."""
    return Server(
        name=name,
        title=title,
        module=module,
        path="/v2/models/score/infer",
        to_json=_open_inference,
        from_json=_first_output,
        photograph_body=photograph_body,
    )


SERVERS: Final = {
    server.name: server
    for server in (
        Server(
            name="ours",
            title="this service",
            module="service",
            path="/anomaly-score",
            photograph_body=_file,
            scales_jpeg=True,
            packages=("vae-service", *WITH_FASTAPI),
            flags=("--device", "cpu", "--threads", "1"),
        ),
        Server(
            name="asgi",
            title="bare ASGI, fixed answer",
            module="benchmarks.peers.asgi",
            fixed=True,
            packages=("uvicorn",),
        ),
        Server(
            name="null",
            title="FastAPI, fixed answer",
            module="benchmarks.peers.null",
            fixed=True,
            packages=WITH_FASTAPI,
        ),
        Server(
            name="plain",
            title="FastAPI of an afternoon",
            module="benchmarks.peers.plain",
            score="mse",
            photograph_body=_form,
            packages=WITH_FASTAPI,
        ),
        Server(
            name="litserve",
            title="LitServe",
            module="benchmarks.peers.lit",
            photograph_body=_base64_json,
        ),
        Server(
            name="bentoml",
            title="BentoML",
            module="benchmarks.peers.bento",
            from_json=lambda answer: answer,
            photograph_body=_form,
            environment={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Server(
            name="ray",
            title="Ray Serve",
            module="benchmarks.peers.ray_serve",
            photograph_body=_file,
            environment=RAY,
        ),
        _v2_server("mlserver", "MLServer", "benchmarks.peers.seldon", _base64_tensor),
        _v2_server("triton", "Triton", "benchmarks.peers.triton", _binary_tensor),
    )
}
"""All servers by name."""
