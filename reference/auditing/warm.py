"""A Python that has imported what is slow once, and forks for each mutant: run as a program, by the Python of the tests.

A fork is pytest, or what `python -m MODULE` or `python FILE.py` runs. Uses the standard library, pytest and a copy of its
neighbour `hook`; nothing of this project, which that Python may not have. Is told what to do in lines of JSON, and answers
in the same.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

NOT_BEFORE = {"conftest", "sitecustomize", "usercustomize", "__main__", "normcheck_audit_hook"}  # belong to a run
MEMORY = 4 << 30  # bytes that a run may take beside what was there


def main() -> None:
    pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    own = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != own]
    os.dup2(2, 1)  # what is printed is not taken for an answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with the runs, by `finally` of `run_all`
    setup = json.loads(sys.stdin.readline())
    if setup["here"]:
        sys.path.insert(0, os.getcwd())
    if not setup["program"]:
        import pytest  # noqa: F401 - so that the forks have it

    first = next(run_all(setup, [setup["clean"]], 1, setup["limit"]))
    if first["code"] == 0 and setup["preload"]:
        preload(first["modules"])
        first = next(run_all(setup, [setup["clean"]], 1, setup["limit"]))
        first["spoiled"] = first["code"] != 0 or is_loaded(setup["targets"])
    print(json.dumps(first), file=pipe)
    for line in sys.stdin:
        jobs = json.loads(line)
        for answer in run_all(setup, jobs["orders"], jobs["workers"], jobs["limit"]):
            print(json.dumps(answer), file=pipe)


def preload(names: "list[str]") -> None:
    """Import what a run has imported from the libraries, in its order.

    pytest rewrites the asserts of its plugins when it imports them, and would warn that it did not: they say that it need not.
    """
    for name in names:
        if name.partition(".")[0] not in NOT_BEFORE:
            with contextlib.suppress(Exception):
                module = importlib.import_module(name)
                if name.partition(".")[0] not in ("_pytest", "pytest"):
                    module.__doc__ = f"{module.__doc__ or ''}\nPYTEST_DONT_REWRITE"


def is_loaded(targets: "list[str]") -> bool:
    """Whether one of the layer's files is among what was imported before the forks."""
    wanted = {os.path.realpath(target) for target in targets}
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return any(isinstance(file, str) and os.path.realpath(file) in wanted for file in files)


def of_libraries() -> "list[str]":
    """The modules that lie beside the standard library or in site-packages, in the order of their import."""
    import sysconfig

    paths = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
    folders = tuple(os.path.realpath(path) + os.sep for path in paths)
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and os.path.realpath(file).startswith(folders):
            found.append(name)
    return found


def run_all(setup: "dict[str, Any]", orders: "list[str]", workers: int, limit: float) -> Any:
    """The outcome of each run, as they end, some at a time."""
    waiting = list(reversed(orders))
    running: dict[int, tuple[str, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                order = waiting.pop()
                running[start(setup, order)] = (order, time.monotonic())
            pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
            now = time.monotonic()
            if pid in running:
                order, begun = running.pop(pid)
                stop(pid)  # what it left behind
                yield answer_of(order, os.waitstatus_to_exitcode(status), now - begun)
                continue
            for pid, (_, begun) in running.items():
                if now - begun > limit:
                    stop(pid)
            time.sleep(0.005)
    finally:
        for pid in running:
            stop(pid)


def answer_of(order: str, code: int, seconds: float) -> "dict[str, Any]":
    modules: list[str] = []
    with contextlib.suppress(OSError, ValueError), open(order + ".modules", encoding="utf-8") as file:
        modules = json.load(file)
    return {"order": order, "code": code, "seconds": seconds, "modules": modules}


def stop(pid: int) -> None:
    """End a run and all that it has started."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def start(setup: "dict[str, Any]", order: str) -> int:
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        become(setup, order)
    finally:
        os._exit(70)
    return 0


def become(setup: "dict[str, Any]", order: str) -> NoReturn:
    """One run of the tests."""
    hook = importlib.import_module("normcheck_audit_hook")  # which the runner has put on the path

    out = os.open(order + ".out", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(old, new)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    limit_memory()
    os.environ[hook.VARIABLE] = order
    hook.install(order)
    code = of_program(setup["program"]) if setup["program"] else of_pytest(setup, order)
    with open(order + ".modules", "w", encoding="utf-8") as file:
        json.dump(of_libraries(), file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def of_pytest(setup: "dict[str, Any]", order: str) -> int:
    """The exit code of pytest."""
    import pytest

    sys.argv = ["pytest", *setup["arguments"]]
    plugins: list[Any] = [] if order == setup["clean"] else [AtFirst()]
    return int(pytest.main(setup["arguments"], plugins))


def of_program(words: "list[str]") -> int:
    """The exit code of what Python runs that is called with these words: `-m MODULE ...` or `FILE.py ...`."""
    import runpy
    import traceback

    is_module = words[0] == "-m"
    sys.argv = words[1:] if is_module else list(words)
    try:
        if is_module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, int):
            return error.code
        if error.code is not None:
            print(error.code, file=sys.stderr)
        return error.code is not None
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class AtFirst:
    """A plugin that ends the run with the first failure: what pytest and its plugins say of it nobody reads."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os._exit(1)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            os._exit(1)


def limit_memory() -> None:
    with contextlib.suppress(Exception):  # a platform may not know it
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = size + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    main()
