"""Fixes: from a wrong layer to a diff that is right, whatever the file looks like; and plain sentences where there is none."""

import gc
import importlib.util
import json
import linecache
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reference import check, from_functions
from reference.repair import proof
from reference.repair.fix import CannotWrite, write_fix
from reference.reporting.report import Report
from tests.independent import disagreements

LAYER = """\
import numpy as np


class LayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta = np.ones(normalized_shape), np.zeros(normalized_shape)
        self.axes, self.eps = tuple(range(-self.gamma.ndim, 0)), eps

    def forward(self, x):
        self.rstd = 1 / np.sqrt(x.var(axis=self.axes, keepdims=True) + self.eps)
        self.xhat = (x - x.mean(axis=self.axes, keepdims=True)) * self.rstd
        return self.gamma * self.xhat + self.beta

    def backward(self, dy):
        lead = tuple(range(dy.ndim - self.gamma.ndim))
        self.dgamma, self.dbeta = (dy * self.xhat).sum(axis=lead), dy.sum(axis=lead)
        d = dy * self.gamma
        inner = (d * self.xhat).mean(axis=self.axes, keepdims=True)
        return self.rstd * (d - d.mean(axis=self.axes, keepdims=True) - self.xhat * inner)
"""
ROOT = Path(__file__).parent.parent
QUICK: dict[str, Any] = {"ndims": (2, 3), "dtypes": ("float64",), "examples": 20, "fix": True}


@pytest.fixture(autouse=True)
def fewer_random_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proofs here are of the machinery; those with all cases are in the slow tests."""
    monkeypatch.setattr(proof, "RANDOM", 60)


Loader = Callable[..., ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Write a module, import it, and stand in its folder."""
    names: list[str] = []

    def write(text: str | bytes, name: str = "mine") -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    monkeypatch.chdir(tmp_path)
    yield write
    for name in names:
        sys.modules.pop(name, None)


def fixed(report: Report) -> str:
    """The text of the one fix."""
    assert len(report.fixes) == 1, report.not_fixed
    return report.fixes[0].source


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


# --- from a mistake to its line ---------------------------------------------------------------------------------------


def test_the_fix_of_a_sum_for_a_mean_is_the_mean(load: Loader) -> None:
    wrong = changed(LAYER, "inner = (d * self.xhat).mean(", "inner = (d * self.xhat).sum(")
    report = check(load(wrong).LayerNorm, **QUICK)
    (fix,) = report.fixes
    assert fix.source == LAYER
    assert (fix.line, fix.end_line) == (18, 18)
    assert fix.before == "        inner = (d * self.xhat).sum(axis=self.axes, keepdims=True)\n"
    assert fix.after == "        inner = (d * self.xhat).mean(axis=self.axes, keepdims=True)\n"
    assert fix.quantities == ("dx",)
    assert fix.cases > 60
    assert Path(fix.file).name == "mine.py"


def test_functions_that_were_frozen_for_the_collector_are_found(load: Loader) -> None:
    """As the command does with what it has imported."""
    module = load(changed(LAYER, "inner = (d * self.xhat).mean(", "inner = (d * self.xhat).sum("))
    gc.freeze()
    try:
        assert check(module.LayerNorm, **QUICK).fixes
    finally:
        gc.unfreeze()


def test_json_has_the_fix(load: Loader) -> None:
    report = check(load(changed(LAYER, "dy.sum(axis=lead)", "dy.mean(axis=lead)")).LayerNorm, **QUICK)
    (entry,) = json.loads(json.dumps(report.to_dict()))["fixes"]
    keys = [
        "file",
        "line",
        "end_line",
        "before",
        "after",
        "diff",
        "source",
        "quantities",
        "cases",
        "also",
        "conventions",
    ]
    assert list(entry) == keys
    assert (entry["line"], entry["quantities"], entry["source"]) == (16, ["dbeta"], LAYER)


def test_a_right_layer_gets_no_fix_and_no_excuse(load: Loader) -> None:
    report = check(load(LAYER).LayerNorm, **QUICK)
    assert report.passed
    assert not report.fixes
    assert not report.not_fixed


