"""What callers may pass as images, and how each kind becomes an array or the bytes of a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sized
from inspect import iscoroutinefunction
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import Any, Final, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

PNG_MODES: Final = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
"""Modes of PIL images that PNG can store. Images of other modes are converted to RGB."""

FILE_KINDS: Final = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
"""Images that are sent as files, beside open files."""


class Tensor(Protocol):
    """A tensor of torch or of another library that numpy can read."""

    def __array__(self, *arguments: Any, **named: Any) -> NDArray[Any]:
        """The values."""


class OpenFile(Protocol):
    """A file opened in binary mode, an `io.BytesIO`, or an upload of a web framework."""

    def read(self) -> Any:
        """The bytes, or for uploads of FastAPI a coroutine."""


ImageFile = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | OpenFile
"""An image that is sent as a file: a PIL image, a path, the bytes of a file, or an open file."""
ImageLike = NDArray[Any] | Tensor | ImageFile
"""One image: (H, W) or (C, H, W) numbers, or a file."""
ImagesLike = ImageLike | Iterable[ImageLike]
"""Images: an array or tensor with one image for each index of its first axis, uint8 or floats in
[0, 1]; one image file; or several images, all arrays or all files."""


def to_array(tensor: Any) -> NDArray[Any]:
    """A numpy array of a tensor, which may be on a GPU or need gradients. Imports no torch."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if callable(getattr(tensor, "detach", None)):  # torch's
        tensor = tensor.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:
        if not callable(getattr(tensor, "float", None)):
            raise
        return np.asarray(tensor.float())  # numpy has no bfloat16


def to_numbers(values: Any) -> NDArray[np.float32]:
    """float32 of an array, a tensor, or a list of numbers or tensors."""
    if isinstance(values, list | tuple) and values and all(map(_is_array, values)):
        return np.stack([to_array(value) for value in values]).astype(np.float32)
    return np.asarray(to_array(values), np.float32)


def array_or_files(images: ImagesLike) -> NDArray[Any] | list[bytes]:
    """One array of all images, or the bytes of each image file.

    Raises `TypeError` for what is no image, `ValueError` for no images, empty ones and arrays of
    different shapes, and `OSError` for files that cannot be read.
    """
    if _is_array(images):
        return to_array(images)
    listed = list(each_image(images))
    if not listed:
        raise ValueError("images is empty, expected at least one")
    arrays = [_is_array(image) for image in listed]
    if not any(arrays):
        return [_file_bytes(image, i) for i, image in enumerate(listed)]
    if not all(arrays):
        raise TypeError("arrays and image files cannot be mixed in one call")
    stacked = [to_array(image) for image in listed]
    for i, array in enumerate(stacked):
        if array.shape != stacked[0].shape:
            raise ValueError(
                f"images[{i}] has shape {array.shape} and images[0] {stacked[0].shape}: arrays in "
                "one call have the same shape"
            )
    return np.stack(stacked)


def each_image(images: ImagesLike) -> Iterable[Any]:
    """The images one by one, without reading ahead; a single file is a list of one."""
    if isinstance(images, FILE_KINDS) or hasattr(images, "read"):
        return [images]
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise TypeError(
            f"images is of type {type(images).__name__}, expected an array, an image file, or a "
            "list of them"
        )
    return images


def count(images: ImagesLike) -> int | None:
    """How many there are, if that is known without reading them."""
    listed = each_image(images)
    return len(listed) if isinstance(listed, Sized) else None


def size_of_file(image: ImageLike) -> int:
    """Bytes that the image takes in a body if that is known before it is read, else 0."""
    if isinstance(image, str | os.PathLike):
        return Path(image).stat().st_size
    if isinstance(image, bytes | bytearray | memoryview):
        return memoryview(image).nbytes
    if hasattr(image, "read"):
        file = _sync_file(image, "an image")
        if not _is_seekable(file):
            return 0
        position = file.tell()
        size: int = file.seek(0, os.SEEK_END) or file.tell()
        file.seek(position)
        return size
    return 0


def _is_array(image: object) -> TypeGuard[NDArray[Any] | Tensor]:
    """Whether these are numbers. An array or a column of pandas may also hold paths."""
    if isinstance(image, FILE_KINDS) or not hasattr(image, "__array__"):
        return False
    return getattr(getattr(image, "dtype", None), "kind", "f") not in "OSU"


def _file_bytes(image: Any, i: int) -> bytes:
    if isinstance(image, str | os.PathLike):
        data = Path(image).read_bytes()
    elif isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    elif isinstance(image, Image.Image):
        return _png_bytes(image, i)
    elif hasattr(image, "read"):
        data = _read(_sync_file(image, f"images[{i}]"), i)
    else:
        raise TypeError(
            f"images[{i}] is of type {type(image).__name__}, expected an array, a tensor, a PIL "
            "image, a path, the bytes of an image file, or an open file"
        )
    if not data:
        what = f"{image} " if isinstance(image, str | os.PathLike) else ""
        raise ValueError(f"images[{i}] is empty: {what}has 0 bytes")
    return data


def _sync_file(image: Any, what: str) -> Any:
    """The file that can be read without `await`. Starlette's `UploadFile` keeps it in `file`."""
    if not iscoroutinefunction(image.read):
        return image
    file = getattr(image, "file", None)
    if not hasattr(file, "read"):
        raise TypeError(
            f"{what} is a {type(image).__name__}, which is read with await: pass the bytes, await "
            "file.read()"
        )
    return file


def _read(file: Any, i: int) -> bytes:
    """All of an open file, from its start. Its position is restored for other readers.

    A `BytesIO` that an image was just saved to is at its end, and an upload that was looked at is
    in the middle.
    """
    if isinstance(file, TextIOBase):  # whose read() may fail to decode before it gives a text
        raise TypeError(_opened_as_text(i))
    if _is_seekable(file):
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
    else:
        data = file.read()
    if isinstance(data, str):
        raise TypeError(_opened_as_text(i))
    return bytes(data)


def _opened_as_text(i: int) -> str:
    return f"images[{i}] is a file opened as text: open it with mode 'rb'"


def _is_seekable(file: Any) -> bool:
    try:
        return bool(file.seekable()) and file.tell() >= 0
    except (AttributeError, OSError):  # SpooledTemporaryFile had no seekable() before Python 3.11
        return False


def _png_bytes(image: Image.Image, i: int) -> bytes:
    if image.mode.startswith(("I", "F")) and image.mode not in PNG_MODES:
        raise TypeError(
            f"images[{i}] is a PIL image of mode {image.mode!r}, whose range of values is unknown; "
            "scale it to 0..255 and convert it to mode 'L', or pass an array"
        )
    file = BytesIO()
    image = ImageOps.exif_transpose(image)  # PNG does not keep the orientation
    if image.mode not in PNG_MODES:
        image = image.convert("RGB")
    image.save(file, "PNG")
    return file.getvalue()
