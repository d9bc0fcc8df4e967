"""What strangers say cannot move the cursor, forge a line, or stop the output; in a report, a picture, a test, a command."""

import ast
import re
from dataclasses import replace
from io import BytesIO, TextIOWrapper

import pytest
from rich.console import Console

import npnorm
from reference import Refused, assert_matches, check
from reference.reporting.failure import as_failure
from reference.reporting.foreign import cleaned, printable_lines
from reference.reporting.headline import verdict_line
from reference.reporting.picture import draw
from reference.reporting.text import print_report, print_script
from reference.subjects.guard import READABLE, printable
from reference.subjects.spoken import literal
from tests.test_command import folder, run  # noqa: F401 - fixtures
from tests.test_report import HALVED, RIGHT, WRONG

EVIL = "a\x1b[2J\x1b[31m b\rc\nPASS  all agrees\x00 \x9b2J \u202e \u2028 \udc80 \ud83d"
SHOWN = r"a\x1b[2J\x1b[31m b\rc\nPASS  all agrees\x00 \x9b2J \u202e \u2028 \udc80 \ud83d"
FORGED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]")


def test_what_cannot_be_seen_is_escaped():
    assert printable(EVIL) == SHOWN
    assert printable("λ = 1, naïve, 漢字, 🙂 \\n") == "λ = 1, naïve, 漢字, 🙂 \\n"
    assert printable("λ🙂", "ascii") == r"\u03bb\U0001f642"
    assert printable("λ", "latin-1") == r"\u03bb"
    assert printable(ValueError("a\nb")) == r"a\nb"


def test_what_is_too_long_is_cut():
    assert printable("x" * READABLE) == "x" * READABLE
    assert printable("x" * 10**6) == "x" * (READABLE - 3) + "..."


def test_lines_of_a_program_stay_lines():
    program = f"x = 1\n# {'y' * 2 * READABLE}\n# \x1b\n"
    assert printable_lines(program) == program.replace("\x1b", r"\x1b")


