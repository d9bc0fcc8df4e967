"""What the README shows is what happens: its examples run, its session is the command's output, its table the dictionary's."""

import doctest
import re
import sys
from pathlib import Path

import pytest

import npnorm
from reference import check
from reference.command.main import main
from reference.diagnosis.faults import SECTIONS

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.S | re.M)


def _block(start: str) -> str:
    """The one fenced block that contains `start`."""
    (block,) = [body for _, body in BLOCKS if start in body]
    return block


def _without_figures(text: str) -> str:
    """Errors and counts depend on the machine's rounding; everything else must not."""
    text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)? u", "# u", text)
    return re.sub(r"[ ]+", " ", text)


def test_examples():
    failures, tried = doctest.testfile(str(README), module_relative=False)
    assert tried >= 8
    assert failures == 0


@pytest.fixture
def my_layers(tmp_path, monkeypatch):
    """The README's layer in a file, in the working directory."""
    path = tmp_path / "my_layers.py"
    path.write_text(_block("class MyLayerNorm"))
    monkeypatch.delitem(sys.modules, "my_layers", raising=False)  # that of another test's directory
    monkeypatch.chdir(tmp_path)
    return path


def test_session_is_the_commands_output(my_layers, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert main(["my_layers.py:MyLayerNorm", "--fix-seconds", "60"]) == 1
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert _without_figures(printed).strip() == _without_figures(_block("FAIL  dx-gamma-outside-means")).strip()


def test_script_has_some_eighty_lines(my_layers, capsys):
    assert "a program of some eighty lines" in " ".join(TEXT.split())
    main(["my_layers.py:MyLayerNorm", "--script", "--no-fix-search"])
    assert 75 <= len(capsys.readouterr().out.splitlines()) < 90


def test_figures_of_torch_and_npnorm_are_as_said():
    (torch, ours) = re.search(r"up to ([\d.]+) million u.*?npnorm's to ([\d.]+) u", " ".join(TEXT.split())).groups()
    figures = check(npnorm.GroupNorm).quantities.values()
    assert max(f.largest_torch_error for f in figures) == pytest.approx(1e6 * float(torch), rel=0.1)
    assert max(f.largest_error for f in figures) == pytest.approx(float(ours), rel=0.1)


def test_fix_is_written_and_fixes_it(my_layers, capsys):
    assert main(["my_layers.py:MyLayerNorm", "--examples", "50", "--fix"]) == 1
    said = next(line for line in _block("--fix\nnormcheck: fixed").splitlines() if line.startswith("normcheck:"))
    assert capsys.readouterr().err.strip().replace(str(my_layers), my_layers.name) == said
    assert main(["my_layers.py:MyLayerNorm", "--examples", "50"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] in TEXT


def test_session_with_torch_is_the_commands_output(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_norms.py").write_text(_block("class RMSNormFunction"))
    monkeypatch.chdir(tmp_path)
    assert main(["my_norms.py:RMSNormFunction", "--fix-seconds", "60"]) == 1
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert _without_figures(_block("cause: dx-projection-term-without-gamma (dx)")).strip() in _without_figures(printed)


def test_first_output_is_the_commands(capsys):
    assert main(["npnorm:GroupNorm"]) == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert _without_figures(_block("GroupNorm: ")).strip() == _without_figures(printed).strip()


@pytest.mark.parametrize("heading", SECTIONS)
def test_dictionary_is_the_codes(heading):
    section = TEXT.split(f"### {heading}\n")[1].split("\n#")[0].split("<!--")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    expected = [
        f"| `{fault.id}`{'' if fault.kind == 'mistake' else f' ({fault.kind})'} | {fault.summary} | {fault.seen_in} |"
        for fault in SECTIONS[heading]
    ]
    assert rows == expected


def test_number_of_entries():
    count = sum(len(entries) for entries in SECTIONS.values())
    assert f"{count} entries, each" in TEXT
