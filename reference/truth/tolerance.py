"""The largest error that a right layer may have.

The tolerance of a quantity is `TOLERANCE` times a power of the case's conditioning, 1 + |mean| / sqrt(var + eps): a
layer that subtracts a rounded mean loses that factor once, in y and dgamma, and may lose it twice in dx (as torch's own
closed form for GroupNorm and LayerNorm does). It never grows with the size of the array: where so many numbers are added
that one by one they lose more than that, a probe has numbers whose sums have no rounding. Where the conditioning makes a
tolerance so large that it says nothing, it is another probe's turn.
"""

# float16 is less: NumPy adds it up in float32, so that a right layer stays within 3 units of it, while one that adds in
# float16 itself does not stay within 40.
TOLERANCE = {"float64": 64.0, "float32": 64.0, "float16": 16.0}
POWER = {"y": 1, "dx": 2, "dgamma": 1, "dbeta": 0, "running_mean": 1, "running_var": 1}


def tolerance_of(quantity: str, conditioning: float, dtype: str = "float64") -> float:
    """The largest error, in units, that a right layer may have."""
    return float(TOLERANCE[dtype] * conditioning ** POWER[quantity])
