"""Which cases a subject takes at all, found out by trying: ranks, dtypes, options, modes.

A layer may be made for less than torch's. What it refuses with an exception is written down as not covered, and is
never counted as agreement. Nothing is judged here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reference.cases.case import Case, with_gamma, with_options
from reference.cases.probes import BASES
from reference.cases.scope import SEVERAL_AXES, Scope
from reference.dtypes import DTYPES, NARROW, dtype_named
from reference.kinds import Kind
from reference.subjects.guard import Clock, attempt, attribute
from reference.subjects.observation import Finding, Observation
from reference.subjects.reading import Reading, Refused, read, starting_point
from reference.subjects.subject import Subject


@dataclass(frozen=True)
class Discovery:
    """What a subject takes, and what it does not, with the reason; and what it starts from, where that is not torch's."""

    scope: Scope
    not_covered: dict[str, str]
    findings: tuple[Finding, ...] = ()

    def without_parts(self, parts: Mapping[str, str]) -> "Discovery":
        """The same without some ranks ("3D"), or without several normalized axes; from each part to the reason."""
        ranks = tuple(rank for rank in self.scope.ndims if f"{rank}D" not in parts)
        several = self.scope.several_axes and SEVERAL_AXES not in parts
        scope = replace(self.scope, ndims=ranks, several_axes=several)
        return replace(self, scope=scope, not_covered=self.not_covered | dict(parts))

    def without_dtype(self, dtype: str, reason: str) -> "Discovery":
        """The same with one dtype less."""
        left = tuple(name for name in self.scope.dtypes if name != dtype)
        return replace(self, scope=replace(self.scope, dtypes=left), not_covered=self.not_covered | {dtype: reason})


def discover(
    subject: Subject, ndims: Sequence[int] | None, clock: Clock, dtypes: Sequence[str] | None = None
) -> Discovery:
    """The scope of a subject, and what is outside it; reads its form first.

    Args:
        subject: a layer. ndims: the ranks of x to try. clock: whose time it takes. dtypes: those to try. All by default.

    Raises:
        Refused: it cannot be built, lacks forward or backward, takes no x of any rank, or hides its gradients.
    """
    return _Explorer(subject, ndims, clock, dtypes).explore()


