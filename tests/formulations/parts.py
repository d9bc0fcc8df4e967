"""For each part of a layer all ordinary ways to compute it, by name: equal on paper, and rounded differently.

All of them see x as (A, G, K, S): the K * S numbers of each (a, g) share a mean, gamma and beta are (G, K). Whoever
says that a layer is right must say so of each way here, beside any way of the other parts. Not among them: a variance
that is the difference of two moments of x itself, which loses all digits at a large mean, and is a mistake.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Pass = SimpleNamespace  # what a way is given: the names below, as far as they are computed
Way = Callable[..., Any]

ROW = (2, 3)  # the axes that share a mean
PARAMETER = (0, 3)  # those that share a gamma
FEW, SEVERAL, MANY = (
    200,
    1000,
    5000,
)  # beyond which a matrix of n * n, and a loop in Python, take too long: another way is taken


def flat(t: Array, axes: tuple[int, ...]) -> Array:
    """`t` with these axes as one, the last."""
    rest = [axis for axis in range(4) if axis not in axes]
    moved = np.transpose(t, (*rest, *axes))
    return moved.reshape(*moved.shape[: len(rest)], int(np.prod([t.shape[axis] for axis in axes])))


def kept(sums: Array, axes: tuple[int, ...]) -> Array:
    return np.expand_dims(sums, axes)


# --- sums: total(t, axes), the axes kept ------------------------------------------------------------------------------


def by_flat(add: Callable[[Array], Array]) -> Way:
    return lambda t, axes: kept(add(flat(t, axes)), axes)


def running_total(a: Array) -> Array:
    return np.cumsum(a, -1)[..., -1] if a.shape[-1] else a.sum(-1)


def one_by_one(a: Array) -> Array:
    if a.shape[-1] > MANY:
        return running_total(a)
    total = np.zeros(a.shape[:-1], a.dtype)
    for j in range(a.shape[-1]):
        total += a[..., j]
    return total


def by_halves(a: Array) -> Array:
    m = a.shape[-1]
    return a.sum(-1) if m < 3 else by_halves(a[..., : m // 2]) + by_halves(a[..., m // 2 :])


def in_blocks(a: Array) -> Array:
    return np.asarray(sum((a[..., j : j + 1024].sum(-1) for j in range(0, a.shape[-1], 1024)), a[..., :0].sum(-1)))


def by_magnitude(a: Array) -> Array:
    return np.take_along_axis(a, np.argsort(np.abs(a), -1), -1).sum(-1)


def axis_by_axis(t: Array, axes: tuple[int, ...]) -> Array:
    for axis in axes:
        t = t.sum(axis, keepdims=True)
    return t


TOTAL: dict[str, Way] = {
    "sum": lambda t, axes: t.sum(axes, keepdims=True),
    "ones": by_flat(lambda a: a @ np.ones(a.shape[-1], a.dtype)),
    "first axis": by_flat(lambda a: np.add.reduce(np.moveaxis(a, -1, 0).copy(), 0)),
    "cumsum": by_flat(running_total),
    "einsum": by_flat(lambda a: np.einsum("...m->...", a)),
    "axis by axis": axis_by_axis,
    "one by one": by_flat(one_by_one),
    "sorted": by_flat(
        lambda a: np.sort(np.ascontiguousarray(a), -1).sum(-1)
    ),  # in pairs, as NumPy adds what is contiguous
    "mean": by_flat(lambda a: a.mean(-1) * a.shape[-1] if a.shape[-1] else a.sum(-1)),
    "halves": by_flat(by_halves),
    "blocks": by_flat(in_blocks),
    "by magnitude": by_flat(by_magnitude),
}

# --- the variance: p has x, mean, c = x - mean, n, total, share (the mean over a row) -----------------------------------


def corrected(p: Pass) -> Array:
    rest = p.total(p.c)
    return (p.total(p.c**2) - rest * rest / p.n) / p.n


def shifted(p: Pass) -> Array:
    """One pass over x less its first number, as the textbooks correct the one-pass variance.

    Not of thousands: about a number that may lie three deviations off, added one by one, they lose a hundred roundoffs.
    """
    if p.n > SEVERAL:
        return corrected(p)
    s = p.x - p.x[:, :, :1, :1]
    return np.maximum(p.share(s * s) - p.share(s) ** 2, 0)


def welford(p: Pass) -> Array:
    if p.n > MANY:
        return corrected(p)
    a = flat(p.x, ROW)
    mean, squares = np.zeros_like(a[..., 0]), np.zeros_like(a[..., 0])
    for j in range(p.n):
        delta = a[..., j] - mean
        mean = mean + delta / (j + 1)
        squares = squares + delta * (a[..., j] - mean)
    return kept(squares / p.n, ROW)


def _halves(a: Array) -> tuple[Array, Array]:
    """Mean and sum of squared distances, of two halves."""
    n = a.shape[-1]
    if n == 1:
        return a[..., 0], 0 * a[..., 0]
    (m1, s1), (m2, s2) = _halves(a[..., : n // 2]), _halves(a[..., n // 2 :])
    one, two = n // 2, n - n // 2
    return (one * m1 + two * m2) / n, s1 + s2 + (m2 - m1) ** 2 * (one * two / n)


def chan(p: Pass) -> Array:
    if p.n > MANY:
        return corrected(p)
    return kept(_halves(flat(p.x, ROW))[1] / p.n, ROW)


VAR: dict[str, Way] = {
    "mean of squares": lambda p: p.share(p.c**2),
    "np.var": lambda p: p.x.var(ROW, keepdims=True),
    "sum over n": lambda p: p.total(p.c * p.c) / p.n,
    "sum times 1/n": lambda p: p.total(np.square(p.c)) * (1 / p.n),
    "einsum": lambda p: np.einsum("agks,agks->ag", p.c, p.c)[..., None, None] / p.n,
    "dot": lambda p: kept(np.vecdot(flat(p.c, ROW), flat(p.c, ROW)), ROW) / p.n,
    "np.std": lambda p: p.x.std(ROW, keepdims=True) ** 2,
    "norm": lambda p: kept(np.linalg.norm(flat(p.c, ROW), axis=-1), ROW) ** 2 / p.n,
    "corrected": corrected,
    "shifted": shifted,
    "welford": welford,
    "chan": chan,
    "unbiased": lambda p: p.total(p.c**2) / max(p.n - 1, 1) * ((p.n - 1) / p.n),
}
SQUARES: dict[str, Way] = {  # RMSNorm's
    "mean of squares": lambda p: p.share(p.x**2),
    "sum over n": lambda p: p.total(p.x * p.x) / p.n,
    "einsum": lambda p: np.einsum("agks,agks->ag", p.x, p.x)[..., None, None] / p.n,
    "dot": lambda p: kept(np.vecdot(flat(p.x, ROW), flat(p.x, ROW)), ROW) / p.n,
    "norm": lambda p: kept(np.linalg.norm(flat(p.x, ROW), axis=-1), ROW) ** 2 / p.n,
    "rooted": lambda p: (kept(np.linalg.norm(flat(p.x, ROW), axis=-1), ROW) * p.n**-0.5) ** 2,
    "np.var and mean": lambda p: p.x.var(ROW, keepdims=True) + p.share(p.x) ** 2,
}

# --- from the variance to y: p has var, eps, then rstd and std, then xhat; gamma and beta are arrays, or 1.0 and 0.0 ----

RSTD: dict[str, Way] = {
    "1 / sqrt": lambda p: 1 / np.sqrt(p.var + p.eps),
    "** -0.5": lambda p: (p.var + p.eps) ** -0.5,
    "np.power": lambda p: np.power(p.var + p.eps, -0.5),
    "reciprocal": lambda p: np.reciprocal(np.sqrt(p.var + p.eps)),
    "sqrt of 1 /": lambda p: np.sqrt(1 / (p.var + p.eps)),
    "1 / ** 0.5": lambda p: 1.0 / (p.var + p.eps) ** 0.5,
    "np.hypot": lambda p: 1 / np.hypot(np.sqrt(p.var), p.eps**0.5),
}
XHAT: dict[str, Way] = {
    "times": lambda p: p.c * p.rstd,
    "divided": lambda p: p.c / p.std,
    "apart": lambda p: p.x * p.rstd - p.mean * p.rstd,
    "divided apart": lambda p: p.x / p.std - p.mean / p.std,
    "negative": lambda p: -((p.mean - p.x) * p.rstd),
}
Y: dict[str, Way] = {
    "gamma xhat": lambda p: p.gamma * p.xhat + p.beta,
    "folded": lambda p: p.x * (p.gamma * p.rstd) + (p.beta - p.mean * (p.gamma * p.rstd)),
    "scaled": lambda p: p.c * (p.gamma * p.rstd) + p.beta,
    "gamma early": lambda p: p.gamma * p.c / p.std + p.beta,
    "gamma over std": lambda p: (p.gamma / p.std) * p.c + p.beta,
    "beta first": lambda p: p.beta - p.gamma * (p.mean - p.x) * p.rstd,
    "apart": lambda p: p.gamma * p.x * p.rstd - p.gamma * p.mean * p.rstd + p.beta,
    "folded, divided": lambda p: p.x * (p.gamma / p.std) + (p.beta - p.mean * p.gamma / p.std),
    "one after the other": lambda p: (p.gamma * p.x * p.rstd + p.beta) - p.gamma * p.mean * p.rstd,
}

# --- the gradient of the input: p has all of these, dy and d = gamma * dy -----------------------------------------------


def closed(p: Pass) -> Array:
    return p.rstd * (p.d - p.share(p.d) - p.xhat * p.share(p.d * p.xhat))


def chain(p: Pass) -> Array:
    """Node by node, with the term that is zero."""
    dvar = p.total(p.d * p.c * -0.5 * (p.var + p.eps) ** -1.5)
    dmean = p.total(-p.d * p.rstd) + dvar * p.share(-2 * p.c)
    return p.d * p.rstd + dvar * 2 * p.c / p.n + dmean / p.n


def chain_of_x(p: Pass) -> Array:
    """The same, with x - mean made anew at each place."""
    dvar = p.total(p.d * (p.x - p.mean)) * -0.5 / (p.std * p.std * p.std)
    dmean = -p.total(p.d / p.std) - 2 * dvar * p.total(p.x - p.mean) / p.n
    return p.d / p.std + dvar * (2 / p.n) * (p.x - p.mean) + dmean * (1 / p.n)


def chain_short(p: Pass) -> Array:
    """Without the term that is zero."""
    dvar = -0.5 * p.rstd**3 * p.total(p.d * p.c)
    dmean = -p.rstd * p.total(p.d)
    return p.d * p.rstd + 2 * dvar * p.c / p.n + dmean / p.n


def chain_std(p: Pass) -> Array:
    """In twelve steps: by 1/std and std to the variance."""
    dinverse = p.total(p.d * p.c)
    dstd = -1 / p.std**2 * dinverse
    dvar = 0.5 * 1 / np.sqrt(p.var + p.eps) * dstd
    dsquares = np.ones_like(p.x) / p.n * dvar
    dcentred = p.d * (1 / p.std) + 2 * p.c * dsquares
    dmean = -1 * p.total(dcentred)
    return dcentred + np.ones_like(p.x) / p.n * dmean


def chain_centred(p: Pass) -> Array:
    """The gradient of x - mean, less its mean."""
    dcentred = p.d / p.std - p.c * p.total(p.d * p.xhat) / (p.n * (p.var + p.eps))
    return dcentred - p.share(dcentred)


def chain_of_moments(p: Pass) -> Array:
    """Backwards through mean(x**2) - mean**2, whatever the variance was computed by."""
    dvar = -0.5 * p.rstd**3 * p.total(p.d * p.c)
    dmean = -p.rstd * p.total(p.d) - 2 * p.mean * dvar
    return p.d * p.rstd + 2 * p.x * dvar / p.n + dmean / p.n


def linear_in_x(p: Pass) -> Array:
    """torch's GroupNorm and LayerNorm: c1 * dy + c2 * x + c3."""
    ds, db = p.total(p.d * p.x), p.total(p.d)
    c2 = (db * p.mean - ds) * p.rstd**3 / p.n
    c3 = -c2 * p.mean - db * p.rstd / p.n
    return (p.gamma * p.rstd) * p.dy + c2 * p.x + c3


