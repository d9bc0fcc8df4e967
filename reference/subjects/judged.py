"""What the verdict needs of a subject, wherever its code runs: in this process or in one of its own."""

from collections.abc import Sequence
from typing import Protocol

from reference.cases.case import Array, Case
from reference.kinds import Kind
from reference.subjects.discovery import Discovery
from reference.subjects.guard import Clock
from reference.subjects.observation import Observation
from reference.subjects.spoken import Spoken


class Judged(Protocol):
    """A layer under test; `InProcess` and `Isolated` are the two that there are."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def kind(self) -> Kind:
        """Of layer that it is meant to be."""

    @property
    def read_as(self) -> tuple[str, ...]:
        """What has another name here than in torch; known after `discover`."""

    @property
    def lost(self) -> str:
        """Why nothing more can be tried on it; "" while it can."""

    @property
    def is_adapted(self) -> bool:
        """Whether it is another framework's, read by an adapter; known once it is loaded."""

    def mentions_widths(self) -> bool:
        """Whether the source of its passes speaks of float32 or float16."""

    def discover(self, ndims: Sequence[int] | None, clock: Clock, dtypes: Sequence[str] | None) -> Discovery:
        """Which cases it takes. Raises Refused where it cannot be checked."""

    def prepare(self, cases: Sequence[Case]) -> None:
        """Say which cases are observed next, in this order, so that work on them may begin."""

    def observe(self, case: Case, clock: Clock | None = None) -> Observation:
        """Run a case; whatever the layer does is in what comes back."""

    def forward_of(self, case: Case, x: Array, gamma: Array | None, beta: Array | None) -> Array:
        """y of the last call of a case for other inputs; raises whatever the layer raises."""

    def spoken(self, case: Case, parameters: Sequence[str]) -> Spoken | None:
        """How a program speaks to it in a case; None if that takes more than a few lines."""
