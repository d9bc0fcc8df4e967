"""Processes of their own for code that may loop, allocate or crash: forked when all is loaded, ended by their parent.

What a child has to say comes as lines of JSON, which cannot do anything to its parent. Knows nothing of layers.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # bytes that a child may take beside what its parent has
Send = Callable[[dict[str, Any]], None]
Task = Callable[[Send], None]


_inside: list[int] = []  # not empty in a child


def can_fork() -> bool:
    """Whether there is a way to run something in a process of its own, with all that is loaded here."""
    return hasattr(os, "fork") and hasattr(signal, "setitimer")


def is_child() -> bool:
    """Whether this process is a child of ours: it starts none itself."""
    return bool(_inside)


@dataclass
class Child:
    """A forked process at work, and the pipe that it speaks through."""

    name: str
    pid: int
    pipe: int
    text: bytes = b""
    finished: bool = False  # whether it said all that it had to say
    heard: float = field(default_factory=time.monotonic)  # when it last said something

    def end(self) -> None:
        """Kill it, wait for it, and close its pipe."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            os.close(self.pipe)


def forked(name: str, task: Task) -> Child:
    """Start a child that does `task` and ends; it shares nothing with this process from then on."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns where there are threads; the child uses none of theirs
        pid = os.fork()
    if pid:
        os.close(writing)
        return Child(name, pid, reading)
    status = 1
    try:
        os.close(reading)
        _become_a_child()
        with os.fdopen(os.dup(writing), "wb", buffering=0) as out:

            def send(message: dict[str, Any]) -> None:
                out.write(json.dumps(message).encode() + b"\n")

            task(send)
            send({"done": True})
        status = 0
    except BaseException:
        status = 1
    finally:
        os._exit(status)  # without the parent's buffers, exit handlers and threads


def _become_a_child() -> None:
    """Nothing that is done here is seen or heard outside, and no file is written to."""
    _inside.append(os.getpid())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.settrace(None)
    gc.freeze()
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    with contextlib.suppress(Exception):  # a platform may not know it, or not allow it
        import resource

        limit = _size() + MEMORY
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _size() -> int:
    """The bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def messages(children: list[Child], deadline: float) -> Iterator[tuple[Child, dict[str, Any] | None]]:
    """What children say, as it comes; None when one has ended. Ends at the deadline, and when all have ended.

    None for the message also with no news for a while: then the child is any of them, and still at work.
    """
    with selectors.DefaultSelector() as selector:
        for child in children:
            selector.register(child.pipe, selectors.EVENT_READ, child)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            ready = selector.select(min(left, 0.05))
            if not ready:
                yield children[0], {"waiting": True}
            for key, _ in ready:
                child = key.data
                child.heard = time.monotonic()
                piece = os.read(child.pipe, 1 << 16)
                *lines, child.text = (child.text + piece).split(b"\n")
                for line in lines:
                    message = _read(line)
                    if message.get("done"):
                        child.finished = True
                    else:
                        yield child, message
                if not piece:
                    selector.unregister(child.pipe)
                    yield child, None


def _read(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


class Tickets:
    """Numbers from 0 on, each handed out once, to whichever child asks first."""

    SIZE = 2

    def __init__(self, count: int) -> None:
        self.reading, writing = os.pipe()
        os.write(writing, b"".join(number.to_bytes(self.SIZE, "little") for number in range(count)))
        os.close(writing)

    def take(self) -> int | None:
        """The next number; None when there is none."""
        taken = os.read(self.reading, self.SIZE)
        return int.from_bytes(taken, "little") if len(taken) == self.SIZE else None

    def close(self) -> None:
        os.close(self.reading)