def test_no_fix_is_looked_for_where_none_is_asked_for(load: Loader) -> None:
    wrong = changed(LAYER, "self.xhat * inner", "inner")
    report = check(load(wrong).LayerNorm, **QUICK | {"fix": False})
    assert not report.passed
    assert not report.fixes
    assert not report.not_fixed


def test_a_term_that_is_missing_is_written_from_its_value(load: Loader) -> None:
    wrong = changed(LAYER, " - self.xhat * inner", "")
    text = fixed(check(load(wrong).LayerNorm, **QUICK))
    assert "self.xhat * inner" in text
    assert not disagreements(load(text, "again").LayerNorm, "LayerNorm")


def test_two_mistakes_get_one_fix_with_two_places(load: Loader) -> None:
    wrong = changed(LAYER, "dy.sum(axis=lead)", "dy.mean(axis=lead)")
    wrong = changed(wrong, "- self.xhat * inner", "+ self.xhat * inner")
    (fix,) = check(load(wrong).LayerNorm, **QUICK, fix_seconds=20.0).fixes
    assert fix.source == LAYER
    assert (fix.line, fix.end_line) == (16, 19)
    assert fix.quantities == ("dx", "dbeta")


def test_nothing_is_shown_that_only_hides_a_mistake(load: Loader) -> None:
    """Who moves the threshold passes every probe; beyond them the branch is as wrong as before."""
    text = changed(
        LAYER,
        "        d = dy * self.gamma\n",
        "        if len(dy) > 200:\n            self.dbeta = dy.sum(axis=lead) * 2 - 1\n        d = dy * self.gamma\n",
    )
    report = check(load(text).LayerNorm, **QUICK)
    assert not report.passed
    for fix in report.fixes:
        assert "if len(dy) > 200:" not in fix.source or "* 2 - 1" not in fix.source


def test_a_pair_of_functions_is_fixed_in_its_file(load: Loader) -> None:
    module = load(
        """\
import numpy as np


def rms_forward(x, gamma, eps):
    r = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return gamma * x * r, (x, r, gamma)


def rms_backward(dy, cache):
    x, r, gamma = cache
    d, xhat = dy * gamma, x * r
    dx = r * (d - xhat * (d * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).mean(axis=tuple(range(dy.ndim - 1)))
"""
    )
    report = check(from_functions(module.rms_forward, module.rms_backward, "RMSNorm"), **QUICK)
    assert "(dy * xhat).sum(axis=tuple(range(dy.ndim - 1)))" in fixed(report)


# --- whatever the file looks like -------------------------------------------------------------------------------------

ODD = """\
# -*- coding: {encoding} -*-
# größer als ñ
import functools
import numpy as np


def noted(f):
    @functools.wraps(f)
    def inner(*args): return f(*args)
    return inner


class Outer:
\tclass LayerNorm:
\t\tdef __init__(self, normalized_shape, eps=1e-5):
\t\t\tself.ß, self.beta = np.ones(normalized_shape), np.zeros(normalized_shape)   # ß, β
\t\t\tself.gamma = self.ß
\t\t\tself.axes, self.eps = tuple(range(-self.gamma.ndim, 0)), eps

\t\t@noted
\t\tdef forward(self, x):
\t\t\t'''größe'''; self.rstd = 1 / np.sqrt(x.var(axis=self.axes, keepdims=True) + self.eps)
\t\t\tself.xhat = (x - x.mean(axis=self.axes, keepdims=True)) * self.rstd
\t\t\treturn self.gamma * self.xhat + self.beta

\t\t@noted
\t\tdef backward(self, dy):
\t\t\tlead = tuple(range(dy.ndim - self.gamma.ndim))
\t\t\tµ = 'µ'; self.dgamma, self.dbeta = (dy * self.xhat).{sum}(axis=lead), dy.sum(axis=lead)  # Σ dy
\t\t\td = dy * self.gamma
\t\t\tinner = (d * self.xhat).mean(
\t\t\t\taxis=self.axes,   # über
\t\t\t\tkeepdims=True,
\t\t\t)
\t\t\treturn self.rstd * (d - d.mean(axis=self.axes, keepdims=True) - self.xhat * inner)
"""


