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

    def go_on(self) -> None:
        """Try on until there is something, or nothing left."""
        children = [forked("search", partial(explore, self.work)) for _ in range(WORKERS)]
        begun, helped = time.monotonic(), len(self.helps)
        end = self.work.deadline
        try:
            while children:
                lost: list[Child] = []
                ended = 0
                for child, message in messages(children, end):
                    now = time.monotonic()
                    if message is None:
                        ended += 1
                        lost += [] if child.finished else [child]
                        continue
                    self._take(message)
                    spent = self._seconds + now - begun
                    if self.right:
                        end = min(end, now + GRACE[0] + GRACE[1] * spent)
                    elif len(self.helps) > helped:
                        end = min(end, begun + PATIENCE * (self.work.deadline - begun))
                    if now > end and (self.right or len(self.helps) > helped):
                        break
                for child in children:
                    child.end()
                self.over = ended == len(children) and not lost
                self._crashes += len(lost)
                again = lost and self._crashes <= CRASHES and time.monotonic() < end
                self.over |= bool(lost) and self._crashes > CRASHES
                children = [forked("search", partial(explore, self.work)) for _ in lost] if again else []
        finally:
            for child in children:
                child.end()
            self._seconds += time.monotonic() - begun

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
