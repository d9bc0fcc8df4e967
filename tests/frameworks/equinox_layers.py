"""Equinox' layers; its BatchNorm keeps its statistics in a State over a mapped axis, and is not tried."""

from functools import partial
from typing import Any

from tests.frameworks.row import Known, Row

IN_BETWEEN = Known(
    "gamma and beta are applied in 16 bits, to an xhat that was rounded to them", ("rounded-in-between",)
)
DTYPES = ("float64", "float32", "float16", "bfloat16")


def _made(layer: str) -> Any:
    import equinox

    from reference import from_jax

    return from_jax(getattr(equinox.nn, layer))


ROWS = [
    Row("equinox", like, like, partial(_made, like), ("equinox", "jax"), DTYPES, known, compiled=True)
    for like, known in (
        ("GroupNorm", dict.fromkeys(("float16", "bfloat16"), IN_BETWEEN)),
        ("LayerNorm", {}),
        ("RMSNorm", {}),
    )
]
