"""The words of strangers, by table: what each name stands for, where an array lives, how a signature is called."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reference.cases.case import make
from reference.kinds import KINDS, kind_named
from reference.subjects.constructor import constructor_of
from reference.subjects.names import KEYWORDS, MODES, PARAMETERS, flat, rank_of, role_of, words
from reference.subjects.places import Found, Place, chosen, look

# --- names ------------------------------------------------------------------------------------------------------------

ROLES: dict[str | None, list[tuple[str, ...]]] = {
    "gamma": [
        *[("gamma",), ("weight",), ("W",), ("g",), ("_gamma",), ("scale",), ("gamma_param",), ("ln_gain",), ("Gamma",)],
        *[
            ("params", "scale"),
            ("params", "W"),
            ("weight", "data"),
            ("gamma", "value"),
            ("self_gamma",),
            ("bn_weight",),
        ],
    ],
    "beta": [
        *[("beta",), ("bias",), ("b",), ("shift",), ("offset",), ("beta_",), ("params", "b"), ("bias", "data")],
        *[("p", "beta")],
    ],
    "dgamma": [
        *[
            ("dgamma",),
            ("dW",),
            ("grad_gamma",),
            ("gammaGrad",),
            ("gamma_grad",),
            ("_gamma_grad",),
            ("d_gamma",),
            ("dg",),
        ],
        *[("grads", "W"), ("grads", "gamma"), ("gradients", "weight"), ("weight", "grad"), ("gamma", "gradient")],
        *[("dLdBW",), ("dLdgamma",), ("delta_gamma",), ("gradgamma",), ("grad_weight",), ("d_g",), ("grads", "dgamma")],
    ],
    "dbeta": [
        *[("dbeta",), ("db",), ("grad_beta",), ("betaGrad",), ("bias_grad",), ("d_bias",), ("dbias",), ("dLdBB",)],
        *[("grads", "b"), ("bias", "grad"), ("gradients", "shift")],
    ],
    "running_mean": [
        *[
            ("running_mean",),
            ("moving_mean",),
            ("run_mean",),
            ("global_mean",),
            ("pop_mean",),
            ("running_mu",),
            ("mean_ema",),
        ],
        *[("moving_average",), ("runningMean",), ("mu_avg",), ("test_mean",)],
    ],
    "running_var": [
        *[("running_var",), ("moving_var",), ("moving_variance",), ("run_var",), ("running_sigma2",), ("avg_var",)],
        *[("params", "running_var"), ("runningVariance",), ("var_exp",)],
    ],
    None: [
        *[
            ("x",),
            ("xhat",),
            ("mean",),
            ("var",),
            ("std",),
            ("cache",),
            ("eps",),
            ("momentum",),
            ("training",),
            ("dx",),
        ],
        *[("num_groups",), ("activation",), ("grads",), ("params",), ("dim",), ("input_shape",), ("running_count",)],
    ],
}


@pytest.mark.parametrize(
    ("names", "role"), [pytest.param(n, r, id=f"{'.'.join(n)}-{r}") for r, found in ROLES.items() for n in found]
)
def test_role_is_told_by_the_names_on_the_way(names, role):
    assert role_of(names) == role


@pytest.mark.parametrize(
    ("name", "parts"),
    [("gradGamma_x2", ["grad", "gamma", "x2"]), ("_d_W", ["d", "w"]), ("runningMean", ["running", "mean"]), ("_", [])],
)
def test_name_is_taken_apart_into_words(name, parts):
    assert words(name) == parts


def test_tables_are_written_as_they_are_compared():
    """Without case and underscores; a word that is not could never be found."""
    for table in (KEYWORDS, PARAMETERS):
        for spelled in table.values():
            assert [word for word in spelled if word != flat(word)] == []
    assert [word for word in MODES if word != flat(word)] == []
    assert {keyword for kind in KINDS.values() for keyword in kind.keywords} == KEYWORDS.keys()
    assert all(flat(keyword) == spelled[0] for keyword, spelled in KEYWORDS.items() if keyword != "num_channels")


@pytest.mark.parametrize("like", KINDS)
def test_each_spelling_of_a_keyword_is_found(like):
    """As the one thing that a constructor asks for, and as an option where the word is more than a letter."""
    kind = kind_named(like)
    for keyword in kind.keywords:
        for word in KEYWORDS[keyword]:
            others = "".join(f"{name}, " for name in kind.required if name != keyword)
            default = "" if keyword in kind.required else f"={kind.optional[keyword]!r}"
            if default and len(word) == 1:
                continue
            factory = eval(f"lambda {others}{word}{default}: None")
            assert constructor_of(factory, kind, {}).takes.get(keyword) == word, (keyword, word)


def test_of_two_arrays_the_better_name_is_taken():
    assert rank_of("gamma", "gamma") < rank_of("initial_gamma", "gamma") < rank_of("w", "gamma")
    one, two = (Found(Place((("attribute", name),)), np.ones(3), "gamma") for name in ("w", "gamma"))
    assert chosen([one, two], "gamma") == [two]
    assert chosen([], "gamma") == []


def test_places_of_one_array_are_all_taken():
    array = np.ones(3)
    places = [Found(Place((("attribute", name),)), array, "gamma") for name in ("weight", "gamma")]
    assert {found.place.names for found in chosen(places, "gamma")} == {("weight",), ("gamma",)}


# --- places -----------------------------------------------------------------------------------------------------------

PLACES = {
    "gamma": ("gamma", ("gamma",)),
    'params["W"]': ("params['W']", ("params", "W")),
    "params['W']": ("params['W']", ("params", "W")),
    "params[W]": ("params['W']", ("params", "W")),
    "weight.data": ("weight.data", ("weight", "data")),
    "grads[0]": ("grads[0]", ("grads", "0")),
    "grads[-1]": ("grads[-1]", ("grads", "-1")),
    " bn.params[ 'W' ].grad": ("bn.params['W'].grad", ("bn", "params", "W", "grad")),
}


@pytest.mark.parametrize(("text", "shown", "names"), [(t, *row) for t, row in PLACES.items()], ids=PLACES)
def test_place_is_read(text, shown, names):
    place = Place.parse(text)
    assert (str(place), place.names) == (shown, names)
    assert Place.parse(shown) == place


@pytest.mark.parametrize("text", ["", "   ", ".gamma", "['W']", "3", "a b", "a[", "a]", "a['W]", "a.", "a-b", "f()"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match=r'Expected a name as gamma, params\["W"\] or weight\.data but got '):
        Place.parse(text)


@pytest.mark.parametrize("text", ["gamma", "params['W']", "weight.data", "grads[1]"])
def test_place_is_read_and_written(text):
    layer = SimpleNamespace(gamma=0, params={"W": 0}, weight=SimpleNamespace(data=0), grads=[5, 0])
    place = Place.parse(text)
    assert place.get(layer) == 0
    place.set(layer, 7)
    assert place.get(layer) == eval(f"layer.{text}", {"layer": layer}) == 7


@pytest.mark.parametrize("text", ["absent", "absent.data", "params['b']", "grads[2]", "gamma['W']"])
def test_place_where_nothing_is_gives_none(text):
    layer = SimpleNamespace(gamma=0, params={}, grads=[5, 0])
    assert Place.parse(text).get(layer) is None


def test_all_of_a_layer_is_looked_at():
    class Odd:
        __slots__ = ("__dict__", "slot")
        kept = 3.0

        def __init__(self):
            self.slot, self._scale, self.params = np.ones(1), np.ones(2), {"b": np.ones(3), "deep": {"W": np.ones(4)}}
            self.weight = SimpleNamespace(data=np.ones(5), grad=None, name="w")
            self.weights, self.grads = [np.ones(6), np.ones(7)], [np.ones(8), np.ones(9)]

        @property
        def bias(self):
            return np.ones(10)

        @property
        def angry(self):
            raise RuntimeError("not now")

        def forward(self, x):
            return x

    found = {str(entry.place): entry.role for entry in look(Odd())}
    assert {name: found[name] for name in ("slot", "_scale", "kept", "bias", "params['b']", "params['deep']['W']")} == {
        **{"slot": None, "_scale": "gamma", "kept": None, "bias": "beta", "params['b']": "beta"},
        "params['deep']['W']": "gamma",
    }
    assert (found["weight.data"], found["weight.grad"]) == ("gamma", "dgamma")
    assert (found["weights[0]"], found["weights[1]"], found["grads[0]"], found["grads[1]"]) == (
        *("gamma", "beta"),
        *("dgamma", "dbeta"),
    )
    assert not {"angry", "forward", "weight.name"} & found.keys()


# --- constructors -----------------------------------------------------------------------------------------------------


def positional(dim, /, eps=1e-5): ...


def everything(**kwargs): ...


def some_and_everything(dim, **kwargs): ...


def required_figures(channels, eps, momentum): ...


def flags(c, affine=True, track=False, scale=True): ...


def arrays(gamma, beta, momentum=0.9, running_mean=None, running_var=None): ...


def alone(whatever): ...


def stranger(num_features, dropout): ...


def sizes(groups, size, epsilon=1e-3): ...


# The factory, the kind, what a case makes of it, what it is read as, and what it asks for that nothing stands for.
SIGNATURES: dict[str, tuple[Any, Any, tuple[list[Any], dict[str, Any]] | None, list[str], tuple[str, ...]]] = {
    "positional only": (positional, "LayerNorm", ([5], {"eps": 0.1}), ["dim = normalized_shape"], ()),
    "a lambda": (
        lambda normalized_shape: None,
        "LayerNorm",
        ([], {"normalized_shape": 5}),
        [],
        (),
    ),
    "any keyword": (everything, "LayerNorm", ([], {"normalized_shape": 5, "eps": 0.1}), [], ()),
    "a word and any keyword": (
        some_and_everything,
        "LayerNorm",
        ([], {"dim": 5, "eps": 0.1}),
        ["dim = normalized_shape"],
        (),
    ),
    "required eps and momentum": (
        required_figures,
        "BatchNorm",
        ([], {"channels": 5, "eps": 0.1, "momentum": 0.1}),
        ["channels = num_features"],
        (),
    ),
    "flags": (flags, "BatchNorm", ([], {"c": 5, "affine": True}), ["c = num_features"], ()),
    "groups": (
        sizes,
        "GroupNorm",
        ([], {"groups": 1, "size": 5, "epsilon": 0.1}),
        ["groups = num_groups", "size = num_channels", "epsilon = eps"],
        (),
    ),
    "one argument of any name": (alone, "RMSNorm", ([], {"whatever": 5}), ["whatever = normalized_shape"], ()),
    "unknown": (stranger, "BatchNorm", None, [], ("dropout",)),
    "no size": (lambda x: None, "LayerNorm", None, [], ("x",)),
    "a foreign kind's word": (lambda num_groups: None, "LayerNorm", None, [], ("num_groups",)),
}


@pytest.mark.parametrize(("factory", "like", "called", "read_as", "unknown"), SIGNATURES.values(), ids=SIGNATURES)
def test_constructor_is_read(factory, like, called, read_as, unknown):
    constructor = constructor_of(factory, kind_named(like), {})
    assert constructor.unknown == unknown
    if called is not None:
        assert constructor.arguments(make(like, (3, 5), eps=0.1)) == called
        assert constructor.read_as() == read_as
        factory(*called[0], **called[1])


def test_arrays_are_handed_to_a_constructor_that_asks_for_them():
    case = make("BatchNorm", (4, 3), momentum=0.4)
    _, named = constructor_of(arrays, case.kind, {}).arguments(case)
    gamma, beta = case.parameters()
    assert named.keys() == {"gamma", "beta", "momentum", "running_mean", "running_var"}
    np.testing.assert_array_equal(named["gamma"], gamma)
    np.testing.assert_array_equal(named["beta"], beta)
    assert (named["momentum"], named["running_mean"].tolist(), named["running_var"].tolist()) == (0.4, [0] * 3, [1] * 3)


def test_what_is_said_outright_comes_first():
    names = {"eps": "fuzz", "training": "momentum"}  # the second is none of a constructor's
    constructor = constructor_of(lambda dim, fuzz, eps=3, momentum=4: None, kind_named("LayerNorm"), names)
    case = make("LayerNorm", (3, 5), eps=0.1)
    assert constructor.arguments(case) == ([], {"dim": 5, "fuzz": 0.1})


@pytest.mark.parametrize(
    ("factory", "several"),
    [
        (lambda normalized_shape: None, True),
        (lambda dim: None, False),
        (lambda shape: None, True),
        (lambda hidden_size: None, False),
    ],
    ids=["normalized_shape", "dim", "shape", "hidden_size"],
)
def test_several_axes_are_meant_where_the_size_is_called_a_shape(factory, several):
    assert constructor_of(factory, kind_named("LayerNorm"), {}).takes_several_axes is several


def test_one_size_becomes_a_tuple_where_it_must():
    constructor = replace(constructor_of(lambda dim: None, kind_named("LayerNorm"), {}), tuple_shape=True)
    assert constructor.arguments(make("LayerNorm", (3, 5))) == ([], {"dim": (5,)})
