"""A subject whose code runs in this process: quick to begin with, and protected from only as far as `guard` goes."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from reference.cases.case import Case
from reference.subjects.discovery import Discovery, discover
from reference.subjects.guard import Clock
from reference.subjects.reading import read
from reference.subjects.spoken import Spoken, spoken
from reference.subjects.subject import Subject

WIDTHS = (
    r"result_type|float16|np\.half\b|astype\(\s*(np\.|jnp\.)?float32|promote_types"
    r"|\.float\(\)|\.half\(\)|torch\.float32|\.to\(\s*\w+\.dtype|\.type_as\("
)


class InProcess(Subject):
    """A subject with all that the verdict asks for; see `Judged`."""

    @property
    def is_adapted(self) -> bool:
        return hasattr(self.factory, "adapts")

    def mentions_widths(self) -> bool:
        """Whether a method but the constructor, or a function of a pair, converts to float32 or asks for 16 bits."""
        factory: Any = getattr(self.factory, "adapts", self.factory)
        methods = (
            [value for name, value in vars(factory).items() if name != "__init__"] if isinstance(factory, type) else []
        )
        functions = [factory] if inspect.isroutine(factory) else getattr(factory, "functions", ())
        for method in (*methods, *functions):
            try:
                source = inspect.getsource(method)
            except (TypeError, OSError):
                continue
            if re.search(WIDTHS, source):
                return True
        return False

    def read(self, ndims: Sequence[int] | None, clock: Clock, dtypes: Sequence[str] | None) -> None:
        """Find its form, as `discover` does first, and nothing else."""
        read(self, ndims, dtypes, clock)

    def discover(self, ndims: Sequence[int] | None, clock: Clock, dtypes: Sequence[str] | None = None) -> Discovery:
        return discover(self, ndims, clock, dtypes)

    def spoken(self, case: Case, parameters: Sequence[str]) -> Spoken | None:
        return spoken(self, case, parameters)
