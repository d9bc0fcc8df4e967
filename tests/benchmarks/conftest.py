"""What the benchmarks share: one thread on both sides, and the tables that are printed at the end of the run.

    pytest tests/benchmarks

They are not part of a plain `pytest`, and no time makes one of them fail. Must not know any layer.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from threadpoolctl import threadpool_limits

Report = Callable[[str, str], None]

TABLES = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """BLAS and torch with one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """`report(title, line)`: a line of the table of that title."""

    def add(title: str, line: str) -> None:
        request.config.stash.setdefault(TABLES, {}).setdefault(title, []).append(line)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, lines in config.stash.get(TABLES, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)
