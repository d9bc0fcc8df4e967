"""Layers in the forms that strangers give them are read, said so, and held to the same numbers; or refused with the reason.

Each source is a right layer in somebody's style. A wrong line in it must be found as in any other layer.
"""

import linecache

import numpy as np
import pytest

from reference import Refused, check
from reference.cases.case import make
from reference.kinds import kind_named
from reference.subjects.form import Mode, signature_form
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.reading import read
from reference.subjects.subject import Subject
from reference.truth.convention import TORCH
from reference.truth.verdict import judge

LAYER_FORWARD = """\
        centred = x - x.mean(-1, keepdims=True)
        self.rstd = 1 / np.sqrt((centred ** 2).mean(-1, keepdims=True) + self.eps)
        self.xhat = centred * self.rstd
"""
LAYER_DX = "(d - d.mean(-1, keepdims=True) - self.xhat * (d * self.xhat).mean(-1, keepdims=True)) * self.rstd"
ROWS = "tuple(range(dy.ndim - 1))"

DICTS = f"""\
class LayerNormalization:
    def __init__(self, dim, epsilon=1e-5):
        self.eps = epsilon
        self.params = {{"W": np.ones(dim), "b": np.zeros(dim)}}
        self.grads = {{}}

    def fprop(self, x):
{LAYER_FORWARD}
        return self.params["W"] * self.xhat + self.params["b"]

    def bprop(self, dy):
        self.grads["W"] = (dy * self.xhat).sum({ROWS})
        self.grads["b"] = dy.sum({ROWS})
        d = self.params["W"] * dy
        return {LAYER_DX}
"""
OBJECTS = f"""\
class Parameter:
    def __init__(self, data):
        self.data = data
        self.grad = np.zeros_like(data)


class LayerNorm:
    def __init__(self, n_features, eps=1e-5):
        self.weight, self.bias, self.eps = Parameter(np.ones(n_features)), Parameter(np.zeros(n_features)), eps

    def __call__(self, x):
{LAYER_FORWARD}
        return self.weight.data * self.xhat + self.bias.data

    def backward(self, dy):
        self.weight.grad = (dy * self.xhat).sum({ROWS})
        self.bias.grad = dy.sum({ROWS})
        d = self.weight.data * dy
        return {LAYER_DX}
"""
STEPPING = f"""\
class LayerNorm:
    def __init__(self, size, eps):
        self.gamma, self.beta, self.eps = np.ones(size), np.zeros(size), eps

    def forward(self, x):
{LAYER_FORWARD}
        return self.gamma * self.xhat + self.beta

    def backward(self, dy, learning_rate):
        d = self.gamma * dy
        self.dW, self.db = (dy * self.xhat).sum({ROWS}), dy.sum({ROWS})
        self.gamma = self.gamma - learning_rate * self.dW
        self.beta = self.beta - learning_rate * self.db
        return {LAYER_DX}
"""
CACHED = """\
class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.scale, self.shift, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps

    def forward(self, x):
        centred = x - x.mean(-1, keepdims=True)
        rstd = 1 / np.sqrt((centred ** 2).mean(-1, keepdims=True) + self.eps)
        return self.scale * centred * rstd + self.shift, (centred * rstd, rstd)

    def backward(self, dy, cache):
        xhat, rstd = cache
        d, rows = self.scale * dy, tuple(range(dy.ndim - 1))
        dx = (d - d.mean(-1, keepdims=True) - xhat * (d * xhat).mean(-1, keepdims=True)) * rstd
        return dx, {"scale": (dy * xhat).sum(rows), "shift": dy.sum(rows)}
"""
BUILT = f"""\
class LayerNorm:
    def __init__(self, eps=1e-5):
        self.eps = eps

    def build(self, input_shape):
        self.gamma, self.beta = np.ones(input_shape[-1]), np.zeros(input_shape[-1])

    def forward(self, x):
{LAYER_FORWARD}
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.grad_gamma, self.grad_beta = (dy * self.xhat).sum({ROWS}), dy.sum({ROWS})
        d = self.gamma * dy
        return {LAYER_DX}
"""
LAZY = f"""\
class LayerNorm:
    def __init__(self, eps=1e-5):
        self.eps, self.gamma, self.beta, self.size = eps, None, None, None

    def forward(self, x):
        if self.size != x.shape[-1]:
            self.size = x.shape[-1]
            self.gamma, self.beta = np.ones(self.size), np.zeros(self.size)
{LAYER_FORWARD}
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.gammaGrad, self.betaGrad = (dy * self.xhat).sum({ROWS}), dy.sum({ROWS})
        d = self.gamma * dy
        return {LAYER_DX}
"""
ASKING = f"""\
class LayerNorm:
    def __init__(self, eps=1e-5):
        self.eps = eps

    def forward(self, x, weight, bias):
        self.weight = weight
{LAYER_FORWARD}
        return weight * self.xhat + bias

    def backward(self, dy):
        d = self.weight * dy
        return {LAYER_DX}, ((dy * self.xhat).sum({ROWS}), dy.sum({ROWS}))
"""
LISTS = f"""\
class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.parameters, self.eps = [np.ones(normalized_shape), np.zeros(normalized_shape)], eps
        self.gradients = [None, None]

    def forward(self, x):
{LAYER_FORWARD}
        return self.parameters[0] * self.xhat + self.parameters[1]

    def backward(self, dy):
        self.gradients = [(dy * self.xhat).sum({ROWS}), dy.sum({ROWS})]
        d = self.parameters[0] * dy
        return {LAYER_DX}
"""
KEEPING = f"""\
class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps
        self.flush_gradients()

    def flush_gradients(self):
        self.passes, self.dgamma, self.dbeta = [], np.zeros(self.gamma.shape), np.zeros(self.gamma.shape)

    def forward(self, x):
{LAYER_FORWARD}
        self.passes.append((self.xhat, self.rstd))
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        d = self.gamma * dy
        for self.xhat, self.rstd in self.passes:
            self.dgamma = self.dgamma + (dy * self.xhat).sum({ROWS})
            self.dbeta = self.dbeta + dy.sum({ROWS})
            dx = {LAYER_DX}
        return dx
"""
# The source, its class, what the report must say that it was read as, and a line of it with what is wrong there.
LAYERS = {
    "dicts": (
        DICTS,
        "LayerNormalization",
        {
            *{"dim = normalized_shape", "epsilon = eps", "params['W'] = gamma", "params['b'] = beta"},
            *{"grads['W'] = dgamma", "grads['b'] = dbeta", "fprop = forward", "bprop = backward"},
        },
    ),
    "objects": (
        OBJECTS,
        "LayerNorm",
        {
            *{"n_features = normalized_shape", "weight.data = gamma", "bias.data = beta", "weight.grad = dgamma"},
            *{"bias.grad = dbeta", "__call__ = forward"},
        },
    ),
    "a step in backward": (STEPPING, "LayerNorm", {"size = normalized_shape", "dW = dgamma", "db = dbeta"}),
    "a cache": (CACHED, "LayerNorm", {"scale = gamma", "shift = beta"}),
    "built": (BUILT, "LayerNorm", {"grad_gamma = dgamma", "grad_beta = dbeta"}),
    "lazy": (LAZY, "LayerNorm", {"gammaGrad = dgamma", "betaGrad = dbeta"}),
    "asking": (ASKING, "LayerNorm", {"weight = gamma", "bias = beta"}),
    "keeping": (KEEPING, "LayerNorm", set()),
    "lists": (
        LISTS,
        "LayerNorm",
        {
            *{"parameters[0] = gamma", "parameters[1] = beta", "gradients[0] = dgamma", "gradients[1] = dbeta"},
        },
    ),
}


