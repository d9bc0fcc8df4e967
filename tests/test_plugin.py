"""`pytest --normcheck`: the configured layers as tests; and that the plugin costs nothing where it is not asked for."""

import re
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

LAYERS = """\
import npnorm

with open("loaded.txt", "a") as log:
    log.write("once\\n")


class GoodLayerNorm(npnorm.LayerNorm):
    pass


class HalfLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


class Mystery(npnorm.RMSNorm):
    like = "RMSNorm"


class Secret(npnorm.RMSNorm):
    pass
"""

CONFIGURED = """\
[tool.normcheck]
ndims = [2]
dtypes = ["float64"]
subjects = ["my_layers.py:GoodLayerNorm", "my_layers.py:HalfLayerNorm"]
"""

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:xdist", "--normcheck-examples", "0", "--normcheck-no-fix-search")


@pytest.fixture
def project(pytester, monkeypatch):
    """`project(text)`: a folder with layers, a test of its own, and that pyproject.toml."""
    monkeypatch.setenv("COLUMNS", "150")
    pytester.makepyfile(my_layers=LAYERS, test_own="def test_own(): pass")

    def with_text(text):
        pytester.makepyprojecttoml(text)
        return pytester

    return with_text


def ids_of(run):
    return [line for line in run.outlines if "::" in line]


def test_ids_are_those_of_parametrize_with_checks(project):
    run = project(CONFIGURED).runpytest_inprocess(*OPTIONS, "--normcheck", "--collect-only", "-q")
    ids = ids_of(run)
    assert {"test_own.py::test_own", "pyproject.toml::GoodLayerNorm-dx-float64-2D"} <= set(ids)
    assert {f"pyproject.toml::{name}-random" for name in ("GoodLayerNorm", "HalfLayerNorm")} <= set(ids)
    pattern = r"pyproject.toml::\w+LayerNorm-((y|dx|dgamma|dbeta)-float64-[2-5]D|behaviour|random)"
    assert [id for id in ids[:-1] if not re.fullmatch(pattern, id) and "own" not in id] == []
    assert not (project(CONFIGURED).path / "loaded.txt").exists(), "to collect is not to run"


def test_each_layer_is_run_once_and_says_its_verdict(project):
    run = project(CONFIGURED).runpytest_inprocess(*OPTIONS, "--normcheck", "-rA", "-q", "-k", "2D or behaviour or own")
    run.assert_outcomes(passed=7, failed=1, skipped=3, deselected=26)
    done = {line.split(" - ")[0] for line in run.outlines if line.split(" ")[0] in ("PASSED", "FAILED")}
    assert "FAILED pyproject.toml::HalfLayerNorm-dx-float64-2D" in done
    assert "PASSED pyproject.toml::GoodLayerNorm-dx-float64-2D" in done
    assert "PASSED test_own.py::test_own" in done
    assert (project(CONFIGURED).path / "loaded.txt").read_text().count("once") == 2, "one process a layer"
    assert "my_layers.py:HalfLayerNorm dx: " in next(line for line in run.outlines if line.startswith("FAILED"))
    assert "more: normcheck my_layers.py:HalfLayerNorm" in run.outlines
    told = [line for line in run.outlines if not line.startswith("SKIPPED")]
    assert not any(re.search(r"(plugin|testing|checks)\.py", line) for line in told), "no frame of ours"


def test_one_test_by_its_id(project):
    id = "pyproject.toml::GoodLayerNorm-dgamma-float64-2D"
    run = project(CONFIGURED).runpytest_inprocess(*OPTIONS, "--normcheck", id)
    run.assert_outcomes(passed=1)


def test_from_a_folder_below(project, monkeypatch):
    pytester = project(CONFIGURED)
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    run = pytester.runpytest_inprocess(*OPTIONS, "--normcheck", "-k", "GoodLayerNorm and dx-float64-2D")
    run.assert_outcomes(passed=1, deselected=35)


def test_without_the_flag_nothing_is_collected(project):
    project(CONFIGURED).runpytest_inprocess(*OPTIONS, "-q").assert_outcomes(passed=1)


