"""The least time that a pass can take: its bytes and operations over what the device can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device does, as measured with large copies and products."""

    to_device: float
    """Bytes/s from pinned memory of the host."""
    to_host: float
    memory: float
    """Bytes/s of the device's memory, read and written."""
    products: Mapping[str, float]
    """FLOP/s of a product of large matrices by type."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one pass has to do, whatever computes it."""

    images: int
    flops_an_image: float
    row_bytes: int
    """Of an image as it is sent to the device."""
    result_bytes: int
    """Of an image's results."""
    weight_bytes: int

    def copies_s(self, rates: Rates) -> float:
        """Seconds for the rows to the device and the results back, one after the other."""
        there, back = self.images * self.row_bytes, self.images * self.result_bytes
        return there / rates.to_device + back / rates.to_host

    def compute_s(self, rates: Rates, dtype: str) -> float:
        """Seconds on the device: the operations, or reading weights and rows if that takes longer.

        Intermediate results count nothing: a single kernel would not write them.
        """
        moved = self.weight_bytes + self.images * (self.row_bytes + self.result_bytes)
        flops = self.images * self.flops_an_image
        return max(flops / rates.products[dtype], moved / rates.memory)
