"""Layers as they are met, of one rank, one dtype, few options, gradients returned, channels last: all are served.

What could not be tried stands in `not_covered`, and is in no figure. Their numbers are npnorm's; only the form differs.
"""

from functools import partial

import numpy as np
import pytest

import npnorm
from reference import Refused, check


def quick(layer, like, **options):
    return check(layer, like, **({"examples": 5, "minimize": False} | options))


class Wrapped:
    """A layer of another form: holds one of npnorm's, and shows what a subclass lets it show."""

    def __init__(self, inner):
        self.inner = inner
        self.gamma, self.beta = inner.gamma, inner.beta

    def forward(self, x):
        for name in ("gamma", "beta"):
            value = getattr(self, name)
            setattr(self.inner, name, value if value is None else np.reshape(value, self.inner.parameter_shape))
        return self.inner.forward(x)

    def backward(self, dy):
        dx = self.inner.backward(dy)
        self.dgamma, self.dbeta = self.inner.dgamma, self.inner.dbeta
        return dx


class Plain2dBatchNorm(Wrapped):
    """x of rank 2 only."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__(npnorm.BatchNorm(num_features, eps, momentum))
        self.training = True

    running_mean = property(lambda self: self.inner.running_mean)
    running_var = property(lambda self: self.inner.running_var)

    def forward(self, x):
        if x.ndim != 2:
            raise ValueError(f"Expected x of rank 2 but got {x.ndim}")
        self.inner.train(self.training)
        return super().forward(x)


class ModelessBatchNorm(Wrapped):
    """Always in training mode, and without running statistics."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__(npnorm.BatchNorm(num_features, eps))


class BareGroupNorm:
    """Neither gamma nor beta, nor any option."""

    def __init__(self, num_groups, num_channels):
        inner = npnorm.GroupNorm(num_groups, num_channels, affine=False)
        self.forward, self.backward = inner.forward, inner.backward


