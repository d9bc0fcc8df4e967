"""What a layer may do wrong besides its numbers: each becomes a finding or a refusal, none a traceback of ours.

And nothing of it stays: what is printed, random numbers, error settings and the time are as they were.
"""

import io
import random
import re
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import npnorm
from reference import Refused, check
from reference.subjects.guard import Clock, OutOfTime, describe, shielded
from tests.odd import dgamma_as, in_backward, in_forward, odd, verdict


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("there is no text")


class Wordless(Exception):
    def __str__(self):
        return 3


class OfItsOwn(BaseException):
    """Not an Exception, so that few catch it."""


def raising(error):
    def method(self, *arguments, **options):
        raise error

    return method


def unbuildable(error):
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True):
        raise error

    return odd(__init__=__init__)


# --- exceptions -------------------------------------------------------------------------------------------------------

ERRORS = {
    "ValueError": (ValueError("one\ntwo"), "ValueError: one"),
    "no text": (KeyError(), "KeyError"),
    "a text that raises": (Unspeakable(), "Unspeakable"),
    "a text that is none": (Wordless(), "Wordless"),
    "a very long text": (ValueError("long " * 9999), "ValueError: " + ("long " * 32)[:160]),
    "sys.exit": (SystemExit(3), "SystemExit: 3"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "a BaseException": (OfItsOwn("mine"), "OfItsOwn: mine"),
    "markup": (ValueError("[bold]no[/nothing]"), r"ValueError: \[bold\]no\[/nothing\]"),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_layer_that_always_raises_is_refused(error, words):
    for layer in (unbuildable(error), odd(forward=raising(error))):
        with pytest.raises(Refused, match=words + r"(\)|$|;)"):
            verdict(layer)


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_backward_that_always_raises_is_wrong(error, words):
    """A forward that works promises a backward: that it raises is a mistake, and its line is said."""
    report = verdict(odd(backward=raising(error)))
    assert not report.passed
    assert [fault.id for fault in report.faults] == ["backward-raises"]
    assert report.faults[0].quantities == ("dx", "dgamma", "dbeta")
    assert re.search(f"backward raised {words}, in test_guard.py:[0-9]+", report.faults[0].evidence)


@pytest.mark.parametrize("kind", ["ValueError", "a text that raises", "sys.exit", "a BaseException"])
def test_forward_that_raises_at_times_refuses_and_backward_is_wrong(kind):
    error, _ = ERRORS[kind]

    def for_one_row(x, y):
        if x.shape[0] == 1:
            raise error

    report = verdict(in_forward(for_one_row))
    assert report.passed
    assert report.not_covered["cases at a batch of 1"] == f"refused: {describe(error)}"
    report = verdict(in_backward(lambda layer, dy, dx: for_one_row(dy, dx)))
    assert not report.passed
    assert report.faults[0].id == "backward-raises"
    assert describe(error) in report.faults[0].evidence


def test_keyboard_interrupt_is_the_users():
    with pytest.raises(KeyboardInterrupt):
        verdict(odd(forward=raising(KeyboardInterrupt())))


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_endless_recursion(method):
    layer = odd(**{method: lambda self, array: getattr(self, method)(array)})
    words = "RecursionError: maximum recursion depth exceeded"
    if method == "forward":
        with pytest.raises(Refused, match=words):
            verdict(layer)
    else:
        assert words in verdict(layer).faults[0].evidence
    assert sys.getrecursionlimit() < 10**6


def test_parameter_that_cannot_be_read():
    broken = property(raising(RuntimeError("not today")), lambda self, value: None)
    with pytest.raises(Refused, match=r"takes no x of any rank .*: RuntimeError: not today"):
        verdict(odd(gamma=broken))


def test_layer_that_can_be_built_but_a_few_times():
    class FewBatchNorm(npnorm.BatchNorm):
        built = 0

        def __init__(self, num_features):
            FewBatchNorm.built += 1
            if FewBatchNorm.built > 3:
                raise RuntimeError("no more")
            super().__init__(num_features)

    with pytest.raises(Refused, match="RuntimeError: no more"):
        check(FewBatchNorm, examples=0, ndims=[2])


# --- what is returned -------------------------------------------------------------------------------------------------

LATELY = np.array(["2020-01-01"], "M8[s]")

RETURNED = {  # the layer, what is wrong, and the words for it
    "y a number": (in_forward(lambda x, y: (y.sum(),)), "y", "got float(16|32|64), expected an array"),
    "y objects": (in_forward(lambda x, y: (y.astype(object),)), "y", "got dtype object, expected float"),
    "y strings": (in_forward(lambda x, y: (y.astype(str),)), "y", "got dtype <U32, expected float"),
    "dx a string": (in_backward(lambda layer, dy, dx: ("dx",)), "dx", "got str, expected an array"),
    "dx flat": (in_backward(lambda layer, dy, dx: (dx.ravel(),)), "dx", r"got shape \(\d+,\), expected \(\d+, \d+\)"),
    "dgamma bools": (dgamma_as(lambda g: g > 0), "dgamma", "got dtype bool, expected float"),
    "y None": (in_forward(lambda x, y: (None,)), "y", "got None, expected an array"),
    "y a list": (in_forward(lambda x, y: (y.tolist(),)), "y", "got list, expected an array"),
    "y a string": (in_forward(lambda x, y: ("y",)), "y", "got str, expected an array"),
    "y complex": (in_forward(lambda x, y: (y + 0j,)), "y", "got dtype complex128, expected float"),
    "y transposed": (in_forward(lambda x, y: (y.T,)), "y", r"got shape \(\d+, \d+\), expected \(\d+, \d+\)"),
    "y without an axis": (in_forward(lambda x, y: (y[0],)), "y", r"got shape \(7,\), expected \(1, 7\)"),
    "y all NaN": (in_forward(lambda x, y: (y * np.nan,)), "y", "got nan, expected "),
    "y all inf": (in_forward(lambda x, y: (y + np.inf,)), "y", "got inf, expected "),
    "dx None": (in_backward(lambda layer, dy, dx: (None,)), "dx", "got None, expected an array"),
    "dx a list of rows": (
        in_backward(lambda layer, dy, dx: ([*dx, *dx, *dx, *dx],)),
        "dx",
        "got list, expected an array",
    ),
    "dx complex": (in_backward(lambda layer, dy, dx: (dx * 1j,)), "dx", "got dtype complex128, expected float"),
    "dx all NaN": (in_backward(lambda layer, dy, dx: (dx * np.nan,)), "dx", "got nan, expected "),
    "dgamma None": (dgamma_as(lambda g: None), "dgamma", "got None, expected an array"),
    "dgamma a string": (dgamma_as(lambda g: "abc"), "dgamma", "got dtype <U3, expected float"),
    "dgamma complex": (dgamma_as(lambda g: g + 1j), "dgamma", "got dtype complex128, expected float"),
    "dgamma objects": (dgamma_as(lambda g: g.astype(object)), "dgamma", "got dtype object, expected float"),
    "dgamma dates": (
        dgamma_as(lambda g: np.repeat(LATELY, g.size)),
        "dgamma",
        r"got dtype datetime64\[s\], expected float",
    ),
    "dgamma one short": (dgamma_as(lambda g: g[:-1]), "dgamma", r"got shape \(\d+,\), expected \(\d+,\)"),
}


@pytest.mark.parametrize(("layer", "quantity", "words"), RETURNED.values(), ids=RETURNED)
def test_what_is_returned_is_no_such_array(layer, quantity, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = verdict(layer)
    assert not report.passed
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    assert wrong == {quantity}
    (message,) = [str(comparison) for comparison in report.counterexample.comparisons]
    pytest.importorskip("re").search(words, message) or pytest.fail(f"{message!r} does not say {words!r}")


def test_sizes_beyond_all_memory():
    """Such a y is of a wrong shape; it is not copied to find that out."""
    report = verdict(in_forward(lambda x, y: (np.broadcast_to(y, (10**13, *y.shape)),)))
    assert report.counterexample.comparisons[0].problem.startswith("got shape (10000000000000, ")


@pytest.mark.parametrize("kind", [np.matrix, np.ma.MaskedArray], ids=["matrix", "masked"])
def test_kinds_of_arrays_are_taken_for_arrays(kind):
    """Right numbers in an array of another class are right."""
    assert verdict(in_forward(lambda x, y: (y.view(kind),))).passed


# --- what is done to the caller's arrays ------------------------------------------------------------------------------


def _aliased(layer, dy, dx):
    dy[...] = dx
    return (dy,)


_into_output = odd(
    forward=lambda self, x: setattr(self, "y", npnorm.LayerNorm.forward(self, x)) or self.y,
    backward=lambda self, dy: np.copyto(self.y, npnorm.LayerNorm.backward(self, dy)) or self.y,
)


class _in_a_buffer(npnorm.LayerNorm):
    def forward(self, x):
        y = super().forward(x)
        self.buffers = getattr(self, "buffers", {})
        buffer = self.buffers.setdefault((y.shape, y.dtype), y)
        np.copyto(buffer, y)
        return buffer


DEEDS = {  # the layer, the mistake, the quantity, and a word of what was seen
    "forward writes into x": (in_forward(lambda x, y: x.fill(0)), "input-mutated", "y", "x was changed by forward"),
    "backward writes into dy": (
        in_backward(lambda layer, dy, dx: np.negative(dy, out=dy) is None or None),
        "upstream-gradient-mutated",
        "dx",
        "dy was changed by backward",
    ),
    "dx is written into dy": (in_backward(_aliased), "upstream-gradient-mutated", "dx", "dy was changed by backward"),
    "dx is written into y": (_into_output, "result-overwritten", "y", "the y that was handed out has changed since"),
    "y is in one and the same buffer": (
        _in_a_buffer,
        "result-overwritten",
        "y",
        "the y that was handed out has changed",
    ),
    "y is narrower": (
        in_forward(lambda x, y: (y.astype(np.float32),)),
        "dtype-demoted",
        "y",
        "y has dtype float32 for an x of float64",
    ),
}


@pytest.mark.parametrize(("layer", "id", "quantity", "words"), DEEDS.values(), ids=DEEDS)
def test_behaviour_is_named(layer, id, quantity, words):
    report = verdict(layer)
    assert not report.passed
    (fault,) = report.faults
    assert fault.id == id
    # where it could not write, into a read-only array, all that comes after is missing, and that is of the same cause
    wrong = {name for name, figures in report.quantities.items() if not figures.passed}
    assert fault.quantities[0] == quantity
    assert set(fault.quantities) == {quantity} | wrong
    assert words in fault.evidence


def test_backward_that_writes_into_x_of_the_forward():
    class HoldingLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            self.x = x
            return super().forward(x)

        def backward(self, dy):
            self.x *= 2
            return super().backward(dy)

    report = verdict(HoldingLayerNorm)
    assert [fault.id for fault in report.faults] == ["input-mutated"]
    assert any(
        "x was changed by backward" in text for text in (*report.counterexample.problems, report.faults[0].evidence)
    )


# --- what must be as it was -------------------------------------------------------------------------------------------


def _vandal(x, y):
    np.random.seed(0)  # noqa: NPY002
    np.random.rand(3)  # noqa: NPY002
    np.seterr(all="raise", under="warn")
    sys.setrecursionlimit(3210)
    print("so much to say " * 10_000)
    print("and here", file=sys.stderr)
    warnings.warn("beware", stacklevel=1)
    warnings.simplefilter("always")
    sys.stdout, sys.stderr = io.StringIO(), None


def test_nothing_that_it_does_stays(capfd):
    before = (np.random.get_state()[1].tolist(), np.geterr(), sys.getrecursionlimit())  # noqa: NPY002
    streams, filters, mine = (sys.stdout, sys.stderr), list(warnings.filters), random.getstate()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        report = check(in_forward(_vandal), "LayerNorm", examples=20, ndims=[2])
    assert report.passed  # printing it would draw a random number, for rich
    assert (np.random.get_state()[1].tolist(), np.geterr(), sys.getrecursionlimit()) == before  # noqa: NPY002
    assert (sys.stdout, sys.stderr) == streams
    assert warnings.filters == filters
    assert random.getstate() == mine
    assert warned == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_error_settings_of_their_file_do_not_matter():
    """`np.seterr(all="raise")` where a module is imported holds for the whole process."""
    underflowing = in_forward(lambda x, y: np.square(np.full(2, 1e-30, np.float32)) is None or None)
    with np.errstate(all="raise"):
        assert check(npnorm.GroupNorm, examples=10).passed
        assert verdict(underflowing).passed


def test_shield_gives_the_global_generator_its_own_numbers():
    np.random.seed(4)  # noqa: NPY002
    expected = np.random.rand(4).tolist()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    drawn = np.random.rand(2).tolist()  # noqa: NPY002
    with shielded():
        np.random.seed(9)  # noqa: NPY002
        inside = np.random.rand(2).tolist()  # noqa: NPY002
    assert drawn + np.random.rand(2).tolist() == expected  # noqa: NPY002
    assert inside == np.random.RandomState(9).rand(2).tolist(), "the layer's own seed is its own"


def test_shield_is_down_after_an_exception():
    settings, streams = np.geterr(), (sys.stdout, sys.stderr)

    def fails():
        with shielded():
            np.seterr(all="raise")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert np.geterr() == settings
    assert (sys.stdout, sys.stderr) == streams


# --- time -------------------------------------------------------------------------------------------------------------


def _spins():
    while True:
        pass


def _sleeps():
    time.sleep(30)


def _swallows():
    while True:
        try:
            while True:
                sum(range(100))
        except:  # noqa: E722 - that is the point
            pass


def _swallows_and_sleeps():
    while True:
        try:  # noqa: SIM105 - as it is written in the world
            time.sleep(0.01)
        except BaseException:
            pass


def _swallows_in_a_function():
    while True:
        try:
            _spins()
        except BaseException as error:
            str(error)


ENDLESS = (_spins, _sleeps, _swallows, _swallows_and_sleeps, _swallows_in_a_function)


@pytest.mark.parametrize("run", ENDLESS, ids=lambda run: run.__name__.strip("_").replace("_", "-"))
def test_time_ends_what_does_not_end_by_itself(run):
    started, tracing = time.monotonic(), sys.gettrace()
    with pytest.raises(OutOfTime), Clock(0.05).interrupting():
        run()
    assert time.monotonic() - started < 5
    assert sys.gettrace() is tracing
    time.sleep(0.06)  # nothing rings any more


def test_time_that_is_not_over_interrupts_nothing():
    clock = Clock(30)
    with clock.interrupting():
        time.sleep(0.01)
    assert 29 < clock.left < 30


def test_time_in_another_thread_is_not_kept():
    """Signals reach the main thread alone; elsewhere the block runs to its end."""
    done = []

    def run():
        with Clock(0.01).interrupting():
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


@pytest.mark.parametrize("stage", ["__init__", "forward", "backward"])
def test_layer_that_never_returns_is_refused(stage):
    def method(self, *arguments, normalized_shape=None):
        _swallows_and_sleeps()

    layer = odd(**{stage: method})
    if stage == "__init__":
        layer.__signature__ = None
    with pytest.raises(Refused, match=r"within 0\.15 s|took all of 0\.15 s"):
        verdict(layer, timeout=0.15)


def test_layer_that_does_not_return_from_some_case_is_wrong():
    report = verdict(in_forward(lambda x, y: _spins() if x.shape[0] == 131 else None), timeout=1.2)
    assert not report.passed
    (fault,) = report.faults
    assert (fault.id, fault.quantities) == ("never-returns", ("y", "dx", "dgamma", "dbeta"))
    assert fault.evidence.startswith("no answer within 1.2 s in first forward of LayerNorm(")
    assert "the time of 1.2 s was over after" in report.not_covered["some cases"]


def test_backward_that_does_not_return_is_not_taken_for_one_that_is_missing():
    class SleepingBatchNorm(npnorm.BatchNorm):
        def backward(self, dy):
            return super().backward(dy) if self.training else _swallows_and_sleeps()

    report = check(SleepingBatchNorm, examples=0, ndims=[2], minimize=False, timeout=2.5)
    assert [fault.id for fault in report.faults] == ["never-returns"]
    assert report.faults[0].evidence.startswith("no answer within 2.5 s in backward of BatchNorm(")


def test_slow_layer_is_not_accused():
    """Nor is it passed before all designed cases are done; where only random ones are left, it says how many were."""
    slow = in_forward(lambda x, y: time.sleep(0.01))
    with pytest.raises(
        Refused, match=r"took all of 0\.5 s for [0-9]+ of [0-9]+ designed cases, which agree: give it more"
    ):
        verdict(slow, timeout=0.5)
    report = verdict(slow, timeout=3.0, examples=1000)
    assert report.passed
    assert re.fullmatch(r"[0-9]+ of 1000 random cases in 3 s", report.incomplete)
    assert f"within rounding (in the time {report.incomplete})" in " ".join(str(report).split())
    assert report.backward_is_derivative_of_forward is None, "there was no time to tell"
    assert not verdict(slow, timeout=3.0, examples=1000, strict=True).passed


def test_layer_too_slow_for_a_single_case_is_no_pass():
    with pytest.raises(Refused, match=r"give it more with timeout=|no answer in time"):
        verdict(in_forward(lambda x, y: time.sleep(0.05)), timeout=0.1)


@pytest.mark.parametrize(("error", "words"), [(row[0], row[1]) for row in ERRORS.values()], ids=ERRORS)
def test_exception_in_one_line(error, words):
    text = describe(error)
    assert text == words.replace("\\", "")
    assert "\n" not in text


class _Raises:
    """An attribute that raises what is no Exception."""

    def __get__(self, instance, owner):
        raise SystemExit("not to be looked at")


@pytest.mark.parametrize("attribute", ["like", "functions"])
def test_attribute_that_raises_is_a_refusal(attribute):
    layer = type("LookedAtLayerNorm", (npnorm.LayerNorm,), {attribute: _Raises()})
    with pytest.raises(Refused, match="SystemExit: not to be looked at"):
        check(layer, examples=0, ndims=[2])


def test_signature_that_raises_tells_nothing():
    layer = type("LookedAtLayerNorm", (npnorm.LayerNorm,), {"__signature__": _Raises()})
    assert check(layer, examples=0, ndims=[2]).passed


def test_name_that_raises_does_not_tell():
    class Odd(type):
        @property
        def __name__(cls):
            raise SystemExit("nobody's")

    class MyLayerNorm(npnorm.LayerNorm, metaclass=Odd):
        pass

    assert check(MyLayerNorm, "LayerNorm", examples=0, ndims=[2]).subject == "Odd"
    with pytest.raises(Refused, match="Expected the name to tell which layer it is but got 'Odd'"):
        check(MyLayerNorm)
