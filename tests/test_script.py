"""The script of a failing case: it shows the failure with numpy and torch alone, and passes once the layer is fixed.

Each row is a layer in a file of its own, one line of it wrong, and a case in which that shows. The script is run as it
stands: most times in this process, which has all modules loaded, twice in one that has nothing of this project.
"""

import ast
import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

import npnorm
from reference import check
from reference.cases.case import Case, make
from reference.reporting.counterexample import describe_failure
from reference.reporting.script import LITERAL
from reference.subjects.in_process import InProcess
from reference.truth.convention import TORCH
from reference.truth.verdict import judge
from tests.pasted import BATCH_NORM, LAYER_NORM, changed, failing_script, fails_then_passes, run

ROWS = make("LayerNorm", (3, 5), seed=1)
BATCH = make("BatchNorm", (4, 3), seed=1)
EVAL = replace(BATCH, training=False, calls=2)

# The line that is changed, what it becomes, the case, and what the script must speak of.
DX, XHAT, DGAMMA = (
    "dx = dx * self.rstd",
    "self.xhat = centred * self.rstd",
    "self.dgamma = (dy * self.xhat).sum(leading)",
)
FIRST = "mean = x.mean(-1, keepdims=True)"
LAYER_NORMS = {
    "dx": (DX, "dx = 2 * dx * self.rstd", ROWS, "dx"),
    "dgamma": (DGAMMA, "self.dgamma = dy.sum(leading)", ROWS, "dgamma"),
    "dbeta of another sign": ("self.dbeta = dy.sum(leading)", "self.dbeta = -dy.sum(leading)", ROWS, "dbeta"),
    "y": ("y = self.xhat * gamma + beta", "y = self.xhat * gamma", ROWS, "y"),
    "dgamma is never set": (DGAMMA, "self.dgamma = None", ROWS, "dgamma"),
    "dgamma of another shape": (DGAMMA, "self.dgamma = (dy * self.xhat).sum(-1)", ROWS, "dgamma"),
    "y of another shape": ("return y", "return y[:-1]", ROWS, "y"),
    "dx is no array": ("return dx", "return None", ROWS, "dx"),
    "dx is a list": ("return dx", "return dx.tolist()", ROWS, "dx"),
    "backward raises": (DGAMMA, "raise ValueError('dgamma is not made')", ROWS, "dgamma"),
    "float32": (
        DX,
        "dx = dx * self.rstd * (1.001 if dx.dtype == np.float32 else 1)",
        replace(ROWS, dtype="float32"),
        "dx",
    ),
    "one entry, a little": (DX, f"{DX}; dx[0, 0] += 1e-9", ROWS, "dx"),
    "an array too long to write out": (DX, f"{DX}; dx[0, 0] += 1e-9", make("LayerNorm", (90, 5)), "dx"),
    "arrays too long to write out, a short one wrong": (
        DGAMMA,
        "self.dgamma = dy.sum(leading)",
        make("LayerNorm", (90, 5)),
        "dgamma",
    ),
    "without parameters": (DX, "dx = 2 * dx", make("LayerNorm", (3, 5), elementwise_affine=False), "dx"),
    "NaN is hidden": (FIRST, f"x = np.nan_to_num(x); {FIRST}", replace(ROWS, data="nan"), "y"),
    "NaN is made": (DX, "dx = dx * self.rstd * np.where(dx == dx[0, 0], np.nan, 1)", ROWS, "dx"),
    "inf is made": ("self.dbeta = dy.sum(leading)", "self.dbeta = dy.sum(leading) / np.zeros(5)", ROWS, "dbeta"),
    "the cache is stale": (XHAT, "self.xhat = getattr(self, 'xhat', centred * self.rstd)", replace(ROWS, calls=2), "y"),
    "gradients are accumulated": (
        DGAMMA,
        "self.dgamma = getattr(self, 'dgamma', 0) + (dy * self.xhat).sum(leading)",
        replace(ROWS, calls=3, resize=True),
        "dgamma",
    ),
    "forwards are queued": (
        "leading = tuple(range(dy.ndim - 1))",
        "leading = tuple(range(dy.ndim - 1)); self.xhat = self.queue.pop(0)",
        replace(ROWS, calls=2, history="forward only"),
        "dx",
    ),
    "x is known by its identity": (
        FIRST,
        "mean = self.mean if x is getattr(self, 'x', None) else x.mean(-1, keepdims=True); self.x, self.mean = x, mean",
        replace(ROWS, calls=2, history="refilled"),
        "y",
    ),
    "x is strided": (FIRST, f"x = x if x.flags.contiguous else 2 * x; {FIRST}", replace(ROWS, layout="strided"), "y"),
    "x is flipped": (
        FIRST,
        f"x = x if x.strides[-1] > 0 else x[:, ::-1]; {FIRST}",
        replace(ROWS, layout="flipped"),
        "y",
    ),
    "x is transposed": (
        FIRST,
        f"x = x.ravel(order='K').reshape(x.shape); {FIRST}",
        replace(ROWS, layout="transposed"),
        "y",
    ),
    "x is a slice": (
        FIRST,
        f"x = x if x.base is None else x.base[: len(x)]; {FIRST}",
        replace(ROWS, layout="sliced"),
        "y",
    ),
    "dy is Fortran's": (
        "d = gamma * dy",
        "d = gamma * dy.ravel('K').reshape(dy.shape)",
        replace(ROWS, dy_layout="F"),
        "dx",
    ),
    "x is written to": ("centred = x - mean", "x -= mean; centred = x", ROWS, "x"),
    "x is read-only": ("centred = x - mean", "x -= mean; centred = x", replace(ROWS, layout="read-only"), "read-only"),
    "dy is written to": ("d = gamma * dy", "dy *= gamma; d = dy", ROWS, "dy"),
    "x is written to by backward": (
        "d = gamma * dy",
        "self.x[0] = 1; d = gamma * dy",
        replace(ROWS, calls=2),
        "x was changed by backward",
    ),
    "dx is dy": (DX, f"{DX}; dy[...] = dx; dx = dy", ROWS, "dy"),
    "y is narrower": ("return y", "return y.astype(np.float32)", replace(ROWS, data="integers"), "y has dtype float32"),
    "y is overwritten by the next call": (
        "return y",
        "self.y = getattr(self, 'y', y); self.y[...] = y; return self.y",
        replace(ROWS, calls=2),
        "the y that was handed out has changed since",
    ),
    "dx is overwritten by the next call": (
        "return dx",
        "self.dx = getattr(self, 'dx', dx); self.dx[...] = dx; return self.dx",
        replace(ROWS, calls=2),
        "the dx that was handed out has changed since",
    ),
}

