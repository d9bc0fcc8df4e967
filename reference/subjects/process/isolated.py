"""The parent's side of a subject in a process of its own: asks, waits no longer than there is time, and kills.

Runs none of the stranger's code, and takes nothing from the child but what fits the types that it asked for.
"""

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from reference.cases.case import Array, Case
from reference.kinds import Kind, kind_named
from reference.subjects.discovery import Discovery
from reference.subjects.guard import Clock
from reference.subjects.observation import Observation
from reference.subjects.process.channel import Child, Ended, Silent
from reference.subjects.reading import Refused
from reference.subjects.spoken import Spoken

RESTARTS = 2  # of a subject that ended its process
AHEAD = 16  # cases that the child is told of before they are needed
BRIEFLY = 10.0  # seconds for what is only nice to have
OPENED = tuple[str, str, bool]  # name, kind, and whether it is another framework's


def layers_in(where: str, clock: Clock) -> tuple[str, ...]:
    """The SUBJECTs that `file.py:*` stands for.

    Raises:
        Refused: there is none, or the file cannot be imported.
    """
    child = Child()
    try:
        child.send("layers", where)
        found: tuple[str, ...] = child.answer(tuple[str, ...], clock)
    except Ended as ended:
        raise Refused(f"{where} cannot be imported: its process {ended} in {child.stage}") from None
    except Silent:
        raise Refused(f"{where} cannot be imported within {clock.seconds:g} s") from None
    finally:
        child.close()
    return found


