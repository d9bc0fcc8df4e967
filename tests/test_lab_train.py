"""The lab's experiments: their settings, their batches, and that a run is its seed's and nothing else's."""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest

from npnorm.lab.data import Dataset
from npnorm.lab.mlp import NormalizedMLP
from npnorm.lab.train import EXPERIMENTS, Experiment, batches, refusal, train


def blobs(train_samples: int = 101, test_samples: int = 40) -> Dataset:
    """Ten classes that a small network learns in a few epochs."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(10, 16))
    labels = [rng.permutation(np.arange(count) % 10) for count in (train_samples, test_samples)]
    images = [(centres[which] + 0.3 * rng.normal(size=(len(which), 16))).astype(np.float32) for which in labels]
    return Dataset("blobs", images[0], labels[0], images[1], labels[1])


SMALL = replace(EXPERIMENTS["comparison"], hidden=(12, 8), batch_size=8, epochs=3)


def test_the_experiments_are_the_announced_ones() -> None:
    assert list(EXPERIMENTS.values()) == [
        Experiment("comparison", ("none", "batch", "layer", "rms", "group"), (256, 128), 64, 20, 0.1),
        Experiment("small-batch", ("none", "batch", "layer", "group"), (128, 64), 4, 15, 0.05),
    ]
    assert EXPERIMENTS["comparison"].layer_sizes(blobs()) == (16, 256, 128, 10)


@pytest.mark.parametrize(("count", "size", "sizes"), [(12, 4, [4, 4, 4]), (15, 4, [4, 4, 4]), (5, 5, [5]), (3, 4, [])])
def test_batches_are_whole_and_take_no_sample_twice(count: int, size: int, sizes: list[int]) -> None:
    parts = list(batches(count, size, np.random.default_rng(0)))
    assert [len(part) for part in parts] == sizes
    seen = Counter(int(i) for part in parts for i in part)
    assert set(seen.values()) <= {1}
    assert set(seen) <= set(range(count))


def test_batches_are_shuffled_anew_each_epoch() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.concatenate(list(batches(100, 10, rng))).tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != sorted(first)


@pytest.mark.parametrize("norm", SMALL.norms)
def test_every_norm_learns(norm: str) -> None:
    data = blobs()
    run = train(replace(SMALL, hidden=(32, 16), epochs=15), norm, 0, data)
    assert (run.experiment, run.norm, run.seed) == ("comparison", norm, 0)
    assert len(run.train_accuracy) == len(run.test_accuracy) == 15
    assert run.train_accuracy[-1] >= 0.95
    assert run.test_accuracy[-1] >= 0.9
    assert run.test_accuracy[0] < run.test_accuracy[-1]
    assert run.seconds > 0


def test_a_run_is_repeated_by_its_seed_and_changed_by_another() -> None:
    data = blobs()
    first, again, other = (replace(train(SMALL, "batch", seed, data), seconds=0) for seed in (3, 3, 4))
    assert asdict(first) == asdict(again)
    assert first.train_accuracy != other.train_accuracy


def test_the_norms_of_a_seed_start_alike_and_see_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    data = blobs()
    seen: dict[str, list[bytes]] = {norm: [] for norm in SMALL.norms}
    step = NormalizedMLP.train_step

    def spy(network: NormalizedMLP, x: np.ndarray, labels: np.ndarray, lr: float) -> float:
        if not seen[network.norm]:
            seen[network.norm] += [linear.weight.tobytes() for linear in network.linears]
        seen[network.norm] += [x.tobytes(), labels.tobytes()]
        return step(network, x, labels, lr)

    monkeypatch.setattr(NormalizedMLP, "train_step", spy)
    for norm in SMALL.norms:
        train(SMALL, norm, 0, data)
    assert len(seen["none"]) == 3 + 2 * 3 * (101 // 8)
    assert all(seen[norm] == seen["none"] for norm in SMALL.norms)


def test_accuracies_are_taken_after_each_epoch_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    data, measured = blobs(), []
    accuracy = NormalizedMLP.accuracy

    def spy(network: NormalizedMLP, x: np.ndarray, labels: np.ndarray) -> float:
        measured.append((len(x), accuracy(network, x, labels)))
        return measured[-1][1]

    monkeypatch.setattr(NormalizedMLP, "accuracy", spy)
    epochs: list[None] = []
    run = train(SMALL, "batch", 0, data, lambda: epochs.append(None))
    assert len(epochs) == 3
    assert [size for size, _ in measured] == [101, 40] * 3
    assert [value for _, value in measured] == [
        value for pair in zip(run.train_accuracy, run.test_accuracy, strict=True) for value in pair
    ]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_divergence_is_a_result_without_warnings(norm: str) -> None:
    run = train(replace(SMALL, lr=1e30), norm, 0, blobs())
    assert run.test_accuracy[-1] <= 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1}, "Expected --batch-size to be at least 2 for the norm batch"),
        ({"batch_size": 102}, "Expected --batch-size to be at most the 101 training samples but got 102"),
        ({"hidden": (8, 4)}, "Expected --hidden to be widths of at least 5 for the norm group"),
    ],
)
def test_what_cannot_be_run_is_refused(change: dict, message: str) -> None:
    reason = refusal(replace(SMALL, **change), blobs())
    assert reason is not None
    assert reason.startswith(message)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batch_size": 1, "norms": ("none", "layer", "rms", "group")},
        {"batch_size": 101},
        {"hidden": (8, 1), "norms": ("none", "batch", "layer", "rms")},
        {"hidden": (5,)},
        {"hidden": (7, 6, 5)},
    ],
)
def test_what_is_not_refused_runs(change: dict) -> None:
    experiment, data = replace(SMALL, epochs=1, **change), blobs()
    assert refusal(experiment, data) is None
    for norm in experiment.norms:
        assert len(train(experiment, norm, 0, data).test_accuracy) == 1
