"""RMSNorm: LayerNorm without the mean. Has no arithmetic of its own."""

from collections.abc import Sequence

from npnorm import kernel
from npnorm.arguments import checked, epsilon, flag, optional, positive_ints
from npnorm.layer import Normalization
from npnorm.layer_norm import trailing_rows


class RMSNorm(Normalization):
    """y = gamma * x / sqrt(mean(x**2) + eps), the mean over the last axes of x. There is no beta.

    x: any array whose shape ends in `normalized_shape`.

    Args:
        normalized_shape: an int D for the last axis alone, or the sizes of the last axes.
        eps: added to the mean square; None means the machine epsilon of the dtype that is computed in, as in torch.
        elementwise_affine: whether there is a gamma of shape `normalized_shape`.

    Raises:
        ValueError: `normalized_shape` is empty or not positive; later, an x whose shape ends otherwise.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019 (arXiv:1910.07467); `torch.nn.RMSNorm`.
    """

    centred = False

    normalized_shape: tuple[int, ...] = checked("normalized_shape", positive_ints, fixed=True)
    eps: float | None = checked("eps", optional(epsilon))

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        self.normalized_shape = positive_ints("normalized_shape", normalized_shape)
        affine = flag("elementwise_affine", elementwise_affine)
        super().__init__(self.normalized_shape, eps, gamma=affine, beta=False)

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        return trailing_rows(shape, self.normalized_shape)
