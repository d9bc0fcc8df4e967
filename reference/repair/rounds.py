"""One round of the search: children that try all edits of one text, stopped when it has what it wants, and taken up again.

Knows children and what they say; not what is done with it.
"""

import time
from functools import partial

from reference.repair.edits import Edit
from reference.repair.explore import PORTION, Work, explore, unpacked
from reference.repair.processes import Child, forked, messages

WORKERS = 2
GRACE = (0.15, 0.35)  # seconds, and the share of the time so far, in which a better edit may come after the first
PATIENCE = 0.45  # the share of the time left in which one that makes everything right may come after one that helps
SILENCE = 3.0  # seconds after which a child is given up
CRASHES = 6  # children that may be lost before a round ends


class Round:
    """A search over all edits of a text.

    Attributes:
        right: the edits with which all probes are right. helps: those that make some right and none wrong, each with the
            number of faults that are left. over: whether all edits have been tried.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.right: list[Edit] = []
        self.helps: list[tuple[int, Edit]] = []
        self.over = False
        self._edits = self._portions = self._crashes = self._counted = 0
        self._known: set[str] = set()
        self._seconds = 0.0
        self._end = work.deadline
        self._helped = 0

    def go_on(self) -> None:
        """Try on until there is something, or nothing left."""
        begun, wanted = time.monotonic(), WORKERS
        self._end, self._helped = self.work.deadline, len(self.helps)
        while wanted and time.monotonic() < self._end:
            children = [forked("search", partial(explore, self.work)) for _ in range(wanted)]
            try:
                wanted = self._listen(children, begun)
            finally:
                for child in children:
                    child.end()
            self._crashes += wanted
            if self._crashes > CRASHES:
                self.over, wanted = True, 0
        self._seconds += time.monotonic() - begun

    def _listen(self, children: list[Child], begun: float) -> int:
        """Take what children say until it is enough; how many have to be started anew, because they were lost."""
        ended = lost = 0
        for child, message in messages(children, self._end):
            now = time.monotonic()
            if message is None:
                ended += 1
                lost += not child.finished
                continue
            self._take(message)
            if self.right:
                self._end = min(self._end, now + GRACE[0] + GRACE[1] * (self._seconds + now - begun))
            elif len(self.helps) > self._helped:
                self._end = min(self._end, begun + PATIENCE * (self.work.deadline - begun))
            if now > self._end:
                return 0
            if any(now - other.heard > SILENCE and not other.finished for other in children):
                return sum(not other.finished for other in children)  # one is in a call that no signal ends
        self.over = ended == len(children) and not lost
        return lost

    def count(self) -> int:
        """How many edits have been tried since this was last asked."""
        tried = min(self._edits, PORTION * self._portions)
        new, self._counted = tried - self._counted, tried
        return new

    def close(self) -> None:
        self.work.tickets.close()

    def _take(self, message: dict[str, object]) -> None:
        self._edits = whole(message.get("edits"), self._edits)
        self._portions += "portion" in message
        if not isinstance(message.get("edit"), dict):
            return
        try:
            edit = unpacked(message["edit"])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            return
        if message.get("right"):
            self.right.append(edit)
        elif "helps" in message:
            self.helps.append((whole(message.get("left"), 1 << 30), edit))


def whole(value: object, otherwise: int) -> int:
    """A number that was said, or another if it is none."""
    return value if isinstance(value, int) else otherwise
