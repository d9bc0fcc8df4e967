"""InstanceNorm: GroupNorm with as many groups as channels. Has no arithmetic of its own."""

from math import prod

from npnorm import kernel
from npnorm.arguments import checked, flag, positive_int
from npnorm.layer import Normalization


class InstanceNorm(Normalization):
    """y = gamma * (x - mean) / sqrt(var + eps) + beta, mean and variance over the space of each sample's channel.

    x: (N, C, L), (N, C, H, W) or (N, C, D, H, W), with more than one spatial position.

    Args:
        num_features: C.
        eps: added to the variance.
        affine: whether there are gamma and beta, each of shape (C,); by default there are none, as in torch.

    Raises:
        ValueError: later, an x whose channels are not C, whose rank is not 3 to 5, or with a single spatial position.

    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016 (arXiv:1607.08022); `torch.nn.InstanceNorm1d`,
    `InstanceNorm2d`, `InstanceNorm3d` (without running statistics, which torch leaves out by default too).
    """

    num_features: int = checked("num_features", positive_int, fixed=True)

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False) -> None:
        self.num_features = num_features
        affine = flag("affine", affine)
        super().__init__((self.num_features,), eps, gamma=affine, beta=affine)

    def _tiling(self, shape: tuple[int, ...]) -> kernel.Tiling:
        channels = self.num_features
        if not 3 <= len(shape) <= 5 or shape[1] != channels:
            raise ValueError(f"Expected x of shape (N, {channels}, *spatial) with 1 to 3 spatial axes but got {shape}")
        space = prod(shape[2:])
        if space == 1:
            raise ValueError(f"Expected more than 1 spatial position but got x of shape {shape}")
        return kernel.tiling((shape[0], channels, 1, space))
