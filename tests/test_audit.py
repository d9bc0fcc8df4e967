"""The audit of tests: which mistakes they would not notice, and why; on test files with one blindness each."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import reference
from reference import reporting
from reference.auditing.changes import Edited
from reference.auditing.cover import cover, refuted
from reference.auditing.mutants import evenly
from reference.auditing.runner import NotAudited, command_of
from reference.auditing.warm import of_program
from reference.command.main import main
from reference.diagnosis.faults import FAULTS
from reference.repair.edits import Edit
from reference.repair.source import Key
from reference.subjects.loading import load

SCHEMA = json.loads((Path(reporting.__file__).parent / "audit_schema.json").read_text())
AUDITED = Path(__file__).parent / "audited"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The layer and its tests in a folder of their own, and the working directory."""
    for path in AUDITED.glob("*.py"):
        if path.name != "__init__.py":
            shutil.copy(path, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_layers", raising=False)
    return tmp_path


def audited(name, mutants, **options):
    return reference.audit("my_layers.py:MyLayerNorm", [*PYTEST, f"{name}.py"], mutants=mutants, **options)


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_gamma_of_ones_hides_is_not_noticed_and_said(folder):
    before = snapshot(folder)
    seen = []
    found = audited("gamma_of_ones", 16, progress=lambda done, total: seen.append((done, total)))
    assert snapshot(folder) == before  # nothing of the tree is written, nor added
    assert not found.passed
    assert 2 <= len(found.survivors) < 10
    first = found.reasons[0]
    assert first.id == "gamma-of-ones"
    assert "set gamma and beta to random numbers" in first.advice
    assert seen[-1] == (16, 16)
    text = str(found)
    assert f"{len(found.survivors)} of 16 mistakes are not noticed." in text
    assert re.search(rf"{first.survivors} needs? a gamma that is not 1", text)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    jsonschema.validate(content, SCHEMA)
    assert content["survivors"] == len(found.survivors)
    for mutant in found.mutants:
        assert mutant.wrong
        assert mutant.diff.startswith("--- a/my_layers.py") if mutant.line else mutant.name in FAULTS
    assert any(mutant.name for mutant in found.mutants)


def test_thorough_tests_notice_all(folder):
    found = audited("thorough", 6)
    assert found.passed
    assert "All 6 mistakes are noticed." in str(found)


BLIND = {
    "summed": ("gamma-of-ones+dy-of-ones",),
    "gamma_of_ones": ("gamma-of-ones",),
    "wide": ("tolerance-",),
    "flat": ("only-2d", "one-normalized-axis"),
    "norms": ("norms",),
    "signed": ("one-sided-",),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BLIND)
def test_each_blindness_is_found_and_said(folder, name):
    found = audited(name, 60)
    assert not found.passed
    ids = [reason.id for reason in found.reasons]
    assert any(id.startswith(BLIND[name]) for id in ids), ids
    assert found.unexplained <= 1


@pytest.mark.slow
def test_thorough_tests_notice_sixty(folder):
    found = audited("thorough", 60)
    assert found.passed, str(found)


@pytest.mark.slow
def test_no_survivor_is_right(folder):
    """Each is what the whole verdict rejects, with the quantities that the audit says."""
    found = audited("summed", 40)
    text = Path("my_layers.py").read_text()
    for number, mutant in enumerate(found.survivors):
        if not mutant.diff:  # the class as a whole, wrong as an entry of the dictionary says: no edit makes it
            assert mutant.name in FAULTS
            assert mutant.wrong
            continue
        path = Path(f"mutant_{number}.py")
        path.write_text(text)
        subprocess.run(["patch", "-p1", str(path)], input=mutant.diff, text=True, check=True, capture_output=True)
        report = reference.check(load(f"{path}:MyLayerNorm"), examples=0, minimize=False)
        assert not report.passed, mutant
        wrong = {name for name, figures in report.quantities.items() if not figures.passed}
        assert set(mutant.wrong) <= wrong


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_says_what_is_not_noticed(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    code = main(
        ["--audit", "pytest -q gamma_of_ones.py", "my_layers.py:MyLayerNorm", "--mutants", "5", "--json", "audit.json"]
    )
    content = json.loads(Path("audit.json").read_text())
    printed = capsys.readouterr().out
    jsonschema.validate(content, SCHEMA)
    assert code == (0 if content["passed"] else 1)
    assert len(content["mutants"]) == 5
    assert re.search(r"All 5 mistakes are noticed|\d of 5 mistakes (is|are) not noticed", printed)


def test_json_is_written_whole_or_not_at_all(folder, capsys, monkeypatch):
    """The older file stays where the new one cannot be written, and no half of it is left beside it."""
    Path("audit.json").write_text("older")
    before = sorted(Path().iterdir())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "rename", full)
    command = ["--audit", f"{' '.join(PYTEST)} gamma_of_ones.py", "my_layers.py:MyLayerNorm", "--mutants", "1"]
    assert main([*command, "--json", "audit.json"]) == 2
    assert "audit.json cannot be written: No space left on device" in " ".join(capsys.readouterr().err.split())
    assert Path("audit.json").read_text() == "older"
    assert [path for path in sorted(Path().iterdir()) if path.name != "__pycache__"] == before


def test_tests_that_fail_by_themselves_are_shown(folder, capsys):
    Path("failing.py").write_text("import my_layers\ndef test_it():\n    assert 1 + 1 == 3, 'arithmetic'\n")
    code = main(["--audit", f"{' '.join(PYTEST)} failing.py", "my_layers.py:MyLayerNorm"])
    error = capsys.readouterr().err
    assert code == 2
    assert "Expected the tests to pass on the layer as it is" in error
    assert "AssertionError: arithmetic" in error


def test_tests_of_something_else_are_refused(folder, capsys):
    Path("other.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    code = main(["--audit", f"{' '.join(PYTEST)} other.py", "my_layers.py:MyLayerNorm"])
    assert code == 2
    assert "Expected the tests to import" in " ".join(capsys.readouterr().err.split())


def test_a_wrong_layer_is_refused(folder, capsys):
    path = Path("my_layers.py")
    path.write_text(path.read_text().replace("dy - mean_dy", "dy + mean_dy"))
    assert main(["--audit", "pytest", "my_layers.py:MyLayerNorm"]) == 2
    assert "is wrong itself in dx" in " ".join(capsys.readouterr().err.split())


PROGRAM = """import sys
what = sys.argv[1]
if what == "raises":
    raise ValueError
if what == "asserts":
    assert 1 == 2
sys.exit({"zero": 0, "three": 3, "none": None, "text": "said"}.get(what, 0))
"""


@pytest.mark.parametrize(
    ("what", "code"), [("zero", 0), ("three", 3), ("none", 0), ("text", 1), ("raises", 1), ("asserts", 1), ("ends", 0)]
)
def test_program_in_a_fork_has_the_exit_code_that_it_has_by_itself(tmp_path, monkeypatch, what, code):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    assert of_program([str(script), what]) == code
    assert subprocess.run([sys.executable, str(script), what], capture_output=True, check=False).returncode == code


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--audit", "pytest"], "Expected one SUBJECT for --audit but got none"),
        (["--audit", "pytest", "a.py:B", "c.py:D"], "Expected one SUBJECT for --audit but got a.py:B c.py:D"),
        (["--audit", "pytest", "a.py:B", "--mutants", "0"], "Expected --mutants to be at least 1 but got 0"),
        (["--audit", "", "my_layers.py:MyLayerNorm"], "Expected a command that runs the tests but got ''"),
        (["--audit", "no-such-program x", "my_layers.py:MyLayerNorm"], "there is no program 'no-such-program'"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, capsys, arguments, text):
    assert main(arguments) == 2
    assert text in " ".join(capsys.readouterr().err.split())


# --- the parts --------------------------------------------------------------------------------------------------------


def test_another_command_runs_in_processes_of_its_own(folder):
    Path("script.py").write_text(
        "import numpy as np\nfrom my_layers import MyLayerNorm\n"
        "y = MyLayerNorm(4).forward(np.arange(8.0).reshape(2, 4))\n"
        "assert abs(y.mean()) < 1e-6 and abs(y.std() - 1) < 1e-3\n"
    )
    found = reference.audit("my_layers.py:MyLayerNorm", f"{sys.executable} script.py", mutants=5)
    assert {mutant.noticed for mutant in found.mutants} == {True, False}


def test_commands_of_pytest_are_told(tmp_path):
    python = Path(sys.executable)
    command = command_of(f"A=1 {python} -m pytest -q 'a b.py'", tmp_path)
    assert (command.python, command.arguments, command.here) == (str(python), ("-q", "a b.py"), True)
    assert command.variables == {"A": "1"}
    assert not command_of(f"cd x && {python} -m pytest", tmp_path).words  # for a shell
    program = command_of(f"{python} script.py -v", tmp_path)
    assert (program.python, program.program, program.here) == (str(python), ("script.py", "-v"), False)
    module = command_of(f"{python} -m unittest -q", tmp_path)
    assert (module.python, module.program, module.here) == (str(python), ("-m", "unittest", "-q"), True)
    assert not command_of(f"{python} -W error script.py", tmp_path).python, "options of Python's own: a process each"
    with pytest.raises(NotAudited, match="No closing quotation"):
        command_of("pytest 'a", tmp_path)


def test_edits_are_spread_over_lines_and_kinds():
    edits = [
        Edited(Edit(100 * line + n, 100 * line + n + 1, str(n), kind, 1.0, Key("f"), -1, line))
        for line in range(5)
        for kind, count in (("common", 20), ("rare", 1))
        for n in range(count)
    ]
    first = list(evenly(edits, 0))
    assert len(first) == len(edits)
    assert {change.edit.line for change in first[:5]} == set(range(5))
    assert sum(change.kind == "rare" for change in first[:20]) == 5  # of 20 common ones
    assert first == list(evenly(edits, 0))
    assert first != list(evenly(edits, 1))


A, B, C = ("a",), ("b",), ("c",)


def test_what_would_have_hidden_a_noticed_mutant_is_no_reason():
    survivors = [frozenset({A, B}), frozenset({B, C})]
    assert refuted(survivors, [frozenset({A}), frozenset({C})], frozenset({B, C})) == {A, C}  # as often as not
    assert refuted([*survivors, frozenset({C})], [frozenset({C})], frozenset({C})) == frozenset()


def test_fewest_sentences_account_for_the_survivors():
    order = {A: 0, B: 1, C: 2}
    hidden = {0: frozenset({A, C}), 1: frozenset({A}), 2: frozenset({B}), 3: frozenset(), 4: frozenset({A, C})}
    assert [one.ids for one in cover(hidden, order, frozenset(), frozenset())] == [A, B]
    tie = cover({0: frozenset({A, B})}, order, frozenset({A, B}), frozenset())
    assert [(one.ids, one.also) for one in tie] == [(A, (B,))]  # hidden by either: it shows only without both
    pair = ("a", "b")
    both = {0: frozenset({pair, A}), 1: frozenset({pair, B}), 2: frozenset({pair})}
    assert [one.ids for one in cover(both, order, frozenset(), frozenset())] == [pair]
    assert [one.ids for one in cover({0: frozenset({pair, A})}, order, frozenset(), frozenset())] == [A]
    with_another = {
        0: frozenset({A}),
        1: frozenset({A}),
        2: frozenset({A}),
        3: frozenset({pair}),
        4: frozenset({pair, B}),
    }
    one, other = cover(with_another, order, frozenset(), frozenset())
    assert (one.ids, other.ids) == (A, B)
    assert [one.accounts_for(hidden) for hidden in with_another.values()] == [True, True, True, True, False]