def made(source, name, *change):
    """The class of a source, with a line of it changed."""
    if change:
        assert source.count(change[0]) == 1, change
        source = source.replace(*change)
    namespace, file = {"np": np}, f"<layer {hash(source)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for who reads the source
    exec(compile(source, file, "exec"), namespace)
    return namespace[name]


def verdict(layer, like="LayerNorm", **options):
    return check(layer, like, **({"examples": 20, "ndims": [2], "dtypes": ["float64"], "minimize": False} | options))


@pytest.mark.parametrize(("source", "name", "read_as"), LAYERS.values(), ids=LAYERS)
def test_right_layer_passes_and_says_how_it_was_read(source, name, read_as):
    report = verdict(made(source, name))
    assert report.passed, report
    assert set(report.read_as) == read_as
    assert not read_as or f"read as: {report.read_as[0]}" in str(report)
    assert {"y", "dx", "dgamma", "dbeta"} == report.quantities.keys()
    assert report.quantities["dgamma"].cases > 20, "gamma is set, in nearly all cases"
    assert not {"gamma", "beta"} & report.not_covered.keys()


@pytest.mark.parametrize(
    "id", ["dgamma-without-xhat", "dbeta-mean-not-sum", "dx-mean-term-missing", "beta-not-applied"]
)
@pytest.mark.parametrize(("source", "name", "read_as"), LAYERS.values(), ids=LAYERS)
def test_wrong_layer_is_named(source, name, read_as, id):
    """In every form; gamma and beta are really set in it, or the last of these could not be seen."""
    xhat = "dy * xhat" if source is CACHED else "dy * self.xhat"
    change = {
        "dgamma-without-xhat": (f"({xhat}).sum", "dy.sum"),
        "dbeta-mean-not-sum": (" dy.sum(", " dy.mean("),
        "dx-mean-term-missing": ("(d - d.mean(-1, keepdims=True) - ", "(d - "),
        "beta-not-applied": next(
            (f" + {beta}", "")
            for beta in ('self.params["b"]', "self.bias.data", "self.beta", "self.shift", "bias", "self.parameters[1]")
            if f" + {beta}\n" in source or f" + {beta}, " in source
        ),
    }[id]
    report = verdict(made(source, name, *change), examples=0)
    assert [fault.id for fault in report.faults] == [id], report


