"""Mistakes in the axes of the statistics: which numbers share a mean and a variance."""

from collections.abc import Callable

from reference.cases.case import Array
from reference.diagnosis.faults.entry import BATCH, GROUP, ROWS, Fault, Variant, instead
from reference.truth.exact import Pass, View, view_of

Axes = Callable[[Pass, View], tuple[int, ...]]
Average = Callable[[Array], Array]


def _view(shape: Axes | None = None, axes: Axes | None = None, gamma_shape: Axes | None = None) -> Variant:
    """Another view: each argument a function of the pass and of the right view, which gives what it has where none is."""

    def change(p: Pass, view: View) -> View:
        changed = {"shape": shape, "axes": axes, "gamma_shape": gamma_shape}
        return view._replace(**{name: new(p, view) for name, new in changed.items() if new})

    return {"view": change}


def _other_axes(axes: Axes) -> tuple[Variant, Variant]:
    """Statistics over other axes; with a backward whose means run over the same, or over the right ones."""

    def right_average(p: Pass, average: Average) -> Average:
        axes = view_of(p.case, p.input_shape).axes
        return lambda array: array.mean(axes, keepdims=True) if axes else array

    change = _view(axes=axes)
    return change, {**change, "backward_average": right_average}


def _groups_first(p: Pass, view: View) -> tuple[int, ...]:
    """The grouped shape with the two channel axes swapped: (N, C / G, G, *spatial)."""
    return (view.shape[0], view.shape[2], view.shape[1], *view.shape[3:])


def _swapped_gamma(p: Pass, view: View) -> tuple[int, ...]:
    return (1, view.gamma_shape[2], view.gamma_shape[1], *view.gamma_shape[3:])


def _spatial(p: Pass, view: View) -> tuple[int, ...]:
    return view.axes[1:] or view.axes


# The gradients of a layer that takes its gamma for one number a position of the last axis.
_ONE_AXIS_GRADIENTS: Variant = {
    "dgamma": instead(lambda p: (p.dy * p.dgamma_factor).sum(tuple(range(p.dy.ndim - 1)))),
    "dbeta": instead(lambda p: p.dy.sum(tuple(range(p.dy.ndim - 1)))),
}

ENTRIES = (
    Fault(
        id="groups-interleaved",
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
        summary="Only the last axis is normalized; normalized_shape has more.",
        fix="Reduce over the last len(normalized_shape) axes.",
        wrong="x.mean(axis=-1)",
        right="x.mean(axis=tuple(range(-len(normalized_shape), 0)))",
        formulas={"RMSNorm": ("(x**2).mean(axis=-1)", "(x**2).mean(axis=tuple(range(-len(normalized_shape), 0)))")},
        quantities=("y",),
        layers=ROWS,
        variants=tuple(
            {**variant, **gradients}
            for variant in _other_axes(lambda p, view: view.axes[-1:])
            for gradients in ({}, _ONE_AXIS_GRADIENTS)
        ),
        forward=True,
    ),
)