STORED, EVAL_DX = "self.momentum * var * n / (n - 1)", "        if self.training:\n            dx ="
BATCH_NORMS = {
    "the biased variance is stored": (
        "MyBatchNorm",
        STORED,
        "self.momentum * var",
        replace(BATCH, calls=2),
        "running_var",
    ),
    "the training formula in eval mode": ("MyBatchNorm", EVAL_DX, "        if True:\n            dx =", EVAL, "dx"),
    "eval mode by a method": ("SwitchedBatchNorm", EVAL_DX, "        if True:\n            dx =", EVAL, "dx"),
    "running_var in eval mode": ("MyBatchNorm", STORED, "self.momentum * var", EVAL, "y"),
}


def layer_norm_script(in_file, line: str, wrong: str, case: Case) -> str:
    """The script of a LayerNorm with that line of it wrong, in that case."""
    source = LAYER_NORM
    if "self.x[" in wrong:
        source = changed(source, XHAT, f"{XHAT}; self.x = x")
    if case.history == "forward only":
        source = changed(source, XHAT, f"{XHAT}; self.queue = [*getattr(self, 'queue', []), self.xhat]")
    layer = in_file(changed(source, line, wrong), "MyLayerNorm")
    with np.errstate(all="ignore"):
        return failing_script(layer, case)


