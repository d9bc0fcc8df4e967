"""The command on layers in other forms: pairs of functions, names that are said, dtypes, hazards that fail."""

import re
import sys

import pytest

from reference.command.main import main
from reference.command.parser import NAMES, names_of
from reference.subjects.loading import Unusable, load

SOURCE = '''\
import numpy as np

AXES = {"axis": -1, "keepdims": True}


def layernorm_forward(x, gamma, beta, ln_param):
    mean, var = x.mean(**AXES), x.var(**AXES)
    rstd = 1 / np.sqrt(var + ln_param.get("eps", 1e-5))
    xhat = (x - mean) * rstd
    return gamma * xhat + beta, (xhat, rstd, gamma)


def layernorm_backward(dout, cache):
    xhat, rstd, gamma = cache
    d, rows = gamma * dout, tuple(range(dout.ndim - 1))
    dx = rstd * (d - d.mean(**AXES) - xhat * (d * xhat).mean(**AXES))
    return dx, (dout * xhat).sum(rows), dout.sum(rows)


def forward(x, gamma, beta, eps=1e-5):
    return layernorm_forward(x, gamma, beta, {"eps": eps})


def backward_without_beta(dout, cache):
    dx, dgamma, dbeta = layernorm_backward(dout, cache)
    return dx, dgamma, 0 * dbeta


class Normalizer:
    """gamma and beta are in a dict under names that tell nothing."""

    def __init__(self, n):
        self.store, self.grads = {"foo": np.ones(n), "bar": np.zeros(n)}, {}

    def forward(self, x):
        y, self.cache = layernorm_forward(x, self.store["foo"], self.store["bar"], {})
        return y

    def backward(self, dy):
        dx, self.grads["foo"], self.grads["bar"] = layernorm_backward(dy, self.cache)
        return dx


class SingleLayerNorm:
    """Right, but for float32."""

    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps

    def forward(self, x):
        y, self.cache = layernorm_forward(x, self.gamma, self.beta, {"eps": self.eps})
        return y if x.dtype == np.float64 else 2 * y

    def backward(self, dy):
        dx, self.dgamma, self.dbeta = layernorm_backward(dy, self.cache)
        return dx


class HeldLayerNorm(SingleLayerNorm):
    """Right as long as nobody writes into x before the backward."""

    def forward(self, x):
        self.x = x
        return layernorm_forward(x, self.gamma, self.beta, {"eps": self.eps})[0]

    def backward(self, dy):
        _, self.cache = layernorm_forward(self.x, self.gamma, self.beta, {"eps": self.eps})
        return super().backward(dy)
'''
QUICK = ["--examples", "0", "--ndims", "2", "--dtypes", "float64"]
NAMED = "gamma=store['foo'],beta=store[bar],dgamma=grads['foo'],dbeta=grads[\"bar\"]"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`run(*arguments)`: the exit code, and what was printed on the two streams, in a folder that has norms.py."""
    (tmp_path / "norms.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "norms", raising=False)

    def command(*arguments):
        code = main([*arguments, "--no-fix-search"])
        return code, *capsys.readouterr()

    yield command
    sys.modules.pop("norms", None)


# --- pairs of functions -----------------------------------------------------------------------------------------------


def test_pair_of_functions_is_a_subject(run):
    code, out, err = run("norms.py:layernorm_forward+layernorm_backward", *QUICK)
    assert (code, err) == (0, "")
    assert out.startswith("norms.py:layernorm_forward+layernorm_backward as LayerNorm: ")
    assert re.search(r"^dbeta +ok", out, flags=re.M)


def test_wrong_pair_of_functions_is_1_with_a_script(run):
    code, out, _ = run("norms.py:forward+backward_without_beta", "--like", "LayerNorm", "--verbose", *QUICK)
    assert code == 1
    assert re.search(r"^dbeta +WRONG", out, flags=re.M)
    assert "their_module.forward(x, gamma=gamma, beta=beta, eps=1e-05), their_module.backward_without_beta, xs" in out


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (
            "norms.py:layernorm_forward",
            "layernorm_forward is half of a layer: name both functions, as norms.py:layernorm_forward+layernorm_backward",
        ),
        ("norms.py:layernorm_forward+", "Expected package.module:Name, path/file.py:Name or ... but got 'norms.py:"),
        ("norms.py:layernorm_forward+nothing", "norms.py has no nothing; it has HeldLayerNorm, Normalizer, Single"),
        ("norms.py:nothing+layernorm_backward", "norms.py has no nothing; it has HeldLayerNorm, Normalizer, Single"),
        (
            "norms.py:forward+backward_without_beta",
            "Expected the name of forward to tell which layer it is but got 'for",
        ),
    ],
    ids=["half", "no second", "no such second", "no such first", "no known name"],
)
def test_half_a_pair_is_2_with_the_way_out(run, subject, text):
    code, out, err = run(subject, *QUICK)
    assert (code, out) == (2, "")
    assert re.match("normcheck: " + ".*".join(map(re.escape, text.split("..."))), err), err


def test_file_of_a_package_is_loaded_as_part_of_it(run, tmp_path):
    package = tmp_path / "outer" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "norm.py").write_text("from .neighbour import A\n")
    code, _, err = run("outer/inner/norm.py:ALayerNorm")
    assert code == 2
    assert err.endswith("cannot be imported: ModuleNotFoundError: No module named 'outer.inner.neighbour'\n")
    (package / "neighbour.py").write_text("A = 3\n")
    code, _, err = run("outer/inner/norm.py:ALayerNorm")
    assert code == 2
    assert err.endswith("outer/inner/norm.py has no ALayerNorm\n")


def test_load_gives_both_functions(run):
    forward, backward = load("norms.py:forward+backward_without_beta")
    assert (forward.__name__, backward.__name__) == ("forward", "backward_without_beta")
    with pytest.raises(Unusable, match="half of a layer"):
        load("norms.py:layernorm_forward")


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_that_tell_nothing_are_2_until_they_are_said(run):
    code, _, err = run("norms.py:Normalizer", "--like", "LayerNorm", *QUICK)
    assert code == 2
    assert re.search(r"has parameters that were not found: it holds store\['foo'\] .*; say .* --names gamma=", err)
    code, out, err = run("norms.py:Normalizer", "--like", "LayerNorm", "--names", NAMED, *QUICK)
    assert (code, err) == (0, "")
    assert re.search(r"^dgamma +ok .* [1-9]\d* *$", out, flags=re.M)
    assert "read as: n = normalized_shape\n" in out


def test_names_may_be_said_one_by_one(run):
    options = [option for pair in NAMED.split(",") for option in ("--names", pair)]
    assert run("norms.py:Normalizer", "--like", "LayerNorm", *options, *QUICK)[0] == 0


@pytest.mark.parametrize("text", ["gamma", "gamma=", "=foo", "delta=foo", "gamma=store['foo'],foo=gamma", "dx=foo"])
def test_names_that_are_no_pairs_are_2(run, text):
    code, out, err = run("norms.py:Normalizer", "--names", text, *QUICK)
    assert (code, out) == (2, "")
    assert err.startswith("normcheck: Expected --names OURS=THEIRS with OURS one of gamma, beta, dgamma, ")


@pytest.mark.parametrize("place", ["store[", "['foo']"])
def test_place_that_is_none_is_2(run, place):
    code, _, err = run("norms.py:Normalizer", "--like", "LayerNorm", "--names", f"gamma={place}", *QUICK)
    assert code == 2
    assert f'Expected a name as gamma, params["W"] or weight.data but got {place!r}' in err


def test_names_are_apart_by_commas():
    assert names_of(["gamma = scale, eps=epsilon", "", "dgamma=grads['scale']"]) == {
        "gamma": "scale",
        "eps": "epsilon",
        "dgamma": "grads['scale']",
    }
    assert {"forward", "training", "running_var", "num_groups", "momentum"} <= set(NAMES)


# --- dtypes, strict, version ------------------------------------------------------------------------------------------


def test_dtypes_are_those_that_are_tried(run):
    arguments = ["norms.py:SingleLayerNorm", "--examples", "0", "--ndims", "2"]
    assert run(*arguments)[0] == 1
    code, out, _ = run(*arguments, "--dtypes", "float64", "--verbose")
    assert code == 0
    assert "not covered: float32 (not asked for)" in out
    assert run(*arguments, "--dtypes", "float32, float64")[0] == 1


def test_dtype_that_there_is_not_is_2(run, capsys):
    with pytest.raises(SystemExit) as exit:
        run("norms.py:SingleLayerNorm", "--dtypes", "float64,float8")
    assert exit.value.code == 2
    assert (
        "expected some of float64, float32, float16, bfloat16, apart by commas, but got 'float64,float8'"
        in capsys.readouterr().err
    )


def test_hazard_is_0_and_1_where_strict(run):
    code, out, _ = run("norms.py:HeldLayerNorm", *QUICK)
    assert code == 0
    assert "\nhazard: input-not-saved (dx, dgamma): " in out
    code, out, _ = run("norms.py:HeldLayerNorm", *QUICK, "--strict")
    assert code == 1
    assert "\nFAIL  input-not-saved\n" in out
    assert out.count("hazard: input-not-saved") == 1


def test_version_is_that_of_the_package(run, capsys):
    from importlib.metadata import version

    with pytest.raises(SystemExit) as exit:
        run("--version")
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"normcheck {version('npnorm')}\n"
