"""What the lab shows on the terminal: a progress bar while it trains, a table when it has.

Knows rich and finished figures; must not know networks or files.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from npnorm.lab.data import require
from npnorm.lab.summary import Figures

Advance = Callable[[str], None]


@contextmanager
def progress(epochs: int) -> Iterator[Advance]:
    """A bar that counts epochs, on stderr; what it yields advances it by one, and names what is being trained.

    There is none where nobody watches: stderr is not a terminal, or `CI` is set. rich leaves it out on a terminal
    that cannot redraw a line.
    """
    console = require("rich.console", "rich", "The progress bar").Console(stderr=True)
    if not console.is_terminal or os.environ.get("CI"):
        yield lambda description: None
        return
    bar = require("rich.progress", "rich", "The progress bar")
    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        bar.TextColumn("epochs, "),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns, console=console, transient=True) as live:
        task = live.add_task("starting", total=epochs)
        yield lambda description: live.update(task, advance=1, description=description)


def show(heading: str, rows: Sequence[Figures]) -> None:
    """The table of an experiment on stdout; the highest final test accuracy is bold."""
    console = _console()
    plus_minus = "±" if console.encoding.lower().startswith("utf") else "+/-"
    table_module = require("rich.table", "rich", "The table")
    table = table_module.Table(box=require("rich.box", "rich", "The table").SIMPLE_HEAD, pad_edge=False)
    table.add_column("norm")
    for column in ("final train %", "final test %", "best test %", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    highest = max(row.final_test.mean for row in rows)
    for row in rows:
        accuracies = (row.final_train, row.final_test, row.best_test)
        table.add_row(
            row.norm,
            *(accuracy.text(plus_minus) for accuracy in accuracies),
            f"{row.seconds:.1f}",
            style="bold" if row.final_test.mean == highest else None,
        )
    say(heading)
    console.print(table)


def say(text: str) -> None:
    """A line of text on stdout: wrapped at words on a terminal, left whole elsewhere."""
    console = _console()
    if not console.encoding.lower().startswith("utf"):
        text = text.replace("±", "+/-")
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _console() -> Any:
    return require("rich.console", "rich", "The table").Console()
