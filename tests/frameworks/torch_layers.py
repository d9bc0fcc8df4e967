"""torch.nn's layers, as anybody's modules of torch are read; those that torch has one of for each rank, in one rank."""

from functools import partial
from typing import Any

from tests.frameworks.row import Row

DTYPES = ("float64", "float32", "float16", "bfloat16")


def _made(layer: str) -> Any:
    import torch

    from reference import from_torch

    return from_torch(getattr(torch.nn, layer))


ROWS = [
    *(
        Row("torch.nn", like, like, partial(_made, like), ("torch",), DTYPES)
        for like in ("GroupNorm", "LayerNorm", "RMSNorm")
    ),
    *(
        Row("torch.nn", f"{like}2d", like, partial(_made, f"{like}2d"), ("torch",), DTYPES, ndims=(4,))
        for like in ("BatchNorm", "InstanceNorm")
    ),
]