class HiddenLayerNorm:
    """gamma and beta have other names, and their gradients are nowhere to be found."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        self.inner = npnorm.LayerNorm(normalized_shape, eps, elementwise_affine)
        self.weight, self.bias = self.inner.gamma, self.inner.beta
        self.forward, self.backward = self.inner.forward, self.inner.backward


class NoOptionsLayerNorm(Wrapped):
    def __init__(self, normalized_shape):
        super().__init__(npnorm.LayerNorm(normalized_shape))


class OneAxisLayerNorm(npnorm.LayerNorm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        if not isinstance(normalized_shape, int):
            raise TypeError(f"Expected one number but got {normalized_shape}")
        super().__init__(normalized_shape, eps, elementwise_affine, bias)


class AlwaysAffineLayerNorm(npnorm.LayerNorm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        if not elementwise_affine or not bias:
            raise NotImplementedError("only with both")
        super().__init__(normalized_shape, eps)


class NumberEpsRMSNorm(npnorm.RMSNorm):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        super().__init__(normalized_shape, float(eps), elementwise_affine)


class NoAverageBatchNorm(npnorm.BatchNorm):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        if momentum is None or not track_running_stats:
            raise ValueError("not that")
        super().__init__(num_features, eps, momentum, affine)


def _of_one_dtype(dtype):
    class OneDtypeRMSNorm(npnorm.RMSNorm):
        def forward(self, x):
            if x.dtype != dtype:
                raise TypeError(f"Expected {dtype} but got {x.dtype}")
            return super().forward(x)

    return OneDtypeRMSNorm


def _of_one_rank(layer, rank):
    class OneRankNorm(layer):
        def forward(self, x):
            assert x.ndim == rank
            return super().forward(x)

    return OneRankNorm


LACK = "its constructor has no such keyword"

FOUR = "y dx dgamma dbeta"
SIX = f"{FOUR} running_mean running_var"

LACKING = {  # the layer, what it is like, what is not covered and a word of why, which quantities have figures
    "one rank": (
        Plain2dBatchNorm,
        "BatchNorm",
        {
            "3D": "refused: ValueError: Expected x of rank 2",
            "4D": "",
            "5D": "",
            "affine": LACK,
            "track_running_stats": LACK,
        },
        SIX,
    ),
    "one rank, by an assertion": (
        _of_one_rank(npnorm.GroupNorm, 4),
        "GroupNorm",
        {"2D": "refused: AssertionError", "3D": "", "5D": ""},
        FOUR,
    ),
    "float64 only": (
        _of_one_dtype("float64"),
        "RMSNorm",
        {"float32": "refused: TypeError: Expected float64", "float16": "", "bfloat16": ""},
        "y dx dgamma",
    ),
    "float32 only": (
        _of_one_dtype("float32"),
        "RMSNorm",
        {"float64": "refused: TypeError: Expected float32", "float16": "", "bfloat16": ""},
        "y dx dgamma",
    ),
    "no parameters": (
        BareGroupNorm,
        "GroupNorm",
        {"eps": LACK, "affine": LACK, "gamma": "it has none"},
        "y dx",
    ),
    "no parameters, and says so": (
        type("BareGroupNorm", (BareGroupNorm,), {"gamma": None, "beta": None}),
        "GroupNorm",
        {"eps": LACK, "affine": LACK, "gamma": "it has none"},
        "y dx",
    ),
    "no options": (NoOptionsLayerNorm, "LayerNorm", {"eps": LACK, "elementwise_affine": LACK, "bias": LACK}, FOUR),
    "one axis": (
        OneAxisLayerNorm,
        "LayerNorm",
        {"several normalized axes": "refused: TypeError: Expected one number"},
        FOUR,
    ),
    "always affine": (
        AlwaysAffineLayerNorm,
        "LayerNorm",
        {"without gamma": "only with both", "bias=False": "only with both"},
        FOUR,
    ),
    "no eps=None": (NumberEpsRMSNorm, "RMSNorm", {"eps=None": "refused: TypeError"}, "y dx dgamma"),
    "no averages": (
        NoAverageBatchNorm,
        "BatchNorm",
        {
            "momentum=None": "refused: ValueError: not that",
            "track_running_stats=False": "refused: ValueError: not that",
        },
        SIX,
    ),
    "no mode and no running statistics": (
        ModelessBatchNorm,
        "BatchNorm",
        {
            "running_mean": "it has none that could be found",
            "running_var": "it has none that could be found",
            "eval mode": "it has no attribute, method or argument that tells it its mode",
            "momentum": LACK,
            "affine": LACK,
            "track_running_stats": LACK,
        },
        FOUR,
    ),
}


@pytest.mark.parametrize(("layer", "like", "lacking", "quantities"), LACKING.values(), ids=LACKING)
def test_what_it_lacks_is_not_covered(layer, like, lacking, quantities):
    asked = None if "2D" in lacking or "3D" in lacking else [2, 4]
    report = quick(layer, like, ndims=asked)
    assert report.passed, report
    assert {what for what, why in report.not_covered.items() if why != "not asked for"} == lacking.keys()
    for what, why in lacking.items():
        assert why in report.not_covered[what]
    assert list(report.quantities) == quantities.split()
    assert all(f"not covered: {what} (" in report.text(verbose=True) for what in lacking)
    assert "all of what could be tried agrees" in str(report)


def test_full_layer_lacks_nothing():
    report = quick(npnorm.BatchNorm, "BatchNorm")
    assert report.not_covered == {}
    assert "not covered" not in str(report)
    assert "of what could be tried" not in str(report)


def test_what_is_not_covered_is_never_tried_again():
    shapes = set()

    class Only3dGroupNorm(npnorm.GroupNorm):
        def forward(self, x):
            shapes.add(x.ndim) if x.ndim == 3 or x.shape[0] > 10 else None
            if x.ndim != 3:
                shapes.add("refused") if len(shapes) > 1 else None
                raise ValueError("3D only")
            return super().forward(x)

    report = quick(Only3dGroupNorm, "GroupNorm")
    assert report.passed
    assert shapes == {3}
    assert {"2D", "4D", "5D"} == report.not_covered.keys()


def test_mistake_in_the_part_that_is_covered():
    class WrongBatchNorm(Plain2dBatchNorm):
        def backward(self, dy):
            return -super().backward(dy)

    report = quick(WrongBatchNorm, "BatchNorm")
    assert not report.passed
    assert [fault.id for fault in report.faults] == ["dx-sign"]
    assert "4D" in report.not_covered


def test_ndims_are_all_that_is_tried():
    ranks = set()

    class CountingLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            ranks.add(x.ndim)
            return super().forward(x)

    report = quick(CountingLayerNorm, "LayerNorm", ndims=[2, 5])
    assert report.passed
    assert ranks == {2, 5}
    assert report.not_covered == {"3D": "not asked for", "4D": "not asked for"}


# --- forms ------------------------------------------------------------------------------------------------------------


def _parameters_of(*shape):
    """A GroupNorm whose gamma and beta have axes of 1 around the channels."""

    class ShapedGroupNorm(Wrapped):
        def __init__(self, num_groups, num_channels, eps=1e-5):
            super().__init__(npnorm.GroupNorm(num_groups, num_channels, eps))
            self.shape = tuple(num_channels if size is None else size for size in shape)
            self.gamma, self.beta = np.ones(self.shape), np.zeros(self.shape)

        def forward(self, x):
            assert self.gamma.shape == self.beta.shape == self.shape
            return super().forward(x)

        def backward(self, dy):
            dx = super().backward(dy)
            self.dgamma, self.dbeta = self.dgamma.reshape(self.shape), self.dbeta.reshape(self.shape)
            return dx

    return ShapedGroupNorm


def _returning(arrange):
    """A LayerNorm that hands its gradients out of backward, and has no attributes for them."""

    class ReturningLayerNorm(Wrapped):
        def __init__(self, normalized_shape, eps=1e-5):
            super().__init__(npnorm.LayerNorm(normalized_shape, eps))

        def backward(self, dy):
            return arrange(self.inner.backward(dy), self.inner.dgamma, self.inner.dbeta)

    return ReturningLayerNorm


class LastGroupNorm(Wrapped):
    """x as (N, *spatial, C)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True):
        super().__init__(npnorm.GroupNorm(num_groups, num_channels, eps, affine))

    def forward(self, x):
        return np.moveaxis(super().forward(np.moveaxis(x, -1, 1)), 1, -1)

    def backward(self, dy):
        return np.moveaxis(super().backward(np.moveaxis(dy, -1, 1)), 1, -1)


