"""What can be tried on one subject, and the nearest case of that to any other. Knows cases, and runs nothing."""

from dataclasses import dataclass, replace

from reference.cases.case import Case, with_gamma, with_options
from reference.dtypes import NARROW
from reference.kinds import Kind

SEVERAL_AXES = "several normalized axes"  # what a report calls this part of the cases


@dataclass(frozen=True)
class Scope:
    """What can be tried on one subject.

    Attributes:
        kind: of the layer.
        ndims, dtypes: the ranks and dtypes it takes.
        gammas: whether it can be had with a gamma, without, or both; `betas` likewise (given a gamma).
        keywords: the optional ones of torch's that it takes; the values of the others stay at torch's defaults.
        several_axes: whether `normalized_shape` may have more than one entry.
        no_eps: whether it takes eps=None, where torch's does.
        modes: whether it can be in training mode, in eval mode, or both.
        averages: whether it takes momentum=None.
        dear: whether every new shape costs it much, as it does what is compiled: then random cases have shapes, dtypes and
            options of the designed ones.
    """

    kind: Kind
    ndims: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float64", "float32")
    gammas: tuple[bool, ...] = (True, False)
    betas: tuple[bool, ...] = (True, False)
    keywords: frozenset[str] = frozenset()
    several_axes: bool = True
    no_eps: bool = True
    modes: tuple[bool, ...] = (True, False)
    averages: bool = True
    dear: bool = False

    @classmethod
    def full(cls, kind: Kind) -> "Scope":
        """Everything that torch's layer takes, in float64 and float32."""
        return cls(kind, kind.ranks, keywords=frozenset(kind.keywords))

    def lacks(self, case: Case) -> str:
        """What of `case` is outside the scope, in a few words; "" if nothing is."""
        options = case.options
        reasons = (
            (len(case.shape) not in self.ndims, f"x of rank {len(case.shape)}"),
            (case.dtype not in self.dtypes, case.dtype),
            (case.has_gamma not in self.gammas, "with gamma" if case.has_gamma else "without gamma"),
            (
                case.has_gamma and case.kind.has_beta and case.has_beta not in self.betas,
                "with beta" if case.has_beta else "without beta",
            ),
            (case.training not in self.modes, "training mode" if case.training else "eval mode"),
            (case.tracks and case.history == "eval between" and False not in self.modes, "eval mode in a call before"),
            (not self.several_axes and len(case.parameter_shape) > 1, SEVERAL_AXES),
            ("eps" in options and "eps" not in self.keywords, "the keyword eps"),
            (options.get("eps", 0.0) is None and not self.no_eps, "eps=None"),
            ("momentum" in options and "momentum" not in self.keywords, "the keyword momentum"),
            ("momentum" in options and options["momentum"] is None and not self.averages, "momentum=None"),
            (
                not options.get("track_running_stats", True) and "track_running_stats" not in self.keywords,
                "track_running_stats=False",
            ),
        )
        return next((reason for lacking, reason in reasons if lacking), "")

    def fit(self, case: Case) -> Case:
        """`case` with the parameters and keywords that the subject has, where that makes no other case of it."""
        kind = case.kind
        if case.dtype == "float64" and "float64" not in self.dtypes and self.dtypes:
            narrower = self.dtypes[0]
            case = replace(case, dtype=narrower) if narrower not in NARROW or case.fits_in_16_bits else case
        if kind.optional["eps"] is None and "eps" not in self.keywords and "eps" in case.options:
            case = replace(case, config=tuple(pair for pair in case.config if pair[0] != "eps"))
        for keyword in ("eps", "momentum"):
            if keyword in self.keywords and keyword not in case.options:  # the layer's own default may be another
                case = with_options(case, **{keyword: kind.optional[keyword]})
        if case.has_gamma not in self.gammas:
            case = with_gamma(case, self.gammas[0])
        if "bias" in kind.optional and case.has_gamma and case.has_beta not in self.betas:
            case = with_options(case, bias=self.betas[0])
        return case
