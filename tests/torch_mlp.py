"""The torch twin of a multilayer perceptron with a normalization after each hidden layer.

Made from plain arrays: the widths, the normalization by name, and every starting value. Layers, loss, gradients and
the step of gradient descent are torch's own (`torch.nn`, autograd, `torch.optim.SGD`), so that a network written by
hand can be trained in lockstep with something that shares none of its code. Must not know npnorm, data or experiments.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]


def _group(width: int) -> nn.Module:
    return nn.GroupNorm(max(g for g in range(1, 5) if width % g == 0), width)


# What torch calls each array of a layer, by the name that the state gives it.
LINEAR = {"weight": "weight", "bias": "bias"}
NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "group": _group,
}


class TorchMLP:
    """Linear, normalization, ReLU for each hidden layer, and a linear layer on top, trained by SGD without momentum.

    Args:
        layer_sizes: the widths from input to classes.
        norm: none, batch, layer, rms or group (4 groups, or the largest number below that divides the width).
        state: the starting values, float64, as far as the layers have them: `linear1.weight` of shape (outputs,
            inputs), `linear1.bias`, `norm1.gamma`, `norm1.beta`, `norm1.running_mean`, `norm1.running_var`, and so on.
        lr: the learning rate.

    Raises:
        ValueError: `norm` is not known, or `state` has not just the arrays that the network has, in their shapes.
    """

    def __init__(self, layer_sizes: Sequence[int], norm: str, state: Mapping[str, Array], lr: float) -> None:
        if norm != "none" and norm not in NORMS:
            raise ValueError(f"Expected norm to be one of none, {', '.join(NORMS)} but got norm={norm!r}")
        modules: list[nn.Module] = []
        self._tensors: dict[str, torch.Tensor] = {}
        last = len(layer_sizes) - 1
        for i, (inputs, width) in enumerate(pairwise(layer_sizes), start=1):
            modules.append(nn.Linear(inputs, width).double())
            self._name(f"linear{i}", modules[-1], LINEAR)
            if i == last:
                break  # the classes are neither normalized nor rectified
            if norm != "none":
                modules.append(NORMS[norm](width).double())
                self._name(f"norm{i}", modules[-1], NORM)
            modules.append(nn.ReLU())
        self.network = nn.Sequential(*modules)
        self._load(state)
        self._optimizer = torch.optim.SGD(self.network.parameters(), lr=lr)

    def train_step(self, x: Array, labels: Array) -> float:
        """One step of gradient descent on the batch; returns the loss before it."""
        self.network.train()
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.network(torch.from_numpy(x)), torch.from_numpy(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.item())

    def logits(self, x: Array) -> Array:
        """What the network gives in eval mode."""
        self.network.eval()
        with torch.no_grad():
            out: Array = self.network(torch.from_numpy(x)).numpy()
        return out

    def state(self) -> dict[str, Array]:
        """A copy of every array that training changes, by the names of the starting `state`."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self._tensors.items()}

    def _name(self, layer: str, module: nn.Module, names: Mapping[str, str]) -> None:
        for name, attribute in names.items():
            tensor = getattr(module, attribute, None)
            if tensor is not None:
                self._tensors[f"{layer}.{name}"] = tensor

    def _load(self, state: Mapping[str, Array]) -> None:
        expected = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        got = {name: np.shape(array) for name, array in state.items()}
        if got != expected:
            raise ValueError(f"Expected a state of the shapes {expected} but got {got}")
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(torch.from_numpy(np.asarray(state[name])))
