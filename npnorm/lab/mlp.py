"""A multilayer perceptron with a normalization after each hidden layer, and its gradients by hand.

Knows layers, loss and the step of gradient descent; must not know data sets, experiments or files.

A training step has three parts that never mix: a forward pass through every layer, a backward pass through every
layer *with the weights of that forward pass*, and only then one step of every parameter. A network that steps a layer
before it hands the gradient on through it computes the gradient of a function that it never evaluated.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from npnorm import BatchNorm, GroupNorm, LayerNorm, Normalization, RMSNorm
from npnorm.arguments import Array, float_array, positive_ints

ROWS = 2048  # how many samples go through the network at a time when nothing is learned from them


def groups_of(width: int) -> int:
    """How many groups GroupNorm makes of `width` features: 4, or the largest number below that divides them."""
    return next(groups for groups in (4, 3, 2, 1) if width % groups == 0)


NORMS: dict[str, Callable[[int], Normalization] | None] = {
    "none": None,
    "batch": BatchNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "group": lambda width: GroupNorm(groups_of(width), width),
}


class Layer(Protocol):
    """What the network is a chain of; npnorm's layers are such layers."""

    def forward(self, x: Array) -> Array: ...
    def backward(self, dy: Array) -> Array: ...
    def parameters(self) -> list[tuple[Array, Array | None]]: ...


class Linear:
    """y = x W^T + b, W of shape (outputs, inputs) as in torch.

    Gradients: dW = dy^T x, db = the sum of dy over the batch, dx = dy W. He initialization: W is normal with variance
    2 / inputs, b is 0 (He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852).
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, dtype: DTypeLike) -> None:
        self.weight: Array = rng.normal(scale=np.sqrt(2 / inputs), size=(outputs, inputs)).astype(dtype)
        self.bias: Array = np.zeros(outputs, dtype)
        self.dweight: Array | None = None
        self.dbias: Array | None = None
        self._x: Array | None = None

    def forward(self, x: Array) -> Array:
        self._x = x
        y: Array = x @ self.weight.T
        y += self.bias
        return y

    def backward(self, dy: Array) -> Array:
        if self._x is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        self.dweight = dy.T @ self._x
        self.dbias = dy.sum(0)
        dx: Array = dy @ self.weight
        return dx

    def parameters(self) -> list[tuple[Array, Array | None]]:
        return [(self.weight, self.dweight), (self.bias, self.dbias)]


class ReLU:
    """y = max(x, 0); dx = dy where x > 0, and 0 elsewhere (torch's choice at x = 0)."""

    def __init__(self) -> None:
        self._positive: Array | None = None

    def forward(self, x: Array) -> Array:
        self._positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy: Array) -> Array:
        if self._positive is None:
            raise RuntimeError("Expected a forward pass before backward but there was none")
        return dy * self._positive

    def parameters(self) -> list[tuple[Array, Array | None]]:
        return []


class Loss(NamedTuple):
    value: float
    dlogits: Array


def cross_entropy(logits: Array, labels: Array) -> Loss:
    """The mean over the batch of -log softmax(logits)[label], and its gradient (softmax - one-hot) / N.

    The mean is taken here and only here: every parameter's gradient, gamma's and beta's too, is a sum over the batch of
    what comes from `dlogits`, and so is the gradient of the same mean.

    logits: (N, classes) of floats. labels: (N,) of ints from 0 to classes - 1.
    """
    rows = np.arange(len(labels))
    shifted = logits - logits.max(1, keepdims=True)  # exp of it cannot overflow
    exponentials = np.exp(shifted)
    total = exponentials.sum(1, keepdims=True)
    value = float((np.log(total[:, 0]) - shifted[rows, labels]).mean())
    dlogits = exponentials / total
    dlogits[rows, labels] -= 1
    dlogits /= len(labels)
    return Loss(value, dlogits)


