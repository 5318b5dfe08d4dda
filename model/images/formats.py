"""What a file is, by its first bytes: for messages about files that are not read."""

from __future__ import annotations

from typing import Final

READ: Final = "PNG, JPEG, WebP, BMP and TIFF"
"""The formats that are read, as people write them."""

MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG", "a PNG file"),
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS file"),
    (0, b"\xff\xd8\xff", "a JPEG file"),
    (8, b"WEBP", "a WebP file"),
    (8, b"CR\x02\0", "a raw photo (CR2)"),
    (0, b"II*\0", "a TIFF file"),
    (0, b"MM\0*", "a TIFF file"),
    (0, b"II+\0", "a TIFF file"),
    (0, b"MM\0+", "a TIFF file"),
    (0, b"GIF8", "a GIF file"),
    (4, b"ftypavif", "an AVIF file"),
    (4, b"ftypavis", "an AVIF file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftyphev", "a HEIC file"),
    (4, b"ftypmif1", "a HEIC file"),
    (4, b"ftypmsf1", "a HEIC file"),
    (4, b"ftypcrx ", "a raw photo (CR3)"),
    (4, b"ftypjp", "a JPEG 2000 file"),
    (4, b"ftypjxl ", "a JPEG XL file"),
    (4, b"ftyp", "a video (MP4, MOV or the like)"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"\0\0\x01\0", "an ICO file"),
    (0, b"\0\0\x02\0", "a CUR file"),
    (0, b"icns", "an ICNS file"),
    (0, b"IIRO", "a raw photo (ORF)"),
    (0, b"IIRS", "a raw photo (ORF)"),
    (0, b"MMOR", "a raw photo (ORF)"),
    (0, b"IIU\0", "a raw photo (RW2)"),
    (0, b"FUJIFILMCCD-RAW", "a raw photo (RAF)"),
    (0, b"FOVb", "a raw photo (X3F)"),
    (0, b"v/1\x01", "an OpenEXR file"),
    (0, b"#?RADIANCE", "a Radiance HDR file"),
    (0, b"qoif", "a QOI file"),
    (0, b"DDS ", "a DDS file"),
    (0, b"BPG\xfb", "a BPG file"),
    (0, b"FLIF", "a FLIF file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (344, b"n+1\0", "a NIfTI file"),
    (0, b"\x93NUMPY", "an .npy file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image (git lfs pull fetches it)"),
    (0, b"iVBORw0KGgo", "the base64 of a PNG file"),
    (0, b"/9j/", "the base64 of a JPEG file"),
    (0, b"UklGR", "the base64 of a WebP file"),
    (0, b"data:image/", "a data URI"),
    # Binary files that a program read or sent as UTF-8; the character U+FFFD is for what is none.
    (0, b"\xc2\x89PNG", "a PNG file that was turned into text: send its bytes"),
    (0, b"\xef\xbf\xbdPNG", "a PNG file that was turned into text: send its bytes"),
    (0, b"\xc3\xbf\xc3\x98\xc3\xbf", "a JPEG file that was turned into text: send its bytes"),
    (0, b"\xef\xbf\xbd\xef\xbf\xbd", "a binary file that was turned into text: send its bytes"),
    (0, b"PK\x03\x04", "a ZIP archive (or .npz file)"),
    (0, b"PK\x05\x06", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"7z\xbc\xaf'\x1c", "a 7z archive"),
    (0, b"Rar!\x1a", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"\0\0\x01\xba", "a video"),
)
"""Offset, bytes at it, and what a file with them is. The first match counts."""

HEIF: Final = (b"ftypmif1", b"ftypmsf1")

PNM: Final = frozenset(b"1234567")
"""What follows the P of Netpbm's formats, before a blank."""


def name_of(data: bytes) -> str | None:
    """What a file is, with its article, such as `a HEIC file`; None if it is not known.

    >>> name_of(b"GIF89a..."), name_of(b"hello")
    ('a GIF file', None)
    """
    for at, magic, name in MAGIC:
        if data.startswith(magic, at):
            # Both are HEIF: of a general brand, the compatible brands say which.
            return "an AVIF file" if magic in HEIF and b"avif" in data[16:64] else name
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "a BMP file"
    if data[:1] == b"P" and data[1:2] and data[1] in PNM and data[2:3].isspace():
        return "a Netpbm file (PNM)"
    return _text_name(data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip())


def _text_name(start: bytes) -> str | None:
    lower = start.lower()
    if not lower.startswith(b"<"):
        return None
    if b"<svg" in lower:
        return "an SVG file"
    is_page = lower.startswith((b"<!doctype html", b"<html")) or b"<head" in lower
    return "a web page, not an image" if is_page else "an XML file"


def is_read(name: str) -> bool:
    """Whether files with this result of `name_of` are read."""
    return name in READ_NAMES


READ_NAMES: Final = frozenset(
    {"a PNG file", "a JPEG file", "a WebP file", "a BMP file", "a TIFF file"}
)