def linear_by_channel(p: Pass) -> Array:
    """The same, with the sums over space first and gamma after."""
    ds, db = (p.dy * p.x).sum(3, keepdims=True), p.dy.sum(3, keepdims=True)
    ds, db = (ds * p.gamma).sum(2, keepdims=True), (db * p.gamma).sum(2, keepdims=True)
    s = 1 / p.n
    c2 = (db * p.mean - ds) * p.rstd * p.rstd * p.rstd * s
    c3 = -c2 * p.mean - db * p.rstd * s
    return p.rstd * p.gamma * p.dy + c2 * p.x + c3


def jacobian(p: Pass) -> Array:
    if p.n > FEW:
        return closed(p)
    h, rstd = flat(p.xhat, ROW), p.rstd[..., 0]
    j = rstd[..., None] * (np.eye(p.n, dtype=h.dtype) - 1 / p.n - h[..., :, None] * h[..., None, :] / p.n)
    return (j @ flat(p.d, ROW)[..., None]).reshape(p.x.shape)


def jacobian_of_c(p: Pass) -> Array:
    """Rows of numbers from the quotient rule, times d."""
    if p.n > FEW:
        return closed(p)
    c, eye = flat(p.c, ROW), np.eye(p.n, dtype=p.x.dtype)
    dstd = c[..., None, :] / (p.n * p.std)
    j = ((eye - 1 / p.n) * p.std - c[..., :, None] * dstd) / (p.var + p.eps)
    return np.einsum("agij,agi->agj", j, flat(p.d, ROW)).reshape(p.x.shape)


