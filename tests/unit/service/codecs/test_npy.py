""".npy headers that ask for much, or are damaged."""

from __future__ import annotations

import re

import pytest

from service.errors import BadBodyError
from tests.unit.service.codecs.bodies import read


def npy_header(text: bytes, version: int = 1, length: int | None = None) -> bytes:
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (npy_header(b" " * 4_097), "header has 4,097 bytes > maximum 4,096"),
        (npy_header(b"", 2, 2**32 - 1), "header has 4,294,967,295 bytes > maximum 4,096"),
        (npy_header(b"", 3, 10**8), "header has 100,000,000 bytes > maximum 4,096"),
        (npy_header(b"(" * 4_096), "header of the .npy file is damaged"),
        (npy_header(b"{", 1, 4_096), "header of the .npy file is damaged"),
        (b"\x93NUMPY\x02\0\0", "is not an .npy file, or its header is damaged"),
        (b"\x93NUMPY\x04\0" + bytes(200), "is not an .npy file, or its header is damaged"),
        (b"PK\x03\x04" + bytes(200), "is not an .npy file"),
    ],
)
def test_an_invalid_npy_header(body: bytes, reason: str) -> None:
    with pytest.raises(BadBodyError, match=re.escape(reason)):
        read(body, content_type="application/x-npy")


def test_shapes_in_messages_are_short() -> None:
    shape = "1," * 1_900
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape})}}"
    with pytest.raises(BadBodyError) as raised:
        read(npy_header(header.encode()), content_type="application/x-npy")
    assert len(str(raised.value)) < 300
