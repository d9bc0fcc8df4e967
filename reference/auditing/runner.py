"""Runs the user's tests on the layer as it is and on each mutant, and says which runs fail.

The mutant's text is put in the place of the file by an import hook, in the test processes alone: nothing of the user's tree
is copied or written. A copy would have to hold all that the tests may open, which for a large tree takes longer than
the tests; and two versions of a file in one place would not allow several runs at a time. What pytest, Hypothesis and
coverage would leave in the tree goes to a temporary folder.

Where the command is pytest's, one process imports what they need of libraries and forks for each run; else each run is a
process. Knows commands and files, not what a mutant is.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from reference.auditing import hook, warm
from reference.subjects.guard import OURS
from reference.subjects.reading import Refused

LONGEST = 600.0  # seconds that the clean run may take
GRACE = (5.0, 5.0)  # a mutant's run may take so many seconds more, and so many times as long, as the clean one
LAST_LINES = 15  # of a clean run that fails
NO_TESTS = 5  # pytest's code for it
SITE = '''"""Calls the hook of normcheck's audit, and then the sitecustomize that would have been found without it."""
import importlib.machinery, importlib.util, os, sys
import normcheck_audit_hook
_own = os.path.dirname(os.path.abspath(__file__))
_others = [entry for entry in sys.path if os.path.abspath(entry or ".") != _own]
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
normcheck_audit_hook.install_from_environment()
'''


class NotAudited(Refused):
    """There is nothing to audit: the layer or the clean run fails, or the tests do not use the layer's file."""


@dataclass(frozen=True)
class Order:
    """What the tests are run on.

    Attributes:
        file: of the user's tree, and the text that it is to have. mistake: what makes a class wrong that the file defines,
            as `planting` packs it; nothing for the text alone.
    """

    file: Path
    text: bytes
    mistake: bytes = b""


@dataclass(frozen=True)
class Run:
    """How a run of the tests ended.

    Attributes:
        noticed: whether they failed. seconds: how long it took.
        clear: whether the mistake was there in all that they did. record: the file in which a witness wrote.
    """

    noticed: bool
    seconds: float
    clear: bool = True
    record: Path = Path()


@dataclass(frozen=True)
class Command:
    """A command of the user's, taken apart.

    Attributes:
        text: as it was given. words: it as an argument list, without the variables set in front of it; empty where only a
            shell can run it. variables: those. python: that runs it, where it is told: pytest with `arguments`, or a
            `program`, `-m MODULE ...` or `FILE.py ...`. here: whether `python -m` puts the folder on the path.
    """

    text: str
    words: tuple[str, ...]
    variables: dict[str, str]
    python: str = ""
    arguments: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    here: bool = False


def command_of(tests: str | Sequence[str], folder: Path) -> Command:
    """A command taken apart.

    Raises:
        NotAudited: it is none.
    """
    text = tests if isinstance(tests, str) else shlex.join(tests)
    if isinstance(tests, str) and re.search(r"[;&|<>`$(){}\n]", tests):
        return Command(text, (), {})
    try:
        words = shlex.split(tests) if isinstance(tests, str) else list(tests)
    except ValueError as error:
        raise NotAudited(f"Expected a command that runs the tests but got {text!r}: {error}") from None
    variables: dict[str, str] = {}
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    if not words:
        raise NotAudited(f"Expected a command that runs the tests but got {text!r}")
    path = str(folder / words[0]) if os.sep in words[0] else shutil.which(words[0])
    if path is None or not os.path.isfile(path):
        raise NotAudited(f"Expected a command that runs the tests but there is no program {words[0]!r}")
    name = Path(path).name
    if name in ("pytest", "py.test"):
        python = _interpreter(Path(path))
        return Command(text, tuple(words), variables, python, tuple(words[1:]))
    if re.fullmatch(r"python[\d.]*", name) and words[1:3] == ["-m", "pytest"]:
        return Command(text, tuple(words), variables, path, tuple(words[3:]), here=True)
    if re.fullmatch(r"python[\d.]*", name) and re.match(r"-m \w|[^-].*\.py( |$)", " ".join(words[1:])):
        is_module = words[1] == "-m"
        return Command(text, tuple(words), variables, path, program=tuple(words[1:]), here=is_module)
    return Command(text, tuple(words), variables)


def _interpreter(script: Path) -> str:
    """The Python that runs a script, by its first line; "" if that cannot be told."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        with script.open("rb") as file:
            first = file.readline(1000).decode()
        match = re.match(r"#!\s*(\S+)\s*$", first)
        if match and re.fullmatch(r"python[\d.]*", Path(match[1]).name) and os.path.isfile(match[1]):
            return match[1]
    beside = script.parent / "python"
    return str(beside) if beside.is_file() else ""


class Runner:
    """The tests of one layer's file; a context manager, which ends all that it has started.

    Args:
        tests: the command. clean: the layer's file as it is. others: files that orders may be about too.
        folder: where the command is run. workers: runs at a time.
    """

    def __init__(
        self, tests: str | Sequence[str], clean: Order, others: Sequence[Path], folder: Path, workers: int
    ) -> None:
        self.command, self.folder, self.workers = command_of(tests, folder), folder, workers
        self.target, self.targets = clean.file, [clean.file, *others]
        self._place = tempfile.TemporaryDirectory(prefix="normcheck-audit-", ignore_cleanup_errors=True)
        self.place = Path(self._place.name)
        self._warm: subprocess.Popen[str] | None = None
        self._started: set[subprocess.Popen[bytes]] = set()
        shim = self.place / "shim"
        shim.mkdir()
        shutil.copy(Path(hook.__file__), shim / "normcheck_audit_hook.py")
        (shim / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        self.environment = self._environment(shim)
        self._clean = self._order("clean", clean)
        self.seconds, self._runs = 0.0, 0

    def _environment(self, shim: Path) -> dict[str, str]:
        found = os.environ | self.command.variables
        found["PYTHONPATH"] = os.pathsep.join([str(shim), *filter(None, [found.get("PYTHONPATH")])])
        found["PYTHONDONTWRITEBYTECODE"] = "1"
        found["PYTEST_ADDOPTS"] = (
            f"{found.get('PYTEST_ADDOPTS', '')} -o cache_dir={shlex.quote(str(self.place))}".strip()
        )
        found.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(self.place / "hypothesis"))
        found.setdefault("COVERAGE_FILE", str(self.place / "coverage"))
        for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            found.setdefault(threads, "1")  # the runs share the cores
        found.pop(hook.VARIABLE, None)
        return found

    def _order(self, name: str, order: Order) -> str:
        """What a run is to read in the place of a file: the name of a file that says it."""
        path, text, mistake = (str(self.place / f"{name}.{ending}") for ending in ("json", "py", "mistake"))
        Path(text).write_bytes(order.text)
        said = {"target": str(order.file), "text": text, "loaded": f"{path}.loaded", "unclear": f"{path}.unclear"}
        if order.mistake:
            Path(mistake).write_bytes(order.mistake)
            said |= {"mistake": mistake, "ours": str(OURS.parent), "record": f"{path}.record"}
        Path(path).write_text(json.dumps(said), encoding="utf-8")
        return path

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in tuple(self._started):
            _end(process)
        if self._warm is not None:
            _end(self._warm)
        self._place.cleanup()

    def clean(self) -> None:
        """Run the tests on the layer as it is, which they must pass.

        Raises:
            NotAudited: they do not, or they never import the layer's file.
        """
        code, seconds = self._first()
        self.seconds = seconds
        if code != 0:
            text = Path(f"{self._clean}.out").read_text(encoding="utf-8", errors="replace").rstrip()
            last = "\n".join(f"  {line}" for line in text.splitlines()[-LAST_LINES:])
            is_pytest = bool(self.command.python) and not self.command.program
            what = "finds no tests" if code == NO_TESTS and is_pytest else f"ends with exit code {code}"
            what = f"takes more than {LONGEST:g} s" if seconds >= LONGEST else what
            raise NotAudited(
                f"Expected the tests to pass on the layer as it is but {self.command.text!r} {what}:\n{last}"
            )
        if not os.path.exists(f"{self._clean}.loaded"):
            raise NotAudited(
                f"Expected the tests to import {self.target} but {self.command.text!r} never does: "
                "the layer must be in a module that the tests import"
            )

    def _first(self) -> tuple[int, float]:
        if self.command.python and hasattr(os, "fork"):
            answer = self._warmed()
            if answer is not None:
                return int(answer["code"]), float(answer["seconds"])
        return self._plain(self._clean, LONGEST)

    def _warmed(self, preload: bool = True) -> dict[str, Any] | None:
        """The clean run in a process that stays for the others; None if that Python cannot do it.

        Args:
            preload: whether to import there what the tests import from libraries; without, if that spoils the run.
        """
        arguments, of_pytest = list(self.command.arguments), not self.command.program
        for plugin, options in (("xdist", ["-n0"]), ("pytest_benchmark", [f"--benchmark-storage=file://{self.place}"])):
            off = f"no:{plugin.removeprefix('pytest_')}" in " ".join(arguments)
            arguments += (
                options if of_pytest and not off and _has(plugin, self.command.python, self.environment) else []
            )
        setup = {
            "arguments": [*arguments, "-x"],
            "program": list(self.command.program),
            "here": self.command.here,
            "preload": preload,
            "targets": [str(path) for path in self.targets],
            "clean": self._clean,
            "limit": LONGEST,
        }
        self._warm = subprocess.Popen(
            [self.command.python, str(Path(warm.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
        )
        try:
            answer = self._ask(setup)
        except (OSError, ValueError):
            answer = None
        fails = answer is None or bool(self.command.program and answer["code"])  # a program may need to be the first
        if answer is None or fails or answer.get("spoiled"):
            _end(self._warm)
            self._warm = None
            return self._warmed(False) if preload and not fails else None
        return answer

    def _ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        assert self._warm is not None
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps(question) + "\n")
        self._warm.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any] | None:
        assert self._warm is not None
        assert self._warm.stdout is not None
        line = self._warm.stdout.readline()
        return json.loads(line) if line else None

    def run(self, orders: Sequence[Order], done: Callable[[int], None] | None = None) -> list[Run]:
        """Run the tests on each; `done` is told how many have ended.

        Raises:
            NotAudited: the process that runs them has ended.
        """
        names = [self._order(f"{self._runs + number:04d}", order) for number, order in enumerate(orders)]
        self._runs += len(names)
        limit = GRACE[0] + GRACE[1] * self.seconds * min(self.workers, max(len(names), 1))
        planted = {name for name, order in zip(names, orders, strict=True) if order.mistake}
        found: dict[str, Run] = {}
        for name, code, seconds in self._codes(names, limit):
            late = name in planted and seconds >= limit  # following all passes takes time: no reason to praise a test
            clear = not late and not os.path.exists(f"{name}.unclear")
            found[name] = Run(code != 0, seconds, clear, Path(f"{name}.record"))
            if done:
                done(len(found))
        return [found[name] for name in names]

    def _codes(self, orders: list[str], limit: float) -> Iterator[tuple[str, int, float]]:
        if self._warm is not None:
            answer = self._ask({"orders": orders, "workers": self.workers, "limit": limit}) if orders else None
            for number in range(len(orders)):
                answer = answer if number == 0 else self._answer()
                if answer is None:
                    raise NotAudited("the process that ran the tests has ended")
                yield answer["order"], answer["code"], answer["seconds"]
            return
        with ThreadPoolExecutor(self.workers) as pool:
            waiting = {pool.submit(self._plain, order, limit): order for order in orders}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], *future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in tuple(self._started):
                    _end(process)
                raise

    def _plain(self, order: str, limit: float) -> tuple[int, float]:
        """One run as a process of its own."""
        begun = time.monotonic()
        command: Any = list(self.command.words) or self.command.text
        with open(f"{order}.out", "wb") as out:
            process = subprocess.Popen(
                command,
                shell=not self.command.words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment | {hook.VARIABLE: order},
                start_new_session=True,
            )
            self._started.add(process)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = -signal.SIGKILL
            finally:
                _end(process)
                self._started.discard(process)
        return code, time.monotonic() - begun


def _has(plugin: str, python: str, environment: dict[str, str]) -> bool:
    """Whether pytest would load a plugin there by itself, and take its options."""
    if environment.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        return False
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({plugin!r}) is None)"
    return subprocess.run([python, "-c", look], env=environment, capture_output=True, check=False).returncode == 0


def _end(process: "subprocess.Popen[Any]") -> None:
    """End a process and all that it has started."""
    if process.stdin is not None and process.poll() is None:  # the one that forks, whose runs have groups of their own
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def default_workers() -> int:
    return os.cpu_count() or 1


__all__ = ["Command", "NotAudited", "Order", "Run", "Runner", "command_of", "default_workers"]
