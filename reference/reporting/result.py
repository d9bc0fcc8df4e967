"""What a check returns: plain typed data, to read, to print and to write as JSON. Knows nothing of how it came about."""

from dataclasses import dataclass, field

from reference.cases.case import Array, Case
from reference.diagnosis.named import NamedFault
from reference.truth.compare import Comparison


@dataclass(frozen=True)
class Figures:
    """One quantity over all cases.

    Attributes:
        passed: whether it was within its tolerance every time.
        worst_error, tolerance: of the worst case, which is the one whose error is the most of its tolerance; in unit
            roundoffs of the natural scale.
        torch_error: torch's own error in that same case; None where torch is not what the layer is held to.
        cases: how many were compared. failed: how many of them were wrong.
        largest_error, largest_torch_error: over all cases, whatever their tolerance.
    """

    passed: bool
    worst_error: float
    tolerance: float
    torch_error: float | None
    cases: int
    failed: int
    largest_error: float = 0.0
    largest_torch_error: float = 0.0


@dataclass(frozen=True)
class Part:
    """One quantity over the designed cases of one dtype and rank: what one test of a suite is about.

    Attributes:
        cases: how many were compared. failed: how many of them were wrong. messages: of the first few of those.
        untried: how many designed cases there were besides, that were not run.
    """

    quantity: str
    dtype: str
    rank: int
    cases: int
    failed: int
    messages: tuple[str, ...]
    untried: int


@dataclass(frozen=True)
class Entry:
    """One entry of a wrong array."""

    quantity: str
    index: tuple[int, ...]
    got: float
    expected: float
    error: float


@dataclass(frozen=True)
class Picture:
    """The arrays that a picture of one wrong quantity is drawn from."""

    quantity: str
    case: Case
    title: str
    got: Array
    expected: Array


@dataclass(frozen=True)
class Counterexample:
    """The smallest failing case.

    Attributes:
        case: the case. comparisons: of the quantities that fail in it. problems: what else is wrong in it.
        entries: the worst entries of the wrong arrays, the worst first.
        script: a program that shows the failure with numpy and torch alone.
    """

    case: Case
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...]
    entries: tuple[Entry, ...]
    script: str


@dataclass(frozen=True)
class Fix:
    """A change of a layer's own source with which the whole verdict passes.

    Attributes:
        file: the path, or what the code calls its file where there is none to write to.
        line, end_line: the lines that it changes, as the file is; of several changes the first and the last.
        before, after: the text of these lines, and what is to stand there.
        diff: the same as `patch -p1` and `git apply` take it, with paths from the current folder.
        source: the whole file, fixed. original: as it was read. encoding: of the file, "" where it cannot be written.
        quantities: that were wrong and are right with it.
        cases: how many it was proved on.
        also: another way to fix it on the same line, if there is a plain one.
        conventions: of the layer, which it keeps and was held to.
    """

    file: str
    line: int
    end_line: int
    before: str
    after: str
    diff: str
    source: str = field(repr=False)
    original: str = field(repr=False)
    encoding: str
    quantities: tuple[str, ...]
    cases: int
    also: str = ""
    conventions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Note:
    """What a line of a layer's own source holds in a small failing case, in the formula's words.

    Attributes:
        line: of the file. text: the words. departs: whether it is not what it should be. code: what stands in the line.
    """

    line: int
    text: str
    departs: bool
    code: str = ""


@dataclass(frozen=True)
class CheckResult:
    """The verdict on one layer, as data; `reference.reporting.report.Report` is the same with its renderings.

    Attributes:
        subject: its name. like: the layer it was held against.
        passed: whether everything that could be tried agrees.
        cases: how many were tried. not_covered: what could not be, and why.
        quantities: the figures of each quantity.
        faults: the named mistakes.
        backward_is_derivative_of_forward: whether its own forward, differenced, gives its own backward; None where that
            could not be told.
        counterexample: the smallest failing case, if any.
        notes: what else a reader should know.
        hazards: what is right in ordinary use only; they fail a strict check.
        read_as: what has another name than in torch, as "scale = gamma".
        incomplete: how many random cases there was time for, "" if for all.
        parts: the designed cases, apart by quantity, dtype and rank. behaviour: what was seen in them besides numbers.
        fixes: of its source, proved; at most one, which may change several places.
        not_fixed: why there is none where one was looked for, in a sentence.
        regressions: in what it is worse than its baseline, in sentences; they make it fail.
        notes_on_source: what its lines hold in a small failing case, where no fix was found or it was asked for;
            annotated_file: of them.
    """

    subject: str
    like: str
    passed: bool
    cases: int
    seed: int
    not_covered: dict[str, str]
    quantities: dict[str, Figures]
    faults: list[NamedFault]
    backward_is_derivative_of_forward: bool | None
    counterexample: Counterexample | None
    notes: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    hazards: list[NamedFault] = field(default_factory=list)
    read_as: tuple[str, ...] = ()
    incomplete: str = ""
    parts: tuple[Part, ...] = field(default=(), repr=False)
    behaviour: tuple[str, ...] = field(default=(), repr=False)
    fixes: tuple[Fix, ...] = ()
    not_fixed: str = ""
    notes_on_source: tuple[Note, ...] = ()
    annotated_file: str = ""
    regressions: tuple[str, ...] = ()