class NormalizedMLP:
    """Linear, normalization, ReLU for each hidden layer, and a linear layer on top.

    Args:
        layer_sizes: the widths from input to classes, such as (784, 256, 128, 10).
        norm: a name in `NORMS`. "group" makes 4 groups of a layer, or the largest number below that divides its width.
        rng: where the weights are drawn from: a Generator, or the seed of one.
        dtype: of all weights and of gamma and beta; the running statistics of BatchNorm are kept in float64.

    Attributes:
        linears, norms, activations: the layers by kind, from input to output. `norms` is empty for "none".
        layers: all of them in the order of the forward pass.
        training: the mode, changed by `train()` and `eval()`; only BatchNorm minds.

    Raises:
        ValueError: `norm` is not known, or there are fewer than two sizes, or one is below 1.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        norm: str = "none",
        rng: np.random.Generator | int = 0,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.layer_sizes = positive_ints("layer_sizes", layer_sizes)
        if len(self.layer_sizes) < 2:
            raise ValueError(f"Expected layer_sizes to have at least two entries but got {self.layer_sizes}")
        if norm not in NORMS:
            raise ValueError(f"Expected norm to be one of {', '.join(NORMS)} but got norm={norm!r}")
        self.norm = norm
        self.training = True
        self.linears: list[Linear] = []
        self.norms: list[Normalization] = []
        self.activations: list[ReLU] = []
        self.layers: list[Layer] = []
        rng = np.random.default_rng(rng)
        make_norm = NORMS[norm]
        *hidden, _ = outputs = self.layer_sizes[1:]
        for i, (inputs, width) in enumerate(zip(self.layer_sizes, outputs, strict=False)):
            self.linears.append(Linear(inputs, width, rng, dtype))
            self.layers.append(self.linears[-1])
            if i == len(hidden):
                continue  # the classes are neither normalized nor rectified
            if make_norm is not None:
                layer = make_norm(width)
                layer.gamma = None if layer.gamma is None else layer.gamma.astype(dtype)
                layer.beta = None if layer.beta is None else layer.beta.astype(dtype)
                self.norms.append(layer)
                self.layers.append(layer)
            self.activations.append(ReLU())
            self.layers.append(self.activations[-1])

    def train(self, mode: bool = True) -> "NormalizedMLP":
        """Let BatchNorm take its statistics from each batch; returns the network."""
        self.training = mode
        for layer in self.norms:
            if isinstance(layer, BatchNorm):
                layer.train(mode)
        return self

    def eval(self) -> "NormalizedMLP":
        """Let BatchNorm take its statistics from the running averages; returns the network."""
        return self.train(False)

    def forward(self, x: Array) -> Array:
        """The logits, (N, classes), of x, (N, inputs)."""
        y = float_array("x", x)
        if y.ndim != 2 or y.shape[1] != self.layer_sizes[0]:
            raise ValueError(f"Expected x of shape (N, {self.layer_sizes[0]}) but got {y.shape}")
        for layer in self.layers:
            y = layer.forward(y)
        return y

    def backward(self, dlogits: Array) -> Array:
        """The gradient with respect to the x of the forward before; every layer keeps its parameters' gradients."""
        gradient = dlogits
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient

    def step(self, lr: float) -> None:
        """parameter -= lr * gradient, for every parameter, in place."""
        for layer in self.layers:
            for value, gradient in layer.parameters():
                if gradient is None:
                    raise RuntimeError("Expected a backward pass before step but there was none")
                value -= lr * gradient

    def train_step(self, x: Array, labels: Array, lr: float) -> float:
        """One step of gradient descent on the batch; returns the loss before it."""
        self.train()
        loss = cross_entropy(self.forward(x), labels)
        self.backward(loss.dlogits)
        self.step(lr)
        return loss.value

    def predict(self, x: Array) -> Array:
        """The most likely class of each sample, in eval mode; the mode is as before afterwards."""
        mode = self.training
        self.eval()
        try:
            parts = [self.forward(x[i : i + ROWS]).argmax(1) for i in range(0, len(x), ROWS)]
        finally:
            self.train(mode)
        return np.concatenate(parts) if parts else np.zeros(0, np.intp)

    def accuracy(self, x: Array, labels: Array) -> float:
        """The fraction of samples whose most likely class is their label."""
        return int((self.predict(x) == labels).sum()) / len(labels)

    def state(self) -> dict[str, Array]:
        """A copy of every array that training changes, by name: `linear1.weight`, `norm1.gamma`, ..."""
        arrays: dict[str, Array] = {}
        for i, linear in enumerate(self.linears, start=1):
            arrays[f"linear{i}.weight"] = linear.weight
            arrays[f"linear{i}.bias"] = linear.bias
        for i, layer in enumerate(self.norms, start=1):
            for name in ("gamma", "beta", "running_mean", "running_var"):
                value = getattr(layer, name, None)
                if value is not None:
                    arrays[f"norm{i}.{name}"] = value
        return {name: array.copy() for name, array in arrays.items()}
