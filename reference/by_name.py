"""The check of a subject by its name, in a process of its own: what the command and the pytest plugin have in common.

What is slow to import (torch, Hypothesis) is imported when a subject is checked. Must not know how a check was asked for.
"""

import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reference.kinds import Kind, kind_in, kind_named
from reference.subjects.guard import Clock, seconds_for, without_collecting
from reference.subjects.loading import ALL, Unusable, parts_of
from reference.subjects.reading import Refused

NOT_CHECKED = (Unusable, Refused, ValueError, TypeError)  # what ends a subject, with a text for the user
LOADING = 60.0  # seconds in which a file is to be imported, where no time was said

_importing: list[threading.Thread] = []  # the one that imports torch, beside the work


@dataclass(frozen=True)
class Asked:
    """A subject that is to be checked, and how.

    Attributes:
        where: the SUBJECT by which it is loaded. shown: the SUBJECT as the user wrote it.
        options: of `check`, as like, accept, names, ndims.
        folder: from which modules are imported too, "" for the current one alone.
        of_layers: where it is every layer of a file, the options of those that have their own, by name; None for one that is
            asked for by itself.
    """

    where: str
    shown: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    of_layers: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, Any]) -> "Asked":
        """The same with some options in the place of its own."""
        of_layers = {name: None if own is None else {**own, **options} for name, own in self.of_layers.items()}
        return replace(self, options={**self.options, **options}, of_layers=of_layers)

    def with_defaults(self, options: Mapping[str, Any]) -> "Asked":
        """The same with some options where it has none."""
        of_layers = {name: None if own is None else {**options, **own} for name, own in self.of_layers.items()}
        return replace(self, options={**options, **self.options}, of_layers=of_layers)

    @property
    def name(self) -> str:
        """What its report calls it."""
        return parts_of(self.shown)[1] if self.shown.startswith("npnorm:") else self.shown

    def each(self) -> Iterator["Asked"]:
        """Itself, or every layer of the file where that is what it says.

        Raises:
            Unusable, Refused: there is none, or the file cannot be imported.
        """
        if parts_of(self.where)[1] != ALL:
            yield self
            return
        from reference.subjects.process.isolated import layers_in

        with self._importable():
            found = layers_in(self.where, Clock(self.options.get("timeout") or LOADING))
        for where in found:
            name = parts_of(where)[1]
            options = self.of_layers.get(name, self.options)
            if options is not None:
                shown = f"{parts_of(self.shown)[0]}:{name}"
                yield replace(self, where=where, shown=shown, options=options, of_layers={})

    def kind(self) -> Kind:
        """The kind of layer that it is: as its options say, or its name; else it is loaded and asked.

        Raises:
            Unusable, Refused, ValueError, TypeError: that cannot be told.
        """
        from reference.subjects.process.isolated import Isolated

        told = self._kind_told()
        if told is not None:
            return told
        with self._importable(), Isolated(self.where, name=self.name) as isolated:
            return isolated.open(Clock(self.options.get("timeout") or LOADING))

    def _kind_told(self) -> Kind | None:
        """The kind of layer that its options or its name tell."""
        like = self.options.get("like")
        return kind_named(like) if like else kind_in(parts_of(self.where)[1])

    @contextlib.contextmanager
    def _importable(self) -> Iterator[None]:
        """Its folder on the path that a process of a subject is given: last, so that it hides nothing of ours."""
        before = list(sys.path)
        if self.folder and self.folder not in sys.path:
            sys.path.append(self.folder)
        try:
            yield
        finally:
            sys.path[:] = before

    def report(self, progress: Callable[[int, int], None] | None = None) -> Any:
        """The report on it.

        Raises:
            Unusable, Refused, ValueError, TypeError: it cannot be checked; the text says why.
        """
        from reference.subjects.process.isolated import Isolated
        from reference.truth.remembered import kept_in, usual_folder

        work: dict[str, Any] = {
            "examples": 200, "seed": 0, "accept": (), "strict": False, "dtypes": None, "ndims": None, "timeout": None
        } | dict(self.options)  # fmt: skip
        like, names, channels_last = work.pop("like", None), work.pop("names", None), work.pop("channels_last", False)
        device = work.pop("device", None) or "cpu"
        told = self._kind_told()
        with (
            self._importable(),
            kept_in(usual_folder()) as memory,
            Isolated(self.where, like, channels_last, names, self.name, device) as isolated,
        ):
            # torch takes a second to import, in which the subject's process gets to its first cases; if it is needed at all
            if not (memory and told and memory.has(told)):
                _begin_to_import_torch()
            kind = isolated.open(Clock(work["timeout"] or seconds_for(work["examples"])))
            work["timeout"] = work["timeout"] or seconds_for(work["examples"], isolated.compiles)
            isolated.begin(work["ndims"], work["dtypes"])
            from reference.checks import examine, validated

            checked = ("examples", "accept", "ndims", "dtypes", "timeout")
            work["accept"] = validated(kind, **{option: work[option] for option in checked})
            return examine(isolated, minimize=True, progress=progress, **work)


def outcome_of(asked: Asked, progress: Callable[[int, int], None] | None = None) -> Any:
    """The report on a subject, or the reason why there is none."""
    try:
        return asked.report(progress)
    except NOT_CHECKED as error:
        return str(error)


def _begin_to_import_torch() -> None:
    if not _importing:
        _importing.append(threading.Thread(target=_import_torch, daemon=True))
        _importing[0].start()


def _import_torch() -> None:
    """In a thread, so that it does not hold up what needs no torch."""
    with without_collecting(), contextlib.suppress(ImportError):  # said where it is needed
        importlib.import_module("reference.truth.torch_layers")