def jacobians(p: Pass) -> Array:
    """The product of the Jacobians of the two steps."""
    if p.n > FEW:
        return closed(p)
    c, eye, r = flat(p.c, ROW), np.eye(p.n, dtype=p.x.dtype), p.rstd
    steep = r * eye - r**3 * c[..., :, None] * c[..., None, :] / p.n
    return ((eye - 1 / p.n) @ (steep @ flat(p.d, ROW)[..., None])).reshape(p.x.shape)


def centring(p: Pass) -> Array:
    """By the centring matrix, which has the mean's part."""
    if p.n > FEW:
        return closed(p)
    h = np.eye(p.n, dtype=p.x.dtype) - np.full((p.n, p.n), 1 / p.n, p.x.dtype)
    inner = flat(p.rstd * (p.d - p.xhat * p.share(p.d * p.xhat)), ROW)
    return (inner @ h).reshape(p.x.shape)


def centred_first(p: Pass) -> Array:
    d = p.d - p.share(p.d)
    return p.rstd * (d - p.xhat * p.share(d * p.xhat))


def gamma_late(p: Pass) -> Array:
    """gamma outside, where it is one a row; else multiplied in at each place."""
    if p.x.shape[2] == 1:
        return p.gamma * p.rstd * (p.dy - p.share(p.dy) - p.xhat * p.share(p.dy * p.xhat))
    return p.rstd * p.gamma * p.dy - p.rstd * p.share(p.gamma * p.dy) - p.rstd * p.xhat * p.share(p.d * p.xhat)


