import numpy as np
from numpy.typing import NDArray

COLUMNS: int
MAX_LAYERS: int
WIDE: int

def forward(
    n: int,
    pixels: NDArray[np.float32],
    weights: NDArray[np.float32],
    encoder: tuple[int, ...],
    decoder: tuple[int, ...],
    relu_head: bool,
    heads: NDArray[np.float32],
    logits: NDArray[np.float32],
    /,
) -> None: ...
def decode(
    n: int,
    z: NDArray[np.float32],
    weights: NDArray[np.float32],
    encoder: tuple[int, ...],
    decoder: tuple[int, ...],
    logits: NDArray[np.float32],
    /,
) -> None: ...
