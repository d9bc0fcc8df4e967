"""Scripts for layers of another form than the plainest: other names, shapes of their own, defaults of their own.

Each is in a file, with a mistake; its script fails until it is fixed.
"""

import sys
from dataclasses import replace

import pytest

from reference import from_functions
from reference.cases.case import make
from tests.pasted import changed, failing_script, fails_then_passes

BATCH = make("BatchNorm", (4, 3), seed=1)

PER_GROUP = """\
import numpy as np
import npnorm


class MyGroupNorm:
    def __init__(self, num_groups, num_channels, eps=1e-5):
        self.norm = npnorm.GroupNorm(num_groups, num_channels, eps)
        self.gamma, self.beta = np.ones(num_groups), np.zeros(num_channels)

    def forward(self, x):
        self.norm.gamma = np.repeat(self.gamma, x.shape[1] // np.size(self.gamma))
        self.norm.beta = self.beta
        return self.norm.forward(x)

    def backward(self, dy):
        dx = self.norm.backward(dy)
        self.dgamma, self.dbeta = self.norm.dgamma, self.norm.dbeta
        return dx
"""


def test_gamma_a_group_fails_until_it_is_fixed(in_file):
    script = failing_script(in_file(PER_GROUP, "MyGroupNorm"), make("GroupNorm", (2, 6), groups=2))
    fixed = changed(PER_GROUP, "np.ones(num_groups)", "np.ones(num_channels)")
    fails_then_passes(script, "gamma has shape (2,), expected (6,)", in_file.path, fixed)


RMS_NORM = """\
import numpy as np


class MyRMSNorm:
    def __init__(self, normalized_shape):
        self.gamma = np.ones(normalized_shape)

    def forward(self, x):
        self.rstd = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + np.finfo(x.dtype).eps)
        self.xhat = x * self.rstd
        return self.gamma * self.xhat

    def backward(self, dy):
        self.dgamma = (dy * self.xhat).sum(0)
        d = self.gamma * dy
        return (d - self.xhat * (d * self.xhat).mean(-1, keepdims=True)) * self.rstd
"""


def test_rms_norm_with_the_default_eps_of_float32_fails_until_it_is_fixed(in_file):
    """Of small numbers, where torch's default in float64 would be another layer."""
    layer = in_file(changed(RMS_NORM, ".sum(0)", ".mean(0)"), "MyRMSNorm")
    script = failing_script(layer, make("RMSNorm", (3, 5), dtype="float32", data="small"))
    fails_then_passes(script, "dgamma", in_file.path, RMS_NORM)


GRIDS = """\
import numpy as np
from npnorm import LayerNorm


class MyLayerNorm(LayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma = self.dgamma.reshape(-1)
        return dx
"""


def test_flat_gradient_fails_until_it_is_fixed(in_file):
    """As the verdict has it: a shape that is neither torch's nor the layer's own."""
    script = failing_script(in_file(GRIDS, "MyLayerNorm"), make("LayerNorm", (4, 2, 3), axes=2))
    fails_then_passes(
        script, "dgamma: got shape (6,), expected (2, 3)", in_file.path, GRIDS.replace(".reshape(-1)", "")
    )


# --- a layer with other names -----------------------------------------------------------------------------------------

OTHER_NAMES = """\
import numpy as np
from npnorm import BatchNorm


class Norm:
    def __init__(self, dim, epsilon, rate=0.1):
        self.norm = BatchNorm(dim, eps=epsilon, momentum=rate)
        self.weight, self.bias = np.ones((1, dim)), np.zeros((1, dim))

    def train(self):
        self.norm.training = True

    def eval(self):
        self.norm.training = False

    def __call__(self, x):
        self.norm.gamma, self.norm.beta = self.weight[0], self.bias[0]
        y = self.norm.forward(x)
        self.moving_mean, self.moving_var = self.norm.running_mean, self.norm.running_var
        return y

    def backprop(self, dy):
        dx = self.norm.backward(dy)
        self.grad_bias = self.norm.dbeta
        self.grad_weight = self.norm.dgamma
        return dx
"""
RETURNED = ["dx", "dx, self.grad_weight", '{"grad_x": dx, "grad_weight": self.grad_weight}']


@pytest.mark.parametrize(
    ("line", "wrong", "quantity"),
    [
        ("y = self.norm.forward(x)", "y = 2 * self.norm.forward(x)", "y"),
        ("dx = self", "dx = -self", "dx"),
        ("self.norm.dgamma", "2 * self.norm.dgamma", "dgamma"),
        ("self.norm.dbeta", "-self.norm.dbeta", "dbeta"),
        (
            "self.moving_var = self.norm.running_mean, self",
            "self.moving_var = self.norm.running_mean, 3 * self",
            "running_var",
        ),
    ],
    ids=["y", "dx", "dgamma", "dbeta", "running_var"],
)
@pytest.mark.parametrize("returned", RETURNED, ids=["alone", "tuple", "dict"])
def test_layer_with_other_names_fails_until_it_is_fixed(in_file, returned, line, wrong, quantity):
    """It is built with its own keywords, called by its own names, and its gradients are looked for under its own."""
    right = changed(OTHER_NAMES, "return dx", f"return {returned}")
    layer = in_file(changed(right, line, wrong), "Norm")

    script = failing_script(layer, replace(BATCH, calls=2))
    assert "their_module.Norm(dim=3, epsilon=1e-05)" in script
    fails_then_passes(script, quantity, in_file.path, right)


# --- layers that take more than names ---------------------------------------------------------------------------------

