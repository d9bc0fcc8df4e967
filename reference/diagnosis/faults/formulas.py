"""The right formulas that several entries are held beside, in the words of the reports. Texts alone, no arithmetic."""

# the forward
RSTD = "rstd = 1 / sqrt(var + eps)"
XHAT = "xhat = (x - mean) / sqrt(var + eps)"
Y = "y = gamma * xhat + beta"

# the backward
DX = "dx = rstd * (d - mean(d) - xhat * mean(d * xhat)), d = gamma * dy"
DX_OF_RMS = "dx = rstd * (d - xhat * mean(d * xhat)), d = gamma * dy"
EVAL_DX = "dx = gamma * dy / sqrt(running_var + eps)  # in eval mode"
DGAMMA = "dgamma = sum(dy * xhat) over all axes but gamma's"
DBETA = "dbeta = sum(dy) over all axes but beta's"
DGAMMA_DBETA = "dgamma = sum(dy * xhat), dbeta = sum(dy), over all axes but gamma's"

# the state
RUNNING = "running = (1 - momentum) * running + momentum * batch, the batch's variance unbiased"
