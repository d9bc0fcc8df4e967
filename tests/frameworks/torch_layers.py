"""torch.nn's layers, by the adapter that the verdict holds beside every layer."""

from functools import partial
from typing import Any

from tests.frameworks.row import Row

DTYPES = ("float64", "float32", "float16", "bfloat16")


def _made(like: str) -> Any:
    from reference.truth import torch_layers

    return torch_layers.LAYERS[like]


ROWS = [
    Row("torch.nn", like, like, partial(_made, like), ("torch",), DTYPES)
    for like in ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm")
]
