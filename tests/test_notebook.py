"""A report in a notebook: its text is text there too, and its HTML is well made, escaped, and needs nothing else."""

import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import pytest
import rich.console

import npnorm
from reference import assert_matches, check
from reference.command.main import main
from reference.reporting.notebook import AMBER, GREEN, RED, as_html
from reference.subjects.guard import printable
from tests.test_report import HALVED, RIGHT, UNKNOWN, WRONG

EVIL = "<script>alert(1)</script> & \x1b[2J\r\nPASS  all agrees \ud800"


class Reader(HTMLParser):
    """Sees that every tag that is opened is closed, in order; keeps the text and the attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], "", []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def read(report) -> Reader:
    reader = Reader()
    reader.feed(report._repr_html_())
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def notebook(monkeypatch):
    """As inside of an ipykernel, where rich shows what is printed as HTML, and leaves files empty."""
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert rich.console.Console().is_jupyter


def test_text_is_the_same_as_elsewhere(notebook, monkeypatch):
    inside = [str(WRONG), WRONG.text(verbose=True)]
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: False)
    assert inside == [str(WRONG), WRONG.text(verbose=True)]
    assert inside[0].endswith("FAIL  dx-halved (dx, dgamma wrong)")


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"])
def test_text_is_the_same_whatever_the_environment_says(monkeypatch, variable):
    before = str(WRONG)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "33")
    assert str(WRONG) == before


def test_assertion_says_what_is_wrong(notebook):
    class HalfLayerNorm(npnorm.LayerNorm):
        def backward(self, dy):
            return super().backward(dy) / 2

    with pytest.raises(AssertionError, match=r"^HalfLayerNorm dx: unknown\n"):
        assert_matches(HalfLayerNorm, examples=0, ndims=[2])


def test_command_prints_there_too(notebook, capsys):
    assert main(["npnorm:RMSNorm", "--examples", "0", "--ndims", "2"]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[-1].startswith("PASS  all")


def test_html_has_what_the_text_has():
    page = read(WRONG).text
    words = " ".join(page.split())
    for text in (
        *("FAIL", "dx-halved (dx, dgamma wrong)", "MyLayerNorm as LayerNorm: 120 cases", HALVED.summary, HALVED.fix),
        *("4.5e+15 u", "90 of 120", "1 of 110", "here: dx = rstd * (d - mean(d)) / 2", "y: x was changed by forward"),
        *("its backward is not the derivative", "not covered: float16 (it gives", "note: torch is off by 9 u"),
    ):
        assert text in words
    assert WRONG.counterexample.script in page, "as it is, to copy"
    assert "PASS" not in page
    assert read(RIGHT).text.startswith("PASS\n")
    assert "cause: unknown (dx)" in read(replace(WRONG, faults=[UNKNOWN])).text


def test_html_of_a_check():
    page = read(check(npnorm.BatchNorm, examples=0, ndims=[2], minimize=False))
    assert "running_var" in page.text
    assert page.text.startswith("PASS\n")


def test_html_escapes_what_strangers_say():
    example = replace(WRONG.counterexample, problems=(EVIL,), script=f"# {EVIL}")
    report = replace(
        WRONG,
        subject=EVIL,
        faults=[replace(HALVED, evidence=EVIL, fix=EVIL)],
        counterexample=example,
        not_covered={EVIL: EVIL},
        notes=(EVIL,),
        read_as=(EVIL,),
        hazards=[replace(HALVED, kind="hazard", summary=EVIL)],
    )
    page = read(report)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", as_html(report))
    assert as_html(report).count(escape(printable(EVIL))) >= 8
    as_html(report).encode()


def test_html_needs_nothing_from_elsewhere():
    for tag, attributes in read(WRONG).tags:
        assert tag not in ("script", "style", "link", "img", "iframe")
        assert attributes.keys() <= {"style"}
        assert "url(" not in (attributes.get("style") or "")


def test_html_takes_the_colours_of_the_page():
    """What is written is in the page's own colour, or white on one of ours that it can be read on."""
    styles = [attributes.get("style") or "" for report in (WRONG, RIGHT) for _, attributes in read(report).tags]
    for style in styles:
        background, colour = (re.search(rf"(?:^|; ?){name}: ([^;]+)", style) for name in ("background", "color"))
        if colour and colour[1] != "inherit":
            assert (colour[1], background[1] in (RED, GREEN, AMBER)) == ("#fff", True)
        elif background:
            assert background[1] == "transparent"
    for shade in (RED, GREEN, AMBER):
        assert contrast(shade) >= 4.5, "WCAG's least for text"


def contrast(shade: str) -> float:
    """Of white letters on it, as WCAG has it."""
    parts = [int(shade[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_long_list_opens_with_a_click():
    left_out = {f"option {number}": "refused" for number in range(9)}
    page = read(replace(WRONG, not_covered=left_out))
    assert [tag for tag, _ in page.tags].count("details") == 2, "the script's, and that of the list"
    assert "not covered: 9 entries" in page.text
    assert "option 8 (refused)" in page.text


def test_ipython_in_a_terminal_prints_the_text():
    class Printer:
        said = ""

        def text(self, text):
            self.said += text

    printer = Printer()
    WRONG._repr_pretty_(printer, False)
    assert printer.said == str(WRONG)
