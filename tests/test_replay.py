"""The functions of which a script to paste consists, as code: each against what the verdict itself does.

A right layer is run by the scripts of its probes, and must give in them what the subject's runner sees, to the last bit.
"""

import inspect
import re
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import npnorm
from reference.cases.case import ANOTHER, LAYOUTS, Case, make
from reference.cases.probes import probes
from reference.dtypes import carried
from reference.kinds import KINDS
from reference.reporting import replay
from reference.reporting import script as scripts
from reference.subjects import spoken
from reference.subjects.gathering import parameter_like
from reference.subjects.guard import Clock
from reference.subjects.in_process import InProcess
from reference.subjects.reading import read
from reference.truth.convention import TORCH
from reference.truth.torch_layers import LAYERS
from reference.truth.verdict import Trial, judge

every_like = pytest.mark.parametrize("like", KINDS)

# --- how an array lies in memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "dtype"), [((3, 4), "float64"), ((2, 3, 4, 5), "float32"), ((1, 6, 1), "float16")])
def test_layouts_are_the_cases(layout: str, shape: tuple[int, ...], dtype: str) -> None:
    case = make("LayerNorm", shape, seed=3, dtype=dtype)
    wanted = replace(case, layout=layout).arrays().x
    plain = case.arrays().x
    array = eval(scripts.LAYOUTS[layout].format("a"), {**vars(replay), "a": plain})
    np.testing.assert_array_equal(array, wanted, strict=True)
    assert array.strides == wanted.strides
    assert str(array.flags) == str(wanted.flags)
    assert not np.may_share_memory(array, plain)
    if wanted.base is not None:  # what lies around it
        np.testing.assert_array_equal(array.base, wanted.base, strict=True)


def test_there_is_a_function_for_each_layout() -> None:
    assert tuple(scripts.LAYOUTS) == LAYOUTS


def test_one_axis_cannot_be_transposed() -> None:
    a = np.arange(3.0)
    np.testing.assert_array_equal(replay.transposed(a), a, strict=True)


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_module(case: Case) -> Any:
    return LAYERS[case.kind.name](**case.options)._made_for(len(case.shape))


@every_like
def test_torch_answer_is_that_of_the_verdict(like: str) -> None:
    """In float64, of each rank, with gamma and beta or without, in each history, in both modes."""
    kind = KINDS[like]
    for rank, calls, affine in product(kind.ranks, (1, 3), (True, False)):
        plain = make(kind, (4, 6, 2, 3, 2)[:rank], groups=2, seed=rank, calls=calls, **{kind.affine_keyword: affine})
        for case in (plain, replace(plain, training=False, calls=calls + 1)):
            wanted = InProcess(LAYERS[like], kind, "torch").run(case).outcome
            xs, dys = zip(*(case.arrays(call) for call in range(case.calls)), strict=True)
            module = torch_module(case)
            modes = [case.training_in(call) for call in range(case.calls)]
            parameters = [value for value in case.parameters() if value is not None]
            found = replay.torch_answer(module, replay.in_modes(module, modes, xs), dys, *parameters)
            if kind.tracks:
                found |= {name: np.ravel(getattr(module, name)) for name in ("running_mean", "running_var")}
            assert found.keys() == wanted.keys(), case
            for name in wanted:
                np.testing.assert_array_equal(found[name], wanted[name], f"{name} of {case}", strict=True)


def test_torch_answer_is_computed_in_float64() -> None:
    case = make("GroupNorm", (3, 4), groups=2, seed=5, dtype="float16")
    (x, dy), parameters = case.arrays(), case.parameters()
    wide = [np.asarray(value, np.float64) for value in (x, dy, *parameters)]
    found = replay.torch_answer(torch_module(case), [x], [dy], *parameters)
    wanted = replay.torch_answer(torch_module(case), [wide[0]], [wide[1]], *wide[2:])
    for name in ("y", "dx", "dgamma", "dbeta"):
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)


