"""What the tests of a layer's behaviour share: right layers that do something more, and the verdict on them."""

import json

import npnorm
from reference import check


def odd(**methods):
    """npnorm's LayerNorm with other methods."""
    return type("OddLayerNorm", (npnorm.LayerNorm,), methods)


def in_forward(extra):
    """A right layer that does something more in forward: extra(x, y) may give another y."""

    def forward(self, x):
        y = npnorm.LayerNorm.forward(self, x)
        given = extra(x, y)
        return y if given is None else given[0]

    return odd(forward=forward)


def in_backward(extra):
    """The same in backward: extra(layer, dy, dx)."""

    def backward(self, dy):
        dx = npnorm.LayerNorm.backward(self, dy)
        given = extra(self, dy, dx)
        return dx if given is None else given[0]

    return odd(backward=backward)


def dgamma_as(change):
    def extra(layer, dy, dx):
        if layer.dgamma is not None:
            layer.dgamma = change(layer.dgamma)

    return in_backward(extra)


def verdict(layer, **options):
    """The report on a layer, after it has been printed and written as JSON, which must not fail either."""
    report = check(layer, "LayerNorm", **({"examples": 0, "ndims": [2], "minimize": False, "timeout": 20} | options))
    assert str(report)
    assert json.dumps(report.to_dict(), allow_nan=False)
    return report
