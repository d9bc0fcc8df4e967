"""Mistakes in the statistics and in the forward pass."""

from typing import Any

from reference.diagnosis.faults.entry import ALL, BATCH, CENTRED, GROUP, ROWS, Fault, Variant, instead, times
from reference.truth.arithmetic import sqrt
from reference.truth.exact import View, view_of


def _view(shape: Any = None, axes: Any = None, gamma_shape: Any = None, gamma_axes: Any = None) -> Variant:
    """Another view: each argument a function of the pass and of the right view."""

    changes = (shape, axes, gamma_shape, gamma_axes)

    def change(p: Any, view: View) -> View:
        return View(*(new(p, view) if new else old for new, old in zip(changes, view, strict=True)))

    return {"view": change}


def _other_axes(axes: Any) -> tuple[Variant, Variant]:
    """Statistics over other axes; with a backward whose means run over the same, or over the right ones."""

    def right_average(p: Any, average: Any) -> Any:
        axes = view_of(p.case, p.input_shape).axes
        return lambda array: array.mean(axes, keepdims=True) if axes else array

    change = _view(axes=axes)
    return change, {**change, "backward_average": right_average}


def _groups_first(p: Any, view: View) -> tuple[int, ...]:
    """The grouped shape with the two channel axes swapped: (N, C / G, G, *spatial)."""
    return (view.shape[0], view.shape[2], view.shape[1], *view.shape[3:])


def _swapped_gamma(p: Any, view: View) -> tuple[int, ...]:
    return (1, view.gamma_shape[2], view.gamma_shape[1], *view.gamma_shape[3:])


def _spatial(p: Any, view: View) -> tuple[int, ...]:
    return view.axes[1:] or view.axes


def _first_of_group(values: Any) -> Any:
    return values[:, :, :1]


def _entry_of_group(values: Any) -> Any:
    """values[g] for all of group g: the first G of the C entries."""
    groups = values.shape[1]
    return values.reshape(-1)[:groups].reshape(1, groups, 1, *values.shape[3:])


def _a_group(pick: Any) -> Any:
    """Parameters with the one value in all of a group that pick(values) takes from it."""
    return lambda p, values: pick(values) + 0 * values


def _mean_of_group(values: Any) -> Any:
    return values.mean(2, keepdims=True)


def _n_over_less(p: Any) -> Any:
    return 1.0 if p.constant else p.count / (p.count - 1 or float("nan"))


# The gradients of a layer that takes its gamma for one number a position of the last axis.
_ONE_AXIS_GRADIENTS: Variant = {
    "dgamma": instead(lambda p: (p.dy * p.dgamma_factor).sum(tuple(range(p.dy.ndim - 1)))),
    "dbeta": instead(lambda p: p.dy.sum(tuple(range(p.dy.ndim - 1)))),
}

_PER_GROUP = (_entry_of_group, _first_of_group, _mean_of_group)

