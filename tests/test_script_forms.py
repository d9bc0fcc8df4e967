"""Scripts for layers of another form than the plainest: other names, shapes of their own, defaults of their own.

Each is in a file, with a mistake; its script fails until it is fixed.
"""

from dataclasses import replace

import pytest

from reference.cases.case import make
from reference.reporting.script import script_for
from reference.subjects.subject import Subject
from reference.truth.convention import TORCH
from reference.truth.verdict import judge
from tests.pasted import changed, failing_script, fails_then_passes

BATCH = make("BatchNorm", (4, 3), seed=1)

PER_GROUP = """\
import numpy as np
import npnorm


class MyGroupNorm(npnorm.GroupNorm):
    def __init__(self, num_groups, num_channels, eps=1e-5):
        super().__init__(num_groups, num_channels, eps)
        self.gamma = np.ones(num_groups)

    def forward(self, x):
        self.own, self.gamma = self.gamma, np.repeat(self.gamma, x.shape[1] // np.size(self.gamma))
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        self.gamma = self.own
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

    def pull(self, dy):
        dx = self.norm.backward(dy)
        self.grad_bias = self.norm.dbeta
        self.grad_weight = self.norm.dgamma
        return dx
"""
RETURNED = ["dx", "dx, self.grad_weight", '{"grad_x": dx, "grad_weight": self.grad_weight}']
NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "dx": "grad_x",
    "dgamma": "grad_weight",
    "dbeta": "grad_bias",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
    "forward": "__call__",
    "backward": "pull",
}


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
    """It is built by an expression, called by its own names, and its gradients are looked for under its own."""
    right = changed(OTHER_NAMES, "return dx", f"return {returned}")
    layer = in_file(changed(right, line, wrong), "Norm")

    class Adapted:
        def __init__(self, num_features, eps=1e-5):
            vars(self)["inner"] = layer(num_features, eps)

        def __getattr__(self, name):
            return getattr(self.inner, NAMES.get(name, name))

        def __setattr__(self, name, value):
            setattr(self.inner, NAMES.get(name, name), value)

        def backward(self, dy):
            given = self.inner.pull(dy)
            return given["grad_x"] if isinstance(given, dict) else given

    trial = judge(Subject(Adapted, BATCH.kind, "Norm"), replace(BATCH, calls=2), TORCH)
    assert trial.wrong == (quantity,)
    subject = Subject(layer, BATCH.kind, "Norm")
    script = script_for(subject, trial, build="their_module.Norm(3, epsilon=1e-05)", names=NAMES)
    fails_then_passes(script, quantity, in_file.path, right)
