"""Changes of `npnorm/kernel.py` that the suite must notice, each with a test that does.

Each is something that a person might do to the kernel, to make it shorter or faster, and that leaves most numbers as they
were. Whoever changes the lines that one is made of changes it here too.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
KERNEL = Path("npnorm", "kernel.py")
NEEDED = ("npnorm", "reference", "tests", "pyproject.toml")
SECONDS = 300.0  # for a single test, which takes five where the machine is free


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        id: what is done. old, new: the text that is replaced, which is there once, and what takes its place.
        test: that fails with it, as pytest has it.
    """

    id: str
    old: str
    new: str
    test: str


def _verdict(id: str) -> str:
    return f"tests/test_testing.py::test_npnorm[{id}]"


MUTANTS = (
    Mutant(
        "a mean that is not corrected",
        "if center and not _all(square <= var):",
        "if False:",
        _verdict("LayerNorm-y-float64-2D"),
    ),
    Mutant(
        "a correction that stops after one step",
        "if not _all(square <= var + eps):",
        "if False:",
        "tests/test_range.py::test_the_answers_are_exact",
    ),
    Mutant(
        "a variance about the start and not about the mean",
        "        var -= square\n",
        "",
        _verdict("GroupNorm-y-float64-4D"),
    ),
    Mutant(
        "an infinity as the start",
        "            start[~np.isfinite(start)] = 0",
        "            pass",
        "tests/test_kernel.py::test_an_infinity_is_the_mean_of_its_channel",
    ),
    Mutant(
        "an overflow that is not told",
        "return Statistics(mean, var, rstd, delta, not (number and _all(rstd)))",
        "return Statistics(mean, var, rstd, delta, False)",
        "tests/test_range.py::test_the_answers_are_exact",
    ),
    Mutant(
        "eps left out in eval mode",
        "_rstd(var + added)",
        "_rstd(var + 0)",
        _verdict("BatchNorm-y-float64-4D"),
    ),
    Mutant(
        "a gradient through the running statistics",
        "                    if constant:\n                        continue\n",
        "",
        _verdict("BatchNorm-dx-float64-4D"),
    ),
    Mutant(
        "no mean term",
        "                if center:\n                    out -= level\n",
        "",
        _verdict("LayerNorm-dx-float64-3D"),
    ),
    Mutant(
        "gamma left out of the first term",
        "d = np.multiply(d, gamma[of], out=out if first is None else first)",
        "pass",
        _verdict("RMSNorm-dx-float32-2D"),
    ),
    Mutant(
        "gamma left out of the means",
        "else gamma[..., 0] * _number(tiling.share, dy.dtype)",
        "else np.full(parameters, tiling.share, dy.dtype)",
        _verdict("GroupNorm-dx-float64-3D"),
    ),
    Mutant(
        "the distance from the start left out of the projection",
        "                level -= slope * found.delta\n",
        "                pass\n",
        _verdict("InstanceNorm-dx-float64-4D"),
    ),
    Mutant(
        "sums over tiles in the dtype of dy",
        "np.promote_types(dy.dtype, np.float64)",
        "dy.dtype",
        "tests/test_kernel.py::test_the_gradients_of_many_parts_do_not_drift",
    ),
    Mutant(
        "a tile's parameters where a part has several",
        "dbeta[of] += d_sum",
        "dbeta[of] = d_sum",
        "tests/test_kernel.py::test_the_answers_do_not_depend_on_the_tiles",
    ),
    Mutant(
        "a tile that is looked for beside its place",
        "start + k.start * space + s.start",
        "start + k.start + s.start",
        "tests/test_kernel.py::test_the_answers_do_not_depend_on_the_tiles",
    ),
    Mutant(
        "a work tile that lies on what is kept",
        "self.work = -(-self.size // CACHE_LINE) * CACHE_LINE",
        "self.work = -(-self.size // CACHE_LINE) * CACHE_LINE - CACHE_LINE",
        "tests/test_kernel.py::test_nothing_is_shared_with_the_caller",
    ),
    Mutant(
        "NumPy's buffer left as it is in a call",
        "        return Gradients(dgamma, dbeta, lost)\n    finally:\n        if buffer is not None:",
        "        return Gradients(dgamma, dbeta, lost)\n    finally:\n        if False:",
        "tests/test_kernel.py::test_called_directly_the_kernel_leaves_numpy_as_it_was",
    ),
    Mutant(
        "arrays that start anywhere",
        "start = -raw",
        "start = 1 - raw",
        "tests/test_kernel.py::test_large_arrays_start_on_a_cache_line",
    ),
)


def copied(folder: Path) -> Path:
    """A copy of what the tests need, in which the kernel may be changed."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run(folder: Path, test: str, mutant: Mutant | None = None) -> tuple[int, str]:
    """Run a test in a copy, with a mutant in it or none; pytest's exit code (1: it failed) and what it printed."""
    text = (ROOT / KERNEL).read_text(encoding="utf-8")
    (folder / KERNEL).write_text(text.replace(mutant.old, mutant.new) if mutant else text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        environment.pop(variable, None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    return done.returncode, done.stdout + done.stderr
