"""torch's modules and functions are read, held against torch.nn in all four dtypes, and named when they are wrong.

The layers are written as people write them, and know neither `reference` nor `npnorm`.
"""

import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reference import Refused, check, from_torch
from reference.cases.case import make
from reference.command.main import main
from reference.dtypes import DTYPES
from reference.kinds import KINDS
from reference.repair.fix import write_fix
from reference.subjects.in_process import InProcess
from reference.subjects.torch_pass import array_of, tensor_of
from reference.truth.compare import compare
from reference.truth.convention import TORCH
from reference.truth.tolerance import SPARE
from reference.truth.verdict import judge
from tests.pasted import run

# --- modules ----------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """Computes in float32 and converts once."""

    def __init__(self, dim, eps=None):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def normalized(self, x):
        eps = torch.finfo(torch.float32).eps if self.eps is None else self.eps
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def forward(self, x):
        return (self.normalized(x.float()) * self.weight.float()).to(x.dtype)


class RMSNormThatRounds(RMSNorm):
    """As LlamaRMSNorm does."""

    def forward(self, x):
        return self.weight * self.normalized(x.float()).to(x.dtype)


class RMSNormThatSquaresNarrow(RMSNorm):
    def normalized(self, x):
        eps = torch.finfo(torch.float32).eps if self.eps is None else self.eps
        return x * torch.rsqrt(x.to(self.weight.dtype).pow(2).mean(-1, keepdim=True).float() + eps)


class RMSNormThatDetaches(RMSNorm):
    def normalized(self, x):
        return x * torch.rsqrt(x.detach().pow(2).mean(-1, keepdim=True) + (self.eps or 1.1920928955078125e-07))


class EinopsGroupNorm(nn.Module):
    """In whatever dtype x has."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.scale = nn.Parameter(torch.ones(1, num_channels, 1, 1)) if affine else None
        self.shift = nn.Parameter(torch.zeros(1, num_channels, 1, 1)) if affine else None

    def over(self, g):
        return g.mean(2, keepdim=True), g.var(2, keepdim=True, unbiased=False)

    def forward(self, x):
        grouped = x.reshape(len(x), self.num_groups, x[0].numel() // self.num_groups)
        mean, var = self.over(grouped)
        y = ((grouped - mean) / torch.sqrt(var + self.eps)).reshape(x.shape)
        if self.scale is None:
            return y
        channels = (1, -1) + (1,) * (x.ndim - 2)
        return y * self.scale.reshape(channels) + self.shift.reshape(channels)


class UnbiasedGroupNorm(EinopsGroupNorm):
    def over(self, g):
        return g.mean(2, keepdim=True), g.var(2, keepdim=True)


class BatchNorm(nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.gamma = nn.Parameter(torch.ones(num_features)) if affine else None
        self.beta = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("moving_mean", torch.zeros(num_features))
        self.register_buffer("moving_var", torch.ones(num_features))

    def kept(self, var, n):
        return var * n / (n - 1)

    def forward(self, x):
        axes, shape = [0, *range(2, x.ndim)], (1, -1) + (1,) * (x.ndim - 2)
        mean, var = self.moving_mean, self.moving_var
        if self.training:
            mean, var = x.mean(axes), x.var(axes, unbiased=False)
            with torch.no_grad():
                self.moving_mean += self.momentum * (mean - self.moving_mean)
                self.moving_var += self.momentum * (self.kept(var, x.numel() // x.shape[1]) - self.moving_var)
        y = (x - mean.reshape(shape)) * torch.rsqrt(var.reshape(shape) + self.eps)
        if self.gamma is None:
            return y
        return y * self.gamma.reshape(shape) + self.beta.reshape(shape)


class BiasedBatchNorm(BatchNorm):
    def kept(self, var, n):
        return var


class AnnotatedLayerNorm(nn.Module):
    """Its parameters have names that tell nothing; one starts at ones, one at zeros."""

    def __init__(self, features, eps=1e-5):
        super().__init__()
        self.a_2, self.b_2, self.eps = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features)), eps

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.a_2 * centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + self.eps) + self.b_2


class InPlaceLayerNorm(AnnotatedLayerNorm):
    def forward(self, x):
        x -= x.mean(-1, keepdim=True)
        return self.a_2 * x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) + self.b_2


# --- functions --------------------------------------------------------------------------------------------------------


class LayerNormFunction(torch.autograd.Function):
    """Right: float32 inside, one rounding of each result; saves x and the statistics."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        wide = x if x.dtype == torch.float64 else x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(centred * rstd, rstd, weight)
        ctx.dtype = x.dtype
        return (centred * rstd * weight.to(wide.dtype) + bias.to(wide.dtype)).to(x.dtype)

    @staticmethod
    def d_of(dy, weight, dtype):
        return dy * weight

    @staticmethod
    def dx_of(d, xhat, rstd, dtype):
        return rstd * (d - d.mean(-1, keepdim=True) - xhat * (d * xhat).mean(-1, keepdim=True))

    @staticmethod
    def summed(array, dtype):
        return array.sum(tuple(range(array.ndim - 1)))

    @classmethod
    def gradients(cls, ctx, dy):
        (xhat, rstd, weight), dtype = ctx.saved_tensors, ctx.dtype
        dy = dy.to(xhat.dtype)
        dx = cls.dx_of(cls.d_of(dy, weight.to(xhat.dtype), dtype), xhat, rstd, dtype)
        dgamma, dbeta = cls.summed(dy * xhat, dtype), cls.summed(dy, dtype)
        return dx.to(dtype), dgamma.to(weight.dtype), dbeta.to(weight.dtype), None

    @staticmethod
    def backward(ctx, dy):
        return LayerNormFunction.gradients(ctx, dy)