@pytest.mark.parametrize(
    ("encoding", "newline", "bom"),
    [("utf-8", "\r\n", True), ("utf-8", "\n", False)],
    ids=["CRLF and a BOM", "LF"],
)
def test_all_other_text_is_left_as_it_is(load: Loader, encoding: str, newline: str, bom: bool) -> None:
    raw = [ODD.format(encoding=encoding, sum=word).replace("\n", newline) for word in ("mean", "sum")]
    before, after = (b"\xef\xbb\xbf" * bom + text.encode(encoding) for text in raw)
    report = check(load(before).Outer.LayerNorm, **QUICK)
    (fix,) = report.fixes
    assert fix.source == raw[1]
    write_fix(fix)
    assert Path(fix.file).read_bytes() == after


def test_the_diff_is_one_that_patch_takes(load: Loader, tmp_path: Path) -> None:
    wrong = changed(LAYER, "(dy * self.xhat).sum", "(dy * self.xhat).mean").removesuffix("\n")
    (fix,) = check(load(wrong).LayerNorm, **QUICK).fixes
    (tmp_path / "fix.diff").write_text(fix.diff)
    assert fix.diff.startswith("--- a/mine.py\n+++ b/mine.py\n")
    for command in (["git", "apply", "--check", "fix.diff"], ["git", "apply", "fix.diff"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "mine.py").read_text() == LAYER.removesuffix("\n")


# --- writing it -------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_fix(load: Loader) -> Any:
    return check(load(changed(LAYER, "dy.sum(axis=lead)", "-dy.sum(axis=lead)")).LayerNorm, **QUICK).fixes[0]


def test_a_fix_is_written_whole_and_only_over_what_was_read(a_fix: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.chmod(0o640)
    assert write_fix(a_fix) == path.resolve()
    assert path.read_text() == LAYER
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["mine.py"]
    with pytest.raises(CannotWrite, match=r"mine\.py has changed since it was read: nothing was written"):
        write_fix(a_fix)
    assert path.read_text() == LAYER
    path.unlink()
    with pytest.raises(CannotWrite, match=r"mine\.py cannot be read: No such file"):
        write_fix(a_fix)
    with pytest.raises(CannotWrite, match="is no file that could be written"):
        write_fix(replace(a_fix, encoding=""))


def test_a_read_only_file_is_left_alone(a_fix: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (tmp_path / "mine.py").read_text()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to any
    with pytest.raises(CannotWrite, match=r"mine\.py is read-only: nothing was written"):
        write_fix(a_fix)
    assert (tmp_path / "mine.py").read_text() == before


# --- sources of all kinds ---------------------------------------------------------------------------------------------

WRONG = LAYER.replace("(dy * self.xhat).sum", "(dy * self.xhat).mean")


def test_a_class_that_a_function_builds(load: Loader) -> None:
    inner = WRONG.split("\n\n\n")[1].replace("\n", "\n    ").rstrip()
    text = f"import numpy as np\n\n\ndef build(scale):\n    {inner}\n\n    return LayerNorm\n"
    assert "(dy * self.xhat).sum(axis=lead)" in fixed(check(load(text).build(1.0), **QUICK))


def test_a_cell_of_a_notebook_gets_a_fix_that_is_not_written() -> None:
    name = "<ipython-input-7-abc>"
    linecache.cache[name] = (len(WRONG), None, WRONG.splitlines(keepends=True), name)
    module = ModuleType("cell")
    exec(compile(WRONG, name, "exec"), module.__dict__)
    (fix,) = check(module.LayerNorm, **QUICK).fixes
    assert fix.source == LAYER
    assert fix.file == name
    with pytest.raises(CannotWrite, match="is no file that could be written"):
        write_fix(fix)


def test_a_layer_in_a_zip_gets_a_fix_that_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "layers.zip", "w") as file:
        file.writestr("zipped_layer.py", WRONG)
    monkeypatch.syspath_prepend(tmp_path / "layers.zip")
    module = importlib.import_module("zipped_layer")
    (fix,) = check(module.LayerNorm, **QUICK).fixes
    assert fix.source == LAYER
    with pytest.raises(CannotWrite, match="is no file that could be written"):
        write_fix(fix)


def test_code_without_a_source_is_said_to_have_none() -> None:
    module = ModuleType("nowhere")
    exec(compile(WRONG, "<string>", "exec"), module.__dict__)
    report = check(module.LayerNorm, **QUICK)
    assert not report.fixes
    assert report.not_fixed == "its source is not to be had: <string> is no file"


def test_a_file_that_has_changed_since_it_was_loaded_is_not_searched(load: Loader, tmp_path: Path) -> None:
    module = load(WRONG)
    (tmp_path / "mine.py").write_text(WRONG.replace("self.rstd * (d", "self.rstd * (2 * d"))
    report = check(module.LayerNorm, **QUICK)
    assert report.not_fixed == "mine.py is not as it was when it was loaded"


NOTHING_OF_IT = """
import numpy as np


class LayerNorm:
    def __init__(self, normalized_shape):
        self.gamma, self.beta = np.ones(normalized_shape), np.zeros(normalized_shape)

    def forward(self, x):
        return np.sin(x)

    def backward(self, dy):
        self.dgamma, self.dbeta = np.zeros(self.gamma.shape), np.zeros(self.gamma.shape)
        return np.cos(dy)
"""


def test_what_cannot_be_fixed_by_a_small_edit_is_said(load: Loader) -> None:
    report = check(load(NOTHING_OF_IT).LayerNorm, **QUICK, fix_seconds=2.0)
    assert not report.fixes
    assert report.not_fixed.startswith("none of")


def test_an_edit_that_loops_allocates_or_exits_harms_nobody(load: Loader) -> None:
    """With another operator or number, each of these lines does."""
    dangerous = changed(
        WRONG,
        "        d = dy * self.gamma\n",
        "        left = 3\n        while left > 0:\n            left = left - 1\n"
        "        if left > 0:\n            import os; os._exit(3)\n"
        "        np.zeros(10 ** 2 // 10 ** 1)\n        d = dy * self.gamma\n",
    )
    report = check(load(dangerous).LayerNorm, **QUICK, fix_seconds=20.0)
    assert "(dy * self.xhat).sum(axis=lead)" in fixed(report)


@pytest.mark.slow
def test_an_edit_in_a_call_that_nothing_interrupts_costs_seconds_and_no_more(load: Loader) -> None:
    """With `**` for its `*`, the number has three billion digits; both mistakes take a round over all edits."""
    stuck = changed(WRONG, ".mean(axis=lead), dy.sum", ".mean(axis=lead) * min(1, 7 * 3 ** 20), -dy.sum")
    report = check(load(stuck).LayerNorm, **QUICK, fix_seconds=30.0)
    assert "(dy * self.xhat).sum(axis=lead) * min(1, 7 * 3 ** 20), dy.sum(axis=lead)" in fixed(report)


@pytest.mark.slow
def test_a_module_that_checks_itself_when_it_is_imported_does_so_once(tmp_path: Path) -> None:
    """The proof executes the fixed file: what that starts must not search in turn, and not be heard."""
    asks = (
        "\n\nfrom reference import check\nfrom reference.repair import proof\n\nproof.RANDOM = 60\n"
        "print('checking')\n"
        "print(len(check(LayerNorm, ndims=(2,), dtypes=('float64',), examples=0, fix=True).fixes), 'found')\n"
    )
    (tmp_path / "itself.py").write_text(WRONG + asks)
    for command in (["itself.py"], ["-c", "import itself"]):
        run = [sys.executable, *command]
        done = subprocess.run(
            run, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.stdout.split("\n") == ["checking", "1 found", ""], done.stderr