class SwitchedBatchNorm(npnorm.BatchNorm):
    """The mode by methods alone: no attribute `training` to set."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__(num_features, eps)

    def __setattr__(self, name, value):
        super().__setattr__("_mode" if name == "training" else name, value)

    def __getattr__(self, name):
        raise AttributeError(name)

    def forward(self, x):
        object.__setattr__(self, "training", self._mode)
        try:
            return super().forward(x)
        finally:
            object.__delattr__(self, "training")


FORMS = {
    "gamma (1, C)": (_parameters_of(1, None), "GroupNorm", {}),
    "gamma (C, 1)": (_parameters_of(None, 1), "GroupNorm", {}),
    "gamma (1, C, 1, 1)": (_parameters_of(1, None, 1, 1), "GroupNorm", {}),
    "gradients as a tuple": (_returning(lambda dx, dgamma, dbeta: (dx, dgamma, dbeta)), "LayerNorm", {}),
    "gradients as a list": (_returning(lambda dx, dgamma, dbeta: [dx, dgamma, dbeta]), "LayerNorm", {}),
    "gradients as a dict": (
        _returning(lambda dx, dgamma, dbeta: {"dbeta": dbeta, "dx": dx, "dgamma": dgamma}),
        "LayerNorm",
        {},
    ),
    "channels last": (LastGroupNorm, "GroupNorm", {"channels_last": True}),
    "a function that builds it": (
        lambda num_groups, num_channels: npnorm.GroupNorm(num_groups, num_channels),
        "GroupNorm",
        {},
    ),
    "a function of any keywords": (lambda **options: npnorm.LayerNorm(**options), "LayerNorm", {}),
    "functools.partial": (partial(npnorm.InstanceNorm, affine=True), "InstanceNorm", {}),
    "eval by a method": (SwitchedBatchNorm, "BatchNorm", {}),
}


@pytest.mark.parametrize(("layer", "like", "options"), FORMS.values(), ids=FORMS)
def test_form_is_served(layer, like, options):
    report = quick(layer, like, examples=0, ndims=[2, 4] if like != "InstanceNorm" else [3, 4], **options)
    assert report.passed, report
    assert report.cases > 60
    assert {"y", "dx", "dgamma", "dbeta"} <= report.quantities.keys()


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(_returning(lambda dx, dgamma, dbeta: (dx, dgamma, -dbeta)), id="tuple"),
        pytest.param(_returning(lambda dx, dgamma, dbeta: {"dx": dx, "dgamma": dgamma, "dbeta": -dbeta}), id="dict"),
    ],
)
def test_returned_gradients_are_judged(layer):
    report = quick(layer, "LayerNorm", ndims=[2])
    assert {name for name, figures in report.quantities.items() if not figures.passed} == {"dbeta"}


def test_gradient_left_out_of_a_dict_is_missing():
    report = quick(_returning(lambda dx, dgamma, dbeta: {"dx": dx, "dgamma": dgamma}), "LayerNorm", ndims=[2])
    assert {name for name, figures in report.quantities.items() if not figures.passed} == {"dbeta"}


def test_channels_last_layer_needs_the_option():
    with pytest.raises(Refused, match=r"4D: refused: ValueError: Expected x of shape .* but got \(3, 5, 6, 4\)"):
        quick(LastGroupNorm, "GroupNorm", ndims=[4])


# --- what cannot be checked -------------------------------------------------------------------------------------------


class Refusing(npnorm.LayerNorm):
    def forward(self, x):
        raise NotImplementedError("some other day")


def _without(method):
    layer = type("HalfLayerNorm", (), {"__init__": lambda self, normalized_shape: None})
    for name in {"forward", "backward"} - {method}:
        setattr(layer, name, lambda self, array: array)
    return layer


UNUSABLE = {
    "refuses every rank": (
        Refusing,
        r"takes no x of any rank that LayerNorm has \(2D: refused: NotImplementedError: some other day; 3D",
    ),
    "no forward": (_without("forward"), r"has no method forward: expected forward\(x\) and backward\(dy\)"),
    "no backward": (_without("backward"), r"has no method backward: expected forward\(x\) and backward\(dy\)"),
    "other keywords": (
        lambda rows, columns: None,
        r"does not take normalized_shape and asks for rows and columns: expected a class or factory with",
    ),
    "an object, not a class": (
        npnorm.LayerNorm(3),
        "does not take normalized_shape and asks for x: expected a class or factory",
    ),
    "no gradients": (
        HiddenLayerNorm,
        "has gradients that were not found: it holds weight, and no gradient of it; say which is which with --names",
    ),
    "builds nothing": (lambda normalized_shape: None, "has no method forward"),
    "half precision only": (_of_one_dtype("float16"), "takes no x of any rank|takes neither float64 nor float32"),
}


@pytest.mark.parametrize(("layer", "text"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_layer_is_refused(layer, text):
    with pytest.raises(Refused, match=text):
        check(layer, "LayerNorm", examples=0)
