"""The command `normcheck`: its exit codes, the one line for whoever cannot be checked, the files it writes.

In this process; `test_isolation` has what only a real one can show.
"""

import json
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from reference.command.main import main
from reference.diagnosis.faults import FAULTS
from reference.kinds import KINDS
from reference.reporting import json_report

ROOT = Path(__file__).parent.parent

LAYERS = '''\
import numpy as np
import npnorm

print("imported")


class GoodLayerNorm(npnorm.LayerNorm):
    pass


class HalfLayerNorm(npnorm.LayerNorm):
    """dx is half of what it should be."""

    def backward(self, dy):
        return super().backward(dy) / 2


class BiasedBatchNorm(npnorm.BatchNorm):
    """Stores the biased variance."""

    def forward(self, x):
        before = None if self.running_var is None else self.running_var.copy()
        y = super().forward(x)
        if before is not None and self.training:
            n = x.size // x.shape[1]
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            decayed = (1 - momentum) * before
            self.running_var[...] = decayed + (self.running_var - decayed) * ((n - 1) / n)
        return y


class LastLayerNorm(npnorm.LayerNorm):
    pass


class LastGroupNorm(npnorm.GroupNorm):
    def forward(self, x):
        return np.moveaxis(super().forward(np.moveaxis(x, -1, 1)), 1, -1)

    def backward(self, dy):
        return np.moveaxis(super().backward(np.moveaxis(dy, -1, 1)), 1, -1)


class Mystery(npnorm.RMSNorm):
    pass


class NanLayerNorm(npnorm.LayerNorm):
    def forward(self, x):
        return super().forward(x) * np.nan


class NoLayerNorm:
    def __init__(self, normalized_shape):
        pass


class NoRankLayerNorm(npnorm.LayerNorm):
    def forward(self, x):
        raise ValueError("of no [rank]")


a_number_norm = 3
'''

