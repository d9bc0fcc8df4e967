"""What the lab says of its runs: figures, the rule by which norms are told apart, and the closing line."""

import math

import pytest

from npnorm.lab.summary import Estimate, conclusion, figures
from npnorm.lab.train import Run

SIZES = {"comparison": 64, "small-batch": 4}


def runs(experiment: str, finals: dict[str, list[float]]) -> list[Run]:
    """A run for each norm and seed, whose last test accuracy is given in percent."""
    return [
        Run(experiment, norm, seed, [0.5, 1.0], [0.3, final / 100], seconds=2.0)
        for norm, values in finals.items()
        for seed, final in enumerate(values)
    ]


def said(finals: dict[str, list[float]], experiment: str = "comparison", samples: int = 1000) -> str:
    text = conclusion(runs(experiment, finals), "digits", {experiment: SIZES[experiment]}, samples)
    assert "\n" not in text
    return text


def test_figures_are_means_and_sample_deviations() -> None:
    several = [
        Run("comparison", "rms", 0, [0.6, 0.8], [0.9, 0.7], 1.0),
        Run("comparison", "rms", 1, [0.6, 1.0], [0.5, 0.8], 3.0),
        Run("small-batch", "rms", 0, [0.1, 0.1], [0.1, 0.1], 9.0),
    ]
    (row,) = figures(several, "comparison", 100)
    assert (row.norm, row.seeds, row.seconds) == ("rms", 2, 2.0)
    assert row.final_train == pytest.approx(Estimate(0.9, math.sqrt(0.02)))
    assert row.final_test == pytest.approx(Estimate(0.75, math.sqrt(0.005)))
    assert row.best_test == pytest.approx(Estimate(0.85, math.sqrt(0.005)))
    assert row.margin == row.final_test.spread
    assert row.final_test.text() == "75.0 ± 7.1"


def test_with_one_seed_the_margin_is_the_standard_error_of_the_test_set() -> None:
    (row,) = figures(runs("comparison", {"rms": [90]}), "comparison", 400)
    assert row.final_test.spread is None
    assert row.margin == pytest.approx(math.sqrt(0.9 * 0.1 / 400))
    assert row.final_test.text() == "90.0"


def test_norms_keep_the_order_in_which_they_were_run() -> None:
    rows = figures(runs("comparison", {"rms": [90], "batch": [95], "none": [80]}), "comparison", 100)
    assert [row.norm for row in rows] == ["rms", "batch", "none"]


@pytest.mark.parametrize(
    ("finals", "sentence"),
    [
        pytest.param(
            {"none": [90, 91, 92], "batch": [94, 95, 96], "layer": [94, 94.5, 95]},
            "comparison: batch leads with 95.0 ± 1.0 % test accuracy, layer within the spread of it, "
            "none 4.0 points behind.",
            id="a-leader",
        ),
        pytest.param(
            {"none": [94, 95, 96], "batch": [94.5, 95.5, 96.5]},
            "comparison: no norm stands out, 95.0 ± 1.0 % (none) to 95.5 ± 1.0 % (batch) test accuracy is all within "
            "the spread.",
            id="a-tie",
        ),
        pytest.param(
            {"none": [80, 80], "batch": [90, 90], "rms": [85, 85]},
            "comparison: batch leads with 90.0 ± 0.0 % test accuracy, rms 5.0 points behind and "
            "none 10.0 points behind.",
            id="clear",
        ),
        pytest.param(
            {"none": [10, 11], "batch": [90, 90]},
            "comparison: batch leads with 90.0 ± 0.0 % test accuracy, none does not learn (10.5 %).",
            id="one-diverged",
        ),
        pytest.param({"none": [10, 11]}, "comparison: nothing learns (best: none, 10.5 ± 0.7 %).", id="all-diverged"),
        pytest.param({"rms": [90, 92]}, "comparison: rms ends at 91.0 ± 1.4 % test accuracy.", id="one-norm"),
    ],
)
def test_the_ranking_is_what_the_figures_say(finals: dict[str, list[float]], sentence: str) -> None:
    seeds = len(next(iter(finals.values())))
    spread = f" Spread: the standard deviation over {seeds} seeds."
    assert said(finals) == f"In this run on digits, {sentence}{spread}"


def test_with_one_seed_a_difference_is_held_against_the_size_of_the_test_set() -> None:
    finals = {"none": [90.0], "batch": [93.0]}
    assert "no norm stands out" in said(finals, samples=300)  # standard errors of 1.7 and 1.5 points
    assert "batch leads" in said(finals, samples=3000)  # of 0.5 each
    assert said(finals, samples=3000).endswith("with one seed, the standard error of 3,000 test samples.")


def test_two_experiments_are_set_side_by_side() -> None:
    large = runs("comparison", {"none": [90, 90], "batch": [95, 95.2], "layer": [94.9, 95], "group": [94, 94]})
    small = runs("small-batch", {"none": [97, 97], "batch": [93, 93.2], "layer": [94, 94], "group": [95, 95]})
    text = conclusion(large + small, "mnist", SIZES, 1000)
    assert "; small-batch: none leads with 97.0" in text
    assert (
        "; batch is 0.2 points above layer (within the spread) at batch size 64, "
        "1.9 points below group (beyond the spread) at batch size 4. Spread:" in text
    )


def test_a_difference_that_is_not_shown_is_not_called_one() -> None:
    finals = {"batch": [95, 95], "layer": [95.02, 95.02]}
    text = conclusion(runs("comparison", finals) + runs("small-batch", finals), "mnist", SIZES, 1000)
    assert "batch is level with layer at batch size 64, level with layer at batch size 4." in text


@pytest.mark.parametrize("left_out", ["batch", "layer"])
def test_nothing_is_said_of_batch_without_a_rival(left_out: str) -> None:
    finals = {"none": [90, 90], "batch": [95, 95], "layer": [94, 94]}
    finals.pop(left_out)
    text = conclusion(runs("comparison", finals) + runs("small-batch", finals), "mnist", SIZES, 1000)
    assert "at batch size" not in text
