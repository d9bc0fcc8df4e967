"""A pytest that has imported what is slow once, and forks for each mutant: run as a program, by the Python of the tests.

Uses the standard library, pytest and a copy of its neighbour `hook`; nothing of this project, which that Python may not have. Is told
what to do in lines of JSON, and answers in the same.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

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
    import pytest  # noqa: F401 - so that the forks have it

    clean = run_all(setup, [setup["clean"]], 1, setup["limit"])
    first = next(clean)
    slow = [name for name in first["modules"] if name in setup["slow"]]
    if first["code"] == 0 and slow:
        for name in slow:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        first = next(run_all(setup, [setup["clean"]], 1, setup["limit"]))
    print(json.dumps(first), file=pipe)
    line = sys.stdin.readline()
    if not line:
        return
    jobs = json.loads(line)
    for answer in run_all(setup, jobs["orders"], jobs["workers"], jobs["limit"]):
        print(json.dumps(answer), file=pipe)


def run_all(setup: "dict[str, Any]", orders: "list[str]", workers: int, limit: float) -> Any:
    """The outcome of each run, as they end, some at a time."""
    waiting, running = list(reversed(orders)), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                order = waiting.pop()
                running[start(setup, order)] = (order, time.monotonic())
            pid, status, usage = os.wait4(-1, os.WNOHANG)
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
    modules: "list[str]" = []
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
    import normcheck_audit_hook as hook  # which the runner has put on the path
    import pytest

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
    sys.argv = ["pytest", *setup["arguments"]]
    code = int(pytest.main(setup["arguments"]))
    with open(order + ".modules", "w", encoding="utf-8") as file:
        json.dump(sorted({name.partition(".")[0] for name in sys.modules}), file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
