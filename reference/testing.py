"""The entry points for test suites: an assertion, and a pytest decorator with one readable id a check.

Both go through `reference.checks`; nothing is judged here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from reference.cases.probes import probes
from reference.checks import Probed, check, probe, validated
from reference.diagnosis.observed import starting_conventions
from reference.kinds import Kind
from reference.subjects.in_process import InProcess
from reference.subjects.reading import kind_of, name_of

DTYPES = ("float64", "float32")


def assert_matches(layer: Any, like: str | None = None, **options: Any) -> None:
    """Raise an AssertionError whose text is the report, unless the layer agrees; the options are those of `check`."""
    report = check(layer, like, **options)
    if not report.passed:
        raise AssertionError(f"\n{report}")


def parametrize_with_checks(
    layers: Iterable[Any], *, expected_failures: Mapping[str, str] | None = None, examples: int = 100, **options: Any
) -> Callable[[Any], Any]:
    """A pytest decorator: the test is called once for each check of each layer, with an argument `check` to call.

        @parametrize_with_checks([MyGroupNorm, (their_norm, "LayerNorm")])
        def test_layers(check):
            check()

    The ids read GroupNorm-dx-float64-4D: the layer, the quantity, the dtype, the rank. Two more check what a layer does
    besides its numbers (GroupNorm-behaviour) and random cases (GroupNorm-random). What a layer refuses is skipped with
    the reason.

    Args:
        layers: classes or factories, or pairs of one and what it is like.
        expected_failures: from the id of a check to the reason why it fails; strict: one that passes fails the test.
        examples: random cases.
        options: accept, strict, names, dtypes, channels_last, ndims and timeout, as `check` has them, for every layer. The
            quantities are held to the accepted conventions; hazards fail the behaviour only where strict.

    Raises:
        ValueError: an id of `expected_failures` is not one of the checks, two layers have one name, or an option is not what
            it should be. TypeError: there is no such option.
    """
    import pytest  # only those who test need it

    checks: dict[str, Callable[[], None]] = {}
    for item in layers:
        layer, like = item if isinstance(item, tuple) else (item, None)
        name = name_of(layer)
        if f"{name}-random" in checks:
            raise ValueError(f"Expected layers of different names but got two {name}")
        checks |= _checks_of(layer, kind_of(name, like), name, examples, **options)
    unknown = sorted(set(expected_failures or ()) - set(checks))
    if unknown:
        raise ValueError(
            f"Expected the ids of checks in expected_failures but got {unknown}; they are {sorted(checks)}"
        )
    parameters = []
    for id, run in checks.items():
        reason = (expected_failures or {}).get(id)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
        parameters.append(pytest.param(run, id=id, marks=marks))
    return pytest.mark.parametrize("check", parameters)


def _checks_of(
    layer: Any,
    kind: Kind,
    name: str,
    examples: int,
    accept: Iterable[str] = (),
    strict: bool = False,
    names: Mapping[str, str] | None = None,
    dtypes: Sequence[str] | None = None,
    channels_last: bool = False,
    ndims: Sequence[int] | None = None,
    timeout: float | None = None,
) -> dict[str, Callable[[], None]]:
    """The checks of one layer by id; the probes are run once, at the first check that asks for them."""
    accepted = validated(kind, examples, accept, ndims, dtypes, 60.0 if timeout is None else timeout)

    @cache
    def probed() -> Probed:
        subject = InProcess(layer, kind, name, channels_last, names)
        return probe(subject, ndims, accepted, 60.0 if timeout is None else timeout, dtypes=dtypes)

    def of_quantity(quantity: str, dtype: str, rank: int) -> None:
        not_covered = probed().discovery.not_covered
        mine = [
            t
            for t in probed().trials
            if quantity in t.comparisons and t.case.dtype == dtype and len(t.case.shape) == rank
        ]
        if not mine:
            import pytest

            reason = not_covered.get(f"{rank}D") or not_covered.get(dtype) or not_covered.get(quantity) or "it has none"
            pytest.skip(f"not covered: {reason}")
        wrong = [f"{t.comparisons[quantity]}\n    in {t.case}" for t in mine if quantity in t.wrong]
        if wrong:
            more = f"\n... and in {len(wrong) - 3} more cases" if len(wrong) > 3 else ""
            raise AssertionError(
                "\n".join(wrong[:3]) + more + f"\n(normcheck names the cause: {len(mine)} cases tried)"
            )

    def behaviour() -> None:
        found = [
            f"{finding.id}: {finding.quantity}: {finding.detail}\n    in {trial.case}"
            for trial in probed().trials
            for finding in (*trial.findings, *(trial.hazards if strict else ()))
        ]
        found += [
            f"{convention.id}: {convention.evidence}"
            for convention in starting_conventions(probed().discovery.findings, set(accepted))
        ]
        if found:
            raise AssertionError("\n".join(found[:5]))

    def at_random() -> None:
        assert_matches(
            layer,
            kind.name,
            examples=examples,
            accept=accepted,
            strict=strict,
            names=names,
            dtypes=dtypes,
            channels_last=channels_last,
            ndims=ndims,
            timeout=timeout,
            name=name,
        )

    checks: dict[str, Callable[[], None]] = {}
    for quantity in kind.quantities:
        for dtype in dtypes or DTYPES:
            # float32 is probed in the ranks that are looked at most closely
            for rank in sorted({len(case.shape) for case in probes(kind) if case.dtype == dtype}):

                def run(quantity: str = quantity, dtype: str = dtype, rank: int = rank) -> None:
                    of_quantity(quantity, dtype, rank)

                checks[f"{name}-{quantity}-{dtype}-{rank}D"] = run
    return checks | {f"{name}-behaviour": behaviour, f"{name}-random": at_random}