@pytest.mark.parametrize("history", ["", "eval between"])
def test_what_is_kept_over_calls_is_cleared_as_a_training_loop_does(history):
    """Before each forward: a layer without running statistics is in training in any mode."""
    subject = InProcess(made(KEEPING, "LayerNorm"), kind_named("LayerNorm"), "LayerNorm")
    subject.read(None, Clock(60), None)
    trial = judge(subject, make("LayerNorm", (2, 3), calls=3, resize=True, history=history), TORCH)
    assert trial.comparisons.keys() == {"y", "dx", "dgamma", "dbeta"}
    assert not trial.failed


# --- modes ------------------------------------------------------------------------------------------------------------

BATCH = """\
class BatchNorm:
    def __init__(self, n_neurons, eps=1e-5, momentum=0.1):
        self.gamma, self.beta, self.eps, self.momentum = np.ones(n_neurons), np.zeros(n_neurons), eps, momentum
        self.moving_mean, self.moving_variance = np.zeros(n_neurons), np.ones(n_neurons)
        SET

    def forward(self, ARGUMENTS):
        self.was_training = TRAINING
        mean, var, n = x.mean(0), x.var(0), len(x)
        if self.was_training:
            self.moving_mean = (1 - self.momentum) * self.moving_mean + self.momentum * mean
            self.moving_variance = (1 - self.momentum) * self.moving_variance + self.momentum * var * n / (n - 1)
        else:
            mean, var = self.moving_mean, self.moving_variance
        self.rstd = 1 / np.sqrt(var + self.eps)
        self.xhat = (x - mean) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        self.dgamma, self.dbeta = (dy * self.xhat).sum(0), dy.sum(0)
        d = self.gamma * dy
        if self.was_training:
            d = d - d.mean(0) - self.xhat * (d * self.xhat).mean(0)
        return d * self.rstd
"""
# What the constructor sets, forward's arguments, the expression of its mode, and what is read as what.
MODES = {
    "a flag of forward": ("pass", "x, is_training=True", "is_training", "is_training = training"),
    "a flag that must be given": ("pass", "x, train", "train", "train = training"),
    "the other way round": ("pass", "x, test=False", "not test", "test = not training"),
    "a word of forward": ("pass", "x, mode='train'", "mode == 'train'", "mode = mode"),
    "an attribute": ("self.trainable = True", "x", "self.trainable", "trainable = training"),
    "an attribute the other way round": ("self.is_test = False", "x", "not self.is_test", "is_test = not training"),
    "a word in an attribute": ("self.phase = 'train'", "x", "self.phase != 'test'", "phase = mode"),
}


def in_mode(set, arguments, training):
    source = BATCH.replace("SET", set).replace("ARGUMENTS", arguments).replace("TRAINING", training)
    return made(source, "BatchNorm")


@pytest.mark.parametrize(("set", "arguments", "training", "read_as"), MODES.values(), ids=MODES)
def test_mode_is_told_in_the_layers_way(set, arguments, training, read_as):
    report = verdict(in_mode(set, arguments, training), "BatchNorm")
    assert report.passed, report
    assert read_as in report.read_as
    assert "eval mode" not in report.not_covered
    assert report.quantities["running_var"].cases > 20


@pytest.mark.parametrize(("set", "arguments", "training", "read_as"), MODES.values(), ids=MODES)
def test_mode_that_is_not_heeded_is_named(set, arguments, training, read_as):
    report = verdict(in_mode(set, arguments, f"{training} or True"), "BatchNorm", examples=0)
    assert not report.passed
    assert {"eval-uses-batch-statistics", "running-statistics-updated-in-eval"} <= {fault.id for fault in report.faults}


def test_layer_without_a_mode_is_held_in_training_alone():
    report = verdict(in_mode("pass", "x", "True"), "BatchNorm")
    assert report.passed
    assert report.not_covered["eval mode"] == "it has no attribute, method or argument that tells it its mode"


