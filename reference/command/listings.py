"""What `--faults` and `--explain` print: the dictionary, as a table and entry by entry."""

import difflib

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reference.diagnosis.faults import FAULTS, Fault
from reference.kinds import KINDS, Kind
from reference.subjects.loading import Unusable


def print_faults(console: Console) -> None:
    """Every entry in a line."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    table.add_column("what is wrong (--explain ID says more)")
    for fault in FAULTS.values():
        kind = "" if fault.kind == "mistake" else f" ({fault.kind})"
        table.add_row(fault.id, escape(fault.summary) + kind)
    console.print(table)


def explain(id: str, console: Console) -> None:
    """One entry, whole.

    Raises:
        Unusable: there is none of that id.
    """
    if id not in FAULTS:
        near = difflib.get_close_matches(id, FAULTS, n=3, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise Unusable(f"Expected an id of the dictionary but got {id!r}{hint} (--faults lists all)")
    fault = FAULTS[id]
    console.print(f"[bold]{fault.id}[/bold] ({fault.kind})")
    console.print(escape(fault.summary))
    kinds = [KINDS[name] for name in fault.layers]
    less = [kind for kind in kinds if (fault.wrong_for(kind), fault.right_for(kind)) != (fault.wrong, fault.right)]
    rows = (
        ("here", fault.wrong),
        ("right", fault.right),
        *((f"{label} in {kind.name}", text) for kind in less for label, text in _formulas(fault, kind)),
        ("fix", fault.fix),
        ("spoils", ", ".join(fault.quantities)),
        ("layers", ", ".join(fault.layers)),
        ("seen in", fault.seen_in),
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, text in rows:
        if text:
            table.add_row(label, escape(text))
    console.print(table)


def _formulas(fault: Fault, kind: Kind) -> tuple[tuple[str, str], ...]:
    """The two formulas of an entry as they read for one kind of layer."""
    return ("here", fault.wrong_for(kind)), ("right", fault.right_for(kind))