def by_parameter_gradients(p: Pass) -> Array:
    """dgamma and dbeta are the sums that dx needs, where a row has one gamma of its own; else as above."""
    if p.x.shape[0] != 1 or p.x.shape[2] != 1:
        return gamma_late(p)
    dgamma, dbeta = p.total(p.dy * p.xhat), p.total(p.dy)
    return (p.gamma * p.rstd / p.n) * (p.n * p.dy - dbeta - p.xhat * dgamma)


DX: dict[str, Way] = {
    "closed": closed,
    "closed, times n": lambda p: (p.n * p.d - p.total(p.d) - p.xhat * p.total(p.d * p.xhat)) / (p.n * p.std),
    "closed, rstd / n": lambda p: p.rstd / p.n * (p.n * p.d - p.total(p.d) - p.xhat * p.total(p.d * p.xhat)),
    "closed, by var": lambda p: (p.d - p.share(p.d) - p.c * p.share(p.d * p.c) / (p.var + p.eps)) / p.std,
    "closed, by c": lambda p: p.rstd * p.d - p.rstd * p.share(p.d) - p.c * p.rstd**3 * p.share(p.d * p.c),
    "chain": chain,
    "chain of x": chain_of_x,
    "chain, short": chain_short,
    "chain by std": chain_std,
    "chain, centred": chain_centred,
    "chain of moments": chain_of_moments,
    "linear in x": linear_in_x,
    "linear by channel": linear_by_channel,
    "jacobian": jacobian,
    "jacobian of c": jacobian_of_c,
    "jacobians": jacobians,
    "centring": centring,
    "centred first": centred_first,
    "gamma late": gamma_late,
    "by dgamma": by_parameter_gradients,
}


def rms_closed(p: Pass) -> Array:
    return p.rstd * (p.d - p.xhat * p.share(p.d * p.xhat))


def rms_chain(p: Pass) -> Array:
    dsquare = p.total(p.d * p.x * -0.5 * (p.var + p.eps) ** -1.5)
    return p.d * p.rstd + dsquare * 2 * p.x / p.n


def rms_chain_by_root(p: Pass) -> Array:
    droot = -p.total(p.d * p.x) / p.std**2
    return p.d / p.std + droot / (2 * p.std) * 2 * p.x / p.n


def rms_jacobian(p: Pass) -> Array:
    if p.n > FEW:
        return rms_closed(p)
    h = flat(p.xhat, ROW)
    j = p.rstd * (np.eye(p.n, dtype=h.dtype) - h[..., :, None] * h[..., None, :] / p.n)
    return (j @ flat(p.d, ROW)[..., None]).reshape(p.x.shape)


