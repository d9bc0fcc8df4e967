"""Which cases a subject takes at all, found out by trying: ranks, dtypes, options, modes.

A layer may be made for less than torch's. What it refuses with an exception is written down as not covered, and is
never counted as agreement. Nothing is judged here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reference.cases.case import Case, with_gamma, with_options
from reference.cases.probes import BASES
from reference.cases.scope import Scope
from reference.kinds import Kind
from reference.subjects.guard import Clock, attempt
from reference.subjects.observation import Observation
from reference.subjects.subject import Subject


class Refused(Exception):
    """The subject cannot be checked at all; the text says why, and what to do about it."""


@dataclass(frozen=True)
class Discovery:
    """What a subject takes, and what it does not, with the reason."""

    scope: Scope
    not_covered: dict[str, str]


def discover(subject: Subject, ndims: Sequence[int] | None, clock: Clock) -> Discovery:
    """The scope of a subject, and what is outside it.

    Args:
        subject: a layer. ndims: the ranks of x to try, all by default. clock: whose time it takes.

    Raises:
        Refused: it cannot be built, lacks forward or backward, or takes no x of any rank.
    """
    return _Explorer(subject, ndims, clock).explore()


@dataclass
class _Explorer:
    """Tries a subject on one case after the other; what it takes is in `scope`, more of it from step to step."""

    subject: Subject
    ndims: Sequence[int] | None
    clock: Clock
    not_covered: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return self.subject.kind

    def explore(self) -> Discovery:
        """All steps, in the order in which each can rely on those before."""
        kind, keywords = self.kind, self.subject.keywords
        self._refuse_missing_keywords()
        self.scope = Scope(kind, kind.ranks, ("float64", "float32", "float16"), keywords=keywords)
        self._parameters()
        for keyword in kind.keywords:
            if keyword not in keywords:
                self.not_covered[keyword] = "its signature lacks this keyword"
        self.scope = replace(self.scope, ndims=self._ranks())
        self.base = self.scope.fit(BASES[kind][self.scope.ndims[0]])
        self.scope = replace(self.scope, dtypes=self._dtypes())
        self.base = replace(self.base, dtype=self.scope.dtypes[0])
        self._options()
        if kind.tracks:
            self._running_statistics()
        return Discovery(self.scope, self.not_covered)

    def _takes(self, what: str, case: Case) -> bool:
        """Whether neither the constructor nor the first forward refuses a case."""
        seen = self.subject.observe(case, self.clock)
        if seen.refused:
            self.not_covered[what] = f"refused: {seen.refused}"
        return not seen.refused

    def _works(self, what: str, case: Case) -> bool:
        """Whether nothing raises in a case, backward included."""
        seen = self.subject.observe(case, self.clock)
        if seen.raised:
            self.not_covered[what] = f"refused: {_reason(seen)}"
        return not seen.raised

    def _refuse_missing_keywords(self) -> None:
        missing = [name for name in self.kind.required if name not in self.subject.keywords]
        if missing:
            wanted = ", ".join(self.kind.keywords)
            raise Refused(
                f"{self.subject.name} does not take {' and '.join(missing)}: expected a class or factory with torch's "
                f"keywords ({wanted}); wrap it in a function that has them"
            )

    def _attributes(self) -> frozenset[str]:
        """Which of the protocol's attributes a layer has; with a gamma, if it can have one."""
        base = with_gamma(BASES[self.kind][4], True)
        options = {name: value for name, value in base.config if name in self.subject.keywords}
        if self.kind.affine_keyword in self.subject.keywords:
            options[self.kind.affine_keyword] = True

        def look() -> frozenset[str]:
            layer = self.subject.factory(**options)
            return frozenset(name for name in _PROTOCOL if getattr(layer, name, None) is not None)

        found = attempt(look, self.clock)
        if found.timed_out:
            raise Refused(f"{self.subject.name} cannot be built with {options} within {self.clock.seconds:g} s")
        if found.value is None:
            raise Refused(f"{self.subject.name} cannot be built with {options}: {found.failure}") from found.error
        return found.value

    def _parameters(self) -> None:
        """Whether it can be had with and without a gamma, and with and without a beta."""
        keywords, attributes = self.subject.keywords, self._attributes()
        for method in ("forward", "backward"):
            if method not in attributes:
                raise Refused(
                    f"{self.subject.name} has no method {method}: expected forward(x) and backward(dy) "
                    "(for a pair of functions see reference.from_functions)"
                )
        if "gamma" not in attributes:
            self.not_covered["gamma"] = "it has no attribute gamma"
        optional = (True, False) if self.kind.affine_keyword in keywords else (True,)
        betas: tuple[bool, ...] = (True, False)
        if "bias" in self.kind.optional:  # then torch's can have a gamma and no beta
            betas = ((True, False) if "bias" in keywords else (True,)) if "beta" in attributes else (False,)
        self.scope = replace(self.scope, gammas=optional if "gamma" in attributes else (False,), betas=betas)

    def _ranks(self) -> tuple[int, ...]:
        """The ranks that it takes; with those that were asked for, no others are tried."""
        tried: dict[int, Observation] = {}
        for rank in self.kind.ranks:
            if self.ndims is not None and rank not in self.ndims:
                self.not_covered[f"{rank}D"] = "not asked for"
                continue
            case = self.scope.fit(BASES[self.kind][rank])
            tried[rank] = self.subject.observe(case, self.clock)
            if tried[rank].raised:  # perhaps not of its rank: there are layers that take float32 alone
                single = self.subject.observe(replace(case, dtype="float32"), self.clock)
                tried[rank] = tried[rank] if single.raised else single
        # One that raises in backward at every rank is not refusing ranks, but wrong.
        whole = any(not seen.raised for seen in tried.values())
        good = []
        for rank, seen in tried.items():
            timed_out = any(finding.id == "timeout" for finding in seen.findings)
            if timed_out or not (seen.refused or (whole and seen.raised)):
                good.append(rank)
            else:
                self.not_covered[f"{rank}D"] = f"refused: {_reason(seen)}"
        if not good:
            reasons = "; ".join(f"{what}: {why}" for what, why in self.not_covered.items() if what.endswith("D"))
            raise Refused(
                f"{self.subject.name} takes no x of any rank that {self.kind.name} has "
                f"({reasons or 'none was asked for'})"
            )
        return tuple(good)

    def _dtypes(self) -> tuple[str, ...]:
        """float64 and float32, if it takes them; float16 is a bonus, only tried on those who return it."""
        dtypes = [name for name in ("float64", "float32") if self._works(name, replace(self.base, dtype=name))]
        if not dtypes:
            raise Refused(f"{self.subject.name} takes neither float64 nor float32: {self.not_covered['float64']}")
        half = self.subject.observe(replace(self.base, dtype="float16"), self.clock)
        if not half.raised and not half.findings and not half.problems:
            dtypes.append("float16")
        else:
            self.not_covered["float16"] = half.refused or "it gives no float16 for float16"
        return tuple(dtypes)

    def _options(self) -> None:
        """Several normalized axes, no eps, with and without gamma and beta."""
        kind, base = self.kind, self.base
        if kind.normalizes_features:
            deep = [rank for rank in self.scope.ndims if rank > 2]
            several = bool(deep) and self._takes("several normalized axes", _several_axes(kind, deep[0], base))
            self.scope = replace(self.scope, several_axes=several)
        if kind.optional["eps"] is None and "eps" in self.subject.keywords:
            self.scope = replace(self.scope, no_eps=self._takes("eps=None", with_options(base, eps=None)))
        gammas = self.scope.gammas
        both = tuple(g for g in gammas if self._takes("with gamma" if g else "without gamma", with_gamma(base, g)))
        self.scope = replace(self.scope, gammas=both or gammas)
        if "bias" in kind.optional and self.scope.betas == (True, False):
            fewer = self._takes("bias=False", with_options(with_gamma(base, True), bias=False))
            self.scope = replace(self.scope, betas=(True, False) if fewer else (True,))

    def _running_statistics(self) -> None:
        """Running statistics, modes, momentum."""
        keywords, attributes = self.subject.keywords, self._attributes()
        for name in ("running_mean", "running_var"):
            if name not in attributes:
                self.not_covered[name] = f"it has no attribute {name}"
        if not attributes & {"training", "eval"}:
            self.not_covered["eval mode"] = "it has no attribute training"
            self.scope = replace(self.scope, modes=(True,))
        if "momentum" in keywords:
            averages = self._works("momentum=None", replace(with_options(self.base, momentum=None), calls=2))
            self.scope = replace(self.scope, averages=averages)
        keyword = "track_running_stats"
        if keyword in keywords and not self._takes(f"{keyword}=False", with_options(self.base, **{keyword: False})):
            self.scope = replace(self.scope, keywords=keywords - {keyword})


_PROTOCOL = ("forward", "backward", "gamma", "beta", "running_mean", "running_var", "training", "eval")


def _reason(seen: Observation) -> str:
    """Why an observation ended early."""
    return seen.refused or seen.problems["dx"]


def _several_axes(kind: Kind, rank: int, base: Case) -> Case:
    shape = BASES[kind][rank].shape
    return replace(with_options(base, normalized_shape=shape[-2:]), shape=shape)
