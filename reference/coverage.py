"""Which cases a subject takes at all, found out by trying: ranks, dtypes, options, modes.

A layer may be made for less than torch's. What it refuses with an exception is written down as not covered, and is
never counted as agreement. Nothing is judged here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from reference.cases import DEFAULT_EPS, KEYWORDS, RANKS, REQUIRED, Case, Scope
from reference.guard import Clock, OutOfTime, describe, shielded
from reference.probes import BASES, probes, with_options
from reference.subject import Observation, Subject


class Refused(Exception):
    """The subject cannot be checked at all; the text says why, and how to mend it."""


def discover(subject: Subject, ndims: Sequence[int] | None, clock: Clock) -> tuple[Scope, dict[str, str]]:
    """The scope of a subject, and what is outside it with the reason.

    Raises:
        Refused: it cannot be built, lacks forward or backward, or takes no x of any rank.
    """
    like = subject.like
    missing = [name for name in REQUIRED[like] if name not in subject.keywords]
    if missing:
        wanted = ", ".join(KEYWORDS[like])
        raise Refused(
            f"{subject.name} does not take {' and '.join(missing)}: expected a class or factory with torch's "
            f"keywords ({wanted}); wrap it in a function that has them"
        )
    not_covered: dict[str, str] = {}
    gammas, betas = _parameters(subject, clock, not_covered)
    scope = Scope(
        like,
        RANKS[like],
        gammas=gammas,
        betas=betas,
        keywords=subject.keywords,
        dtypes=("float64", "float32", "float16"),
    )
    for keyword in KEYWORDS[like]:
        if keyword not in subject.keywords:
            not_covered[keyword] = "its signature lacks this keyword"
    ranks = _ranks(subject, scope, ndims, clock, not_covered)
    base = fit(BASES[like][ranks[0]], scope)
    scope = replace(scope, ndims=ranks)

    def takes(what: str, case: Case) -> bool:
        seen = subject.observe(case, clock)
        if seen.refused:
            not_covered[what] = f"refused: {seen.refused}"
        return not seen.refused

    def works(what: str, case: Case) -> bool:
        seen = subject.observe(case, clock)
        if seen.raised:
            not_covered[what] = f"refused: {seen.refused or seen.problems['dx']}"
        return not seen.raised

    # float16 is a bonus that is only tried on those who return it: few layers are made for it
    dtypes = [name for name in ("float64", "float32") if works(name, replace(base, dtype=name))]
    if not dtypes:
        raise Refused(f"{subject.name} takes neither float64 nor float32: {not_covered['float64']}")
    half = subject.observe(replace(base, dtype="float16"), clock)
    if not half.raised and not half.findings and not half.problems:
        dtypes.append("float16")
    else:
        not_covered["float16"] = half.refused or "it gives no float16 for float16"
    scope = replace(scope, dtypes=tuple(dtypes))
    base = replace(base, dtype=dtypes[0])
    if like in ("LayerNorm", "RMSNorm"):
        deep = [rank for rank in ranks if rank > 2]
        several = bool(deep) and takes("several normalized axes", _several_axes(like, deep[0], base))
        scope = replace(scope, several_axes=several)
    if like == "RMSNorm" and "eps" in subject.keywords:
        scope = replace(scope, no_eps=takes("eps=None", with_options(base, eps=None)))
    both = tuple(value for value in gammas if takes(_gamma_words(value), _with_gamma(base, value)))
    scope = replace(scope, gammas=both or gammas)
    if like == "LayerNorm" and betas == (True, False):
        fewer = takes("bias=False", with_options(_with_gamma(base, True), bias=False))
        scope = replace(scope, betas=(True, False) if fewer else (True,))
    if like == "BatchNorm":
        scope = _batch_norm(subject, scope, base, clock, takes, not_covered)
    return scope, not_covered


def _ranks(
    subject: Subject, scope: Scope, ndims: Sequence[int] | None, clock: Clock, not_covered: dict[str, str]
) -> tuple[int, ...]:
    """The ranks that it takes; with those that were asked for, no others are tried."""
    tried: dict[int, Observation] = {}
    for rank in RANKS[subject.like]:
        if ndims is not None and rank not in ndims:
            not_covered[f"{rank}D"] = "not asked for"
        else:
            case = fit(BASES[subject.like][rank], scope)
            tried[rank] = subject.observe(case, clock)
            if tried[rank].raised:  # perhaps not of its rank: there are layers that take float32 alone
                single = subject.observe(replace(case, dtype="float32"), clock)
                tried[rank] = tried[rank] if single.raised else single
    # One that raises in backward at every rank is not refusing ranks, but wrong.
    whole = any(not seen.raised for seen in tried.values())
    good = []
    for rank, seen in tried.items():
        timed_out = any(finding.id == "timeout" for finding in seen.findings)
        if timed_out or not (seen.refused or (whole and seen.raised)):
            good.append(rank)
        else:
            not_covered[f"{rank}D"] = f"refused: {seen.refused or seen.problems['dx']}"
    if not good:
        reasons = "; ".join(f"{what}: {why}" for what, why in not_covered.items() if what.endswith("D"))
        raise Refused(
            f"{subject.name} takes no x of any rank that {subject.like} has ({reasons or 'none was asked for'})"
        )
    return tuple(good)


def _parameters(
    subject: Subject, clock: Clock, not_covered: dict[str, str]
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Whether it can be had with and without a gamma, and with and without a beta; builds it to see."""
    like = subject.like
    keyword = "elementwise_affine" if like in ("LayerNorm", "RMSNorm") else "affine"
    rank = RANKS[like][-2]
    base = BASES[like][rank]
    options = {name: value for name, value in base.config if name in subject.keywords}
    if keyword in subject.keywords:
        options[keyword] = True
    try:
        with shielded(), clock.interrupting():
            layer = subject.factory(**options)
            has_gamma = getattr(layer, "gamma", None) is not None
            has_beta = getattr(layer, "beta", None) is not None
    except KeyboardInterrupt:
        raise
    except OutOfTime as error:
        raise Refused(f"{subject.name} cannot be built with {options} within {clock.seconds:g} s") from error
    except BaseException as error:  # whatever it is, it is not ours
        raise Refused(f"{subject.name} cannot be built with {options}: {describe(error)}") from error
    for method in ("forward", "backward"):
        if not callable(getattr(layer, method, None)):
            raise Refused(
                f"{subject.name} has no method {method}: expected forward(x) and backward(dy) "
                "(for a pair of functions see reference.from_functions)"
            )
    if not has_gamma:
        not_covered["gamma"] = "it has no attribute gamma"
    gammas = ((True, False) if keyword in subject.keywords else (True,)) if has_gamma else (False,)
    if like != "LayerNorm":  # only torch's LayerNorm can have a gamma and no beta
        return gammas, (True, False)
    return gammas, ((True, False) if "bias" in subject.keywords else (True,)) if has_beta else (False,)


