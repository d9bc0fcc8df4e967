"""The entry points for test suites: an assertion, and a pytest decorator with one readable id a check.

Both go through `reference.checks`; nothing is judged here. A failure shows the caller's line and the verdict, none of
our frames: `__tracebackhide__` is what pytest looks for.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, partial
from inspect import signature
from typing import Any, NoReturn

from reference.cases.probes import probes
from reference.checks import check, validated
from reference.kinds import Kind
from reference.reporting.failure import as_failure
from reference.reporting.report import Report
from reference.reporting.result import Part
from reference.run import Unfinished
from reference.subjects.guard import attribute, printable
from reference.subjects.reading import Refused, kind_of, name_of

DTYPES = ("float64", "float32")
OURS = {"layer", "like", "examples", "name", "progress"}  # of the arguments of `check`, those that are no options here


def assert_matches(layer: Any, like: str | None = None, **options: Any) -> None:
    """Raise an AssertionError whose first line is the verdict, unless the layer agrees; the options are those of `check`.

    Raises:
        AssertionError: it is wrong; why, what to do and the smallest case in a few lines.
        Refused, ValueError, TypeError: as `check`.
    """
    __tracebackhide__ = True
    try:
        report = check(layer, like, **options)
    except Refused as error:
        raise Refused(printable(error)) from None
    if not report.passed:
        raise AssertionError(as_failure(report, _more(report, options)))


def parametrize_with_checks(
    layers: Iterable[Any], *, expected_failures: Mapping[str, str] | None = None, examples: int = 100, **options: Any
) -> Callable[[Any], Any]:
    """A pytest decorator: the test is called once for each check of each layer, with an argument `check` to call.

        @parametrize_with_checks([MyGroupNorm, (their_norm, "LayerNorm")], accept="eps-outside-root")
        def test_layers(check):
            check()

    The ids read GroupNorm-dx-float64-4D: the layer, the quantity, the dtype, the rank. Two more check what a layer does
    besides its numbers (GroupNorm-behaviour) and random cases (GroupNorm-random). What a layer refuses is skipped with
    the reason, and so is an id of which not all cases were run, for want of time or since others fail; where the time was
    not enough for a verdict, GroupNorm-random fails.

    A layer is run once, by the first of its checks, and all of them report what came of it. With pytest-xdist that is
    once a worker; `--dist loadfile` sends all tests of a file to the same one, and `--dist loadgroup` all checks of a
    layer, which have its name as their group.

    Args:
        layers: classes or factories, or pairs of one and what it is like.
        expected_failures: from the id of a check, or a pattern as MyNorm-dx-*, to the reason why it fails; strict: one
            that passes fails the test.
        examples: random cases.
        options: all others of `check`, as accept, strict, names, dtypes and timeout, for every layer. The quantities are
            held to the accepted conventions; hazards fail the behaviour only where strict.

    Raises:
        ValueError: an id of `expected_failures` is not one of the checks, two layers have one name, or an option is not what
            it should be. TypeError: there is no such option.
    """
    import pytest  # only those who test need it

    _refuse_unknown(options)
    checks: dict[str, Callable[[], None]] = {}
    groups: dict[str, str] = {}
    for item in layers:
        layer, like = item if isinstance(item, tuple) else (item, None)
        name = name_of(layer)
        if f"{name}-random" in checks:
            raise ValueError(f"Expected layers of different names but got two {name}")
        kind = kind_of(name, like or attribute(layer, "like"))
        examined = partial(check, layer, kind.name, **{**options, "name": name, "examples": examples})
        more = f"print(reference.check({name}, {kind.name!r}{', ...' if options else ''}))"
        of_layer = LayerChecks(kind, name, examples, options, examined, more).checks()
        checks |= of_layer
        groups |= dict.fromkeys(of_layer, name)
    reasons = _reasons(expected_failures or {}, checks)
    parameters = []
    for id, run in checks.items():
        marks = [*group_of(groups[id])]
        if id in reasons:
            marks.append(pytest.mark.xfail(reason=reasons[id], strict=True))
        parameters.append(pytest.param(run, id=id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = signature(check).parameters.keys() - OURS
    strange = sorted(options.keys() - known)
    if strange:
        raise TypeError(f"Expected options of check ({', '.join(sorted(known))}) but got {', '.join(strange)}")


def _reasons(expected_failures: Mapping[str, str], checks: Iterable[str]) -> dict[str, str]:
    """For each id that is expected to fail why; an id of its own counts before a pattern, the first of those that fit."""
    ids = list(checks)
    unknown = sorted(key for key in expected_failures if not any(fnmatchcase(id, key) for id in ids))
    if unknown:
        raise ValueError(f"Expected the ids of checks in expected_failures but got {unknown}; they are {sorted(ids)}")
    found = {}
    for id in ids:
        fitting = [id] if id in expected_failures else [key for key in expected_failures if fnmatchcase(id, key)]
        if fitting:
            found[id] = expected_failures[fitting[0]]
    return found


def group_of(name: str) -> Iterable[Any]:
    """The mark by which pytest-xdist sends all checks of a layer to one worker; none where pytest does not know it."""
    import pytest

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield pytest.mark.xdist_group(name)
    except (pytest.fail.Exception, pytest.PytestUnknownMarkWarning):
        return


@dataclass(repr=False)
class LayerChecks:
    """One layer, run once, and its checks by id.

    Attributes:
        kind: of layer. name: with which the ids begin. examples: random cases. options: the others of `check`.
        run: gives its report. more: what to type for the whole report.
    """

    kind: Kind
    name: str
    examples: int
    options: Mapping[str, Any]
    run: Callable[[], Report]
    more: str

    def checks(self) -> dict[str, Callable[[], None]]:
        """Refuses options that cannot be meant; runs nothing yet."""
        given = {key: self.options.get(key) for key in ("ndims", "dtypes")}
        timeout = self.options.get("timeout")
        accept = self.options.get("accept", ())
        validated(self.kind, self.examples, accept, **given, timeout=60.0 if timeout is None else timeout)
        found: dict[str, Callable[[], None]] = {}
        for quantity in self.kind.quantities:
            for dtype in given["dtypes"] or DTYPES:
                # float32 is probed in the ranks that are looked at most closely
                for rank in sorted({len(case.shape) for case in probes(self.kind) if case.dtype == dtype}):

                    def run(quantity: str = quantity, dtype: str = dtype, rank: int = rank) -> None:
                        __tracebackhide__ = True
                        self.quantity(quantity, dtype, rank)

                    found[f"{self.name}-{quantity}-{dtype}-{rank}D"] = run
        return found | {f"{self.name}-behaviour": self.behaviour, f"{self.name}-random": self.at_random}

    @cached_property
    def outcome(self) -> Report | Refused:
        """The report, or why there is none."""
        try:
            return self.run()
        except Refused as error:
            return error

    def quantity(self, quantity: str, dtype: str, rank: int) -> None:
        __tracebackhide__ = True
        report = self.outcome
        if isinstance(report, Refused) and not isinstance(report, Unfinished):
            raise Refused(printable(report))
        fitting = [part for part in report.parts if (part.quantity, part.dtype, part.rank) == (quantity, dtype, rank)]
        if not fitting:
            self.skip(self.why_not(quantity, dtype, rank))
        (part,) = fitting
        if part.failed and isinstance(report, Report):
            self.fail(report, quantity, _seen(part))
        if part.untried:
            self.skip(f"{part.cases} of {part.cases + part.untried} cases agree, the rest was not run: {_why(report)}")

    def behaviour(self) -> None:
        __tracebackhide__ = True
        report = self.outcome
        if isinstance(report, Unfinished):
            self.skip(f"not all cases were run: {report}")
        if isinstance(report, Refused):
            raise Refused(printable(report))
        starts = [f"{fault.id}: {fault.evidence}" for fault in report.faults if not fault.quantities]
        seen = [*report.behaviour, *starts]
        if seen:
            self.fail(report, "", seen)

    def at_random(self) -> None:
        __tracebackhide__ = True
        report = self.outcome
        if isinstance(report, Refused):
            raise Refused(printable(report))
        if not report.passed:
            self.fail(report)
        if report.incomplete:
            self.skip(f"there was no time for all: {report.incomplete}, which agree")

    def why_not(self, quantity: str, dtype: str, rank: int) -> str:
        """Why a quantity was not compared at all."""
        report = self.outcome
        if isinstance(report, Refused):
            return str(report)
        for what in (f"{rank}D", dtype, quantity, "some cases"):
            if what in report.not_covered:
                return report.not_covered[what]
        return "it has none"

    def fail(self, report: Report, quantity: str = "", seen: Iterable[str] = ()) -> NoReturn:
        __tracebackhide__ = True
        raise AssertionError(as_failure(report, self.more, quantity, list(seen)))

    def skip(self, why: str) -> NoReturn:
        import pytest

        __tracebackhide__ = True
        pytest.skip(printable(f"not covered: {why}"))


def _why(report: Report | Unfinished) -> str:
    """Why designed cases were left out."""
    if isinstance(report, Unfinished):
        return str(report)
    if "some cases" in report.not_covered:
        return report.not_covered["some cases"]
    return "large ones wait until all else agrees" if report.faults else "they would take too long"


def _seen(part: Part) -> list[str]:
    rest = f" of {part.cases} in {part.dtype} {part.rank}D"
    return [f"{part.failed}{rest} are wrong", *part.messages[:1]]


def _more(report: Report, options: Mapping[str, Any]) -> str:
    """What to type for the whole report."""
    return f"print(reference.check({report.subject}, {report.like!r}{', ...' if options else ''}))"