# --- right layers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """`run_script(subject, name, case)`: what the script of a case holds in the end, all quantities taken for wrong.

    The layer is had by that name from the file at `run_script.path`, as a stranger's would be.
    """
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "layer_under_test", SimpleNamespace())  # put back afterwards
    path = tmp_path / "their_layers.py"

    def held(subject: InProcess, name: str, case: Case) -> dict[str, Any]:
        monkeypatch.setattr(spoken, "_place", lambda factory: (str(path), name))
        read(subject, None, None, Clock(60))
        trial = judge(subject, case, TORCH)
        assert not trial.failed, trial.comparisons
        wrong = {name: replace(value, problem="wrong", got=None) for name, value in trial.comparisons.items()}
        program = scripts.script_for(subject, Trial(case, trial.seen, trial.expected, wrong))
        namespace: dict[str, Any] = {"__name__": "__main__"}
        with np.errstate(all="ignore"):
            exec(compile(program, "script", "exec"), namespace)
        return namespace

    held.path = path
    return held


def same_as_the_runner(run_script, like: str, cases: list[Case]) -> None:
    layer = getattr(npnorm, like)
    run_script.path.write_text(f"from npnorm import {like}\n")
    subject = InProcess(layer, KINDS[like], like)
    for case in cases:
        with np.errstate(all="ignore"):
            wanted = subject.run(case).outcome
        got = run_script(subject, like, case)["got"]
        assert got.keys() == wanted.keys(), case
        for name, value in got.items():
            np.testing.assert_array_equal(carried(value), wanted[name], f"{name} of {case}", strict=True)


@every_like
def test_script_runs_a_right_layer_as_the_verdict_does_in_every_history(like: str, run_script, capsys) -> None:
    """Every history, mode and layout; and each script ends in "no difference"."""
    kind = KINDS[like]
    case = make(kind, (4, 6, 3), groups=2, seed=4, **{kind.affine_keyword: True})
    cases = [
        replace(case, calls=calls, history=history, training=training, resize=resize)
        for (calls, history), training, resize in product(
            [(1, ""), *product((2, 3), ("", "forward only", "refilled", "eval between"))],
            (True, False) if kind.tracks else (True,),
            (True, False),
        )
    ]
    cases += [replace(case, layout=a, dy_layout=b) for a, b in zip(LAYOUTS, LAYOUTS[::-1], strict=True)]
    cases += [replace(case, layout="read-only", calls=2, history="refilled")]
    same_as_the_runner(run_script, like, cases)
    assert capsys.readouterr().out == "no difference\n" * len(cases)


@every_like
def test_script_of_every_probe_passes_for_a_right_layer(like: str, run_script, capsys) -> None:
    cases = [case for case in probes(KINDS[like]) if np.prod(case.shape) * case.calls < 300 and case.history != ANOTHER]
    same_as_the_runner(run_script, like, cases)
    assert capsys.readouterr().out == "no difference\n" * len(cases)


def test_default_eps_is_that_of_the_cases_dtype(run_script, capsys) -> None:
    """RMSNorm's: torch, asked in float64 for an answer to float32, would take another."""
    same_as_the_runner(run_script, "RMSNorm", [make("RMSNorm", (3, 5), dtype="float32", data="small", seed=2)])
    assert capsys.readouterr().out == "no difference\n"


# --- what the layer gives ---------------------------------------------------------------------------------------------


def test_run_keeps_y_as_it_was_returned() -> None:
    """A layer may write into its own y in the backward."""
    kept = []

    def forward(x):
        kept.append(2 * x)
        return kept[-1]

    def backward(dy):
        kept[-1][...] = 0
        return dy + 1

    y, returned = replay.run(forward, backward, [np.ones(2), np.full(2, 5.0)], [None, np.ones(2)])
    assert (y.tolist(), returned.tolist()) == ([10, 10], [2, 2])


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (7, {"dx": 7}),
        ((7, 8, 9), {"dx": 7, "dgamma": 8, "dbeta": 9}),
        ([7, 8], {"dx": 7, "dgamma": 8}),
        ((7, 8, 9, 10), {"dx": (7, 8, 9, 10)}),
        ((), {"dx": ()}),
        ((7, (8, 9)), {"dx": 7, "dgamma": 8, "dbeta": 9}),
        ((7, None, 9), {"dx": 7, "dbeta": 9}),
        (None, {}),
    ],
    ids=str,
)
def test_what_backward_returned_has_names(returned: Any, expected: dict[str, Any]) -> None:
    assert replay.by_name(returned) == expected


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ({"gx": 7, "dW": 8, "dx": 9}, {"dx": 7, "dgamma": 8}),
        ({"gx": None, "dW": 8}, {"dgamma": 8}),
        ((7, {"dW": 8}), {"dx": 7, "dgamma": 8}),
        ((7, {}), {"dx": 7}),
    ],
    ids=str,
)
def test_what_backward_returned_in_a_dict_has_its_keys(returned: Any, expected: dict[str, Any]) -> None:
    assert replay.by_key(returned, **({"dx": "gx"} if isinstance(returned, dict) else {}), dgamma="dW") == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (("gamma",), 1),
        (("params", "W"), 2),
        (("params", "b"), None),
        (("grads", 1), 4),
        (("weight", "grad"), 5),
        (("absent", "grad"), None),
    ],
    ids=str,
)
def test_value_is_had_from_where_it_is(steps: tuple[Any, ...], expected: Any) -> None:
    layer = SimpleNamespace(gamma=1, params={"W": 2}, grads=[3, 4], weight=SimpleNamespace(grad=5))
    assert replay.at(layer, *steps) == expected


