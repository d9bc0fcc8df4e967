"""In a job of GitHub: annotations on the user's lines, in GitHub's own form, and a page for the job's summary."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reference import github
from reference.by_name import Asked
from reference.command.main import main
from reference.diagnosis.faults import FAULTS
from reference.diagnosis.named import NamedFault
from reference.reporting.github import Place, annotations, command, summary
from reference.reporting.result import CheckResult, Figures, Fix, Note

ROOT = Path(__file__).parent.parent

LAYERS = """\
import npnorm


class Base(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


class HalfLayerNorm(Base):
    pass


def ln_forward(x, gamma, beta):
    pass


def ln_backward(dy, cache):
    pass
"""

QUICK = ["--examples", "0", "--ndims", "2", "--dtypes", "float64", "--no-fix-search"]


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A checkout in which a job runs, from a folder below."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "my_layers.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path / "src")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path


def read(line):
    """A workflow command as GitHub's runner reads it: the level, the properties, the message."""
    level, properties, message = re.fullmatch(r"::(\w+) (.*?)::(.*)", line).groups()

    def unescaped(text, also=()):
        for code, char in (("%0D", "\r"), ("%0A", "\n"), *also, ("%25", "%")):
            text = text.replace(code, char)
        return text

    pairs = dict(pair.split("=", 1) for pair in properties.split(","))
    inner = (("%3A", ":"), ("%2C", ","))
    return level, {key: unescaped(value, inner) for key, value in pairs.items()}, unescaped(message)


def fault(id="dx-gamma-outside-means", kind="mistake"):
    return NamedFault(id, kind, ("dx",), "What is wrong: 100% of it.", "Do this.", "seen", "here", "right")


def result(**changes):
    figures = {"y": Figures(True, 1.0, 64.0, 1.0, 9, 0), "dx": Figures(False, 1e9, 64.0, 1.0, 9, 9)}
    base = CheckResult("a.py:My", "LayerNorm", False, 9, 0, {}, figures, [fault()], False, None)
    return replace(base, **changes)


FIX = Fix(
    "/repo/src/a.py", 7, 7, "old", "new", "--- a/a.py\n+++ b/a.py\n-`100%`\n+```new\n", "", "", "utf-8", ("dx",), 9
)


@pytest.mark.parametrize(
    "text", ["plain", "100%", "%0A", "a\nb\r\nc", "::error::forged", "a,b:c=d", "\n::set-output name=x::y"]
)
def test_command_is_read_by_github_as_it_was_said(text):
    line = command("error", Place("src/a,b.py", 3), text, text)
    assert "\n" not in line
    assert "\r" not in line
    assert read(line) == ("error", {"file": "src/a,b.py", "line": "3", "title": text}, text)


def test_readme_shows_such_a_command():
    (shown,) = re.findall(r"^(::error .*) \.\.\.$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    id = "dx-gamma-outside-means"
    said = command("error", Place("my_layers.py", 19), f"my_layers.py:MyLayerNorm dx: {id}", FAULTS[id].summary)
    assert said.startswith(shown)


def test_mistake_is_an_error_on_its_line_and_all_else_a_warning_on_the_layer():
    shown = result(
        faults=[fault(), fault("running-var-biased", "convention")],
        hazards=[fault("dx-aliases-dy", "hazard")],
        fixes=(FIX,),
    )
    lines = [read(line) for line in annotations(shown, Place("a.py", 7), Place("a.py", 2))]
    assert [(level, said["line"], said["title"].split(": ")[1]) for level, said, _ in lines] == [
        ("error", "7", "dx-gamma-outside-means"),
        ("warning", "2", "running-var-biased"),
        ("warning", "2", "dx-aliases-dy"),
    ]
    assert lines[0][2].endswith(FIX.diff.rstrip("\n")), "the fix is with the first alone"
    assert "100% of it" in lines[0][2]
    assert FIX.diff.rstrip("\n") not in lines[1][2]


def test_what_has_no_name_is_said_too():
    worse = result(faults=[], regressions=("dx is off by 9 u, it was 1 u",))
    (line,) = annotations(worse, Place(), Place("a.py", 2))
    assert read(line)[1:] == (
        {"file": "a.py", "line": "2", "title": "a.py:My: worse than its baseline"}, "dx is off by 9 u, it was 1 u"
    )  # fmt: skip
    (line,) = annotations(result(faults=[], incomplete="3 of 9 random cases in 1 s"), Place(), Place())
    assert read(line) == ("error", {"title": "a.py:My"}, "not everything was tried: 3 of 9 random cases in 1 s")
    assert list(annotations(result(faults=[], passed=True), Place(), Place())) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"fixes": (FIX,)}, "7"),
        ({"notes_on_source": (Note(3, "x", False), Note(5, "2 x dvar", True), Note(6, "y", True))}, "5"),
        ({}, "5"),  # `def backward` of the class that it is made from
    ],
)
def test_line_is_that_of_the_fix_or_of_what_departs_or_of_backward(job, changes, line):
    path = job / "src" / "my_layers.py"
    shown = result(**changes, annotated_file=str(path))
    shown = replace(shown, fixes=tuple(replace(fix, file=str(path)) for fix in shown.fixes))
    (said,) = github.commands([(Asked("my_layers.py:HalfLayerNorm", "my_layers.py:HalfLayerNorm"), shown)])
    assert read(said)[1].items() >= {"file": "src/my_layers.py", "line": line}.items()


