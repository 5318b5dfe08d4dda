"""What is done to an image file before the network gets it, in words for people."""

from __future__ import annotations

from typing import Final

from PIL import Image

TURNED: Final = {
    2: "mirrored left to right",
    3: "turned by 180°",
    4: "mirrored top to bottom",
    5: "turned by 90° clockwise and mirrored left to right",
    6: "turned by 90° clockwise",
    7: "turned by 90° counterclockwise and mirrored left to right",
    8: "turned by 90° counterclockwise",
}
"""By EXIF orientation."""

GREY_MODES: Final = ("1", "L", "LA", "La", "I;16")
"""Of Pillow, without colours."""

NAMES: Final = {"P": "palette", "CMYK": "CMYK"}
"""Of the colours in other modes of Pillow, where they are not red, green and blue."""

SAME_ASPECT: Final = 0.01
"""Aspect ratios that differ by less look the same: sides are whole numbers of pixels."""

Size = tuple[int, int]
"""Width and height."""


def actions(
    stored: Size,
    decoded: Image.Image,
    mode: str,
    size: Size,
    *,
    orientation: int,
    bits: int,
    invert: bool,
) -> list[str]:
    """Short phrases, in the order in which a file with pixels of the size `stored` is changed.

    `decoded` is the image before it is turned, in 8 bits, which may be scaled down; `bits` are
    those of the file's samples. `mode` (`L` or `RGB`) and `size` are the network's.
    """
    done = []
    if decoded.size != stored:
        done.append(
            f"decoded at 1/{round(stored[0] / decoded.width)} of its size, {_shown(decoded.size)}"
        )
    if bits > 8:
        done.append(f"{bits} bits to 8")
    turned = TURNED.get(orientation)
    if turned is not None:
        done.append(f"{turned}, as its EXIF orientation {orientation} says")
    if decoded.has_transparency_data:
        done.append(f"transparency composited on {'white' if invert else 'black'}")
    done += _colours(decoded.mode, mode)
    upright = stored[::-1] if orientation >= 5 else stored
    if upright != size:
        done.append(f"{_shown(upright)} {_resized(upright, size)} to {_shown(size)}")
    if invert:
        done.append("inverted")
    return done


def _colours(found: str, wanted: str) -> list[str]:
    """The conversion between modes of Pillow, if colours appear or vanish in it."""
    if found in GREY_MODES:
        return ["grey to RGB"] if wanted == "RGB" else []
    name = NAMES.get(found)
    if wanted == "RGB":
        return [] if name is None else [f"{name} to RGB"]
    return [f"{name or 'colour'} to grey"]


def _resized(old: Size, new: Size) -> str:
    widened, heightened = new[0] / old[0], new[1] / old[1]
    is_larger = min(widened, heightened) >= 1
    if abs(widened / heightened - 1) > SAME_ASPECT:
        return "stretched" if is_larger else "squashed"
    return "enlarged" if is_larger else "resized"


def _shown(size: Size) -> str:
    return f"{size[0]} × {size[1]}"
