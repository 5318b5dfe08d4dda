import numpy as np
from numpy.typing import NDArray

LANES: int

def errors(
    pixels: NDArray[np.float32], logits: NDArray[np.float32], out: NDArray[np.float32], /
) -> None: ...
def score(
    name: str,
    pixels: NDArray[np.float32],
    logits: NDArray[np.float32],
    heads: NDArray[np.float32],
    worst: int,
    constants: NDArray[np.float32],
    statistics: NDArray[np.float32] | None,
    out: NDArray[np.float32],
    /,
) -> None: ...