@pytest.mark.parametrize(
    ("subject", "place"),
    [
        ("my_layers:HalfLayerNorm", ("src/my_layers.py", "5")),
        ("my_layers.py:ln_forward+ln_backward", ("src/my_layers.py", "17")),
        ("my_layers.py:Nobody", ("src/my_layers.py", None)),
        ("nowhere.py:Nobody", (None, None)),
        ("no subject", (None, None)),
    ],
)
def test_layer_is_found_without_an_import(job, subject, place):
    (said,) = github.commands([(Asked(subject, subject), "it cannot be checked")])
    level, properties, message = read(said)
    assert (properties.get("file"), properties.get("line")) == place
    assert (level, message) == ("error", "it cannot be checked")


def test_command_in_a_job(job, capsys):
    (job / "summary.md").write_text("what was there\n")
    assert main(["my_layers.py:HalfLayerNorm", "my_layers.py:Nobody", *QUICK, "--annotate"]) == 1
    out, err = capsys.readouterr()
    assert "::" not in out, "standard output is the report, or whatever was asked for"
    wrong, absent = (read(line) for line in err.splitlines() if line.startswith("::"))
    assert wrong[:2] == (
        "error", {"file": "src/my_layers.py", "line": "6", "title": "my_layers.py:HalfLayerNorm dx: unknown"}
    )  # fmt: skip
    assert absent[1] == {"file": "src/my_layers.py", "title": "my_layers.py:Nobody: not checked"}
    page = (job / "summary.md").read_text()
    assert page.startswith("what was there\n## normcheck: 1 of 1 wrong, 1 not checked\n")
    assert re.search(r"^\| my\\_layers.py:HalfLayerNorm \| \*\*FAIL\*\* \| unknown.* \*\*dx .* u\*\*", page, flags=re.M)


def test_outside_of_a_job_nothing_is_said(job, monkeypatch, capsys):
    monkeypatch.delenv("GITHUB_ACTIONS")
    main(["my_layers.py:Nobody", *QUICK])
    assert "::" not in capsys.readouterr().err
    assert not (job / "summary.md").exists()


def test_summary_that_cannot_be_written_is_said(job, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    assert main(["my_layers.py:Nobody", *QUICK]) == 2
    assert "(GITHUB_STEP_SUMMARY) cannot be written: Is a directory" in capsys.readouterr().err


def test_summary_is_markdown_whatever_the_names(tmp_path):
    page = summary([result(subject="a|b`c*_.py:<b>", fixes=(FIX,))], {"x.py:|": "it ended\nwith | and `"})
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}, "as many cells in each row"
    assert r"a\|b\`c\*\_.py:&lt;b&gt;" in page
    assert f"````diff\n{FIX.diff}````" in page, "a fence longer than any in the diff"


def test_summary_is_no_longer_than_github_takes():
    large = result(fixes=(replace(FIX, diff="+" + "x" * 600_000 + "\n"),))
    page = summary([large, large], {})
    assert len(page.encode()) < 1024 * 1024
    assert page.count("| a.py:My |") == 2, "the table is whole"
