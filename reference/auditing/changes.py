"""What can be done to a layer to make a mutant of it: an edit of a file, or a mistake of the dictionary that is wrapped around it.

Knows how each is put on a `Stage`; not which are wrong.
"""

from dataclasses import dataclass
from typing import Any

from reference.auditing.ground import Stage
from reference.auditing.planting import Address, with_mistake
from reference.repair.edits import Edit


@dataclass(frozen=True)
class Edited:
    """An edit of one of the layer's files, as a change of the layer.

    Attributes:
        edit: of the text. file: its place among the files of the ground.
    """

    edit: Edit
    file: int = 0

    @property
    def kind(self) -> str:
        return self.edit.kind

    def put_on(self, stage: Stage) -> None:
        stage.unclear = False
        patch = stage.benches[self.file].patch
        patch.put(self.edit.key, patch.compiled(self.edit.key, self.edit.places))

    def take_off(self, stage: Stage) -> None:
        stage.benches[self.file].patch.restore(self.edit.key)


@dataclass(frozen=True)
class Mistake:
    """An entry of the dictionary, made by wrapping the layer's class.

    Attributes:
        id: of the entry. way: which of its variants. address: of the class. file: that defines it.
    """

    id: str
    way: int
    address: Address
    file: str
    kind = "a mistake of the dictionary"

    def put_on(self, stage: Stage) -> None:
        owner = stage.ground.subject.factory
        assert isinstance(owner, type)
        stage.unclear, stage.planted = False, with_mistake(owner, self.address, self.id, self.way, stage.note)
        stage.planted.put_on()

    def take_off(self, stage: Stage) -> None:
        assert stage.planted is not None
        stage.planted.take_off()


@dataclass(frozen=True)
class Mutant:
    """A variant that makes the layer wrong.

    Attributes:
        change: of the layer. wrong: the quantities that it spoils in ordinary cases, in the order of a layer.
        pattern: the same for mutants that are wrong in the same of the crossed cases.
        name: the id of the entry of the dictionary whose formula gives the same, "" if there is none.
    """

    change: Edited | Mistake
    wrong: tuple[str, ...]
    pattern: str = ""
    name: str = ""

    @property
    def order(self) -> tuple[Any, ...]:
        """Where it stands in a report: by file and line, and what has none at the end."""
        if isinstance(self.change, Mistake):
            return (1, 0, 0, 0, self.change.id)
        edit = self.change.edit
        return (0, self.change.file, edit.line, edit.start, edit.text)