GRID = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("value", "own", "expected"),
    [
        pytest.param(GRID, GRID, GRID, id="as it is"),
        pytest.param(GRID.reshape(1, 2, 1, 3), GRID, GRID, id="axes of 1"),
        pytest.param(GRID.reshape(6, 1), GRID.reshape(1, 6), GRID, id="the layer's own shape"),
        pytest.param(GRID.reshape(6), GRID, GRID, id="flat"),
        pytest.param(GRID.T, GRID, GRID.T, id="transposed"),
        pytest.param(GRID[0], GRID, GRID[0], id="too few"),
    ],
)
def test_parameter_gradient_has_torchs_shape_if_the_verdict_would_give_it(value, own, expected) -> None:
    case = make("LayerNorm", (4, 2, 3), axes=2)
    np.testing.assert_array_equal(parameter_like(value, np.shape(own), case), expected, strict=True)
    np.testing.assert_array_equal(replay.parameter_gradient(value, own, np.zeros((2, 3))), expected, strict=True)


def test_parameter_gradient_that_is_nowhere_is_none() -> None:
    assert replay.parameter_gradient(None, None, np.zeros(3)) is None


@pytest.mark.parametrize(
    ("gradient", "own", "passes"),
    [
        ((2, 3), (2, 3), True),
        ((1, 3), (3,), True),
        ((3,), (1, 3, 1), False),
        ((6,), (2, 3), False),
        ((3, 1), (3,), False),
        ((), (3,), True),
    ],
    ids=str,
)
def test_gradient_that_would_change_the_parameters_size_is_told(gradient, own, passes) -> None:
    arrays = np.ones(gradient), np.ones(own)
    if passes:
        replay.check_update("dgamma", *arrays)
        return
    with pytest.raises(AssertionError, match=re.escape(f"dgamma: got shape {gradient}, expected {own}")):
        replay.check_update("dgamma", *arrays)


@pytest.mark.parametrize(
    ("own", "shape"),
    [(np.ones((1, 3, 1)), (1, 3, 1)), (None, (3,)), (np.ones(2), (3,))],
    ids=["its own shape", "none yet", "another size"],
)
def test_parameter_is_set_in_the_layers_shape_if_it_fits(own: Any, shape: tuple[int, ...]) -> None:
    layer = SimpleNamespace(weight=own)
    replay.set_parameter(layer, "weight", np.arange(3.0))
    np.testing.assert_array_equal(layer.weight, np.arange(3.0).reshape(shape), strict=True)


@pytest.mark.parametrize("owner", [{"W": np.ones((1, 3))}, [0, np.ones((1, 3))]], ids=["dict", "list"])
def test_parameter_is_set_where_the_layer_keeps_it(owner: Any) -> None:
    key = "W" if isinstance(owner, dict) else 1
    replay.set_entry(owner, key, np.arange(3.0))
    np.testing.assert_array_equal(owner[key], [[0.0, 1.0, 2.0]], strict=True)


@pytest.mark.parametrize("by", ["methods", "attribute", "word"])
def test_mode_is_set_before_each_call(by: str) -> None:
    layer = SimpleNamespace(seen=[], mode=None, training=None, phase=None)
    if by == "methods":
        layer.train, layer.eval = lambda: setattr(layer, "mode", True), lambda: setattr(layer, "mode", False)
    told = {"attribute": {"training": (True, False)}, "word": {"phase": ("train", "test")}}.get(by, {})
    for x in replay.in_modes(layer, [True, False, True], [np.ones(1)] * 3, **told, absent=(1, 2)):
        assert x.tolist() == [1]
        layer.seen.append({"methods": layer.mode, "attribute": layer.training, "word": layer.phase}[by])
    assert layer.seen == (["train", "test", "train"] if by == "word" else [True, False, True])
    assert not hasattr(layer, "absent")


def test_forward_is_told_its_mode_in_each_call() -> None:
    forward = replay.telling(lambda x, train, phase: (x, train, phase), train=[True, False], phase=["a", "b"])
    assert [forward(1), forward(2)] == [(1, True, "a"), (2, False, "b")]


