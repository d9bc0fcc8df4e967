"""The audit's mistakes of the dictionary, wrapped around a right class, and its mutants in several files of a package."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import reference
from npnorm import BatchNorm
from reference.auditing import mutants
from reference.auditing.blindness import table
from reference.auditing.planted import packed, plant
from reference.auditing.planting import address_of, mistakes_of, with_mistake
from reference.auditing.witness import seen
from reference.cases.scope import Scope
from reference.kinds import kind_named
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from tests.audited.my_layers import MyLayerNorm

PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark"]


def derived(base):
    """A class of its own, so that no other test meets what is planted in it."""
    return type(base.__name__, (base,), {"__doc__": base.__doc__})


def addressed(owner, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, owner.__module__, sys.modules[owner.__module__])
    monkeypatch.setattr(sys.modules[owner.__module__], owner.__name__, owner)
    subject = InProcess(owner, kind_named(kind), owner.__name__)
    subject.read(None, Clock(60), None)
    address = address_of(subject)
    assert address is not None
    return address[0]


MISTAKES = [
    (MyLayerNorm, "LayerNorm", "dx-mean-term-missing"),
    (MyLayerNorm, "LayerNorm", "dgamma-uses-x"),
    (MyLayerNorm, "LayerNorm", "eps-missing"),
    (MyLayerNorm, "LayerNorm", "parameter-gradients-accumulate"),
    (BatchNorm, "BatchNorm", "running-mean-unbiased"),
    (BatchNorm, "BatchNorm", "eval-uses-batch-statistics"),
]


@pytest.mark.parametrize(("base", "kind", "id"), MISTAKES, ids=[id for *_, id in MISTAKES])
def test_what_is_planted_is_what_the_verdict_names(base, kind, id, monkeypatch):
    owner = derived(base)
    address = addressed(owner, kind, monkeypatch)
    noted = []
    planted = with_mistake(owner, address, id, 0, lambda: noted.append(id))
    planted.put_on()
    report = reference.check(owner, like=kind, examples=0, minimize=False)
    assert [fault.id for fault in report.faults] == [id]
    planted.take_off()
    assert reference.check(owner, like=kind, examples=0, minimize=False).passed
    assert not vars(owner).keys() & {"__init__", "forward", "backward"}, "as it was"


def test_what_cannot_be_followed_is_noted_and_left_as_it_is(monkeypatch):
    base = MyLayerNorm
    owner = derived(base)
    address = addressed(owner, "LayerNorm", monkeypatch)
    noted = []
    plant({"MyLayerNorm": owner}, packed(address, "dx-sign", 0), lambda: noted.append(1), "")
    x = np.arange(6.0).reshape(2, 3)
    right = base(3)
    wrong = owner(3)
    assert np.array_equal(wrong.forward(x), right.forward(x))
    assert np.allclose(wrong.backward(x**2), -right.backward(x**2))
    assert not noted
    empty = owner.__new__(owner)  # of which nobody knows with what options it was made
    vars(empty).update(vars(right))
    assert np.array_equal(empty.backward(x**2), right.backward(x**2))
    assert noted


def test_witness_writes_down_what_is_tried(monkeypatch, tmp_path):
    base = MyLayerNorm
    owner = derived(base)
    address = addressed(owner, "LayerNorm", monkeypatch)
    record, noted = tmp_path / "record", []
    plant({"MyLayerNorm": owner}, packed(address), lambda: noted.append(1), str(record))
    rows = {row.id: row for row in table(Scope(kind_named("LayerNorm"), (2, 3, 4, 5), keywords=frozenset({"eps"})))}

    def lacking():
        """The restrictions that all that was tried has."""
        tried = seen(record, kind_named("LayerNorm"))
        return {id for id, row in rows.items() if row.of == "cases" and all(map(row.holds, tried))}

    layer, rng = owner(4), np.random.default_rng(0)
    x = rng.normal(size=(4, 4))
    layer.forward(x)
    layer.backward(np.ones((4, 4)))
    assert {"gamma-of-ones", "dy-of-ones", "only-2d", "equal-sizes", "first-call", "usual-eps", "float64"} <= lacking()
    layer.gamma = rng.normal(size=4)
    layer.forward(x)
    layer.backward(x)
    assert not lacking() & {"gamma-of-ones", "dy-of-ones", "first-call"}
    assert {"only-2d", "equal-sizes", "usual-eps", "always-affine", "one-normalized-axis"} <= lacking()
    owner((3, 4), eps=0.1, elementwise_affine=False).forward(rng.normal(3, 1, size=(1, 2, 3, 4)).astype(np.float32))
    assert not lacking() & {"only-2d", "equal-sizes", "usual-eps", "always-affine", "one-normalized-axis", "float64"}
    assert not noted


def test_only_mistakes_with_a_formula_are_planted():
    ids = {id for id, _ in mistakes_of(kind_named("GroupNorm"))}
    assert {"dx-sign", "variance-unbiased"} <= ids
    assert not ids & {"dx-aliases-dy", "input-mutated", "momentum-inverted"}, "hazards, deeds, conventions"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose layer does its arithmetic in another module, and a test of y alone; the working directory."""
    text = (Path(__file__).parent / "audited" / "my_layers.py").read_text()
    root = tmp_path / "src" / "norms"
    root.mkdir(parents=True)
    (root / "__init__.py").write_text('"""Norms."""\n')
    (root / "math.py").write_text(
        '"""Arithmetic."""\n\n\ndef gradient(dy, xhat, rstd, axes):\n'
        "    mean = dy.mean(axis=axes, keepdims=True)\n"
        "    slope = (dy * xhat).mean(axis=axes, keepdims=True)\n"
        "    return rstd * (dy - mean - xhat * slope)\n"
    )
    body = text[: text.index("        mean_dy =")] + "        return gradient(dy, self.xhat, self.rstd, axes)\n"
    (root / "layers.py").write_text(
        body.replace("import numpy as np", "import numpy as np\n\nfrom .math import gradient")
    )
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["src"]\n')
    (tmp_path / "test_y.py").write_text(
        "import numpy as np\nfrom norms.layers import MyLayerNorm\n\n\ndef test_y():\n"
        "    x = np.random.default_rng(0).normal(size=(5, 7))\n"
        "    y = MyLayerNorm(7).forward(x)\n"
        "    assert np.allclose(y, (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "norms"]:
        del sys.modules[name]


def test_mutants_are_in_all_files_of_the_package_that_run(package):
    found = reference.audit("src/norms/layers.py:MyLayerNorm", [*PYTEST, "test_y.py"], mutants=12)
    files = {Path(mutant.file).name for mutant in found.mutants if mutant.line}
    assert files == {"layers.py", "math.py"}
    survivors = [mutant for mutant in found.survivors if Path(mutant.file).name == "math.py"]
    assert survivors, "nothing looks at dx"
    assert survivors[0].diff.startswith("--- a/src/norms/math.py")
    assert "not noticed: math.py, line " in found.text(verbose=True)
    assert {"not-compared" in reason.id for reason in found.reasons[:1]} == {True}
    assert json.loads(json.dumps(found.to_dict()))["mutants"][0]["file"].endswith(".py")


def test_a_module_of_the_users_may_have_the_name_of_ours(package, monkeypatch):
    monkeypatch.setattr(mutants, "FOR_NAMES", 0.0)  # so that mistakes are planted which an edit would make too
    (package / "reference.py").write_text("VALUE = 7\n")
    text = (package / "test_y.py").read_text().replace("def test_y():", "if True:")
    (package / "script.py").write_text(
        f"import sys\nsys.path.insert(0, 'src')\n{text}\nimport reference\nassert reference.VALUE == 7\n"
    )
    found = reference.audit("src/norms/layers.py:MyLayerNorm", f"{sys.executable} script.py", mutants=12)
    planted = [mutant for mutant in found.mutants if not mutant.line]
    assert planted
    wrong_y = [mutant for mutant in found.mutants if "y" in mutant.wrong and not mutant.noticed]
    assert len(wrong_y) < sum("y" in mutant.wrong for mutant in found.mutants)
