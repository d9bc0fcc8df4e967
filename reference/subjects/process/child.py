"""The child: loads a stranger's layer, and does with it what the parent asks for. Judges nothing, and imports no torch.

What it needs of others is imported and bound before the stranger's file is: that file's folder comes first on the path
then, and may hold an `html.py`; and the file may change what it likes.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from reference.cases.case import Array, Case
from reference.subjects import guard
from reference.subjects.discovery import Discovery
from reference.subjects.guard import Clock, attempt, describe, printable, without_collecting
from reference.subjects.in_process import InProcess
from reference.subjects.loading import Unusable, layers_of, opened
from reference.subjects.observation import Observation
from reference.subjects.process.border import PREFIX, STAGE, lengths, packed, unpacked
from reference.subjects.reading import Refused
from reference.subjects.spoken import Spoken

OURS_TO_SAY = (Refused, Unusable, ValueError, TypeError)  # exceptions of ours, whose text is for the user
MEMORY = 4 << 30  # bytes; the largest case has two million
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
UNTIMED = float("inf")  # the parent has the clock, and kills

_read, _write, _write_at, _exit = os.read, os.write, getattr(os, "pwrite", None), os._exit


class Served:
    """What the parent may ask for, by the methods' names; the subject is there once `open` was asked."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._in_a_case = False

    def open(
        self, where: str, like: str | None, channels_last: bool, names: Mapping[str, str], name: str | None, device: str
    ) -> tuple[str, str, bool, bool]:
        """Load a subject; its name, that of its kind, and whether it is another framework's, and compiled."""
        self._tell("import")
        with without_collecting():  # a framework takes a tenth longer with it
            layer, kind = opened(where, like, device)
        self.subject = InProcess(layer, kind, name or where, channels_last, names)
        self.subject.on_stage = self._on_stage
        return self.subject.name, kind.name, self.subject.is_adapted, self.subject.compiles

    def layers(self, where: str) -> tuple[str, ...]:
        """The layers in a file or module."""
        self._tell("import")
        return layers_of(where)

    def discover(self, ndims: Sequence[int] | None, dtypes: Sequence[str] | None) -> tuple[Discovery, tuple[str, ...]]:
        self._tell("the first look at it")
        return self.subject.discover(ndims, Clock(UNTIMED), dtypes), self.subject.read_as

    def read(self, ndims: Sequence[int] | None, dtypes: Sequence[str] | None) -> None:
        self._tell("the first look at it")
        self.subject.read(ndims, Clock(UNTIMED), dtypes)

    def mentions_widths(self) -> bool:
        return self.subject.mentions_widths()

    def observe(self, case: Case) -> Observation:
        self._in_a_case = True
        try:
            return self.subject.observe(case, Clock(UNTIMED))
        finally:
            self._in_a_case = False

    def forward_of(self, case: Case, x: Array, gamma: Array | None, beta: Array | None) -> Array | None:
        """y, or None where it raised: whatever it was, it is not ours."""
        return attempt(lambda: self.subject.forward_of(case, x, gamma, beta)).value

    def spoken(self, case: Case, parameters: Sequence[str]) -> Spoken | None:
        return self.subject.spoken(case, parameters)

    def _on_stage(self, stage: str, case: Case) -> None:
        self._tell(stage if self._in_a_case else f"{stage} of {case}")


def serve(stage: int | None, of: type["Served"] | None = None) -> NoReturn:
    """Answer the parent's requests until there are no more; never returns into the interpreter's end.

    Args:
        stage: the descriptor of a file in which it is said how far the layer has come, for when it does not come back.
        of: what may be asked for; that of a subject by default.
    """
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # whatever it prints, from C too, goes nowhere
        os.dup2(nothing, standard)
    sys.dont_write_bytecode = True  # nothing is left beside their file; and it may be mended twice within a second
    guard.USERS_OWN = ()  # Ctrl-C is the parent's; here a KeyboardInterrupt is raised by the stranger
    _die_with_parent()
    _limit_memory()

    def send(value: Any) -> None:
        message = memoryview(packed(value))
        while message:
            message = message[_write(answers, message) :]

    def tell(text: str) -> None:
        if stage is not None and _write_at is not None:
            with contextlib.suppress(OSError):  # they may have closed it, or set a limit
                _write_at(stage, text.encode(errors="replace")[:STAGE].ljust(STAGE), 0)

    served = (of or Served)(tell)
    try:
        while True:
            method, arguments = _received(requests)
            send(_answer(getattr(served, method), arguments))
    finally:
        _exit(0)  # without the stranger's atexit handlers, destructors and threads


def _answer(method: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        value = method(*arguments)
        packed(value)  # what does not cross the border is refused here
    except OURS_TO_SAY as error:
        return "refused", _text(error)
    except BaseException as error:  # theirs, from where none was looked for: a property, a signature, a __del__
        return "refused", f"{method.__name__}: {describe(error)}"
    return "value", value


def _text(error: BaseException) -> str:
    told = attempt(lambda: f"{error}").value
    return printable(told) if type(told) is str else describe(error)


def _received(source: int) -> tuple[str, tuple[Any, ...]]:
    text, arrays = lengths(_exactly(source, PREFIX.size))
    request: tuple[str, tuple[Any, ...]] = unpacked(
        bytes(_exactly(source, text)), _exactly(source, arrays), tuple[str, tuple[Any, ...]]
    )
    return request


def _exactly(source: int, count: int) -> bytearray:
    found = bytearray()
    while len(found) < count:
        piece = _read(source, min(count - len(found), 1 << 20))
        if not piece:
            _exit(0)  # the parent is gone
        found += piece
    return found


def _die_with_parent() -> None:
    """Where there is such a thing: not to be left alone in an endless loop when the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == 1:
            _exit(0)


def _limit_memory() -> None:
    """A layer that allocates without end gets a MemoryError, and nobody else is killed for it."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (min([MEMORY, *(n for n in (soft, hard) if n >= 0)]), hard))
    except (ImportError, ValueError, OSError):  # not everywhere
        pass