@pytest.mark.parametrize(("line", "wrong", "case", "words"), LAYER_NORMS.values(), ids=LAYER_NORMS)
def test_layer_norm_fails_until_it_is_fixed(in_file, line, wrong, case, words):
    fails_then_passes(layer_norm_script(in_file, line, wrong, case), words, in_file.path, LAYER_NORM)


@pytest.mark.parametrize(("name", "line", "wrong", "case", "words"), BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_batch_norm_fails_until_it_is_fixed(in_file, name, line, wrong, case, words):
    script = failing_script(in_file(changed(BATCH_NORM, line, wrong), name), case)
    fails_then_passes(script, words, in_file.path, BATCH_NORM)


def test_counterexample_has_the_script_of_its_case(in_file):
    layer = in_file(changed(LAYER_NORM, DX, "dx = dx * self.rstd * (1 + 1e-7)"), "MyLayerNorm")
    report = check(layer, examples=20, ndims=[2])
    assert report.counterexample.script == failing_script(layer, report.counterexample.case)
    assert report.counterexample.script.rstrip() in report.text(verbose=True), (
        "the report must hold it as it is, to paste"
    )


# --- its text ---------------------------------------------------------------------------------------------------------


def test_scripts_pass_the_default_rules_of_ruff(in_file, tmp_path):
    """Whatever their cases need: no import too many or too few, no name that is not there."""
    rows = {name: row[:3] for name, row in LAYER_NORMS.items()}
    scripts = [layer_norm_script(in_file, *row) for row in rows.values()]
    for name, line, wrong, case, _ in BATCH_NORMS.values():
        scripts.append(failing_script(in_file(changed(BATCH_NORM, line, wrong), name), case))
    scripts.append(failing_script(InHereLayerNorm, ROWS))
    folder = tmp_path / "scripts"
    folder.mkdir()
    for number, script in enumerate(scripts):
        (folder / f"script_{number}.py").write_text(script)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("row", "there", "not_there"),
    [
        ("dx", {"torch_answer", "load", "set_parameter", "run", "by_name", "compare"}, set()),
        ("y", {"torch_answer", "load", "set_parameter", "run", "compare"}, set()),
        (
            "x is strided",
            {"strided", "torch_answer", "load", "set_parameter", "run", "by_name", "parameter_gradient", "compare"},
            set(),
        ),
        ("without parameters", {"torch_answer", "load", "run", "by_name", "compare"}, set()),
        ("x is written to", {"load", "set_parameter", "run", "untouched"}, {"torch"}),
    ],
)
def test_script_has_the_functions_that_it_needs_and_no_others(in_file, row, there, not_there):
    tree = ast.parse(layer_norm_script(in_file, *LAYER_NORMS[row][:3]))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions == there
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert all(node in tree.body for node in imports), "an import inside of a function"
    assert not not_there & {name.name for node in tree.body if isinstance(node, ast.Import) for name in node.names}