QUICK = ["--examples", "0", "--ndims", "2", "--no-fix-search"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with layers.py; the modules and the path of the interpreter are as they were, after."""
    (tmp_path / "layers.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "CI", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(folder, capsys):
    """`run(*arguments)`: the exit code, and what was printed on the two streams; no fix is looked for, but where asked."""

    def command(*arguments, fixes=False):
        try:
            code = main([*arguments, *(() if fixes else ("--no-fix-search",))])
        except SystemExit as exit:  # of argparse
            code = exit.code
        return (code, *capsys.readouterr())

    return command


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_right_layer_is_0(run):
    code, out, err = run("layers.py:GoodLayerNorm", "--examples", "10")
    assert (code, err) == (0, "")
    assert "PASS  all" in out.splitlines()[-1], "the verdict is what one sees last"
    assert out.startswith("layers.py:GoodLayerNorm as LayerNorm: ")


def test_wrong_layer_is_1(run):
    code, out, err = run("layers.py:HalfLayerNorm", *QUICK)
    assert (code, err) == (1, "")
    assert "FAIL  " in out
    assert "dx        WRONG" in out


def test_name_of_a_module_is_found_in_the_working_directory(run):
    assert run("layers:GoodLayerNorm", *QUICK)[0] == 0


def test_path_may_be_anywhere(run, folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "neighbour.py").write_text("from layers import GoodLayerNorm as TheirLayerNorm\n")
    (folder / "deep" / "layers.py").write_text(LAYERS)
    assert run("deep/neighbour.py:TheirLayerNorm", *QUICK)[0] == 0
    assert run(f"{folder}/deep/layers.py:HalfLayerNorm", *QUICK)[0] == 1


def test_several_subjects(run):
    code, out, err = run("layers.py:GoodLayerNorm", "layers.py:HalfLayerNorm", "layers.py:GoodLayerNorm", *QUICK)
    assert (code, err) == (1, "")
    assert re.findall(r"^layers\.py:(\w+) as|^(PASS|FAIL)", out, flags=re.M) == [
        ("GoodLayerNorm", ""), ("", "PASS"), ("HalfLayerNorm", ""), ("", "FAIL"), ("GoodLayerNorm", ""), ("", "PASS"),
    ]  # fmt: skip


def test_unusable_one_among_several_wrong_ones_is_1_and_the_others_are_checked(run):
    code, out, err = run("layers.py:HalfLayerNorm", "layers.py:Nothing", "layers.py:GoodLayerNorm", *QUICK)
    assert code == 1
    assert (out.count("FAIL  "), out.count("PASS  ")) == (1, 1)
    assert err.count("\n") == 1


def test_unusable_one_among_right_ones_is_2(run):
    code, out, err = run("layers.py:Nothing", "layers.py:GoodLayerNorm", *QUICK)
    assert (code, out.count("PASS  "), err.count("\n")) == (2, 1, 1)


def test_no_subject_means_npnorms_own(run):
    code, out, _ = run("--examples", "0")
    assert code == 0
    assert re.findall(r"^(\w+): \d+ cases$", out, flags=re.M) == list(KINDS)
    assert out.count("PASS  ") == 5


# --- what cannot be checked -------------------------------------------------------------------------------------------

GOOD = "layers.py:GoodLayerNorm"

UNUSABLE = {  # the arguments, and what is said: the whole line, or as far as the dots
    "no such file": (["nowhere.py:A"], "Expected a file nowhere.py but there is none"),
    "no such module": (["no_where:A"], "no_where cannot be imported: ModuleNotFoundError: No module named 'no_where'"),
    "no such name": (["layers.py:NoSuch"], "layers.py has no NoSuch; it has BiasedBatchNorm, GoodLayerNorm, ..."),
    "no colon": (["layers.py"], "Expected package.module:Name, path/file.py:Name or ... but got 'layers.py'"),
    "no name": (["layers.py:"], "Expected package.module:Name, path/file.py:Name or ... but got 'layers.py:'"),
    "a folder": (["./:A"], "Expected a file . but there is none"),
    "no layer": (["layers.py:a_number_norm", "--like", "LayerNorm"], "Expected a_number_norm to be a class, a factory or a..."),
    "no known name": (["layers.py:Mystery"], "Expected the name to tell which layer it is but got 'Mystery': say which..."),
    "no forward": (["layers.py:NoLayerNorm"], "layers.py:NoLayerNorm has no method forward: expected forward(x) and..."),
    "no rank": (["layers.py:NoRankLayerNorm"], "layers.py:NoRankLayerNorm takes no x of any rank ... ValueError: of no [rank]..."),
    "no such like": ([GOOD, "--like", "Norm"], "Expected like to be one of ('GroupNorm', ... but got 'Norm'"),
    "another like": ([GOOD, "--like", "BatchNorm"], f"{GOOD} does not take num_features and asks for normalized_shape: ..."),
    "no convention": ([GOOD, "--accept", "[eps]"], "Expected the id of a convention but got '[eps]': one of eps-argument..."),
    "accepting a mistake": ([GOOD, "--accept", "dx-sign"], "Expected the id of a convention but got 'dx-sign': one of..."),
    "a rank it has not": (
        ["npnorm:InstanceNorm", "--ndims", "2"],
        "Expected ndims to be some of (3, 4, 5) for InstanceNorm but got [2]",
    ),
    "no id": (["--explain", "dx-mean-term"], "Expected an id of the dictionary but got 'dx-mean-term'; near it: dx-mean-term-..."),
    "nothing like an id": (["--explain", "!"], "Expected an id of the dictionary but got '!' (--faults lists all)"),
    "JSON into no folder": ([GOOD, "--json", "no/a.json"], "Expected a file in an existing folder for --json but got no/a.json"),
    "JSON over a folder": ([GOOD, "--json", "."], "Expected a file in an existing folder for --json but got ."),
    "plot into no folder": ([GOOD, "--plot", "no/a.png"], "Expected a file in an existing folder for --plot but got no/a.png"),
    "plot of no kind": ([GOOD, "--plot", "a.txt"], "Expected a file ending in .png, .svg or .pdf for --plot but got a.txt"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_is_2_with_one_line(run, arguments, text):
    code, out, err = run(*arguments)
    assert code == 2
    pattern = ".*".join(map(re.escape, f"normcheck: {text}\n".split("...")))
    assert re.fullmatch(pattern, err), err
    assert out == ""


BROKEN = {
    "SyntaxError": ("def f(:\n", r"SyntaxError: .*\(broken.py, line 1\)"),
    "ImportError": ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing'"),
    "any error": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "sys.exit": ("import sys; sys.exit(0)\n", "SystemExit: 0"),
    "an interrupt of its own": ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    "null bytes": ("\0", "(SyntaxError|ValueError): .*"),
}


@pytest.mark.parametrize(("source", "text"), BROKEN.values(), ids=BROKEN)
def test_file_that_cannot_be_imported(run, folder, source, text):
    (folder / "broken.py").write_text(source)
    code, out, err = run("broken.py:MyLayerNorm")
    assert (code, out) == (2, "")
    assert re.fullmatch(f"normcheck: broken.py cannot be imported: {text}\n", err), err
    (folder / "broken.py").write_text(LAYERS)
    assert run("broken.py:GoodLayerNorm", *QUICK)[0] == 0, "a corrected file is read again"


USAGE = {
    "examples": (["--examples", "-1"], "argument --examples: expected a number of at least 0 but got '-1'"),
    "examples in words": (["--examples", "all"], "argument --examples: expected a number of at least 0 but got 'all'"),
    "timeout": (["--timeout", "0"], "argument --timeout: expected seconds, more than 0, but got '0'"),
    "timeout in words": (["--timeout", "soon"], "argument --timeout: expected seconds, more than 0, but got 'soon'"),
    "timeout that is no number": (
        ["--timeout", "nan"],
        "argument --timeout: expected seconds, more than 0, but got 'nan'",
    ),
    "ranks": (["--ndims", "2,7"], "argument --ndims: expected ranks from 2 to 5, as 2,4, but got '2,7'"),
    "no option": (["--fast"], "unrecognized arguments: --fast"),
}


@pytest.mark.parametrize(("arguments", "text"), USAGE.values(), ids=USAGE)
def test_bad_usage_is_2(run, arguments, text):
    code, out, err = run("layers.py:GoodLayerNorm", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: normcheck ")
    assert err.endswith(f"normcheck: error: {text}\n")


# --- options ----------------------------------------------------------------------------------------------------------


def test_like_stands_for_what_the_name_does_not_tell(run):
    code, out, _ = run("layers.py:Mystery", "--like", "RMSNorm", *QUICK)
    assert code == 0
    assert "layers.py:Mystery as RMSNorm: " in out


@pytest.mark.parametrize(
    "accept",
    [["--accept", "running-var-biased"], ["--accept", "momentum-inverted,running-var-biased"]],
    ids=["one", "two"],
)
def test_accept(run, accept):
    strict, out, _ = run("layers.py:BiasedBatchNorm", *QUICK)
    assert strict == 1
    assert "FAIL  differs from torch by convention: running-var-biased (" in out
    code, out, _ = run("layers.py:BiasedBatchNorm", *QUICK, *accept)
    assert code == (0 if len(accept[1]) < 20 else 1), "whoever accepts a convention that is not followed is told"
    assert f"accepted: {accept[1].replace(',', ', ')}" in out


def test_channels_last(run):
    assert run("layers.py:LastGroupNorm", "--examples", "0", "--ndims", "4")[0] == 2
    assert run("layers.py:LastGroupNorm", "--examples", "0", "--ndims", "4", "--channels-last")[0] == 0


def test_ndims_and_examples_are_those_asked_for(run):
    _, out, _ = run("npnorm:LayerNorm", "--ndims", "2, 4", "--examples", "0", "--json", "none.json")
    _, more, _ = run("npnorm:LayerNorm", "--ndims", "2,4", "--examples", "7", "--json", "some.json")
    none, some = (json.loads(Path(name).read_text())["subjects"][0] for name in ("none.json", "some.json"))
    assert some["cases"] == none["cases"] + 7
    assert none["not_covered"] == {"3D": "not asked for", "5D": "not asked for"}
    assert "not covered: 3D (not asked for)" in out
    assert more


# --- JSON -------------------------------------------------------------------------------------------------------------

SCHEMA = json.loads(Path(json_report.__file__).with_name("schema.json").read_text())


def strict_json(path: Path) -> dict:
    """What a file holds, which is as the schema says; NaN and Infinity are no JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    content = json.loads(text, parse_constant=refuse)
    jsonschema.validate(content, SCHEMA)
    return content


@pytest.fixture
def written(run, folder):
    """The JSON of a right layer, a wrong one, and one whose numbers are none."""
    subjects = ["layers.py:GoodLayerNorm", "layers.py:HalfLayerNorm", "layers.py:NanLayerNorm"]
    code, _, err = run(*subjects, "--json", "out.json", "--seed", "4", *QUICK)
    assert (code, err) == (1, "")
    return strict_json(folder / "out.json")


def test_json_is_schema_2(written):
    import torch

    assert (written["schema"], written["seed"]) == (2, 4)
    assert written["numpy"] == np.__version__
    assert written["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    right, wrong, nan = written["subjects"]
    for subject in (right, wrong, nan):
        assert subject["quantities"].keys() == {"y", "dx", "dgamma", "dbeta"}
    assert (right["subject"], right["like"], right["passed"]) == ("layers.py:GoodLayerNorm", "LayerNorm", True)
    assert (right["faults"], right["counterexample"], right["backward_is_derivative_of_forward"]) == ([], None, True)
    assert (wrong["passed"], wrong["quantities"]["dx"]["passed"], wrong["quantities"]["y"]["passed"]) == (
        False,
        False,
        True,
    )
    assert wrong["backward_is_derivative_of_forward"] is False
    for subject in (wrong, nan):
        assert subject["faults"]
        assert subject["counterexample"]
    assert nan["quantities"]["y"]["worst_error"] == sys.float_info.max, "JSON has no infinity"


def test_json_of_a_fix_is_as_the_schema_says(run, folder):
    run("layers.py:HalfLayerNorm", "--examples", "0", "--ndims", "2", "--annotate", "--json", "fixed.json", fixes=True)
    (subject,) = strict_json(folder / "fixed.json")["subjects"]
    (fix,) = subject["fixes"]
    assert fix["line"] == (folder / "layers.py").read_text().splitlines().index(fix["before"].splitlines()[0]) + 1
    assert fix["source"].count("\n") == (folder / "layers.py").read_text().count("\n")
    assert subject["annotation"]


def test_json_has_a_case_that_can_be_made_again(written):
    example = written["subjects"][1]["counterexample"]
    assert example["config"].keys() <= set(KINDS["LayerNorm"].keywords)
    assert all(isinstance(size, int) for size in example["shape"])
    assert str(tuple(example["shape"])) in example["case"]
    assert example["messages"][0].startswith("dx: got ")
    assert "import torch" in example["script"]


def test_json_has_the_wrong_and_the_refused_ones(run, folder):
    assert run("layers.py:Nothing", "--json", "none.json")[0] == 2
    content = strict_json(folder / "none.json")
    assert content["subjects"] == []
    assert [refused["subject"] for refused in content["refused"]] == ["layers.py:Nothing"]
    assert content["refused"][0]["reason"].startswith("layers.py has no Nothing; it has ")
    assert run("layers.py:Nothing", "layers.py:HalfLayerNorm", "--json", "one.json", *QUICK)[0] == 1
    content = strict_json(folder / "one.json")
    assert [subject["subject"] for subject in content["subjects"]] == ["layers.py:HalfLayerNorm"]
    assert [refused["subject"] for refused in content["refused"]] == ["layers.py:Nothing"]


def test_json_is_the_same_for_the_same_seed(run, folder):
    for name in ("a.json", "b.json"):
        run("layers.py:HalfLayerNorm", "--examples", "30", "--ndims", "2", "--json", name)
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


def test_json_takes_the_place_of_an_older_file(run, folder):
    (folder / "out.json").write_text("older " * 10_000)
    run("layers.py:GoodLayerNorm", "--json", "out.json", *QUICK)
    assert strict_json(folder / "out.json")["schema"] == 2


@pytest.mark.parametrize("broken", ["os.replace", "os.fdopen"])
def test_older_file_survives_a_failure(run, folder, monkeypatch, broken):
    (folder / "out.json").write_text("older")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr(broken, full)
    code, out, err = run("layers.py:GoodLayerNorm", "--json", "out.json", *QUICK)
    assert (code, err) == (2, "normcheck: out.json cannot be written: No space left on device\n")
    assert "PASS" in out
    assert (folder / "out.json").read_text() == "older"
    assert sorted(path.name for path in folder.iterdir()) == ["layers.py", "out.json"], "nothing is left lying about"


# --- picture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "code"), [("HalfLayerNorm", 1), ("GoodLayerNorm", 0)], ids=["wrong", "right"])
def test_plot_is_a_picture(run, folder, layer, code):
    assert run(f"layers.py:{layer}", "--plot", "error.png", *QUICK)[0] == code
    assert (folder / "error.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# --- the dictionary ---------------------------------------------------------------------------------------------------


def test_faults_prints_the_dictionary(run):
    code, out, err = run("--faults")
    assert (code, err) == (0, "")
    ids = [line.split()[0] for line in out.splitlines() if line and not line.startswith(" ")]
    assert ids == ["id", *FAULTS]
    words = " ".join(out.split())
    for fault in FAULTS.values():
        mark = "" if fault.kind == "mistake" else f" ({fault.kind})"
        assert f"{fault.id} {fault.summary}{mark}" in words


def test_explain_prints_every_entry(run):
    for id, fault in FAULTS.items():
        code, out, err = run("--explain", id)
        assert (code, err) == (0, "")
        words = " ".join(out.split())
        assert words.startswith(f"{id} ({fault.kind}) {fault.summary}")
        for label, text in (("here", fault.wrong), ("right", fault.right), ("fix", fault.fix)):
            assert f"{label} {' '.join(text.split())}" in words
        assert f"layers {', '.join(fault.layers)}" in words
        assert "\x1b" not in out


def test_explain_says_the_formulas_of_a_layer_that_has_less(run):
    words = " ".join(run("--explain", "dx-projection-term-missing")[1].split())
    assert "here in RMSNorm dx = rstd * d right in RMSNorm dx = rstd * (d - xhat * mean(d * xhat))" in words
    assert "in BatchNorm" not in words
    assert "in RMSNorm" not in run("--explain", "dgamma-sign")[1]  # it has the same


# --- terminals --------------------------------------------------------------------------------------------------------

COLOUR = re.compile(r"\x1b\[[\d;]*3[1-7]m")


def test_piped_output_has_neither_escape_codes_nor_a_bar(run):
    for subject in ("HalfLayerNorm", "GoodLayerNorm"):
        _, out, err = run(f"layers.py:{subject}", "--examples", "5", "--ndims", "2")
        assert "\x1b" not in out
        assert err == ""


@pytest.fixture
def terminal(monkeypatch, folder):
    """As if both streams were a terminal, 80 columns wide."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("CI", "true")  # no bar
    return monkeypatch


def test_terminal_has_colours(run, terminal):
    _, out, err = run("layers.py:HalfLayerNorm", *QUICK)
    assert COLOUR.search(out)
    assert err == ""


def test_no_color(run, terminal):
    terminal.setenv("NO_COLOR", "1")
    _, out, _ = run("layers.py:HalfLayerNorm", *QUICK)
    assert "WRONG" in out
    assert not COLOUR.search(out)


def test_bar_on_a_terminal_but_not_in_ci(run, terminal):
    assert run("layers.py:GoodLayerNorm", *QUICK)[2] == ""
    terminal.delenv("CI")
    code, out, err = run("layers.py:GoodLayerNorm", *QUICK)
    assert code == 0
    assert "layers.py:GoodLayerNorm" in err
    assert re.search(r"\d+/\d+", err)
    assert "\x1b[?25" not in out, "the bar is on stderr"


@pytest.mark.parametrize("columns", [50, 71, 72, 120])
def test_narrow_terminal(run, terminal, columns):
    terminal.setenv("COLUMNS", str(columns))
    terminal.setenv("NO_COLOR", "1")
    _, out, _ = run("layers.py:HalfLayerNorm", *QUICK)
    out = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert max(map(len, out.splitlines())) <= columns
    header = next(line for line in out.splitlines() if line.startswith("quantity  verdict"))
    assert ("torch's" in header) == (columns >= 72)
    assert re.search(r"^dx +WRONG +\d", out, flags=re.M)
    _, out, _ = run("layers.py:HalfLayerNorm", "--script", *QUICK)
    compile(re.sub(r"\x1b\[[\d;]*m", "", out), "script", "exec")  # is not wrapped
