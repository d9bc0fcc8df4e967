"""What every test runs under: Hypothesis's profiles, one thread for torch, and arrays that no one may write to.

`dev` draws other cases each time and is the default; `ci` draws the same ones each time and is chosen where CI=true;
`soak` is for a long search: `pytest --hypothesis-profile=soak`. Must not know any layer.
"""

import atexit
import gc
import importlib.util
import os
import shutil
import sys
import tempfile

# The arrays of the tests are small, and a worker runs on each core: further threads only wait for one another.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# What the command says to GitHub is for one test; the others run on GitHub as they do anywhere.
for variable in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
    os.environ.pop(variable, None)

# The tests start hundreds of processes of ours, each of which would compile all of our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What the command keeps between runs is this run's own, and all its workers'.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _kept = tempfile.mkdtemp(prefix="normcheck-")
    os.environ["NORMCHECK_CACHE"] = _kept
    atexit.register(shutil.rmtree, _kept, ignore_errors=True)

from collections import Counter  # noqa: E402 - NumPy reads these variables when it is imported
from collections.abc import Callable  # noqa: E402
from functools import lru_cache  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from xdist.scheduler import LoadScopeScheduling  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """One thread for torch, since a second one only waits; the process that hands out the tests can do without torch."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import torch

        torch.set_num_threads(1)


TOGETHER = 8  # tests that a worker is given at once

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("soak", deadline=None, max_examples=10_000)
settings.load_profile("ci" if os.environ.get("CI", "").lower() == "true" else "dev")


@pytest.fixture(scope="session")
def normal() -> Callable[..., NDArray[Any]]:
    """`normal(shape, seed=0, dtype="float64")`: standard normal numbers in an array that is not writeable, and so shared."""

    @lru_cache(maxsize=64)
    def draw(shape: tuple[int, ...] | int, seed: int = 0, dtype: str = "float64") -> NDArray[Any]:
        array = np.random.default_rng((seed, 77)).standard_normal(shape).astype(dtype)
        array.flags.writeable = False
        return array

    return draw


@pytest.fixture
def in_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """`in_file(source, name)`: the class of that name, from a file that holds the source."""

    def load(source: str, name: str) -> Any:
        path = tmp_path / "their_layers.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("their_layers", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "their_layers", module)
        spec.loader.exec_module(module)
        return getattr(module, name)

    load.path = tmp_path / "their_layers.py"  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions of the file within one second
    monkeypatch.setattr(sys, "path", list(sys.path))  # a script changes both
    monkeypatch.setitem(sys.modules, "layer_under_test", ModuleType("layer_under_test"))
    return load


def pytest_collection_finish() -> None:
    """What the tests themselves write and import leaves no bytecode: there may be two versions within a second."""
    sys.dont_write_bytecode = True
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What names a mistake comes first: with a broken kernel thousands of tests fail, and few of them say why."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


class ByLayer(LoadScopeScheduling):
    """Hands out a few tests at a time, in their order, but all checks of a layer at once: they share one run of it.

    Of what is handed out at once the largest comes first, which are the layers; a few, since its own work grows with the
    square of their number.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        self._others: dict[str, int] = {}

    def _split_scope(self, nodeid: str) -> str:
        test, _, id = nodeid.partition("[")
        if test.endswith("::test_npnorm"):
            return f"{test}[{id.partition('-')[0]}"
        number = self._others.setdefault(nodeid, len(self._others))  # asked for in their order at first
        return f"others {number // TOGETHER}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return ByLayer(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core; none where times are measured, or where a single test is asked for."""
    alone = any("benchmarks" in argument or "::" in argument for argument in config.args)
    return 0 if alone else os.cpu_count() or 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many planted mistakes were named, called unknown, or wrongly named, over the whole run."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    counts = Counter(
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "diagnosis"
    )
    if counts:
        words = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"diagnosis of planted layers: {words}")