def test_torchs_options_are_in_torchs_order(in_file):
    script = failing_script(
        in_file(changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm"), make("LayerNorm", (3, 5), eps=0.1)
    )
    assert "torch.nn.LayerNorm(normalized_shape=5, eps=0.1)" in script
    assert "their_module.MyLayerNorm(normalized_shape=5, eps=0.1)" in script


# --- by itself --------------------------------------------------------------------------------------------------------


def test_runs_with_numpy_and_torch_alone(in_file, tmp_path):
    """In a process without this project, elsewhere, it fails by the quantity's name."""
    layer = in_file(changed(LAYER_NORM, DX, "dx = 2 * dx * self.rstd"), "MyLayerNorm")
    script = tmp_path / "elsewhere" / "show.py"
    script.parent.mkdir()
    script.write_text(failing_script(layer, ROWS))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-B", "-I", str(script)]
    done = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "AssertionError" in done.stderr
    assert "\ndx\n" in done.stderr


@pytest.mark.parametrize(
    "case",
    [ROWS, EVAL, make("LayerNorm", (90, 5)), replace(ROWS, layout="sliced")],
    ids=["small", "eval", "long", "sliced"],
)
def test_imports_nothing_else(in_file, case):
    broken = changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm"
    if case.kind.tracks:
        broken = changed(BATCH_NORM, EVAL_DX, "        if True:\n            dx ="), "MyBatchNorm"
    script = failing_script(in_file(*broken), case)
    tree = ast.parse(script)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert {"numpy", "torch"} <= imported <= {"numpy", "torch", *sys.stdlib_module_names}
    assert "reference" not in script
    assert "npnorm" not in script


def test_arrays_are_the_cases_to_the_last_bit(in_file):
    case = make("LayerNorm", (90, 5), dtype="float32", calls=2)
    assert case.arrays().x.size > LITERAL
    script = failing_script(in_file(changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm"), case)
    held: dict[str, object] = {"__name__": "__main__"}
    with pytest.raises(AssertionError):
        exec(compile(script, "script", "exec"), held)
    for call in range(2):
        x, dy = case.arrays(call)
        np.testing.assert_array_equal(held["x"][call], x, strict=True)
        np.testing.assert_array_equal(held["dy"][call], dy, strict=True)
    np.testing.assert_array_equal(held["gamma"], case.parameters()[0], strict=True)


# --- where the layer's file is not at hand ----------------------------------------------------------------------------


class InHereLayerNorm(npnorm.LayerNorm):
    """A layer of a package, which a script cannot load by its file alone."""

    def backward(self, dy):
        return -super().backward(dy)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(InHereLayerNorm, id="in-a-package"),
        pytest.param(lambda normalized_shape: InHereLayerNorm(normalized_shape), id="lambda"),
    ],
)
def test_without_a_file_it_compares_what_the_layer_gave(layer):
    script = failing_script(layer, ROWS)
    assert "load(" not in script
    with pytest.raises(AssertionError, match="dx"):
        run(script)


def test_what_needs_another_layer_at_work_is_shown_by_what_it_gave(in_file):
    shared = changed(LAYER_NORM, XHAT, "self.xhat = MyLayerNorm.xhat = centred * self.rstd; del self.xhat")
    script = failing_script(in_file(shared, "MyLayerNorm"), replace(ROWS, history="another alive"))
    assert "load(" not in script
    with pytest.raises(AssertionError, match="dx"):
        run(script)


def test_case_that_is_shown_has_nothing_overwritten(in_file):
    """Its figures are those of x left alone; the words must not say otherwise."""
    layer = in_file(changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm")
    subject = InProcess(layer, ROWS.kind, "MyLayerNorm")
    found = describe_failure(subject, judge(subject, replace(ROWS, overwrite="x"), TORCH), accepted=False)
    assert (found.case, "overwritten" in found.script) == (ROWS, False)


def test_file_that_has_gone_is_not_missed(in_file):
    layer = in_file(changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm")
    script = failing_script(layer, ROWS)
    in_file.path.unlink()
    with pytest.raises(AssertionError, match="dx"):
        run(script)


def test_namesake_in_another_file_is_not_taken_for_it(in_file, tmp_path, monkeypatch):
    """Two files of one name, in two folders: the module that Python remembers is the other one."""
    layer = in_file(changed(LAYER_NORM, DX, "dx = -dx"), "MyLayerNorm")
    other = ModuleType("their_layers")
    other.__file__ = str(tmp_path / "other" / "their_layers.py")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "their_layers.py").write_text(LAYER_NORM)
    monkeypatch.setitem(sys.modules, "their_layers", other)
    assert "other" not in failing_script(layer, ROWS)
