"""The entry points for test suites. By one of them npnorm's own layers are held against torch, check by check."""

import os
import pickle
import re
import sys
import time

import numpy as np
import pytest

import npnorm
from reference import Refused, assert_matches, check, parametrize_with_checks
from reference.kinds import KINDS
from reference.reporting.headline import verdict_line
from reference.reporting.result import Part
from reference.run import Unfinished

pytest_plugins = ["pytester"]


@pytest.mark.first
@parametrize_with_checks([getattr(npnorm, like) for like in KINDS], examples=20)
def test_npnorm(check):
    check()


# --- parametrize_with_checks ------------------------------------------------------------------------------------------


class WrongLayerNorm(npnorm.LayerNorm):
    """dgamma has another sign in float64, where x is 4D."""

    def forward(self, x):
        self.odd = x.ndim == 4 and x.dtype == np.float64
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        if self.odd and self.dgamma is not None:
            self.dgamma = -self.dgamma
        return dx


class WritingLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if dy.flags.writeable:
            dy *= 2
        return dx


class SmallBatchNorm(npnorm.BatchNorm):
    """Of rank 2 and float64 only."""

    def __init__(self, num_features, eps=1e-5):
        super().__init__(num_features, eps)

    def forward(self, x):
        if x.ndim != 2 or x.dtype != np.float64:
            raise TypeError(f"Expected a float64 of rank 2 but got {x.dtype} of rank {x.ndim}")
        return super().forward(x)


def checks_of(*layers, **options):
    """The checks that the decorator makes: {id: what is run}, and {id: its marks}."""
    mark = parametrize_with_checks(layers, **({"examples": 5} | options))
    assert mark.args[0] == "check"
    parameters = mark.args[1]
    assert len({parameter.id for parameter in parameters}) == len(parameters)
    return {p.id: p.values[0] for p in parameters}, {p.id: list(p.marks) for p in parameters}


def outcomes(checks):
    """{id: passed, failed or skipped} of all checks, and the words of those that did not pass."""
    done, words = {}, {}
    for id, run in checks.items():
        done[id] = "passed"
        try:
            run()
        except AssertionError as error:
            done[id], words[id] = "failed", str(error)
        except Refused as error:
            done[id], words[id] = "refused", str(error)
        except pytest.skip.Exception as skipped:
            done[id], words[id] = "skipped", str(skipped)
    return done, words


def test_ids_say_layer_quantity_dtype_and_rank():
    checks, marks = checks_of(npnorm.GroupNorm, (npnorm.RMSNorm, "RMSNorm"))
    assert {"GroupNorm-dx-float64-4D", "GroupNorm-dbeta-float32-2D", "RMSNorm-dgamma-float64-5D"} <= checks.keys()
    assert {"GroupNorm-behaviour", "GroupNorm-random", "RMSNorm-random"} <= checks.keys()
    pattern = r"(GroupNorm|RMSNorm)-((y|dx|dgamma|dbeta)-float(64|32)-[2-5]D|behaviour|random)"
    assert [id for id in checks if not re.fullmatch(pattern, id)] == []
    assert not any(id.startswith("RMSNorm-dbeta") for id in checks)
    assert {(mark.name, *mark.args) for found in marks.values() for mark in found} == {
        ("xdist_group", "GroupNorm"), ("xdist_group", "RMSNorm"),
    }  # fmt: skip
    assert all(mark.args == (id.partition("-")[0],) for id, found in marks.items() for mark in found)


def test_wrong_layer_fails_in_its_own_checks_alone():
    done, words = outcomes(checks_of(WrongLayerNorm)[0])
    failed = {id for id, outcome in done.items() if outcome == "failed"}
    assert failed - {"WrongLayerNorm-random"} == {"WrongLayerNorm-dgamma-float64-4D"}
    message = words["WrongLayerNorm-dgamma-float64-4D"].splitlines()
    assert message[0].startswith("WrongLayerNorm dgamma: unknown"), "the verdict comes first"
    assert len(message) <= 15
    assert re.fullmatch(r"seen: \d+ of \d+ in float64 4D are wrong", message[-5])
    assert re.fullmatch(
        r"seen: dgamma: got .*, expected .* at index .*: error .* u, tolerance .* u, in LayerNorm\(.*", message[-4]
    )
    assert message[-3].startswith("smallest case: LayerNorm(")
    assert message[-1] == "more: print(reference.check(WrongLayerNorm, 'LayerNorm'))"
    assert words["WrongLayerNorm-random"].startswith("WrongLayerNorm dgamma: unknown")


