"""The right formulas that several entries are held beside, and how they read for a kind of layer that has less.

Texts for the reports; knows no arithmetic and no entry.
"""

import re

from reference.kinds import Kind

# the forward
RSTD = "rstd = 1 / sqrt(var + eps)"
XHAT = "xhat = (x - mean) / sqrt(var + eps)"
Y = "y = gamma * xhat + beta"

# the backward
DX = "dx = rstd * (d - mean(d) - xhat * mean(d * xhat)), d = gamma * dy"
DX_OF_RMS = "dx = rstd * (d - xhat * mean(d * xhat)), d = gamma * dy"
EVAL_DX = "dx = gamma * dy / sqrt(running_var + eps)  # in eval mode"
DGAMMA = "dgamma = sum(dy * xhat) over all axes but gamma's"
DBETA = "dbeta = sum(dy) over all axes but beta's"
DGAMMA_DBETA = "dgamma = sum(dy * xhat), dbeta = sum(dy), over all axes but gamma's"

# the state
RUNNING = "running = (1 - momentum) * running + momentum * batch, the batch's variance unbiased"

# What a formula has less of where no mean is subtracted, and where there is no beta: patterns and what stands instead.
_NOT_CENTRED = (
    (r" - (mean|sum)\((d|dy)\)( / N| / \(n - 1\))?", ""),  # the mean term
    (r"\* \(d\)", "* d"),
    (r" - 1 / n", ""),  # the mean's part in the diagonal of the Jacobian
    (r"\(x - mean\)", "x"),
    (r"\bvar = ", ""),
    (r"\bvar\b", "mean(x**2)"),
)
_WITHOUT_BETA = ((r" \+ beta", ""), (r",? dbeta = sum\(dy\)", ""))


def of_kind(text: str, kind: Kind) -> str:
    """A formula of the general layer as it reads for one kind."""
    rules = (*(() if kind.centred else _NOT_CENTRED), *(() if kind.has_beta else _WITHOUT_BETA))
    for pattern, less in rules:
        text = re.sub(pattern, less, text)
    return text