def test_kind_that_no_name_tells_is_asked_of_the_layer(project):
    text = CONFIGURED.replace("GoodLayerNorm", "Mystery")
    ids = ids_of(project(text).runpytest_inprocess(*OPTIONS, "--normcheck", "--collect-only", "-q"))
    assert "pyproject.toml::Mystery-dx-float64-2D" in ids
    assert not any("Mystery-dbeta" in id for id in ids), "an RMSNorm has none"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"Expected subjects in \[tool.normcheck\] of a pyproject.toml in .* or above but there are none"),
        ("[tool.normcheck]\nstrict = true", r"Expected subjects in \[tool.normcheck\] of .*pyproject.toml but there"),
        ("[tool.normcheck]\nstrikt = true", "pyproject.toml, tool.normcheck: Expected keys of .* but got 'strikt'"),
    ],
)
def test_configuration_that_is_none_is_an_error_of_usage(project, text, said):
    run = project(text).runpytest_inprocess(*OPTIONS, "--normcheck")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(f"ERROR: .*{said}", run.stderr.str())


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("my_layers.py:Secret", "my_layers.py:Secret: .*like"),
        ("none.py:*", "Expected a file none.py but there is none"),
    ],
)
def test_layer_whose_tests_cannot_be_told_is_an_error_of_collection(project, subject, said):
    run = project(f'[tool.normcheck]\nsubjects = ["{subject}"]').runpytest_inprocess(*OPTIONS, "--normcheck")
    run.assert_outcomes(errors=1)
    assert re.search(said, run.stdout.str())
    assert "Traceback" not in run.stdout.str()


def test_plugin_itself_loads_nothing():
    """pytest imports it in every run of everybody who has it installed."""
    program = "import sys; before = set(sys.modules); import pytest; import reference.plugin; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    slow = {"torch", "numpy", "hypothesis", "mpmath", "rich", "matplotlib"}
    assert not slow & set(told)
    assert {name for name in told if name.startswith("reference")} == {"reference", "reference.plugin"}


# --- what a job of GitHub is told, and the fix -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [("-p", "no:xdist"), ("-n", "2")], ids=["alone", "workers"])
def test_job_is_told_each_verdict_once(project, monkeypatch, workers):
    pytester = project(CONFIGURED)
    summary = pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    options = ("-p", "no:cacheprovider", "--normcheck-examples", "0", "--normcheck-no-fix-search")
    run = pytester.runpytest_subprocess("--normcheck", *options, *workers)
    told = [line for line in run.outlines if line.startswith("::")]
    assert len(told) == 1
    line = LAYERS.splitlines().index("    def backward(self, dy):") + 1
    assert told[0].startswith(f"::error file=my_layers.py,line={line},title=my_layers.py%3AHalfLayerNorm dx")
    text = summary.read_text()
    assert text.count("## normcheck: 1 of 2 wrong") == 1
    assert text.count("| my\\_layers.py:GoodLayerNorm | PASS |") == 1


def test_job_is_told_what_cannot_be_checked(project, monkeypatch):
    pytester = project('[tool.normcheck]\nsubjects = ["my_layers.py:GoneLayerNorm", "my_layers.py:GoodLayerNorm"]\n')
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    run = pytester.runpytest_subprocess("--normcheck", *OPTIONS, "-k", "Gone")
    told = [line for line in run.outlines if line.startswith("::")]
    assert len(told) == 1
    assert "GoneLayerNorm: not checked" in told[0].replace("%3A", ":")
    assert "my_layers.py has no GoneLayerNorm" in told[0]


def test_outside_of_a_job_nothing_is_told(project, monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    run = project(CONFIGURED).runpytest_subprocess("--normcheck", *OPTIONS, "-k", "Half and dx and 2D")
    assert not [line for line in run.outlines if line.startswith("::")]


def test_failure_has_the_fix_unless_none_is_looked_for(project):
    pytester = project(CONFIGURED)
    one = ("--normcheck", *OPTIONS[:-1], "-k", "Half and dx and 2D")
    fixed = pytester.runpytest_subprocess(*one)
    assert "  -        return super().backward(dy) / 2" in fixed.outlines
    assert "  +        return super().backward(dy)" in fixed.outlines
    plain = pytester.runpytest_subprocess(*one, "--normcheck-no-fix-search")
    assert not [line for line in plain.outlines if "super().backward(dy) / 2" in line]
    pytester.makepyprojecttoml(CONFIGURED + "fix_seconds = 0\n")
    configured = pytester.runpytest_subprocess(*one)
    assert not [line for line in configured.outlines if "super().backward(dy) / 2" in line]
    assert configured.ret == 1
