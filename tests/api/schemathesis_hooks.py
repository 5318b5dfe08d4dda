"""What JSON Schema cannot describe: real image files and arrays, for schemathesis to send."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def file_of(seed: int, size: tuple[int, int], file_format: str) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.just((28, 28))  # other sizes are refused by resize=false, which is right

for name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
    files = st.builds(file_of, SEEDS, SIZES, st.just(name))
    schemathesis.openapi.media_type(f"image/{name.lower()}", files)

# Black images as uint8 or as float32, or latents: whatever the route and its dtype make of them.
# The least that is a multiple of all three, to be within test_schemathesis.py's MAX_IMAGES: 20
# images, 5, or 392 latents.
schemathesis.openapi.media_type("application/octet-stream", st.just(bytes(15_680)))

schemathesis.openapi.format(
    "base64-image",
    st.builds(file_of, SEEDS, SIZES, st.just("PNG")).map(lambda file: b64encode(file).decode()),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A deadline of picoseconds is valid, and missed: that is 504, and right."""
    timeout = (case.headers or {}).get("X-Request-Timeout")
    try:
        if timeout is not None and 0 < float(timeout) < 1:
            case.headers["X-Request-Timeout"] = "1"
    except ValueError:
        pass  # a wrong value, to be refused
