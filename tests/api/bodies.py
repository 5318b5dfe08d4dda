"""Bodies of arrays and forms, and how to post them."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from httpx import AsyncClient, Response
from numpy.typing import NDArray

Array = NDArray[Any]
Images = NDArray[np.uint8]
JSON = "application/json"
NPY = "application/x-npy"
RAW = "application/octet-stream"
FORM = "multipart/form-data; boundary=cut"
BLANK = np.zeros((1, 28, 28), np.uint8)


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    return file.getvalue()


def form(*files: bytes, name: str = "images", closed: bool = True) -> bytes:
    """A multipart body, for `FORM`."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.png"'
    parts = [b"--cut\r\n%s\r\n\r\n%s\r\n" % (disposition.encode(), file) for file in files]
    return b"".join(parts) + (b"--cut--\r\n" if closed else b"")


async def post(
    client: AsyncClient, route: str, content: bytes, content_type: str, **headers: str
) -> Response:
    named = {"Content-Type": content_type} if content_type else {}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(route, content=content, headers=named | sent)


async def mu(client: AsyncClient, content: bytes, content_type: str, query: str = "") -> Array:
    answer = await post(client, f"/encode{query}", content, content_type)
    assert answer.status_code == 200, answer.text[:500]
    return np.array(answer.json()["mu"])
