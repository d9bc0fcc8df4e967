"""The picture of a failure: for each wrong quantity the error over the smallest and over a typical failing case.

Reads results and their cases only. matplotlib is imported when a picture is asked for, and only then.
"""

import textwrap
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.reporting.files import write_file
from reference.reporting.foreign import cleaned
from reference.reporting.headline import verdict_line
from reference.reporting.result import CheckResult, Picture

ROW, TITLE, WIDE = 2.6, 0.6, 11.0  # inches: of a row of two pictures, of the line above a subject's rows, of the whole
LETTERS = 95  # in a line of the title
CELLS = (8, 10)  # rows and columns up to which the numbers stand in the cells
TICKS = 12  # rows or columns up to which each has its number
DARK = 0.3  # of the error, from which the cell is so dark that its letters are white


def draw(reports: Sequence[CheckResult], path: Path) -> None:
    """Write the picture of all that is wrong in `reports`; one that says so if nothing is.

    Args:
        path: whose ending says the format; PNG where it has none, as a device.

    Raises:
        ImportError: matplotlib is not installed.
        OSError, ValueError: the file cannot be written, or its ending is of no known kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    reports = [cleaned(report) for report in reports]
    if not any(report.pictures for report in reports):
        figure = pyplot.figure(figsize=(6, 1.5))
        passed = all(report.passed for report in reports)
        words = "nothing is wrong" if passed else "no wrong array to draw"
        figure.text(0.5, 0.5, words, ha="center", va="center")
        _save(figure, path, 120)
        return
    concerned = [report for report in reports if report.pictures]
    heights = [TITLE + ROW * len(_pairs(report.pictures)) for report in concerned]
    figure = pyplot.figure(figsize=(WIDE, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(concerned), 1, squeeze=False, height_ratios=heights)
    for part, report in zip(parts[:, 0], concerned, strict=True):
        # a dollar sign would begin a formula
        part.suptitle(_wrapped(verdict_line(report)).replace("$", r"\$"), fontsize=11, fontweight="bold")
        pairs = _pairs(report.pictures)
        axes = part.subplots(len(pairs), 2, squeeze=False)
        for pair, pair_axes in zip(pairs, axes, strict=True):
            for picture, ax in zip(pair, pair_axes, strict=True):
                _draw_one(part, ax, picture)
    _save(figure, path, 110)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LETTERS, break_on_hyphens=False)[:3])


def _save(figure: Any, path: Path, dpi: int) -> None:
    from matplotlib import pyplot

    drawn = BytesIO()
    try:
        figure.savefig(drawn, dpi=dpi, format=path.suffix.removeprefix(".").lower() or "png")
    finally:
        pyplot.close(figure)
    write_file(path, drawn.getvalue())


def _pairs(pictures: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    return [(first, second) for first, second in zip(pictures[::2], pictures[1::2], strict=True)]


def _draw_one(figure: Any, ax: Any, picture: Picture) -> None:
    """One heat map: white where it agrees, the darker the farther off; lines between groups, thick ones between samples.

    In the cells of a small array stands what the layer gave, and below it what should be there.
    """
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
    numbers = matrix.shape[0] <= CELLS[0] and matrix.shape[1] <= CELLS[1]
    if numbers:
        values = [as_matrix(array, picture.case)[0] for array in (got, expected)]
        for at in np.ndindex(matrix.shape):
            letters = "white" if matrix[at] > DARK else "black"
            words = "\n".join(f"{array[at]:.3g}" for array in values)
            ax.text(at[1], at[0], words, ha="center", va="center", fontsize=6.5, color=letters)
    ax.set_xlabel(columns, fontsize=8)
    ax.set_ylabel(rows, fontsize=8)
    ax.tick_params(labelsize=7)
    for axis, count in ((ax.xaxis, matrix.shape[1]), (ax.yaxis, matrix.shape[0])):
        if count <= TICKS:
            axis.set_ticks(range(count))
        else:
            axis.get_major_locator().set_params(integer=True)
    legend = ": got, and below it what should be there" if numbers else ""
    ax.set_title(f"{picture.quantity}, {picture.title} failing case{legend}\n{_short(picture.case)}", fontsize=8)
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("error / largest value", fontsize=7)


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