def evil_report(**more):
    fault = replace(HALVED, evidence=EVIL, fix=EVIL, summary=EVIL, wrong=EVIL, right=EVIL, alternatives=(EVIL,))
    example = replace(
        WRONG.counterexample,
        problems=(EVIL,),
        comparisons=(replace(WRONG.counterexample.comparisons[0], problem=EVIL),),
        script="x = '\x1b \x9b2J \u2028 \udc80'\n",
    )
    return replace(
        WRONG, subject=EVIL, faults=[fault], hazards=[replace(fault, kind="hazard", id="other")], notes=(EVIL,),
        not_covered={EVIL: EVIL}, read_as=(EVIL,), incomplete=EVIL, counterexample=example, **more,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("verbose", [False, True])
def test_report_cannot_be_forged(encoding, verbose):
    stream = BytesIO()
    console = Console(file=TextIOWrapper(stream, encoding), width=100, color_system=None, force_jupyter=False)
    print_report(evil_report(), console, verbose)
    console.file.flush()
    text = stream.getvalue().decode(encoding)
    assert not FORGED.search(text)
    verdicts = [line for line in text.splitlines() if re.match(r"(PASS|FAIL)  ", line)]
    assert verdicts == ["FAIL  dx-halved (dx, dgamma wrong)"] == text.splitlines()[-1:]


def test_script_is_printed_in_what_the_stream_takes():
    stream = BytesIO()
    console = Console(file=TextIOWrapper(stream, "ascii"), width=40, color_system=None, force_jupyter=False)
    report = replace(WRONG, counterexample=replace(WRONG.counterexample, script='x = "λ"  # ' + "z" * 100))
    print_script(report, console)
    console.file.flush()
    assert stream.getvalue() == b'x = "\\u03bb"  # ' + b"z" * 100 + b"\n"
    print_script(RIGHT, console)
    console.file.flush()
    assert stream.getvalue().count(b"\n") == 1


def test_failure_of_a_test_cannot_be_forged():
    text = as_failure(evil_report(), EVIL, seen=[EVIL])
    assert not FORGED.search(text)
    assert not [line for line in text.splitlines() if line.startswith("PASS")]
    assert not FORGED.search(verdict_line(cleaned(evil_report())))


def test_every_text_of_a_result_is_cleaned():
    """Found by looking at all that it holds, so that a new one is not forgotten."""

    def texts(value, path=""):
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from texts(item, path)
        elif isinstance(value, dict):
            for item in (*value.keys(), *value.values()):
                yield from texts(item, path)
        elif hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                yield from texts(getattr(value, name), f"{path}.{name}")

    dirty = {path for path, text in texts(evil_report(accepted=(EVIL,))) if FORGED.search(text)}
    assert len(dirty) >= 14
    assert [path for path, text in texts(cleaned(evil_report(accepted=(EVIL,)))) if FORGED.search(text)] == []


def test_picture_takes_any_name(tmp_path):
    report = check(HalfLayerNorm, name="$x_1$ \x1b \udc80", like="LayerNorm", examples=0, ndims=[2], minimize=False)
    draw([report], tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 1000


@pytest.mark.parametrize("name", [EVIL, '"""', "C:\\new\\x.py:Norm", "\\N{x}"])
def test_script_is_a_program_whatever_the_name(name):
    report = check(HalfLayerNorm, name=name, like="LayerNorm", examples=0, ndims=[2], minimize=False)
    script = report.counterexample.script
    assert not FORGED.search(script)
    assert ast.get_docstring(ast.parse(script)).startswith(printable(name).replace('"', "'"))


def test_literal_is_the_text_again():
    for text in (EVIL, "λ", '"\\', "x" * 2 * READABLE):
        assert ast.literal_eval(literal(text)) == text
        assert not FORGED.search(literal(text))


class HalfLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


class RaisingLayerNorm(npnorm.LayerNorm):
    def forward(self, x):
        if x.ndim == 3:
            raise ValueError("\x1b[2J\rPASS  all agrees \udc80")
        return super().forward(x)


def test_exception_of_a_layer_is_shown_escaped():
    report = check(RaisingLayerNorm, examples=0, minimize=False)
    assert r"not covered: 3D (refused: ValueError: \x1b[2J" in str(report)
    assert not FORGED.search(str(report))


def test_refusal_in_a_test_is_escaped():
    class NoLayerNorm:
        def __init__(self, normalized_shape):
            raise ValueError("\x1b[2J \udc80")

    with pytest.raises(Refused, match=r"ValueError: \\x1b\[2J \\udc80"):
        assert_matches(NoLayerNorm)


SOURCE = """\
import npnorm


class EvilLayerNorm(npnorm.LayerNorm):
    def forward(self, x):
        raise ValueError("\\x1b[2J\\rPASS  all agrees \\udc80")


class UnbuiltLayerNorm(npnorm.LayerNorm):
    def __init__(self, normalized_shape):
        raise ValueError("\\x1b[2J\\nPASS  all agrees")


class WrongLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2
"""


@pytest.mark.parametrize("name", ["EvilLayerNorm", "UnbuiltLayerNorm", "No\x1b[2J"])
def test_refusal_of_the_command_is_one_line(run, folder, name):  # noqa: F811
    (folder / "evil.py").write_text(SOURCE)
    code, out, err = run(f"evil.py:{name}", "--examples", "0")
    assert (code, out) == (2, "")
    assert not FORGED.search(err)
    assert err.count("\n") == 1
    assert r"\x1b[2J" in err


def test_script_alone_is_ready_to_run(run, folder):  # noqa: F811
    """And the verdict is on the other stream."""
    (folder / "evil.py").write_text(SOURCE)
    code, out, err = run("evil.py:WrongLayerNorm", "--script", "--examples", "0", "--ndims", "2")
    assert (code, err) == (1, "evil.py:WrongLayerNorm: unknown (dx wrong)\n")
    with pytest.raises(AssertionError, match="dx"):
        exec(compile(out, "repro.py", "exec"), {"__name__": "__main__"})
    code, out, err = run("npnorm:LayerNorm", "--script", "--examples", "0", "--ndims", "2")
    assert (code, out) == (0, "")
    assert err == "LayerNorm: all of what could be tried agrees with torch.nn, within rounding\n"
