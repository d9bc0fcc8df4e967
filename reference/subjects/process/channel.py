"""One child process and the messages to it and from it: what is asked, what is answered, how it ended.

Waits no longer than there is time, kills with all that the child started, and believes nothing that does not fit.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from reference.subjects.guard import Clock, printable
from reference.subjects.process.border import PREFIX, STAGE, Garbled, fits, lengths, packed, unpacked
from reference.subjects.reading import Refused

CHILD = "import sys; sys.path[:] = {path!r}; from {server} import serve; serve({stage})"
SERVER = "reference.subjects.process.child"
GLANCE = 0.2  # seconds after which a silent child is looked at: a grandchild may hold the pipe of a dead one
STUCK = 10.0  # seconds after which a child that does not read a large message is killed


class Ended(Exception):
    """The child is gone, or had to go; the text says how."""


class Silent(Exception):
    """The time is over."""


class Child:
    """One process, and the messages to it and from it."""

    def __init__(self, server: str = SERVER) -> None:
        """Start it, with the `serve` of a module; raises Refused where that is not possible."""
        self._stage = _scratch()
        path = [entry for entry in sys.path if entry]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD.format(path=path, server=server, stage=self._stage)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={
                    "OPENBLAS_NUM_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    **os.environ,
                },  # threads that take longer to start than they save
                start_new_session=True,  # with whatever it starts itself; and Ctrl-C is for the parent
                pass_fds=() if self._stage is None else (self._stage,),
            )
        except OSError as error:
            raise Refused(f"no process can be started for it: {error.strerror}") from error
        self._garbled = ""  # what was no message
        self._messages: queue.SimpleQueue[tuple[bytes, bytearray] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def stage(self) -> str:
        """How far it has come: what it last wrote into a file that is read only when it is silent or dead."""
        written = b""
        if self._stage is not None:
            with contextlib.suppress(OSError):
                written = os.pread(self._stage, STAGE, 0)
        return printable(written.decode(errors="replace").strip()) or "the start of its process"

    def _listen(self) -> None:
        source = self.process.stdout
        assert source is not None
        with source, contextlib.suppress(OSError, ValueError):
            while len(prefix := source.read(PREFIX.size)) == PREFIX.size:
                try:
                    text, arrays = lengths(prefix)
                    message = source.read(text), bytearray(source.read(arrays))
                except (Garbled, MemoryError) as error:
                    self._garbled = f"sent {error}"
                    break
                if (len(message[0]), len(message[1])) != (text, arrays):
                    break
                self._messages.put(message)
        self._messages.put(None)

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for something; the answers come in the order of the requests.

        Raises:
            Ended: there is nobody to ask.
        """
        sink = self.process.stdin
        assert sink is not None
        message = packed((method, arguments))
        # a child that does not read would hold us here
        watch = threading.Timer(STUCK, self.kill) if len(message) > 1 << 14 else None
        if watch:
            watch.start()
        try:
            sink.write(message)
            sink.flush()
        except (OSError, ValueError):
            raise Ended(self._how()) from None
        finally:
            if watch:
                watch.cancel()

    def answer(self, expected: Any, clock: Clock) -> Any:
        """What the oldest open request gave.

        Raises:
            Refused: the child says so. Ended: it is gone, or sends what is no answer. Silent: the time is over.
        """
        message = self._next(clock)
        try:
            told = unpacked(*message, tuple[str, Any])
            if told[0] == "refused" and type(told[1]) is str:
                raise Refused(told[1])
            if told[0] != "value" or not fits(told[1], expected):
                raise Garbled(f"{type(told[1]).__name__} where {expected} was expected")
        except Garbled as error:
            self.kill()
            raise Ended(f"sent {error}") from None
        return told[1]

    def _next(self, clock: Clock) -> tuple[bytes, bytearray]:
        while True:
            ended = self.process.poll() is not None  # before the queue is looked at: what it said last counts
            try:
                message = self._messages.get(timeout=max(0.0, min(clock.left, GLANCE)))
            except queue.Empty:
                if ended:
                    raise Ended(self._how()) from None
                if clock.left <= 0:
                    raise Silent from None
                continue
            if message is None:
                raise Ended(self._how())
            return message

    def _how(self) -> str:
        """How the process ended, in words."""
        if self._garbled:
            self.kill()
            return self._garbled
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.kill()
            return "closed its channel to us"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        """End it, and give back what it takes; nothing can be asked of it afterwards."""
        self.kill()
        if self._stage is not None:
            os.close(self._stage)
            self._stage = None

    def kill(self) -> None:
        """End it, and what it started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        if self.process.stdin:  # the other pipe is closed by who listens to it
            with contextlib.suppress(OSError):
                self.process.stdin.close()


def _scratch() -> int | None:
    """A file without a name, which parent and child share; None where there is no such thing."""
    if os.name != "posix":
        return None  # pragma: no cover
    with contextlib.suppress(OSError):
        if hasattr(os, "memfd_create"):
            return os.memfd_create("stage")
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return None