def test_id_whose_cases_were_not_all_run_does_not_pass():
    """The large ones wait until all else agrees; what they would have said of y is not known."""
    done, words = outcomes(checks_of(WrongLayerNorm)[0])
    skipped = {id for id, outcome in done.items() if outcome == "skipped"}
    assert {"WrongLayerNorm-y-float64-2D", "WrongLayerNorm-y-float64-3D"} <= skipped
    assert not any("4D" in id or "5D" in id for id in skipped)
    assert re.fullmatch(
        r"not covered: (\d+) of (?!\1)\d+ cases agree, the rest was not run: large ones wait until all else agrees",
        words["WrongLayerNorm-y-float64-2D"],
    )


def test_behaviour_is_a_check_of_its_own():
    done, words = outcomes(checks_of(WritingLayerNorm)[0])
    failed = {id for id, outcome in done.items() if outcome == "failed"}
    assert failed == {"WritingLayerNorm-behaviour", "WritingLayerNorm-random"}
    assert words["WritingLayerNorm-behaviour"].startswith("WritingLayerNorm dx: upstream-gradient-mutated\n")
    assert (
        "\nseen: upstream-gradient-mutated: dx: dy was changed by backward, in LayerNorm("
        in (words["WritingLayerNorm-behaviour"])
    )


def test_what_it_does_not_take_is_skipped_with_the_reason():
    done, words = outcomes(checks_of((SmallBatchNorm, "BatchNorm"))[0])
    assert {id for id, outcome in done.items() if outcome == "passed"} == {
        *(f"SmallBatchNorm-{q}-float64-2D" for q in ("y", "dx", "dgamma", "dbeta", "running_mean", "running_var")),
        "SmallBatchNorm-behaviour",
        "SmallBatchNorm-random",
    }
    assert set(done.values()) == {"passed", "skipped"}
    assert words["SmallBatchNorm-y-float64-4D"].startswith(
        "not covered: refused: TypeError: Expected a float64 of rank 2"
    )
    assert words["SmallBatchNorm-y-float32-2D"].startswith("not covered: refused: ")


def test_expected_failures_are_strict():
    id = "WrongLayerNorm-dgamma-float64-4D"
    marks = expected(checks_of(WrongLayerNorm, expected_failures={id: "the sign, in 4D"})[1])
    assert marks == {id: {"reason": "the sign, in 4D", "strict": True}}


def expected(marks):
    """{id: how its xfail is meant}, of those that have one."""
    return {id: mark.kwargs for id, found in marks.items() for mark in found if mark.name == "xfail"}


def test_expected_failures_may_be_patterns():
    """An id of its own counts before a pattern, and of patterns the first that fits."""
    id = "WrongLayerNorm-dgamma-float64-4D"
    reasons = {"*-dgamma-*": "in some", id: "the sign", "WrongLayerNorm-dgamma-float64-[45]D": "never said"}
    marks = expected(checks_of(WrongLayerNorm, expected_failures=reasons)[1])
    assert marks.pop(id)["reason"] == "the sign"
    assert {(id.split("-")[1], mark["reason"]) for id, mark in marks.items()} == {("dgamma", "in some")}
    assert len(marks) == 5
    with pytest.raises(ValueError, match=r"in expected_failures but got \['Other-\*'\]"):
        checks_of(WrongLayerNorm, expected_failures=reasons | {"Other-*": "why not"})


def test_expected_failure_of_no_check_is_refused():
    with pytest.raises(
        ValueError, match=r"Expected the ids of checks in expected_failures but got \['LayerNorm-dz'\]; they are \["
    ):
        parametrize_with_checks([npnorm.LayerNorm], expected_failures={"LayerNorm-dz": "why not"})


def test_two_layers_of_one_name_are_refused():
    """One of them would be tested under the other's ids, or not at all."""
    other = type("LayerNorm", (npnorm.LayerNorm,), {})
    with pytest.raises(ValueError, match="Expected layers of different names but got two LayerNorm"):
        parametrize_with_checks([npnorm.LayerNorm, other])


