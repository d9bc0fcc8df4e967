"""The accuracy curves as a picture: a row for each experiment, training and test side by side.

Knows finished runs and matplotlib; must not know networks or terminals. matplotlib is asked for when a picture is.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from npnorm.lab.data import require
from npnorm.lab.train import Run

# Okabe and Ito's colours, told apart by colour-blind readers too; a normalization has the same one in every picture.
COLOURS = {"none": "#555555", "batch": "#D55E00", "layer": "#0072B2", "rms": "#009E73", "group": "#CC79A7"}
DASHES = {"none": (4, 2), "batch": (), "layer": (), "rms": (6, 2, 1, 2), "group": (1, 1)}


def curves(runs: Sequence[Run], titles: dict[str, str]) -> bytes:
    """A PNG of accuracy over epochs: the mean over seeds as a line, from the lowest to the highest seed as a band.

    Args:
        runs: of all experiments in `titles`.
        titles: what to write above each experiment's row.
    """
    figure_module = require("matplotlib.figure", "matplotlib", "--plot")
    figure = figure_module.Figure(figsize=(9, 3.4 * len(titles)), layout="constrained")
    rows = figure.subfigures(len(titles), 1, squeeze=False)[:, 0]
    for row, (experiment, title) in zip(rows, titles.items(), strict=True):
        of_row = [run for run in runs if run.experiment == experiment]
        row.suptitle(title, fontsize=11)
        left, right = row.subplots(1, 2)
        _panel(left, "training set", of_row, [run.train_accuracy for run in of_row])
        _panel(right, "test set", of_row, [run.test_accuracy for run in of_row])
        left.set_ylabel("accuracy (%)")
        right.legend(loc="lower right", frameon=False, ncols=2)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _panel(axes: Any, title: str, runs: Sequence[Run], accuracies: Sequence[list[float]]) -> None:
    norms = list(dict.fromkeys(run.norm for run in runs))
    lowest, highest = 100.0, 0.0
    for norm in norms:
        table = 100 * np.array([values for run, values in zip(runs, accuracies, strict=True) if run.norm == norm])
        epochs = np.arange(1, table.shape[1] + 1)
        colour = COLOURS[norm]
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, table.mean(0), color=colour, dashes=DASHES[norm], marker=marker, lw=1.6, label=norm)
        if len(table) > 1:
            axes.fill_between(epochs, table.min(0), table.max(0), color=colour, alpha=0.15, lw=0)
        lowest, highest = min(lowest, float(table.min())), max(highest, float(table.max()))
    room = max((highest - lowest) * 0.05, 0.5)
    axes.set_ylim(max(lowest - room, 0), min(highest + room, 101))
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