def test_cache_goes_from_forward_to_its_backward() -> None:
    y, returned = replay.run_with_cache(
        lambda x: (2 * x, x, 7), lambda dy, x, seven: dy * x + seven, [np.ones(2), np.full(2, 5.0)], [None, np.ones(2)]
    )
    assert (y.tolist(), returned.tolist()) == ([10, 10], [12, 12])


def test_refilled_is_one_array_and_filled_no_sooner_than_asked_for() -> None:
    first, second = replay.read_only(np.ones(2)), np.full(2, 5.0)
    calls = replay.refilled([first, second])
    array = next(calls)
    assert array.tolist() == [1, 1]
    assert next(calls) is array
    assert array.tolist() == [5, 5]


# --- what a layer must not do -----------------------------------------------------------------------------------------


def test_untouched_arrays_pass_and_others_are_told() -> None:
    def write(x):
        x[0] = -0.0  # which equals what was there, but is not the same
        return "y"

    x, other = np.array([0.0, np.nan]), np.ones(2)
    assert replay.untouched(write, [other], "other was changed")(x.copy()) == "y"
    with pytest.raises(AssertionError, match=r"^x was changed by forward$"):
        replay.untouched(write, [other, x], "x was changed by forward")(x)


@pytest.mark.parametrize("later", [0.0, 1.0], ids=["changed", "the same"])
@pytest.mark.parametrize("form", [lambda array: array, lambda array: (array, "cache")], ids=["alone", "in a tuple"])
def test_result_that_changes_later_is_told(later: float, form: Any) -> None:
    array, held = np.array([1.0, np.nan]), []
    assert replay.remembering(form, held)(array) is not None
    array[0] = later
    if later:
        replay.check_held(held, "y has changed")
        return
    with pytest.raises(AssertionError, match=r"^y has changed$"):
        replay.check_held(held, "y has changed")


def test_gamma_a_group_is_told() -> None:
    replay.check_size("gamma", np.ones((1, 6)), 6)
    replay.check_size("gamma", None, 6)
    with pytest.raises(AssertionError, match=r"gamma has shape \(3,\), expected \(6,\)"):
        replay.check_size("gamma", np.ones(3), 6)


# --- the two side by side ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "dx: got NoneType, expected an array"),
        ([1.0, 2.0], "dx: got list, expected an array"),
        (np.array(["1", "2"]), "dx: got dtype <U1, expected numbers"),
        (np.array([1, 2], complex), "dx: got dtype complex128, expected numbers"),
        (np.array([[1.0, 2.0]]), r"dx: got shape \(1, 2\), expected \(2,\)"),
        (np.array([1.0, 2.2]), r"(?s)dx.*2\.2"),
        (np.array([1.0, np.nan]), "(?s)dx.*nan"),
    ],
    ids=["none", "list", "text", "complex", "shape", "value", "nan"],
)
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        replay.compare({"y": np.zeros(1), "dx": value}, {"y": np.ones(1), "dx": np.array([1.0, 2.0])}, {"dx": 0.1})


@pytest.mark.parametrize("value", [np.array([1.05, 2]), np.array([1, 2]), np.array([1, 2], np.float16)], ids=str)
def test_what_is_within_its_tolerance_passes(value: Any) -> None:
    replay.compare({"dx": value}, {"dx": np.array([1.0, 2.0])}, {"dx": 0.1})
    replay.compare({"dx": np.array([np.inf, np.nan])}, {"dx": np.array([np.inf, np.nan])}, {"dx": 0.1})


def test_no_function_calls_another() -> None:
    """A script takes those that it calls, and would lack the others."""
    functions = {name for name, value in vars(replay).items() if inspect.isfunction(value)}
    for name in functions:
        assert not functions & set(getattr(replay, name).__code__.co_names), name


# --- the layer's file -------------------------------------------------------------------------------------------------


def test_file_is_loaded_with_its_neighbours_as_it_is_now(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "layer_under_test", SimpleNamespace())
    (tmp_path / "neighbour_of_a_layer.py").write_text("EPS = 3\n")
    path = tmp_path / "their_layers.py"
    for number in (1, 2):
        path.write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            f"from neighbour_of_a_layer import EPS\n\n@dataclass\nclass Layer:\n    n: int = {number} + EPS\n"
        )
        module = replay.load(str(path))
        assert module.Layer().n == number + 3
        assert sys.modules["layer_under_test"] is module, "where dataclasses, for one, look for it"
    monkeypatch.delitem(sys.modules, "neighbour_of_a_layer")
