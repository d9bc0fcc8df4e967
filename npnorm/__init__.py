"""Normalization layers in NumPy with hand-written gradients.

`GroupNorm`, `LayerNorm`, `RMSNorm`, `BatchNorm` and `InstanceNorm` take the options of their `torch.nn`
namesakes, and agree with them in every output and gradient. `npnorm` imports NumPy and nothing else, its lab
apart; what more the distribution installs is for `reference`.

    >>> import numpy as np
    >>> from npnorm import GroupNorm
    >>> layer = GroupNorm(num_groups=2, num_channels=4)
    >>> x = np.random.default_rng(0).normal(size=(8, 4, 5, 7))
    >>> y = layer.forward(x)
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.dgamma.shape, layer.dbeta
    ((4,), array([280., 280., 280., 280.]))
"""

from npnorm.batch_norm import BatchNorm
from npnorm.group_norm import GroupNorm
from npnorm.instance_norm import InstanceNorm
from npnorm.layer import Normalization
from npnorm.layer_norm import LayerNorm
from npnorm.rms_norm import RMSNorm

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "Normalization", "RMSNorm"]
__version__ = "0.1.0"