def _batch_norm(
    subject: Subject,
    scope: Scope,
    base: Case,
    clock: Clock,
    takes: Callable[[str, Case], bool],
    not_covered: dict[str, str],
) -> Scope:
    """BatchNorm's own: running statistics, modes, momentum."""
    try:
        with shielded(), clock.interrupting():
            layer = subject.build(base)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Refused(f"{subject.name} cannot be built a second time: {describe(error)}") from error
    for name in ("running_mean", "running_var"):
        if getattr(layer, name, None) is None:
            not_covered[name] = f"it has no attribute {name}"
    if not (hasattr(layer, "training") or callable(getattr(layer, "eval", None))):
        not_covered["eval mode"] = "it has no attribute training"
        scope = replace(scope, modes=(True,))
    if "momentum" in subject.keywords:
        seen = subject.observe(replace(with_options(base, momentum=None), calls=2), clock)
        if seen.raised:
            not_covered["momentum=None"] = f"refused: {seen.refused or seen.problems['dx']}"
        scope = replace(scope, averages=not seen.raised)
    keyword = "track_running_stats"
    if keyword in subject.keywords and not takes(f"{keyword}=False", with_options(base, track_running_stats=False)):
        scope = replace(scope, keywords=scope.keywords - {keyword})
    return scope


def designed_for(scope: Scope) -> list[Case]:
    """The designed cases that a subject of this scope takes, each once."""
    fitted = dict.fromkeys(fit(case, scope) for case in probes(scope.like, scope.ndims))
    return [case for case in fitted if not scope.lacks(case)]


def fit(case: Case, scope: Scope) -> Case:
    """`case` with the parameters and keywords that the subject has, where that makes no other case of it."""
    if case.like == "RMSNorm" and "eps" not in scope.keywords and "eps" in case.options:
        case = replace(case, config=tuple(pair for pair in case.config if pair[0] != "eps"))
    for keyword, default in (("eps", DEFAULT_EPS[case.like]), ("momentum", 0.1)):
        if keyword in scope.keywords and keyword not in case.options:  # the layer's own default may be another
            case = with_options(case, **{keyword: default})
    if case.has_gamma not in scope.gammas:
        case = _with_gamma(case, scope.gammas[0])
    if case.like == "LayerNorm" and case.has_gamma and case.has_beta not in scope.betas:
        case = with_options(case, bias=scope.betas[0])
    return case


def _with_gamma(case: Case, gamma: bool) -> Case:
    if case.has_gamma == gamma:
        return case
    keyword = "elementwise_affine" if case.like in ("LayerNorm", "RMSNorm") else "affine"
    return with_options(case, **{keyword: gamma})


def _gamma_words(gamma: bool) -> str:
    return "with gamma" if gamma else "without gamma"


def _several_axes(like: str, rank: int, base: Case) -> Case:
    shape = BASES[like][rank].shape
    return replace(with_options(base, normalized_shape=shape[-2:]), shape=shape)
