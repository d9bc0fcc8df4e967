"""The layers of flax.linen and flax.nnx, with the variance that is their default and with the other one."""

from functools import partial
from importlib import import_module
from typing import Any

from tests.frameworks.row import Known, Row

DTYPES = ("float64", "float32", "float16", "bfloat16")
LAYERS = ("GroupNorm", "LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm")
CONVENTIONS = {"BatchNorm": ("momentum-inverted", "running-var-biased")}
ONE_PASS = Known(
    "the default computes the variance as mean(x**2) - mean(x)**2, which loses digits where it is small beside mean(x)**2; "
    "use_fast_variance=False does not",
    ("one-pass-variance",),
)


def _made(library: str, layer: str, fast: bool) -> Any:
    from reference import from_jax

    return from_jax(getattr(import_module(f"flax.{library}"), layer), use_fast_variance=fast)


def _rows(library: str) -> list[Row]:
    found = []
    for like in LAYERS:
        # nnx has the arithmetic of linen; RMSNorm has no mean to subtract
        for fast in (True, False) if like != "RMSNorm" and library == "linen" else (True,):
            known = {}
            if fast and like != "RMSNorm":
                known = dict.fromkeys(("float64", "float32"), ONE_PASS)
            found.append(
                Row(
                    f"flax.{library}",
                    like if fast else f"{like}(use_fast_variance=False)",
                    like,
                    partial(_made, library, like, fast),
                    ("flax", "jax"),
                    # beside its running statistics, which are float32, nnx.BatchNorm computes 16 bits in float32, and gives that
                    DTYPES[:2] if library == "nnx" and like in CONVENTIONS else DTYPES,
                    known,
                    CONVENTIONS.get(like, ()),
                    compiled=True,
                )
            )
    return found


ROWS = [*_rows("linen"), *_rows("nnx")]