KEPT = """import numpy as np


class LayerNorm:
    def __init__(self, dim, eps=1e-5):
        self.eps = eps
        self.params = {"W": np.ones(dim), "b": np.zeros(dim)}
        self.grads = {}

    def forward(self, x, training=True):
        centred = x - x.mean(-1, keepdims=True)
        self.rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        self.xhat = centred * self.rstd
        return self.params["W"] * self.xhat + self.params["b"]

    def backward(self, dout, learning_rate):
        self.grads["W"], self.grads["b"] = (dout * self.xhat).sum(0), dout.sum(0)
        self.params["W"] -= learning_rate * self.grads["W"]
        d = self.params["W"] * dout
        return (d - d.mean(-1, keepdims=True) - self.xhat * (d * self.xhat).mean(-1, keepdims=True)) * self.rstd
"""
OBJECTS = """import numpy as np


class Param:
    def __init__(self, data):
        self.data, self.grad = data, None


class LayerNorm:
    def build(self, input_shape):
        self.weight, self.bias = Param(np.ones(input_shape[-1])), Param(np.zeros(input_shape[-1]))

    def __init__(self, normalized_shape):
        pass

    def forward(self, x):
        centred = x - x.mean(-1, keepdims=True)
        rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return self.weight.data * centred * rstd + self.bias.data, (centred * rstd, rstd)

    def backward(self, dy, cache):
        xhat, rstd = cache
        self.weight.grad, self.bias.grad = (dy * xhat).sum(0), dy.sum(0)
        d = self.weight.data * dy
        return (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True)) * rstd
"""
MODES = """import numpy as np


class BatchNormalization:
    def __init__(self, gamma, beta, momentum=0.9, running_mean=None, running_var=None):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean = np.zeros(len(gamma)) if running_mean is None else running_mean
        self.running_var = np.ones(len(gamma)) if running_var is None else running_var
        self.phase = "train"

    def forward(self, x, train_flg=True):
        self.training = train_flg
        mean, var, n = x.mean(0), x.var(0), len(x)
        if train_flg:
            self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
            self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var * n / (n - 1)
        else:
            mean, var = self.running_mean, self.running_var
        self.rstd = 1 / np.sqrt(var + 1e-5)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dout):
        self.dgamma, self.dbeta = (dout * self.xhat).sum(0), dout.sum(0)
        d = self.gamma * dout
        if self.training:
            d = d - d.mean(0) - self.xhat * (d * self.xhat).mean(0)
        return d * self.rstd
"""
PHASES = changed(changed(MODES, "train_flg=True", "_=None"), "if train_flg", 'if self.phase == "train"').replace(
    "= train_flg", '= self.phase == "train"'
)
PAIR = """import numpy as np


def layernorm_forward(x, gamma, beta, ln_param):
    centred = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + ln_param.get("eps", 1e-5))
    return gamma * centred * rstd + beta, (centred * rstd, rstd, gamma)


def layernorm_backward(dout, cache):
    xhat, rstd, gamma = cache
    dgamma, dbeta = (dout * xhat).sum(0), dout.sum(0)
    d = gamma * dout
    dx = (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True)) * rstd
    return dx, dgamma, dbeta
"""
TURNED = changed(PAIR, "(dout, cache)", "(cache, dout)").replace(
    "(x, gamma, beta, ln_param)", "(x, gamma, beta, eps=1e-5)"
)
TURNED = changed(TURNED, 'ln_param.get("eps", 1e-5)', "eps")
ROWS = make("LayerNorm", (3, 5), seed=1, eps=0.1)
EVAL = replace(BATCH, training=False, calls=2)

# The right file, the layer in it, the line that is changed, what it becomes, the case, the quantity; words of the script.
FORMS = {
    "a dict, and a step": (
        KEPT,
        "LayerNorm",
        "(dout * self.xhat)",
        "(2 * dout * self.xhat)",
        ROWS,
        "dgamma",
        'set_entry(layer.params, "W", gamma)',
    ),
    "objects, built late, a cache": (
        OBJECTS,
        "LayerNorm",
        ".bias.grad = (dy",
        ".bias.grad = (2 * dy",
        make("LayerNorm", (3, 5)),
        "dgamma",
        "run_with_cache(layer.forward, layer.backward",
    ),
    "a flag of forward, arrays asked for": (
        MODES,
        "BatchNormalization",
        "if self.training",
        "if True",
        EVAL,
        "dx",
        "telling(layer.forward, train_flg=[True, False])",
    ),
    "a word": (PHASES, "BatchNormalization", "if self.training", "if True", EVAL, "dx", "phase=('train', "),
    "functions": (
        PAIR,
        "layernorm",
        "dout.sum(0)",
        "dout.sum()",
        ROWS,
        "dbeta",
        "ln_param={'eps': 0.1, 'mode': 'train'}",
    ),
    "functions the other way round": (TURNED, "layernorm", "dx = (d", "dx = (2 * d", ROWS, "dx", "eps=0.1"),
}


@pytest.mark.parametrize(("source", "name", "line", "wrong", "case", "quantity", "words"), FORMS.values(), ids=FORMS)
def test_layer_of_another_form_fails_until_it_is_fixed(in_file, source, name, line, wrong, case, quantity, words):
    if name == "layernorm":
        forward = in_file(changed(source, line, wrong), "layernorm_forward")
        layer = from_functions(forward, sys.modules["their_layers"].layernorm_backward)
    else:
        layer = in_file(changed(source, line, wrong), name)
    script = failing_script(layer, case)
    assert words in script
    fails_then_passes(script, quantity, in_file.path, source)
