"""The two experiments, and the training of one network in one of them.

Knows what is trained on what, in which order, for how long; must not know files, terminals or pictures.

Everything random comes from a run's seed, and none of it from the normalization: the networks of one seed start from
the same weights and see the same batches in the same order, so that what differs between them is the normalization.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from time import perf_counter

import numpy as np

from npnorm.arguments import Array
from npnorm.lab.data import Dataset
from npnorm.lab.mlp import NormalizedMLP


@dataclass(frozen=True)
class Experiment:
    """What is held the same for all normalizations of a comparison."""

    name: str
    norms: tuple[str, ...]
    hidden: tuple[int, ...]
    batch_size: int
    epochs: int
    lr: float

    def layer_sizes(self, data: Dataset) -> tuple[int, ...]:
        return (data.features, *self.hidden, data.classes)


EXPERIMENTS = {
    "comparison": Experiment(
        "comparison",
        norms=("none", "batch", "layer", "rms", "group"),
        hidden=(256, 128),
        batch_size=64,
        epochs=20,
        lr=0.1,
    ),
    "small-batch": Experiment(
        "small-batch",
        norms=("none", "batch", "layer", "group"),
        hidden=(128, 64),
        batch_size=4,
        epochs=15,
        lr=0.05,
    ),
}


@dataclass(frozen=True)
class Run:
    """One network's training: the accuracies are fractions, one after each epoch."""

    experiment: str
    norm: str
    seed: int
    train_accuracy: list[float]
    test_accuracy: list[float]
    seconds: float


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep matrix products to one thread, where threadpoolctl is there to do it (scikit-learn brings it along).

    Products as small as these gain nothing from a second one, and lose a factor of ten and more where the threads wait
    for each other on a machine that has other work.
    """
    try:
        threadpoolctl = import_module("threadpoolctl")
    except ImportError:
        yield
        return
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """The indices of `count` samples, shuffled, in batches of `size`; an incomplete last batch is skipped.

    It would be a batch of another size in experiments on the size of a batch, the last before each measurement, and
    BatchNorm feels it: trained on 5,000 digits in batches of 64, a remainder of 8 costs it points of accuracy.
    """
    order = rng.permutation(count)
    for start in range(0, count - count % size, size):
        yield order[start : start + size]


def refusal(experiment: Experiment, data: Dataset) -> str | None:
    """Why the experiment cannot be run on the data, in a sentence; None if it can."""
    count, size = len(data.train_labels), experiment.batch_size
    if "batch" in experiment.norms and size == 1:
        return (
            "Expected --batch-size to be at least 2 for the norm batch, whose statistics are taken over a batch, "
            "but got 1 (leave batch out of --norms)"
        )
    if "group" in experiment.norms and min(experiment.hidden) < 5:
        return (
            "Expected --hidden to be widths of at least 5 for the norm group, whose groups have a single feature "
            f"below, but got {min(experiment.hidden)}"
        )
    if size > count:
        return f"Expected --batch-size to be at most the {count} training samples but got {size}"
    return None


def train(
    experiment: Experiment,
    norm: str,
    seed: int,
    data: Dataset,
    after_epoch: Callable[[], object] = lambda: None,
) -> Run:
    """Train one network, and measure it after each epoch on all training and all test samples, in eval mode."""
    weights, order = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    network = NormalizedMLP(experiment.layer_sizes(data), norm, weights, data.train_images.dtype)
    train_accuracy: list[float] = []
    test_accuracy: list[float] = []
    start = perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):  # a network that diverges is a result: its accuracy says so
        for _ in range(experiment.epochs):
            for batch in batches(len(data.train_labels), experiment.batch_size, order):
                network.train_step(data.train_images[batch], data.train_labels[batch], experiment.lr)
            train_accuracy.append(network.accuracy(data.train_images, data.train_labels))
            test_accuracy.append(network.accuracy(data.test_images, data.test_labels))
            after_epoch()
    seconds = round(perf_counter() - start, 3)
    return Run(experiment.name, norm, seed, train_accuracy, test_accuracy, seconds)
