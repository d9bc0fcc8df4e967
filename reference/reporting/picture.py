"""The picture of a failure: for each wrong quantity the error over the smallest and over a typical failing case.

Reads results and their cases only. matplotlib is imported when a picture is asked for, and only then.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.reporting.result import CheckResult, Picture

ROW = 2.6  # inches that a picture's row takes at least


def draw(reports: Sequence[CheckResult], path: Path) -> None:
    """Write the picture of all that is wrong in `reports`; one that says so if nothing is.

    Raises:
        ImportError: matplotlib is not installed.
        OSError, ValueError: the file cannot be written, or its ending is of no known kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [(report, pair) for report in reports for pair in _pairs(report.pictures)]
    if not rows:
        figure = pyplot.figure(figsize=(6, 1.5))
        passed = all(report.passed for report in reports)
        figure.text(0.5, 0.5, "nothing is wrong" if passed else "no wrong array to draw", ha="center", va="center")
        _save(figure, path, 120)
        return
    figure, axes = pyplot.subplots(
        len(rows), 2, figsize=(11, 0.6 + ROW * len(rows)), squeeze=False, layout="constrained"
    )
    for (report, pair), pair_axes in zip(rows, axes, strict=True):
        for picture, ax in zip(pair, pair_axes, strict=True):
            _draw_one(figure, ax, report, picture)
    names = sorted({report.subject for report, _ in rows})
    figure.suptitle(f"{', '.join(names)}: error, relative to the largest value that should be there", fontsize=11)
    _save(figure, path, 110)


def _save(figure: Any, path: Path, dpi: int) -> None:
    from matplotlib import pyplot

    try:
        figure.savefig(path, dpi=dpi)
    finally:
        pyplot.close(figure)


def _pairs(pictures: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    return [(first, second) for first, second in zip(pictures[::2], pictures[1::2], strict=True)]


def _draw_one(figure: Any, ax: Any, report: CheckResult, picture: Picture) -> None:
    """One heat map: white where it agrees, the darker the farther off; lines between groups, thick ones between samples."""
    from matplotlib.colors import LogNorm

    got, expected = picture.got.astype(np.float64), picture.expected
    with np.errstate(invalid="ignore"):
        error = np.abs(got - expected)
    error[(got == expected) | (np.isnan(got) & np.isnan(expected))] = 0.0  # inf or NaN where it should be
    largest = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0)) or 1.0
    relative = np.where(np.isfinite(error), error / largest, 1e3)
    matrix, rows, columns, lines = as_matrix(relative, picture.case)
    shown = np.ma.masked_less(matrix, 1e-12 if picture.case.dtype == "float64" else 1e-4)
    image = ax.imshow(shown, aspect="auto", norm=LogNorm(1e-4, 1e1), cmap="OrRd", interpolation="nearest")
    for position, thick in lines["rows"]:
        ax.axhline(position - 0.5, color="black", linewidth=1.6 if thick else 0.6)
    for position, thick in lines["columns"]:
        ax.axvline(position - 0.5, color="black", linewidth=1.6 if thick else 0.6)
    ax.set_xlabel(columns, fontsize=8)
    ax.set_ylabel(rows, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.set_title(f"{picture.quantity}, {picture.title} failing case\n{_short(picture.case)}", fontsize=8)
    figure.colorbar(image, ax=ax, fraction=0.04, pad=0.01).ax.tick_params(labelsize=7)


def as_matrix(values: Array, case: Case) -> tuple[Array, str, str, dict[str, list[tuple[int, bool]]]]:
    """An array of any rank as rows and columns, their names, and where lines separate groups and samples."""
    groups = case.options.get("num_groups", 1)
    per_group = (case.shape[1] // groups) if case.kind.has_groups else 0
    lines: dict[str, list[tuple[int, bool]]] = {"rows": [], "columns": []}
    if values.ndim <= 1:
        lines["columns"] = _group_lines(values.size, per_group)
        return values.reshape(1, -1), "", "channel" if not case.kind.normalizes_features else "feature", lines
    if case.kind.normalizes_features:
        features = prod(case.parameter_shape) if values.shape == case.shape else values.shape[-1]
        return values.reshape(-1, features), "row", "normalized position", lines
    if values.ndim == 2:
        lines["columns"] = _group_lines(values.shape[1], per_group)
        return values, "sample", "channel", lines
    samples, channels = values.shape[:2]
    for row in range(1, samples * channels):
        if row % channels == 0:
            lines["rows"].append((row, True))
        elif per_group and row % per_group == 0:
            lines["rows"].append((row, False))
    return values.reshape(samples * channels, -1), "channel of each sample", "position in space", lines


def _group_lines(channels: int, per_group: int) -> list[tuple[int, bool]]:
    return [(at, False) for at in range(per_group, channels, per_group)] if per_group else []


def _short(case: Case) -> str:
    groups = f", {case.options['num_groups']} groups" if case.kind.has_groups else ""
    mode = "" if case.training else ", eval"
    return f"x {case.shape} {case.dtype}{groups}{mode}, {case.data} data"
