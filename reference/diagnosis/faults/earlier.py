"""Changes that let the backward use what another pass or another mode left behind; several entries share them.

Knows no entry.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from reference.diagnosis.faults.entry import Variant, instead
from reference.truth.exact import Change, Pass

Choose = Callable[[Pass], Pass | None]

TRAINING_FORMULA: Variant = {"backward_constant": instead(lambda p: False)}


def in_eval(p: Pass) -> bool:
    """Whether it is a pass in eval mode of a layer with running statistics."""
    return bool(p.tracks and not p.training)


def earlier(choose: Choose) -> Variant:
    """The backward from an earlier pass, which choose(pass) picks; from its own where there is none that fits."""

    def value(name: str) -> Change:
        def change(p: Pass, own: Any) -> Any:
            other = choose(p)
            found = own if other is None else getattr(other, name)
            return found if np.shape(found) == np.shape(own) else own

        return change

    return {"backward_xhat": value("xhat"), "backward_rstd": value("rstd"), "backward_constant": value("constant")}


def own_mode(variant: Variant) -> Variant:
    """The same with the formula of this pass's own mode."""
    return {step: change for step, change in variant.items() if step != "backward_constant"}


def rebuilt(choose: Choose) -> Variant:
    """The backward with an earlier rstd, and the xhat that follows from it."""
    rstd = earlier(choose)["backward_rstd"]
    return {"backward_xhat": lambda p, own: p.centred * rstd(p, p.rstd), "backward_rstd": rstd}