def layer_norm_variant(**changes):
    """`LayerNormFunction` with some of its steps exchanged; each is told the dtype of x last."""
    changes = {name: staticmethod(step) for name, step in changes.items()}
    made = type("LayerNormFunction", (LayerNormFunction,), changes)
    made.backward = staticmethod(lambda ctx, dy: made.gradients(ctx, dy))
    return made


class SpoilingLayerNormFunction(LayerNormFunction):
    @staticmethod
    def backward(ctx, dy):
        given = LayerNormFunction.gradients(ctx, dy)
        ctx.saved_tensors[0].detach().data.mul_(0.5)
        return given


def _adds_up_narrow(array, dtype):
    rows, total = array.reshape(-1, array.shape[-1]), torch.zeros(array.shape[-1], dtype=array.dtype)
    for row in rows.split(1 + len(rows) // 500):  # 500 sums at most, each rounded
        total = (total + row.sum(0)).to(dtype).to(array.dtype)
    return total


def _rounds(step):
    """A step whose first argument is rounded to the dtype of x before it."""
    return lambda first, *rest: step(first.to(rest[-1]).to(first.dtype), *rest)


def layer_norm(x, weight, bias, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    return F.group_norm(x, num_groups, weight, bias, eps)


# --- right ones -------------------------------------------------------------------------------------------------------

quick = partial(check, examples=20, minimize=False)


@pytest.mark.parametrize("like", KINDS)
def test_torchs_own_modules_agree_in_every_dtype(like):
    """Also where torch's CPU rounds in between in 16 bits, or adds up in them: they are what a layer is held against."""
    kind = KINDS[like]
    for rank, name in kind.torch.items():
        report = check(getattr(nn, name), like, ndims=[rank], dtypes=DTYPES, examples=40, minimize=False)
        assert report.passed, report
        assert not report.hazards, report


@pytest.mark.parametrize(
    ("layer", "lacks"),
    [
        pytest.param(RMSNorm, {"float64", "several normalized axes"}, id="module that computes in float32"),
        pytest.param(EinopsGroupNorm, {"float16", "bfloat16"}, id="module that computes in the dtype of x"),
        pytest.param(BatchNorm, {"float16", "bfloat16"}, id="module with buffers of other names"),
        pytest.param(AnnotatedLayerNorm, {"several normalized axes"}, id="parameters told by what they start from"),
        pytest.param(LayerNormFunction, {"several normalized axes"}, id="autograd function"),
        pytest.param(layer_norm, {"elementwise_affine"}, id="function of x, weight, bias"),
        pytest.param(group_norm, set(), id="function with optional parameters"),
        pytest.param(batch_norm, {"track_running_stats"}, id="function with running statistics"),
    ],
)
def test_right_layers_pass(layer, lacks):
    report = quick(layer)
    assert report.passed, report
    assert not report.hazards, report
    assert lacks <= report.not_covered.keys(), report


def test_a_layer_made_for_16_bits_is_held_to_them():
    for layer in (RMSNorm, LayerNormFunction):
        assert not {"float16", "bfloat16"} & quick(layer).not_covered.keys()


def test_what_torchs_instance_norm_gets_wrong_is_told():
    """At a batch of 1 its backward on the CPU misreads a dy whose channels come last; held against torch itself here."""
    norm = nn.InstanceNorm2d(2, affine=True).double()
    x = torch.randn(1, 2, 1, 3, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(1, 2, 1, 3, dtype=torch.float64)
    last = dy.contiguous(memory_format=torch.channels_last)
    one, other = (torch.autograd.grad(norm(x), x, upstream)[0] for upstream in (dy, last))
    case = make("InstanceNorm", (1, 2, 1, 3), affine=True, dy_layout="F")
    subject = InProcess(from_torch(nn.InstanceNorm2d, "InstanceNorm"), KINDS["InstanceNorm"], "torch's")
    assert ("dx" in judge(subject, case, TORCH).wrong) == (not torch.allclose(one, other))


# --- wrong ones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "id"),
    [
        pytest.param(UnbiasedGroupNorm, "variance-unbiased", id="unbiased variance"),
        pytest.param(BiasedBatchNorm, "running-var-biased", id="biased running variance"),
        pytest.param(RMSNormThatDetaches, "dx-projection-term-missing", id="detached variance"),
        pytest.param(InPlaceLayerNorm, "input-mutated", id="normalizes in place"),
        pytest.param(RMSNormThatRounds, "rounded-in-between", id="rounds xhat"),
        pytest.param(RMSNormThatSquaresNarrow, "computed-in-16-bits", id="squares in 16 bits"),
        pytest.param(
            layer_norm_variant(dx_of=lambda d, xhat, rstd, _: rstd * (d - xhat * (d * xhat).mean(-1, keepdim=True))),
            "dx-mean-term-missing",
            id="no mean term",
        ),
        pytest.param(layer_norm_variant(d_of=lambda dy, weight, _: dy), "dx-gamma-missing", id="no gamma in dx"),
        pytest.param(SpoilingLayerNormFunction, "backward-not-reentrant", id="spoils what it saved"),
        pytest.param(layer_norm_variant(summed=_adds_up_narrow), "computed-in-16-bits", id="adds up in 16 bits"),
        pytest.param(
            layer_norm_variant(dx_of=_rounds(LayerNormFunction.dx_of)), "rounded-in-between", id="casts d in backward"
        ),
    ],
)
def test_wrong_layers_are_named(layer, id):
    report = quick(layer)
    assert not report.passed, report
    assert id in [fault.id for fault in report.faults], report


def test_other_bits_in_a_second_backward_are_a_hazard():
    calls = []

    def dx_of(*given):
        calls.append(1)
        return LayerNormFunction.dx_of(*given) * (1 + len(calls) % 2 * 2.0**-22)

    report = quick(layer_norm_variant(dx_of=dx_of), dtypes=["float32"])
    assert report.passed, report
    assert [hazard.id for hazard in report.hazards] == ["backward-not-repeatable"]


# --- the adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_lies_in_memory_as_its_array(dtype):
    import ml_dtypes  # noqa: F401 - names bfloat16

    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    wide = np.zeros((2, 3, 8), dtype)
    for own in (array, np.asfortranarray(array), array.swapaxes(1, 2), wide[..., ::2], array[:, 1:], array[:0]):
        tensor = tensor_of(own)
        assert tensor.shape == own.shape
        assert tuple(step * own.itemsize for step in tensor.stride()) == own.strides
        assert np.array_equal(array_of(tensor), own)
        assert array_of(tensor).dtype == own.dtype


def test_what_is_no_layer_is_refused_with_what_was_expected():
    with pytest.raises(TypeError, match="Expected a class or a factory of modules but got a module, a LayerNorm"):
        from_torch(nn.LayerNorm(3), "LayerNorm")
    with pytest.raises(ValueError, match="Expected a device that torch has here but got 'nowhere'"):
        from_torch(nn.LayerNorm, "LayerNorm", device="nowhere")
    with pytest.raises(ValueError, match="like"):
        from_torch(nn.Linear)
    with pytest.raises(TypeError, match="asks for temperature"):
        from_torch(lambda x, temperature: x, "LayerNorm")


class TwoScalesLayerNorm(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(features)), nn.Parameter(torch.randn(features))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.first, self.second)


def test_parameters_that_nothing_tells_are_asked_for_and_may_be_named():
    with pytest.raises(Refused, match=r"has parameters that were not found: it holds first.data"):
        quick(TwoScalesLayerNorm)
    names = {"gamma": "first.data", "dgamma": "first.grad", "beta": "second.data", "dbeta": "second.grad"}
    assert quick(TwoScalesLayerNorm, names=names).passed


# --- by its file ------------------------------------------------------------------------------------------------------

FILE = """
import torch
from torch import nn


class LayerNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        centred = x - x.mean(-1, keepdim=True)
        rstd = (centred.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(centred * rstd, rstd, weight)
        return centred * rstd * weight + bias

    @staticmethod
    def backward(ctx, dy):
        xhat, rstd, weight = ctx.saved_tensors
        d = dy * weight
        dx = rstd * (d - d.mean(-1, keepdim=True) - xhat * (d * xhat).mean(-1, keepdim=True))
        rows = tuple(range(dy.ndim - 1))
        return dx, (dy * xhat).sum(rows), dy.sum(rows), None


class MyGroupNorm(nn.Module):
    def __init__(self, num_groups, num_channels, eps=1e-5):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x):
        grouped = x.reshape(x.shape[0], self.num_groups, -1)
        mean = grouped.mean(-1, keepdim=True)
        var = grouped.var(-1, keepdim=True, unbiased=False)
        y = ((grouped - mean) / torch.sqrt(var + self.eps)).reshape(x.shape)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return y * self.weight.view(shape) + self.bias.view(shape)


def rms_norm(x, weight, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
"""
MISTAKES = [
    pytest.param("LayerNormFunction", " - d.mean(-1, keepdim=True)", "", "dx-mean-term-missing", id="function"),
    pytest.param("MyGroupNorm", ", unbiased=False", "", "variance-unbiased", id="module"),
    pytest.param("rms_norm", "torch.rsqrt(x.pow(2)", "torch.rsqrt(x.pow(3)", "unknown", id="plain function"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_right_layers_of_a_file_pass_from_the_command(folder, capsys):
    (folder / "norms.py").write_text(FILE)
    assert main(["norms.py:*", "--examples", "10", "--ndims", "2", "--accept", "eps-default"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"norms.py:(\w+) as", out) == ["LayerNormFunction", "MyGroupNorm", "rms_norm"]


@pytest.mark.parametrize(("name", "right", "wrong", "id"), MISTAKES)
@pytest.mark.filterwarnings("ignore:var.*degrees of freedom")  # of the script, where one number has a variance
def test_wrong_layers_of_a_file_are_named_fixed_and_shown(in_file, name, right, wrong, id):
    """In this process; the README's has its own, by the command."""
    before = FILE.replace(right, wrong, 1)
    report = check(in_file(before, name), examples=10, fix=True, fix_seconds=60)
    assert id in [fault.id for fault in report.faults]
    (fix,), script = report.fixes, report.counterexample.script
    assert "answer_of(layer, x, dy" in script
    with pytest.raises(AssertionError):
        run(script)
    assert write_fix(fix) == in_file.path
    assert run(script) == "no difference\n"
    fixed = in_file.path.read_text()
    assert fixed != before
    assert check(in_file(fixed, name), examples=10).passed, fixed


def test_a_device_that_there_is_not_is_refused(folder, capsys):
    (folder / "norms.py").write_text(FILE)
    assert main(["norms.py:rms_norm", "--device", "nowhere"]) == 2
    assert "Expected a device that torch has here but got 'nowhere'" in capsys.readouterr().err


# --- gradients that autograd derives ----------------------------------------------------------------------------------


class RMSNormThatWidensTwice(RMSNorm):
    """Right: in 16 bits each x.float() rounds its share of dx, which is autograd's doing."""

    def forward(self, x):
        rstd = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + (self.eps or torch.finfo(torch.float32).eps))
        return (x.float() * rstd * self.weight.float()).to(x.dtype)


def test_a_share_of_dx_is_rounded_by_autograd_and_not_by_the_layer():
    case = make("RMSNorm", (40, 12), dtype="bfloat16", seed=17)
    right, by_hand = from_torch(RMSNormThatWidensTwice, "RMSNorm"), from_torch(LayerNormFunction)
    trial = judge(InProcess(right, KINDS["RMSNorm"], "twice"), case, TORCH)
    assert trial.seen.derived
    assert not trial.wrong
    assert trial.comparisons["dx"].error < 0.5, "held to one rounding it would be off by more"
    tight = trial.expected.truth.exact["dx"], TORCH.expected(case).truth.scale["dx"]
    assert not compare("dx", trial.seen.outcome["dx"], *tight, "bfloat16", 1 + SPARE).passed
    case = make("LayerNorm", (40, 12), dtype="bfloat16", seed=17)
    assert not judge(InProcess(by_hand, KINDS["LayerNorm"], "by hand"), case, TORCH).seen.derived


def test_a_layer_that_widens_twice_passes():
    assert quick(RMSNormThatWidensTwice).passed