@dataclass
class _Explorer:
    """Tries a subject on one case after the other; what it takes is in `scope`, more of it from step to step."""

    subject: Subject
    ndims: Sequence[int] | None
    clock: Clock
    dtypes: Sequence[str] | None = None
    not_covered: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return self.subject.kind

    def explore(self) -> Discovery:
        """All steps, in the order in which each can rely on those before."""
        kind = self.kind
        self._refuse_strange_constructor()
        reading = read(self.subject, self.ndims, self.dtypes, self.clock)
        keywords = self.subject.keywords
        dear = self.subject.compiles
        self.scope = Scope(kind, kind.ranks, DTYPES, keywords=keywords, dear=dear)
        self._parameters(reading)
        for keyword in kind.keywords:
            if keyword not in keywords:
                self.not_covered[keyword] = "its constructor has no such keyword"
        self.scope = replace(self.scope, ndims=self._ranks())
        self.base = self.scope.fit(BASES[kind][self.scope.ndims[0]])
        self.scope = replace(self.scope, dtypes=self._dtypes())
        self.base = replace(self.base, dtype=self.scope.dtypes[0])
        self._options()
        if kind.tracks:
            self._running_statistics(reading)
        return Discovery(self.scope, self.not_covered, tuple(starting_point(self.subject, reading)))

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

    def _refuse_strange_constructor(self) -> None:
        """Refuse what asks for things that nothing of torch's stands for; a size that it lacks is said with it."""
        constructor, kind = self.subject.constructor, self.kind
        wanted = ", ".join(kind.keywords)
        missing = [name for name in kind.required if name not in self.subject.keywords]
        if constructor.unknown:
            lacks = f"does not take {' and '.join(missing)} and " if missing else ""
            raise Refused(
                f"{self.subject.name} {lacks}asks for {' and '.join(constructor.unknown)}: expected a class or factory "
                f"with torch's keywords ({wanted}); say what they are called with --names "
                f"{(missing or kind.required)[0]}={constructor.unknown[0]}, or wrap it in a function that has them"
            )

    def _parameters(self, reading: Reading) -> None:
        """Whether it can be had with and without a gamma, and with and without a beta."""
        keywords, form = self.subject.keywords, self.subject.form
        has_gamma, has_beta = (role in form.given or self._has(role, reading) for role in ("gamma", "beta"))
        if form.strange:
            ours, what = ("dgamma", "gradients") if has_gamma else ("gamma", "parameters")
            raise Refused(
                f"{self.subject.name} has {what} that were not found: it holds {', '.join(form.strange)}; say which is "
                f"which with --names, as --names {ours}={form.strange[0].split()[0]}"
            )
        if not has_gamma:
            self.not_covered["gamma"] = "it has none"
        optional = (True, False) if self.kind.affine_keyword in keywords else (True,)
        betas: tuple[bool, ...] = (True, False)
        if "bias" in self.kind.optional:  # then torch's can have a gamma and no beta
            betas = ((True, False) if "bias" in keywords else (True,)) if has_beta else (False,)
        elif self.kind.has_beta and has_gamma and not has_beta:
            self.not_covered["beta"] = "it has none"
        self.scope = replace(self.scope, gammas=optional if has_gamma else (False,), betas=betas)

    def _has(self, role: str, reading: Reading) -> bool:
        """Whether there is a place for a parameter, and something in it where nothing can be said to have it there."""
        form, keywords = self.subject.form, self.subject.keywords
        if not form.has(role) or keywords & {self.kind.affine_keyword, "bias"} or not reading.stages:
            return form.has(role)
        places = form.places[role]
        found = [entry for stage in reading.stages.values() for entry in stage if entry.place in places]
        return not found or any(entry.value is not None for entry in found)

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
            timed_out = seen.has("never-returns")
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
        """float64 and float32, if it takes them; 16 bits are a bonus, only tried on those who return them."""
        asked = tuple(self.dtypes or DTYPES)
        self.not_covered |= {name: "not asked for" for name in DTYPES if name not in asked}
        wide = [name for name in ("float64", "float32") if name in asked]
        dtypes: list[str] = [name for name in wide if self._works(name, replace(self.base, dtype=name))]
        if not dtypes:  # it raises in backward whatever it is given: that is wrong, and no matter of dtypes
            dtypes += wide
            for name in wide:
                self.not_covered.pop(name, None)
        for narrow in (name for name in NARROW if name in asked):
            reason = self._refusal_of_narrow(narrow)
            if reason:
                self.not_covered[narrow] = reason
            else:
                dtypes.append(narrow)
        if not dtypes:
            reasons = "; ".join(f"{name}: {self.not_covered[name]}" for name in asked)
            raise Refused(f"{self.subject.name} takes no {' and no '.join(asked)} ({reasons})")
        return tuple(dtypes)

    def _refusal_of_narrow(self, dtype: str) -> str:
        """Why a dtype of 16 bits is not tried: it is refused, or something else comes back; "" if it is."""
        try:
            dtype_named(dtype)
        except ImportError:
            return "needs the package ml_dtypes"
        seen = self.subject.observe(replace(self.base, dtype=dtype), self.clock)
        if seen.refused:
            return f"refused: {seen.refused}"
        promoted = any(f.id == "dtype-promoted" and f.quantity in ("y", "dx") for f in seen.findings)
        whole = not seen.raised and not seen.problems and not any(not finding.hazard for finding in seen.findings)
        return "" if whole and not promoted else f"it gives no {dtype} for {dtype}"

    def _options(self) -> None:
        """Several normalized axes, no eps, with and without gamma and beta."""
        kind, base = self.kind, self.base
        if kind.normalizes_features:
            deep = [rank for rank in self.scope.ndims if rank > 2]
            meant = self.subject.constructor.takes_several_axes
            if deep and not meant:
                self.not_covered[SEVERAL_AXES] = "its size is one number"
            several = bool(deep) and meant and self._takes(SEVERAL_AXES, _several_axes(kind, deep[0], base))
            if several and attribute(self.subject.factory, "size_untold") is True:
                several = self._normalizes_several(_several_axes(kind, deep[0], base))
            self.scope = replace(self.scope, several_axes=several)
        if kind.optional["eps"] is None and "eps" in self.subject.keywords:
            self.scope = replace(self.scope, no_eps=self._takes("eps=None", with_options(base, eps=None)))
        gammas = self.scope.gammas
        both = tuple(g for g in gammas if self._takes("with gamma" if g else "without gamma", with_gamma(base, g)))
        self.scope = replace(self.scope, gammas=both or gammas)
        if "bias" in kind.optional and self.scope.betas == (True, False):
            fewer = self._takes("bias=False", with_options(with_gamma(base, True), bias=False))
            self.scope = replace(self.scope, betas=(True, False) if fewer else (True,))

    def _normalizes_several(self, case: Case) -> bool:
        """Whether several axes are normalized by one who is told their number by gamma alone: whether they share anything.

        One that broadcasts its gamma may be made for the last axis, whatever gamma has; then no row hears of another.
        """
        x, parameters = case.arrays().x, case.parameters()
        other = x.copy()
        other[..., 0, :] *= 3
        tried = attempt(lambda: [self.subject.forward_of(case, array, *parameters) for array in (x, other)], self.clock)
        if tried.value is not None and not np.array_equal(tried.value[0][..., 1, :], tried.value[1][..., 1, :]):
            return True
        self.not_covered[SEVERAL_AXES] = "it normalizes the last axis, whatever gamma's shape is"
        return False

    def _running_statistics(self, reading: Reading) -> None:
        """Running statistics, modes, momentum."""
        keywords = self.subject.keywords
        for name in ("running_mean", "running_var"):
            if not self.subject.form.has(name):
                self.not_covered[name] = "it has none that could be found"
        if not reading.has_modes:
            self.not_covered["eval mode"] = "it has no attribute, method or argument that tells it its mode"
            self.scope = replace(self.scope, modes=(True,))
        if "momentum" in keywords:
            averages = self._works("momentum=None", replace(with_options(self.base, momentum=None), calls=2))
            self.scope = replace(self.scope, averages=averages)
        keyword = "track_running_stats"
        if keyword in keywords and not self._takes(f"{keyword}=False", with_options(self.base, **{keyword: False})):
            self.scope = replace(self.scope, keywords=keywords - {keyword})


def _reason(seen: Observation) -> str:
    """Why an observation ended early."""
    return seen.refused or seen.problems["dx"]


def _several_axes(kind: Kind, rank: int, base: Case) -> Case:
    shape = BASES[kind][rank].shape
    return replace(with_options(base, normalized_shape=shape[-2:]), shape=shape)