def test_layer_of_no_known_name_is_refused():
    with pytest.raises(Refused, match="say which with like"):
        parametrize_with_checks([type("Norm", (npnorm.LayerNorm,), {})])


def test_layer_is_not_run_while_tests_are_collected():
    def explosive_layer_norm(normalized_shape):
        raise RuntimeError("too early")

    checks, _ = checks_of(explosive_layer_norm)
    for run in checks.values():
        with pytest.raises(Refused, match="RuntimeError: too early"):
            run()


def test_layer_is_run_once_for_all_of_its_checks():
    """And one that cannot be checked is not tried again by each of them."""
    built = []

    class CountedLayerNorm(npnorm.LayerNorm):
        def __init__(self, normalized_shape):
            built.append(normalized_shape)
            super().__init__(normalized_shape)

    checks, _ = checks_of(CountedLayerNorm)
    assert built == []
    done, words = outcomes(checks)
    assert set(done.values()) == {"passed"}, words
    alone = len(built)
    check(CountedLayerNorm, examples=5)
    assert len(built) == 2 * alone

    built.clear()

    class UnbuiltLayerNorm(npnorm.LayerNorm):
        def __init__(self, normalized_shape):
            built.append(normalized_shape)
            raise RuntimeError("not today")

    tries = []
    for run in checks_of(UnbuiltLayerNorm)[0].values():
        with pytest.raises(Refused, match="not today"):
            run()
        tries.append(len(built))
    assert len(set(tries)) == 1


def test_want_of_time_survives_the_way_from_another_process():
    parts = (Part("y", "float64", 2, 5, 0, (), 3),)
    copy = pickle.loads(pickle.dumps(Unfinished("no time", parts)))
    assert (str(copy), copy.parts) == ("no time", parts)


def test_slow_right_layer_is_one_failure():
    """What agrees passes, what there was no time for is skipped, and that this is no verdict is said once."""

    class SlowLayerNorm(npnorm.LayerNorm):
        def forward(self, x):
            time.sleep(0.05)
            return super().forward(x)

    before = time.perf_counter()
    done, words = outcomes(checks_of(SlowLayerNorm, timeout=4.0)[0])
    assert time.perf_counter() - before < 20, "it is not tried anew by each of its checks"
    assert "failed" not in done.values()
    assert {id for id, outcome in done.items() if outcome == "refused"} == {"SlowLayerNorm-random"}
    assert list(done.values()).count("skipped") > 2
    assert all("SlowLayerNorm took all of 4 s for" in text for text in words.values())


SUITE = """\
import npnorm
from reference import parametrize_with_checks


class HalfRMSNorm(npnorm.RMSNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


DX = {"HalfRMSNorm-dx-*": "half of it", "HalfRMSNorm-y-float64-4D": "yes"}


@parametrize_with_checks([HalfRMSNorm], expected_failures=DX, examples=3)
def test_half(check):
    check()
"""