RMS_DX: dict[str, Way] = {
    "closed": rms_closed,
    "closed, times n": lambda p: (p.n * p.d - p.xhat * p.total(p.d * p.xhat)) / (p.n * p.std),
    "closed, by var": lambda p: (p.d - p.x * p.share(p.d * p.x) / (p.var + p.eps)) / p.std,
    "closed, by x": lambda p: p.rstd * p.d - p.x * p.rstd**3 * p.share(p.d * p.x),
    "linear in x": lambda p: p.rstd * p.gamma * p.dy + (-(p.rstd**3) / p.n * p.total(p.dy * p.gamma * p.x)) * p.x,
    "chain": rms_chain,
    "chain by root": rms_chain_by_root,
    "jacobian": rms_jacobian,
    "gamma late": lambda p: p.rstd * p.gamma * p.dy - p.rstd * p.xhat * p.share(p.gamma * (p.dy * p.xhat)),
}
CONSTANT_DX: dict[str, Way] = {  # where the statistics are given
    "times": lambda p: p.d * p.rstd,
    "divided": lambda p: p.d / p.std,
    "folded": lambda p: p.dy * (p.gamma * p.rstd),
    "over": lambda p: p.gamma / p.std * p.dy,
    "by n": lambda p: p.rstd / p.n * (p.n * p.d),
}

# --- the gradients of the parameters, over a batch and space; added is the sum over those -------------------------------


def sample_by_sample(p: Pass) -> Array:
    if len(p.x) > MANY:
        return np.cumsum((p.dy * p.xhat).sum(3, keepdims=True), 0)[-1:]
    total = np.zeros((*p.x.shape[1:3], 1), p.x.dtype)
    for a in range(len(p.x)):
        total += (p.dy[a] * p.xhat[a]).sum(2, keepdims=True)
    return total


def ds_db(p: Pass) -> Array:
    """torch's GroupNorm: from the sums over space of dy * x and dy."""
    ds, db = (p.dy * p.x).sum(3, keepdims=True), p.dy.sum(3, keepdims=True)
    return ((ds - db * p.mean) * p.rstd).sum(0, keepdims=True)


DGAMMA: dict[str, Way] = {
    "dy xhat": lambda p: p.added(p.dy * p.xhat),
    "einsum": lambda p: np.einsum("agks,agks->gk", p.dy, p.xhat)[None, ..., None],
    "rstd after space": lambda p: ((p.dy * p.c).sum(3, keepdims=True) * p.rstd).sum(0, keepdims=True),
    "divided": lambda p: p.added(p.dy * p.c / p.std),
    "matmul": lambda p: np.tensordot(np.ones(len(p.x), p.x.dtype), (p.dy * p.xhat).sum(3), 1),
    "sample by sample": sample_by_sample,
    "ds, db": ds_db,
    "dy rstd": lambda p: p.added((p.dy * p.rstd) * (p.x - p.mean)),
    "apart": lambda p: p.added(p.dy * p.x * p.rstd) - p.added(p.dy * p.mean * p.rstd),
}
DBETA: dict[str, Way] = {
    "sum": lambda p: p.added(p.dy),
    "einsum": lambda p: np.einsum("agks->gk", p.dy)[None, ..., None],
    "matmul": lambda p: np.tensordot(np.ones(len(p.x), p.x.dtype), p.dy.sum(3), 1),
    "space last": lambda p: p.dy.sum(0, keepdims=True).sum(3, keepdims=True),
}

# --- the running statistics: from the old, the batch's and the fraction of the new --------------------------------------

RUNNING: dict[str, Way] = {
    "blended": lambda old, new, m: (1 - m) * old + m * new,
    "towards": lambda old, new, m: old + m * (new - old),
    "decayed": lambda old, new, m: np.add(old * (1 - m), m * new),
    "back": lambda old, new, m: old - (old - new) * m,
    "from the new": lambda old, new, m: new + (1 - m) * (old - new),
    "kept": lambda old, new, m: (1 - m) * old + (1 - (1 - m)) * new,
    "np.average": lambda old, new, m: np.average([old, new], axis=0, weights=[1 - m, m]),
    "summed": lambda old, new, m: (old * (1 - m) / m + new) * m if m else old,
}
UNBIASED: dict[str, Way] = {
    "var n / (n - 1)": lambda p: p.var * p.n / max(p.n - 1, 1),
    "var * factor": lambda p: p.var * (p.n / max(p.n - 1, 1)),
    "ddof": lambda p: p.x.var(ROW, keepdims=True, ddof=min(1, p.n - 1)),
    "over n - 1": lambda p: p.total(p.c**2) / max(p.n - 1, 1),
    "var / (1 - 1 / n)": lambda p: p.var / (1 - 1 / p.n if p.n > 1 else 1),
}
