from typing import Literal

def read_images(
    body: bytes, channels: int, height: int, width: int, max_images: int, /
) -> tuple[Literal["uint8", "float32"], bytearray] | None: ...