def test_in_a_run_of_pytest(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")  # of which a summary of tests has one line each
    pytester.makepyfile(test_suite=SUITE)
    run = pytester.runpytest_inprocess(
        "-q", "-rA", "-p", "no:cacheprovider", "-k", "float64-4D or dx-float64-3D or random"
    )
    assert run.ret == 1
    lines = {line for line in run.outlines if line.split(" ")[0] in ("PASSED", "FAILED", "XFAIL")}
    cause = "HalfRMSNorm dx: unknown"
    assert lines == {
        "PASSED test_suite.py::test_half[HalfRMSNorm-dgamma-float64-4D]",
        "XFAIL test_suite.py::test_half[HalfRMSNorm-dx-float64-3D] - half of it",
        "XFAIL test_suite.py::test_half[HalfRMSNorm-dx-float64-4D] - half of it",
        "FAILED test_suite.py::test_half[HalfRMSNorm-y-float64-4D] - [XPASS(strict)] yes",
        f"FAILED test_suite.py::test_half[HalfRMSNorm-random] - AssertionError: {cause}",
    }
    start = next(number for number, line in enumerate(run.outlines) if line.startswith("E ") and cause in line)
    assert run.outlines[start - 1] == ">       check()", "of all frames the caller's own is shown"
    end = next(number for number, line in enumerate(run.outlines[start:], start) if not line.startswith("E "))
    assert end - start <= 15
    assert re.match(r"test_suite\.py:\d+: AssertionError|$", run.outlines[end])
    assert "reference" + os.sep not in run.stdout.str()


def test_marks_are_fine_where_pytest_knows_none(pytester):
    """Without pytest-xdist its mark is unknown, and strict about that."""
    pytester.makepyfile(test_suite=SUITE)
    run = pytester.runpytest_subprocess(
        *("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--strict-markers", "-W", "error", "-k", "float64-4D")
    )
    run.assert_outcomes(passed=1, xfailed=1, failed=1, deselected=17)


# --- the options of check ---------------------------------------------------------------------------------------------


class StrangeLayerNorm:
    """With an eps of its own inside of the root's place, channels named in other words, and x kept as it came."""

    def __init__(self, size, eps=1e-3):
        self.foo, self.bar, self.eps = np.ones(size), np.zeros(size), eps

    def forward(self, x):
        self.x = x
        self.rstd = 1 / (x.std(-1, keepdims=True) + self.eps)
        return self.foo * (x - x.mean(-1, keepdims=True)) * self.rstd + self.bar

    def backward(self, dy):
        rows, d, centred = tuple(range(dy.ndim - 1)), self.foo * dy, self.x - self.x.mean(-1, keepdims=True)
        self.dfoo, self.dbar = (dy * centred * self.rstd).sum(rows), dy.sum(rows)
        std = np.where(centred.any(-1, keepdims=True), centred.std(-1, keepdims=True), 1)
        return self.rstd * (d - d.mean(-1, keepdims=True)) - centred * self.rstd**2 / std * (d * centred).mean(
            -1, keepdims=True
        )


OPTIONS = {
    "accept": ["eps-outside-sqrt", "eps-default"],
    "names": {"gamma": "foo", "beta": "bar", "dgamma": "dfoo", "dbeta": "dbar"},
    "dtypes": ["float64"],
    "ndims": [2, 3],
}
BEHAVIOUR, DX = "StrangeLayerNorm-behaviour", "StrangeLayerNorm-dx-float64-2D"


def failed_of(**options):
    done, words = outcomes(checks_of((StrangeLayerNorm, "LayerNorm"), **(OPTIONS | options))[0])
    return {id for id, outcome in done.items() if outcome == "failed"}, done, words


def test_options_of_check_are_passed_on():
    failed, done, words = failed_of()
    assert failed == set(), words
    assert not any("float32" in id for id in done), "what was not asked for is no check"
    assert {id for id, outcome in done.items() if outcome == "skipped"} == {
        f"StrangeLayerNorm-{quantity}-float64-{rank}D" for quantity in ("y", "dx", "dgamma", "dbeta") for rank in (4, 5)
    }
    assert words["StrangeLayerNorm-y-float64-4D"] == "not covered: not asked for"


def test_convention_that_is_not_accepted_fails_its_quantities():
    failed, _, words = failed_of(accept=["eps-default"])
    assert {DX, "StrangeLayerNorm-y-float64-3D", "StrangeLayerNorm-random"} <= failed
    assert BEHAVIOUR not in failed
    assert words["StrangeLayerNorm-random"].startswith(
        "StrangeLayerNorm y, dx, dgamma: eps-outside-sqrt (convention)\n"
    )


def test_default_of_its_own_fails_the_behaviour():
    failed, _, words = failed_of(accept=["eps-outside-sqrt"])
    assert failed == {BEHAVIOUR, "StrangeLayerNorm-random"}
    assert words[BEHAVIOUR].startswith("StrangeLayerNorm: eps-default (convention)\n")
    assert "\nseen: eps-default: eps defaults to 0.001, torch's eps to 1e-05\n" in words[BEHAVIOUR]


def test_hazards_fail_the_behaviour_of_a_strict_check():
    failed, _, words = failed_of(strict=True)
    assert failed == {BEHAVIOUR, "StrangeLayerNorm-random"}
    assert words[BEHAVIOUR].startswith("StrangeLayerNorm dx, dgamma: input-not-saved (hazard)\n")
    assert "\nseen: input-not-saved: dx: dx is another one once the caller has changed x in place" in words[BEHAVIOUR]


def test_names_are_needed_where_nothing_tells():
    checks, _ = checks_of((StrangeLayerNorm, "LayerNorm"), **(OPTIONS | {"names": None}))
    with pytest.raises(Refused, match=r"has parameters that were not found: it holds foo .* --names gamma=foo"):
        checks[DX]()


def test_channels_last_and_float16_are_passed_on():
    class LastGroupNorm(npnorm.GroupNorm):
        def forward(self, x):
            return np.moveaxis(super().forward(np.moveaxis(x, -1, 1)), 1, -1)

        def backward(self, dy):
            return np.moveaxis(super().backward(np.moveaxis(dy, -1, 1)), 1, -1)

    done, words = outcomes(checks_of(LastGroupNorm, channels_last=True, ndims=[4], dtypes=["float16"])[0])
    assert {outcome for id, outcome in done.items() if "4D" in id or "D" not in id} == {"passed"}, words
    assert "LastGroupNorm-dx-float16-4D" in done


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"accepts": ["eps-default"]}, TypeError, "accepts"),
        ({"accept": ["dx-sign"]}, ValueError, "Expected the id of a convention but got 'dx-sign'"),
        ({"accept": 3}, TypeError, "Expected accept to be the id of a convention, or several, but got 3"),
        ({"like": "LayerNorm"}, TypeError, "Expected options of check .* but got like"),
        ({"dtypes": ["float8"]}, ValueError, "Expected dtypes to be some of"),
        ({"ndims": [7]}, ValueError, "Expected ndims to be some of"),
        ({"timeout": 0}, ValueError, "Expected timeout to be more than 0"),
    ],
    ids=["no such option", "a mistake", "a number", "none for all", "dtype", "rank", "timeout"],
)
def test_option_that_cannot_be_meant_is_refused_while_tests_are_collected(options, error, text):
    with pytest.raises(error, match=text):
        parametrize_with_checks([npnorm.LayerNorm], **options)


