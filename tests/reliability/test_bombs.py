"""Decompression bombs are refused at the cost of their bytes; large images within the limits cost
what their decoder needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from benchmarks.reliability.bombs import bombs, try_bombs
from benchmarks.reliability.harness import service

MAX_OTHERS_S: Final = 1.0
"""Measured: 0.1 s, on a core that others share."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_bombs_cost_little() -> None:
    with service() as live:
        found = try_bombs(live, times=2)
    assert len(found) == len(list(bombs()))
    for item in found:
        assert item.extra_mib < item.max_extra_mib, item
        assert item.others_s < MAX_OTHERS_S, item
        if item.status == 413:
            assert re.search(r"\d.*maximum|maximum.*\d", item.detail), item