@pytest.mark.parametrize(
    ("set", "arguments", "training", "modes"),
    [
        (*MODES["a word of forward"][:3], ((), (Mode("mode", "train", "eval"),))),
        ("pass", "x, mode", "mode != 'inference'", ((), (Mode("mode", "train", "inference"),))),
        (*MODES["a word in an attribute"][:3], ((Mode("phase", "train", "test"),), ())),
        (*MODES["the other way round"][:3], ((), (Mode("test", False, True),))),
        (*MODES["an attribute"][:3], ((Mode("trainable", True, False),), ())),
    ],
    ids=["a word", "a word that must be given", "a word in an attribute", "not training", "attribute"],
)
def test_form_has_the_values_of_both_modes(set, arguments, training, modes):
    form = signature_form(in_mode(set, arguments, training)(3), {})
    assert (form.attributes, form.arguments) == modes


# --- what was found ---------------------------------------------------------------------------------------------------


def form_of(source, name="LayerNorm", names=None):
    subject = Subject(made(source, name), kind_named("LayerNorm"), name, names=names)
    read(subject, None, None, Clock(60))
    return subject.form


def test_form_says_what_must_be_done():
    assert (form_of(BUILT).build, form_of(BUILT).primed) == ("build", False)
    assert (form_of(LAZY).build, form_of(LAZY).primed) == ("", True)
    assert form_of(STEPPING).rate == "learning_rate"
    assert (form_of(CACHED).cache, form_of(CACHED).keys) == (True, {"dgamma": "scale", "dbeta": "shift"})
    assert form_of(ASKING).given == {"gamma": "weight", "beta": "bias"}
    assert form_of(DICTS, "LayerNormalization").forward == "fprop"


def test_what_is_said_outright_is_found_where_no_name_tells():
    source = DICTS.replace('"W"', '"foo"').replace('"b"', '"bar"').replace("self.params", "self.store")
    names = {"gamma": "store['foo']", "beta": 'store["bar"]', "dgamma": "grads[foo]", "dbeta": "grads['bar']"}
    report = verdict(made(source, "LayerNormalization"), names=names)
    assert report.passed, report
    assert report.quantities.keys() == {"y", "dx", "dgamma", "dbeta"}
    wrong = made(source, "LayerNormalization", " = dy.sum(", " = 2 * dy.sum(")
    assert not verdict(wrong, names=names).quantities["dbeta"].passed


# --- what cannot be spoken to -----------------------------------------------------------------------------------------

HIDDEN = STEPPING.replace("self.dW, self.db", "self.first, self.second").replace("self.gamma", "self.theta")
OPTIMIZED = f"""\
class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5, optimizer=None):
        self.gamma, self.beta, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps
        self.optimizer = optimizer

    def forward(self, x):
{LAYER_FORWARD}
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        d = self.gamma * dy
        self.gamma = self.optimizer.update(self.gamma, (dy * self.xhat).sum({ROWS}))
        return {LAYER_DX}
"""
REFUSALS = {
    "gamma of no known name": (HIDDEN, r"has parameters that were not found: it holds theta \(\d+,\); .*--names gamma=theta"),
    "gradients of no known name": (
        STEPPING.replace("self.dW, self.db", "self.first, self.second").replace("self.dW", "self.first").replace(
            "self.db", "self.second"
        ),
        r"has gradients that were not found: it holds .*first \(\d+,\).*--names dgamma=first",
    ),
    "gradients nowhere": (
        STEPPING.replace("self.dW", "dW").replace("self.db", "db").replace("self.gamma", "self.scale"),
        r"has gradients that were not found: it holds scale, and no gradient of it; .*--names dgamma=scale",
    ),
    "an optimizer": (OPTIMIZED, r"takes a step in backward, with an optimizer that it was not given \(AttributeError"),
    "an argument of forward": (
        STEPPING.replace("forward(self, x)", "forward(self, x, mask)"),
        r"asks for mask in forward\(...\): expected forward\(x\)",
    ),
    "an argument of backward": (
        STEPPING.replace("learning_rate", "momentum"),
        r"asks for momentum in backward\(...\): expected backward\(dy\)",
    ),
    "no backward": (STEPPING.replace("backward", "learn"), "has no method backward: expected"),
    "a required argument": (
        STEPPING.replace("size, eps):", "size, eps, dropout):"),
        r"asks for dropout: expected a class or factory with torch's keywords .*--names",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_found_is_refused_with_the_way_out(source, message):
    with pytest.raises(Refused, match=message):
        verdict(made(source.replace(", 0)", ")"), "LayerNorm"))