def test_time_that_is_too_short_is_passed_on():
    class SlowLayerNorm(npnorm.LayerNorm):
        def __init__(self, normalized_shape):
            time.sleep(10)

    checks, _ = checks_of(SlowLayerNorm, timeout=0.05)
    with pytest.raises(Refused, match=r"cannot be built with .* within 0\.05 s"):
        checks["SlowLayerNorm-behaviour"]()


# --- assert_matches ---------------------------------------------------------------------------------------------------


def test_assert_matches_is_silent_about_a_right_layer(capsys):
    assert assert_matches(npnorm.LayerNorm, examples=5, ndims=[2]) is None
    assert tuple(capsys.readouterr()) == ("", "")


def test_assert_matches_raises_the_report():
    options = {"examples": 5, "ndims": [4], "seed": 2}
    with pytest.raises(AssertionError) as error:
        assert_matches(WrongLayerNorm, "LayerNorm", **options)
    lines = str(error.value).splitlines()
    assert lines[0] == verdict_line(check(WrongLayerNorm, "LayerNorm", **options))
    assert lines[0].startswith("WrongLayerNorm dgamma: dgamma-sign")
    assert lines[-1] == "more: print(reference.check(WrongLayerNorm, 'LayerNorm', ...))"
    assert [frame.name for frame in error.traceback.filter(error)] == [sys._getframe().f_code.co_name]


def test_assert_matches_shows_no_frame_of_ours_where_it_refuses():
    with pytest.raises(Refused, match="Expected the name to tell") as error:
        assert_matches(type("Norm", (npnorm.LayerNorm,), {}))
    assert [frame.name for frame in error.traceback.filter(error)] == [sys._getframe().f_code.co_name]


def test_one_convention_is_one_argument():
    """A string is one id, for every entry point."""
    options = OPTIONS | {"accept": "eps-outside-sqrt", "examples": 0}
    assert check(StrangeLayerNorm, "LayerNorm", **options).accepted == ("eps-outside-sqrt",)
    failed, _, _ = failed_of(accept="eps-outside-sqrt")
    assert failed == {BEHAVIOUR, "StrangeLayerNorm-random"}
    with pytest.raises(AssertionError, match=r"^StrangeLayerNorm: eps-default \(convention\)\n"):
        assert_matches(StrangeLayerNorm, "LayerNorm", **options)


def test_assert_matches_takes_the_options_of_check():
    options = OPTIONS | {"examples": 5}
    assert_matches(StrangeLayerNorm, "LayerNorm", **options)
    with pytest.raises(AssertionError, match=r"input-not-saved \(hazard\)"):
        assert_matches(StrangeLayerNorm, "LayerNorm", **options, strict=True)