ENTRIES = (
    Fault(
        id="variance-unbiased",
        kind="mistake",
        summary="The variance that normalizes is divided by n - 1; it is the mean of the squares, divided by n.",
        fix="Use var = ((x - mean)**2).mean(), NumPy's ddof=0.",
        wrong="var = sum((x - mean)**2) / (n - 1)",
        right="var = sum((x - mean)**2) / n",
        quantities=("y",),
        variants=(
            {"var": times(_n_over_less)},
            {"var": times(_n_over_less), "stored_var": times(lambda p: p.count / max(p.count - 1, 1))},
        ),
        forward=True,
        seen_in="Flux.jl#529",
    ),
    Fault(
        id="eps-outside-sqrt",
        kind="convention",
        summary="eps is added to the deviation, outside of the square root, not to the variance.",
        fix="Divide by sqrt(var + eps).",
        wrong="xhat = (x - mean) / (sqrt(var) + eps)",
        right="xhat = (x - mean) / sqrt(var + eps)",
        quantities=("y",),
        variants=(
            {  # with the projection term of its own derivative
                "rstd": instead(lambda p: 1 / (sqrt(p.var) + p.eps)),
                "projection_mean": lambda p, mean: mean if p.backward_constant else mean / (p.rstd * sqrt(p.var)),
            },
            {"rstd": instead(lambda p: 1 / (sqrt(p.var) + p.eps))},
        ),
        forward=True,
        seen_in="OLMo#281",
    ),
    Fault(
        id="eps-missing",
        kind="mistake",
        summary="There is no eps: rows of a small variance are blown up, constant ones become NaN.",
        fix="Add eps to the variance before the square root.",
        wrong="rstd = 1 / sqrt(var)",
        right="rstd = 1 / sqrt(var + eps)",
        quantities=("y",),
        variants=({"eps": instead(lambda p: 0.0)},),
        forward=True,
        seen_in="tt-metal#55347",
    ),
    Fault(
        id="eps-argument-ignored",
        kind="convention",
        summary="The eps that was asked for is not used; a fixed one is.",
        fix="Store the eps of the constructor, and add that one.",
        wrong="rstd = 1 / sqrt(var + 1e-5)  # or another constant",
        right="rstd = 1 / sqrt(var + self.eps)",
        quantities=("y",),
        forward=True,
        constant="eps",
        seen_in="tvm PR#15856",
    ),
    Fault(
        id="std-not-rooted",
        kind="mistake",
        summary="The centred values are divided by the variance: the square root is missing.",
        fix="Divide by sqrt(var + eps).",
        wrong="xhat = (x - mean) / (var + eps)",
        right="xhat = (x - mean) / sqrt(var + eps)",
        quantities=("y",),
        variants=({"rstd": instead(lambda p: 1 / (p.var + p.eps))},),
        forward=True,
        seen_in="jax#442",
    ),
    Fault(
        id="variance-is-std",
        kind="mistake",
        summary="The deviation is taken for the variance, so that a root is drawn twice.",
        fix="Use the variance under the root: np.var, not np.std.",
        wrong="rstd = 1 / sqrt(std + eps)",
        right="rstd = 1 / sqrt(var + eps)",
        quantities=("y",),
        variants=(
            {"rstd": instead(lambda p: 1 / sqrt(sqrt(p.var) + p.eps))},
            {
                "rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps)),
                "stored_var": instead(lambda p: sqrt(p.batch_var)),
            },
            {
                "rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps)),
                "stored_var": instead(lambda p: sqrt(p.batch_var) * p.count / max(p.count - 1, 1)),
            },
            {"rstd": instead(lambda p: 1 / sqrt((p.var if p.constant else sqrt(p.var)) + p.eps))},
        ),
        forward=True,
    ),
    Fault(
        id="training-uses-running-statistics",
        kind="mistake",
        summary="In training the running mean and variance normalize, where the batch's own should.",
        fix="In training mode use the batch's mean and variance; only update the running ones.",
        wrong="xhat = (x - running_mean) / sqrt(running_var + eps)  # while training",
        right="xhat = (x - batch_mean) / sqrt(batch_var + eps)  # while training",
        quantities=("y",),
        layers=BATCH,
        variants=tuple(
            {"constant": instead(lambda p: bool(p.tracks)), **used, **backward}
            for used in (
                {},
                {"used_mean": instead(lambda p: p.old_mean), "used_var": instead(lambda p: p.old_var)},
            )
            for backward in ({}, {"backward_constant": instead(lambda p: bool(p.tracks and not p.training))})
        ),
        forward=True,
        seen_in="",
    ),
    Fault(
        id="mean-not-subtracted",
        kind="mistake",
        summary="The mean is not subtracted from what is normalized.",
        fix="Normalize x - mean.",
        wrong="xhat = x * rstd",
        right="xhat = (x - mean) * rstd",
        quantities=("y",),
        layers=CENTRED,
        variants=(
            {"xhat": instead(lambda p: p.x * p.rstd)},
            {"centred": instead(lambda p: p.x)},
            {"xhat": lambda p, xhat: xhat if p.constant else p.x * p.rstd},
            {"centred": lambda p, centred: centred if p.constant else p.x},
        ),
        forward=True,
    ),
    Fault(
        id="mean-subtracted",
        kind="mistake",
        summary="A mean is subtracted; RMSNorm has none.",
        fix="Normalize x itself, by the root of the mean of its squares.",
        wrong="xhat = (x - mean) / sqrt(mean(x**2) + eps)",
        right="xhat = x / sqrt(mean(x**2) + eps)",
        quantities=("y",),
        layers=("RMSNorm",),
        variants=(
            {"centred": instead(lambda p: p.x - p.average(p.x))},
            {"xhat": instead(lambda p: (p.x - p.average(p.x)) * p.rstd)},
            {
                "centred": instead(lambda p: p.x - p.average(p.x)),
                "mean_term": instead(lambda p: p.backward_average(p.d)),
            },
        ),
        forward=True,
    ),
    Fault(
        id="groups-interleaved",
        kind="mistake",
        summary="Channel c is put into group c mod G; groups are blocks of neighbouring channels.",
        fix="Reshape to (N, G, C // G, ...), and reduce over the axes after G.",
        wrong="x.reshape(N, C // G, G, ...).mean over all axes but N and G",
        right="x.reshape(N, G, C // G, ...).mean over all axes but N and G",
        quantities=("y",),
        layers=GROUP,
        variants=(
            _view(
                _groups_first,
                lambda p, view: (1, *view.axes[1:]),
                _swapped_gamma,
            ),
        ),
        forward=True,
    ),
    Fault(
        id="groups-and-channels-swapped",
        kind="mistake",
        summary="The channels are divided into C / G groups of G channels, where G groups were asked for.",
        fix="Reshape to (N, G, C // G, ...), the number of groups first.",
        wrong="x.reshape(N, C // G, G, ...).mean over G and space",
        right="x.reshape(N, G, C // G, ...).mean over C // G and space",
        quantities=("y",),
        layers=GROUP,
        variants=(_view(_groups_first, None, _swapped_gamma),),
        forward=True,
    ),
    Fault(
        id="statistics-per-channel",
        kind="mistake",
        summary="Each channel is normalized alone: the channels of a group do not share their statistics.",
        fix="Reduce over the channels of the group too.",
        wrong="mean and var over the spatial axes",
        right="mean and var over the group's channels and the spatial axes",
        quantities=("y",),
        layers=GROUP,
        variants=_other_axes(_spatial),
        forward=True,
    ),
    Fault(
        id="statistics-per-position",
        kind="mistake",
        summary="Each position in space is normalized alone: the spatial axes are left out of the statistics.",
        fix="Reduce over the spatial axes too.",
        wrong="mean and var without the spatial axes",
        right="mean and var over the spatial axes too",
        quantities=("y",),
        layers=("GroupNorm", "BatchNorm"),
        variants=_other_axes(lambda p, view: view.axes[:1]),
        forward=True,
        seen_in="NumPyNet#7",
    ),
    Fault(
        id="statistics-over-batch",
        kind="mistake",
        summary="The statistics run over the batch too; each sample has its own.",
        fix="Leave the first axis out of the mean and the variance.",
        wrong="mean and var over (N, C // G, spatial)",
        right="mean and var over (C // G, spatial)",
        quantities=("y",),
        layers=GROUP,
        variants=_other_axes(lambda p, view: (0, *view.axes)),
        forward=True,
        seen_in="BrainPy#765",
    ),
    Fault(
        id="statistics-per-sample",
        kind="mistake",
        summary="Each sample has its own statistics; BatchNorm shares them over the batch.",
        fix="Reduce over the batch axis too.",
        wrong="mean and var over the spatial axes",
        right="mean and var over (N, spatial)",
        quantities=("y",),
        layers=BATCH,
        variants=_other_axes(_spatial),
        forward=True,
    ),
    Fault(
        id="statistics-last-axis-only",
        kind="mistake",
        summary="Only the last axis is normalized; normalized_shape has more.",
        fix="Reduce over the last len(normalized_shape) axes.",
        wrong="x.mean(axis=-1)",
        right="x.mean(axis=tuple(range(-len(normalized_shape), 0)))",
        quantities=("y",),
        layers=ROWS,
        variants=tuple(
            {**variant, **gradients}
            for variant in _other_axes(lambda p, view: view.axes[-1:])
            for gradients in ({}, _ONE_AXIS_GRADIENTS)
        ),
        forward=True,
    ),
    Fault(
        id="gamma-not-applied",
        kind="mistake",
        summary="The output is not multiplied by gamma.",
        fix="y = gamma * xhat + beta.",
        wrong="y = xhat + beta",
        right="y = gamma * xhat + beta",
        quantities=("y",),
        variants=({"gamma": lambda p, gamma: 0 * gamma + 1}, {"y": instead(lambda p: p.xhat + p.beta)}),
        forward=True,
    ),
    Fault(
        id="gamma-per-group",
        kind="mistake",
        summary="gamma is one number a group; it is one a channel.",
        fix="Give gamma (and beta) the shape (C,), and apply it to channels.",
        wrong="y = gamma[group] * xhat + beta",
        right="y = gamma[channel] * xhat + beta[channel]",
        quantities=("y",),
        layers=GROUP,
        variants=tuple(
            variant
            for pick in _PER_GROUP
            for variant in (
                {
                    "gamma": _a_group(pick),
                    "beta": _a_group(pick),
                    "dgamma": lambda p, gradient: gradient.sum(2),
                    "dbeta": lambda p, gradient: gradient.sum(2),
                },
                {"gamma": _a_group(pick)},
                {
                    "gamma": _a_group(pick),
                    "beta": _a_group(pick),
                },
            )
        ),
        forward=True,
        seen_in="onnx#5466, mxnet#17139",
    ),
    Fault(
        id="beta-not-applied",
        kind="mistake",
        summary="beta is not added to the output.",
        fix="y = gamma * xhat + beta.",
        wrong="y = gamma * xhat",
        right="y = gamma * xhat + beta",
        quantities=("y",),
        layers=CENTRED,
        variants=({"beta": lambda p, beta: 0 * beta},),
        forward=True,
    ),
    Fault(
        id="beta-before-gamma",
        kind="mistake",
        summary="beta is added before gamma multiplies, so that gamma multiplies it too.",
        fix="y = gamma * xhat + beta.",
        wrong="y = gamma * (xhat + beta)",
        right="y = gamma * xhat + beta",
        quantities=("y",),
        layers=CENTRED,
        variants=({"y": instead(lambda p: p.gamma * (p.xhat + p.beta))},),
        forward=True,
    ),
)

assert all(set(entry.layers) <= set(ALL) for entry in ENTRIES)