class Isolated:
    """A subject whose code runs in a process of its own; see `Judged`.

    Args:
        where: package.module:Name, path/file.py:Name, or ...:forward+backward.
        like: the kind of layer, where the name does not tell. channels_last, names: as `check` has them.
        name: for the report. device: where a layer of torch's computes.

    Its process starts at once, so that it is up while the parent imports torch. To be closed.
    """

    def __init__(
        self,
        where: str,
        like: str | None = None,
        channels_last: bool = False,
        names: Mapping[str, str] | None = None,
        name: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.opening = (where, like, channels_last, dict(names or {}), name, device)
        self.name, self.lost = name or where, ""
        self.read_as: tuple[str, ...] = ()
        self.is_adapted = False
        self._deaths = 0
        self._child: Child | None = None
        self._asked: deque[Case] = deque()  # cases whose observations are to come, in this order
        self._seen: dict[Case, Observation] = {}
        self._look: tuple[Any, Any] = (None, None)  # at which ranks and dtypes its form was found
        self._begun = False  # whether the child is at it
        self._start()
        assert self._child is not None
        self._child.send("open", *self.opening)

    def open(self, clock: Clock) -> Kind:
        """Wait until it is loaded; the kind of layer that it is.

        Raises:
            Refused: it cannot be loaded, or its import does not end in time.
        """
        assert self._child is not None
        try:
            self.name, kind, self.is_adapted = self._child.answer(OPENED, clock)
        except Ended as ended:
            raise Refused(f"{self.opening[0]} cannot be imported: its process {ended} in {self._child.stage}") from None
        except Silent:
            self._child.kill()
            raise Refused(f"{self.opening[0]} cannot be imported within {clock.seconds:g} s") from None
        self.kind = kind_named(kind)
        return self.kind

    def close(self) -> None:
        """End its process."""
        if self._child:
            self._child.close()
            self._child = None

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, ndims: Sequence[int] | None, dtypes: Sequence[str] | None) -> None:
        """Have it find out what `discover` asks for, before that is asked."""
        assert self._child is not None
        self._look = _plain_look(ndims, dtypes)
        with contextlib.suppress(Ended):  # which `discover` finds out
            self._child.send("discover", *self._look)
            self._begun = True

    def discover(self, ndims: Sequence[int] | None, clock: Clock, dtypes: Sequence[str] | None = None) -> Discovery:
        """Which cases it takes.

        Raises:
            Refused: it cannot be checked, or its process ended, or it took all of the time.
        """
        child = self._current(clock)
        discovery: Discovery
        try:
            if not self._begun or self._look != _plain_look(ndims, dtypes):
                self.begin(ndims, dtypes)
            self._begun = False
            discovery, self.read_as = child.answer(tuple[Discovery, tuple[str, ...]], clock)
        except Ended as ended:
            raise Refused(f"{self.name} cannot be checked: its process {ended} in {child.stage}") from None
        except Silent:
            raise Refused(f"{self.name} gave no answer within {clock.seconds:g} s in {child.stage}") from None
        return discovery

    def mentions_widths(self) -> bool:
        return bool(self._nice_to_have("mentions_widths", expected=bool))

    def spoken(self, case: Case, parameters: Sequence[str]) -> Spoken | None:
        found: Spoken | None = self._nice_to_have("spoken", case, tuple(parameters), expected=Spoken | None)
        return found

    def forward_of(self, case: Case, x: Array, gamma: Array | None, beta: Array | None) -> Array:
        """y for other inputs. Raises Refused where there is none."""
        y: Array | None = self._nice_to_have("forward_of", case, x, gamma, beta, expected=Array | None)
        if y is None:
            raise Refused(f"{self.name} gave no y for {case}")
        return y

    def prepare(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if self.lost or not self._child or len(self._asked) >= AHEAD:
                return
            if case in self._asked or case in self._seen:
                continue
            with contextlib.suppress(Ended):  # it is found out when the first of them is waited for
                self._child.send("observe", case)
                self._asked.append(case)

    def observe(self, case: Case, clock: Clock | None = None) -> Observation:
        """Run a case. A process that ends in it, or is still silent when the time is over, is a finding."""
        clock = clock or Clock(BRIEFLY)
        if self.lost:
            return _failed(case, "process-ended", self.lost, "forward")
        try:
            if case not in self._asked and case not in self._seen:
                self._current(clock).send("observe", case)
                self._asked.append(case)
            while case not in self._seen:
                self._receive(clock)
        except Refused as refused:  # it can be loaded once, and not again
            self.lost = f"its process ended, and could not be started again: {refused}"
            return _failed(case, "process-ended", self.lost, "forward")
        except Ended as ended:
            return self._died(case, str(ended))
        except Silent:
            stage = self._stage()
            self._end()
            return _failed(case, "never-returns", f"no answer within {clock.seconds:g} s in {stage} of {case}", stage)
        return self._seen.pop(case)

    # --- the process --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._asked.clear()
        self._seen.clear()
        self._child = Child()

    def _end(self) -> None:
        self.close()
        self._asked.clear()

    def _current(self, clock: Clock) -> Child:
        """The child, a new one if the last one is gone; that knows the layer's form again."""
        if self._child is None:
            self._start()
            assert self._child is not None
            self._child.send("open", *self.opening)
            self._child.answer(OPENED, clock)
            self._child.send("read", *self._look)
            self._child.answer(None, clock)
        return self._child

    def _receive(self, clock: Clock) -> None:
        """Take the oldest observation that is to come."""
        assert self._child is not None
        case = self._asked[0]
        try:
            observation = self._child.answer(Observation, clock)
        except Refused as refused:  # something in it does not cross the border
            observation = _failed(case, "process-ended", f"no observation of {case}: {refused}", "forward")
        self._asked.popleft()
        self._seen[case] = observation

    def _ask(self, method: str, *arguments: Any, expected: Any, clock: Clock) -> Any:
        child = self._current(clock)
        while self._asked:
            self._receive(clock)
        child.send(method, *arguments)
        try:
            return child.answer(expected, clock)
        except Ended as ended:
            stage = child.stage
            self._end()
            raise Ended(f"{ended} in {stage}") from None
        except Silent:
            child.kill()
            raise

    def _nice_to_have(self, method: str, *arguments: Any, expected: Any) -> Any:
        """What the verdict can do without: None where there is no answer."""
        if self.lost:
            return None
        try:
            return self._ask(method, *arguments, expected=expected, clock=Clock(BRIEFLY))
        except (Refused, Ended, Silent):
            self._end()
            return None

    def _stage(self) -> str:
        return self._child.stage if self._child else ""

    def _died(self, case: Case, how: str) -> Observation:
        """The process ended: in this case, or in one before it that is not asked for any more."""
        stage = self._stage()
        guilty = self._asked[0] if self._asked else case
        self._end()
        self._deaths += 1
        if self._deaths > RESTARTS:
            self.lost = f"its process ended {self._deaths} times"
        if guilty != case and not self.lost:
            return self.observe(case)
        return _failed(case, "process-ended", f"its process {how} in {stage} of {case}", stage)


def _plain_look(ndims: Sequence[int] | None, dtypes: Sequence[str] | None) -> tuple[Any, Any]:
    return tuple(ndims) if ndims else None, tuple(dtypes) if dtypes else None


def _failed(case: Case, id: str, detail: str, stage: str) -> Observation:
    """A case that has no end."""
    seen = Observation()
    backward = "backward" in stage
    seen.find(id, "dx" if backward else "y", detail)
    seen.fail("backward" if backward else "forward", "no answer in time" if id == "never-returns" else detail)
    return seen
