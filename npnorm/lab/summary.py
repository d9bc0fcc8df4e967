"""What the runs show: figures with their spread, and a conclusion computed from them.

Knows finished runs and the rule by which two accuracies are told apart; must not know networks, terminals or pictures.

The rule. Two normalizations are *apart* if their final test accuracies differ by more than their two spreads together,
that is if the intervals mean ± spread do not meet. With several seeds the spread is the standard deviation over them.
With one seed there is none to see, and the standard error of an accuracy p measured on n test samples,
sqrt(p (1 - p) / n), stands in for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from npnorm.lab.train import Run

GUESSING = 0.2  # twice what guessing one of ten classes gives: a network below it has learned nothing


class Estimate(NamedTuple):
    """The mean over seeds, and the standard deviation over them where there are several."""

    mean: float
    spread: float | None

    def text(self, plus_minus: str = "±") -> str:
        """In percent, such as `94.1 ± 0.3`."""
        mean = f"{100 * self.mean:.1f}"
        return mean if self.spread is None else f"{mean} {plus_minus} {100 * self.spread:.1f}"


@dataclass(frozen=True)
class Figures:
    """What the runs of one normalization in one experiment come to."""

    norm: str
    seeds: int
    final_train: Estimate
    final_test: Estimate
    best_test: Estimate  # of the best epoch of each run
    seconds: float  # of one run, in the mean
    margin: float  # the spread by which `final_test` is told apart from another's

    def apart(self, other: "Figures") -> bool:
        return abs(self.final_test.mean - other.final_test.mean) > self.margin + other.margin


def figures(runs: Sequence[Run], experiment: str, test_samples: int) -> list[Figures]:
    """The figures of each normalization of an experiment, in the order in which they were run."""
    by_norm: dict[str, list[Run]] = {}
    for run in runs:
        if run.experiment == experiment:
            by_norm.setdefault(run.norm, []).append(run)
    return [_figures(norm, group, test_samples) for norm, group in by_norm.items()]


def conclusion(runs: Sequence[Run], data: str, batch_sizes: dict[str, int], test_samples: int) -> str:
    """One line that says what these runs show.

    Args:
        runs: of one experiment or several.
        data: the name of the data set.
        batch_sizes: of each experiment that was run.
        test_samples: how many samples an accuracy was measured on.
    """
    results = {experiment: figures(runs, experiment, test_samples) for experiment in batch_sizes}
    seeds = next(iter(results.values()))[0].seeds
    sentences = [_ranking(experiment, rows) for experiment, rows in results.items()]
    if len(results) > 1 and all(_has_rivals(rows) for rows in results.values()):
        standings = (f"{_standing(rows)} at batch size {batch_sizes[name]}" for name, rows in results.items())
        sentences.append(f"batch is {', '.join(standings)}")
    spread = (
        f"with one seed, the standard error of {test_samples:,} test samples"
        if seeds == 1
        else f"the standard deviation over {seeds} seeds"
    )
    return f"In this run on {data}, {'; '.join(sentences)}. Spread: {spread}."


def _figures(norm: str, runs: list[Run], test_samples: int) -> Figures:
    final_test = _estimate([run.test_accuracy[-1] for run in runs])
    chance = (final_test.mean * (1 - final_test.mean) / test_samples) ** 0.5
    return Figures(
        norm,
        len(runs),
        final_train=_estimate([run.train_accuracy[-1] for run in runs]),
        final_test=final_test,
        best_test=_estimate([max(run.test_accuracy) for run in runs]),
        seconds=fmean(run.seconds for run in runs),
        margin=chance if final_test.spread is None else final_test.spread,
    )


def _estimate(values: list[float]) -> Estimate:
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None)


def _ranking(experiment: str, rows: list[Figures]) -> str:
    """Who leads, who cannot be told apart from the leader, and by how much the others are behind."""
    ranked = sorted(rows, key=lambda row: -row.final_test.mean)
    best = ranked[0]
    if best.final_test.mean < GUESSING:
        return f"{experiment}: nothing learns (best: {best.norm}, {best.final_test.text()} %)"
    if len(ranked) == 1:
        return f"{experiment}: {best.norm} ends at {best.final_test.text()} % test accuracy"
    level = [row for row in ranked[1:] if not row.apart(best)]
    behind = [row for row in ranked[1:] if row.apart(best)]
    if not behind:
        return (
            f"{experiment}: no norm stands out, {ranked[-1].final_test.text()} % ({ranked[-1].norm}) to "
            f"{best.final_test.text()} % ({best.norm}) test accuracy is all within the spread"
        )
    parts = [f"{best.norm} leads with {best.final_test.text()} % test accuracy"]
    if level:
        parts.append(f"{_list([row.norm for row in level])} within the spread of it")
    parts.append(_list([f"{row.norm} {_behind(row, best)}" for row in behind]))
    return f"{experiment}: {', '.join(parts)}"


def _list(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]


def _behind(row: Figures, best: Figures) -> str:
    if row.final_test.mean < GUESSING:
        return f"does not learn ({100 * row.final_test.mean:.1f} %)"
    return f"{100 * (best.final_test.mean - row.final_test.mean):.1f} points behind"


def _has_rivals(rows: list[Figures]) -> bool:
    names = {row.norm for row in rows}
    return "batch" in names and len(names - {"none"}) > 1


def _standing(rows: list[Figures]) -> str:
    """Where batch stands to the best of the other normalizations."""
    batch = next(row for row in rows if row.norm == "batch")
    rival = max((row for row in rows if row.norm not in ("batch", "none")), key=lambda row: row.final_test.mean)
    points = 100 * (batch.final_test.mean - rival.final_test.mean)
    if f"{abs(points):.1f}" == "0.0":
        return f"level with {rival.norm}"
    where = "beyond" if batch.apart(rival) else "within"
    return f"{abs(points):.1f} points {'above' if points >= 0 else 'below'} {rival.norm} ({where} the spread)"
