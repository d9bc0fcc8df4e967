"""LayerNorm: which numbers share a mean and a variance. Has no arithmetic of its own."""

from collections.abc import Sequence
from math import prod

from npnorm import kernel
from npnorm.arguments import checked, flag, positive_ints
from npnorm.layer import Normalization


class LayerNorm(Normalization):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance over the last axes of x.

    The (biased) variance and the mean are taken over the last `len(normalized_shape)` axes; gamma and beta are one
    number for each position in them.

    x: any array whose shape ends in `normalized_shape`.

    Args:
        normalized_shape: an int D for the last axis alone, or the sizes of the last axes.
        eps: added to the variance.
        elementwise_affine: whether there is a gamma of shape `normalized_shape`, and a beta if `bias`.
        bias: whether there is a beta, where `elementwise_affine`.

    Raises:
        ValueError: `normalized_shape` is empty or not positive; later, an x whose shape ends otherwise.

    Ba, Kiros and Hinton, "Layer Normalization", 2016 (arXiv:1607.06450); `torch.nn.LayerNorm`.
    """

    normalized_shape: tuple[int, ...] = checked("normalized_shape", positive_ints, fixed=True)

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = positive_ints("normalized_shape", normalized_shape)
        affine, with_beta = flag("elementwise_affine", elementwise_affine), flag("bias", bias)
        super().__init__(self.normalized_shape, eps, gamma=affine, beta=affine and with_beta)

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        return trailing_rows(shape, self.normalized_shape)


def trailing_rows(shape: tuple[int, ...], normalized_shape: tuple[int, ...]) -> kernel.Tiling:
    """A row for each position of the leading axes; what LayerNorm and RMSNorm share."""
    leading = len(shape) - len(normalized_shape)
    if leading < 0 or shape[leading:] != normalized_shape:
        expected = "(*, " + ", ".join(map(str, normalized_shape)) + ")"
        raise ValueError(f"Expected x of shape {expected} but got {shape}")
    features = prod(normalized_shape)
    return kernel.tiling((prod(shape[:leading]), 1, features, 1))
