"""The lab: one small network trained with each normalization, so that they can be compared on real digits.

    python -m npnorm.lab                    both experiments on scikit-learn's digits
    python -m npnorm.lab small-batch        what a batch of four does to each of them
    python -m npnorm.lab --help             everything else

The network and its gradients (`mlp`) are NumPy on npnorm's layers; torch is not needed here. Around them: `data`
reads the digits, `train` runs the experiments, `summary` says what they show, `plot` draws it.
"""

from npnorm.lab.mlp import NORMS, NormalizedMLP, cross_entropy

__all__ = ["NORMS", "NormalizedMLP", "cross_entropy"]
