"""Running a stranger's code so that nothing it does reaches us: output, warnings, random state, error settings, time.

Knows nothing of layers; it only calls what it is given.
"""

import contextlib
import gc
import io
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")
USERS_OWN: tuple[type[BaseException], ...] = (KeyboardInterrupt,)  # what no code under test is asked about
OURS = Path(__file__).parent.parent
READABLE = 1000  # characters of a stranger's text that are shown
LONGEST = 1e8  # seconds; a timer takes no more


class OutOfTime(BaseException):
    """Raised inside the code under test when its time is over; not an Exception, so that it is not caught there."""


def seconds_for(examples: int, compiles: bool = False) -> float:
    """The time that a subject has by default; more where each of some 70 shapes is compiled first."""
    return (180 if compiles else 60) + 0.03 * examples


class Clock:
    """The time that one subject has."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - monotonic()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `OutOfTime` in the block when the time is over.

        By a timer signal, which also ends a wait; an alarm of the caller's own rings in between. In threads other than
        the main one, and where there is no such signal, the block is left to finish by itself.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or not hasattr(signal, "setitimer") or self.seconds == inf:
            yield
            return

        block, tracing, begun = sys._getframe(2), sys.gettrace(), monotonic()
        of_host, repeated = signal.setitimer(signal.ITIMER_REAL, 0)  # the caller's own alarm

        def ring(signum: int, frame: FrameType | None) -> None:
            nonlocal of_host
            if frame and any(getattr(called, "__code__", None) is frame.f_code for called in gc.callbacks):
                return  # nothing that is raised there is heard; the timer rings again
            if of_host and monotonic() - begun >= of_host:  # it was due first
                of_host = 0.0
                if callable(before):
                    before(signum, frame)
                if self.left > 0:
                    signal.setitimer(signal.ITIMER_REAL, self.left, 0.05)
                    return
            # Code that catches everything swallows this. The next line that it runs is in its handler, outside of its
            # `try`, and there it is raised once more; if that is swallowed too, all begins again in 50 ms.
            while frame is not None and frame is not block:
                frame.f_trace = once_more
                frame = frame.f_back
            sys.settrace(once_more)
            raise OutOfTime

        def once_more(frame: FrameType, event: str, argument: object) -> Any:
            if event == "call":  # of something new, perhaps of what takes this down
                return None
            if event == "line":
                raise OutOfTime
            return once_more

        before = signal.signal(signal.SIGALRM, ring)
        due = min(self.left, of_host or LONGEST, LONGEST)
        signal.setitimer(signal.ITIMER_REAL, max(due, 1e-3), 0.05)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if sys.gettrace() is not tracing:
                sys.settrace(tracing)
            signal.signal(signal.SIGALRM, before)
            if of_host:
                signal.setitimer(signal.ITIMER_REAL, max(of_host - (monotonic() - begun), 1e-3), repeated)


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """For imports: no garbage is looked for, of which there is none, nor later in what was imported, which stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


class _Sink(io.TextIOBase):
    """Takes what is printed and forgets it."""

    def write(self, text: str) -> int:
        return len(text)


_random: Any = np.random  # whose stubs leave out the two functions that are used here
_SINK = _Sink()
_SCRATCH = np.random.MT19937(0)
_ONE_AT_A_TIME = threading.RLock()  # what is put aside belongs to all threads, and must come back in order


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Let the block print, warn, seed and set what it likes; everything is as it was afterwards."""
    with _ONE_AT_A_TIME:
        yield from _shielded()


def _shielded() -> Iterator[None]:
    # The block plays with a generator of its own: quicker than to copy the state of the global one, and put it back.
    own_random: Any = _random.get_bit_generator()
    _random.set_bit_generator(_SCRATCH)
    error_settings, recursion = np.seterr(all="ignore"), sys.getrecursionlimit()  # their file may have set "raise"
    out, err = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = _SINK
    try:
        with warnings.catch_warnings(record=True):  # what is recorded is not shown, whatever filter they set
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stdout, sys.stderr = out, err
        np.seterr(**error_settings)
        _random.set_bit_generator(own_random)
        sys.setrecursionlimit(recursion)


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What came of running a stranger's code: the value, or the exception that ended it."""

    value: T | None = None
    error: BaseException | None = None

    @property
    def timed_out(self) -> bool:
        return isinstance(self.error, OutOfTime)

    @property
    def failure(self) -> str:
        """The exception in one line, "" if there was none."""
        return "" if self.error is None else describe(self.error)

    @property
    def where(self) -> str:
        """The last line of a stranger's own file that it passed, as "my_layers.py:24"; "" if there is none."""
        trace, found = self.error.__traceback__ if self.error else None, ""
        while trace is not None:
            path = Path(trace.tb_frame.f_code.co_filename)
            if (
                path.suffix == ".py"
                and not {"site-packages", "dist-packages"} & set(path.parts)
                and OURS not in path.parents
            ):
                found = f"{path.name}:{trace.tb_lineno}"
            trace = trace.tb_next
        return found


def attempt(work: Callable[[], T], clock: Clock | None = None, shield: bool = True) -> Attempt[T]:
    """Run a stranger's code; whatever it raises, SystemExit too, is kept, but for the user's own Ctrl-C.

    Args:
        work: what calls it.
        clock: whose time it has; without one it may take for ever.
        shield: whether what it prints, warns, seeds and sets is kept from us.
    """
    try:
        with (
            shielded() if shield else contextlib.nullcontext(),
            clock.interrupting() if clock else contextlib.nullcontext(),
        ):
            return Attempt(work())
    except USERS_OWN:
        raise
    except BaseException as error:  # whatever it is, it is not ours
        return Attempt(error=error)


def describe(error: BaseException) -> str:
    """An exception in one line: its type and the first line of its text."""
    try:
        text = str(error).strip().splitlines()
    except USERS_OWN:
        raise
    except BaseException:  # theirs to write, and to write wrong
        text = []
    name = type.__getattribute__(type(error), "__name__")
    return printable(f"{name}: {text[0][:160]}" if text else name)


def attribute(thing: object, name: str, otherwise: Any = None) -> Any:
    """An attribute of a stranger's object; `otherwise` where there is none, or where it raises whatever it likes."""
    found = attempt(lambda: getattr(thing, name))
    return otherwise if found.error is not None else found.value


def printable(text: object, encoding: str = "utf-8", most: int = READABLE) -> str:
    """A text in one line, of characters that can be seen and that a stream of this encoding takes.

    Args:
        text: anything whose `str` is meant. encoding: of the stream. most: characters, beyond which "..." stands.
    """
    whole = str(text)
    shown = whole if whole.isprintable() else "".join(map(_escaped, whole))
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
