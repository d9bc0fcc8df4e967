"""What the tests of the script to paste share: two right layers in files of their own, and how a script is run.

Knows no mistake and no case.
"""

import contextlib
import io

import numpy as np
import pytest

from reference.cases.case import Case
from reference.reporting.script import script_for
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.reading import read
from reference.truth.convention import TORCH
from reference.truth.verdict import judge

LAYER_NORM = """\
import numpy as np


class MyLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        self.eps = eps
        self.gamma = np.ones(normalized_shape) if elementwise_affine else None
        self.beta = np.zeros(normalized_shape) if elementwise_affine and bias else None

    def forward(self, x):
        gamma = np.ones(x.shape[-1], x.dtype) if self.gamma is None else self.gamma
        beta = np.zeros(x.shape[-1], x.dtype) if self.beta is None else self.beta
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        self.rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + x.dtype.type(self.eps))
        self.xhat = centred * self.rstd
        y = self.xhat * gamma + beta
        return y

    def backward(self, dy):
        gamma = np.ones(dy.shape[-1], dy.dtype) if self.gamma is None else self.gamma
        leading = tuple(range(dy.ndim - 1))
        self.dgamma = (dy * self.xhat).sum(leading)
        self.dbeta = dy.sum(leading)
        d = gamma * dy
        dx = d - d.mean(-1, keepdims=True) - self.xhat * (d * self.xhat).mean(-1, keepdims=True)
        dx = dx * self.rstd
        return dx
"""

BATCH_NORM = '''\
import numpy as np


class MyBatchNorm:
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        self.eps, self.momentum = eps, momentum
        self.gamma, self.beta = (np.ones(num_features), np.zeros(num_features)) if affine else (None, None)
        self.running_mean, self.running_var = np.zeros(num_features), np.ones(num_features)
        self.training = True

    def forward(self, x):
        if self.training:
            mean, var, n = x.mean(0), x.var(0), len(x)
            self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var * n / (n - 1)
        else:
            mean, var = self.running_mean, self.running_var
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(0), dy.sum(0)
        dx = self.gamma * dy
        if self.training:
            dx = dx - dx.mean(0) - self.xhat * (dx * self.xhat).mean(0)
        return dx * self.rstd


class SwitchedBatchNorm:
    """The mode by methods alone."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        self.inner = MyBatchNorm(num_features, eps, momentum)

    gamma = property(lambda self: self.inner.gamma, lambda self, value: setattr(self.inner, "gamma", value))
    beta = property(lambda self: self.inner.beta, lambda self, value: setattr(self.inner, "beta", value))
    running_mean = property(lambda self: self.inner.running_mean)
    running_var = property(lambda self: self.inner.running_var)
    dgamma = property(lambda self: self.inner.dgamma)
    dbeta = property(lambda self: self.inner.dbeta)

    def train(self):
        self.inner.training = True

    def eval(self):
        self.inner.training = False

    def forward(self, x):
        return self.inner.forward(x)

    def backward(self, dy):
        return self.inner.backward(dy)
'''


def failing_script(layer, case: Case) -> str:
    subject = InProcess(layer, case.kind, layer.__name__)
    read(subject, None, None, Clock(60))
    trial = judge(subject, case, TORCH)
    assert trial.failed, "the mistake does not show in this case"
    return script_for(subject, trial)


def run(script: str) -> str:
    """What a script prints; its exception, if it ends in one, goes on."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), np.errstate(all="ignore"):
        exec(compile(script, "script", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def fails_then_passes(script: str, words: str, path, source: str) -> None:
    with pytest.raises((AssertionError, ValueError)) as error:
        run(script)
    assert words in str(error.value)
    path.write_text(source)
    assert run(script) == "no difference\n"


def changed(source: str, line: str, wrong: str) -> str:
    assert source.count(line) == 1
    return source.replace(line, wrong)
