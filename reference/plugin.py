"""`pytest --normcheck`: the subjects of [tool.normcheck] as tests, without a file that asks for them.

One test for each layer, quantity, dtype and rank, with the ids of `parametrize_with_checks`, below the pyproject.toml that
names the layers: `pyproject.toml::MyGroupNorm-dx-float64-4D`. A layer is run once, in a process of its own, by the first of
its tests. pytest imports this module in every run of everybody: without the flag it must load nothing else, and do nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reference.by_name import Asked

EXAMPLES = 100  # random cases a layer, as `parametrize_with_checks` has them
FILE: pytest.StashKey[Path] = pytest.StashKey()  # the pyproject.toml, where the flag is given


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("normcheck", "normalization layers, held against torch.nn")
    group.addoption(
        "--normcheck", action="store_true", help="test the layers of [tool.normcheck] in pyproject.toml too"
    )
    group.addoption(
        "--normcheck-examples",
        type=int,
        default=EXAMPLES,
        metavar="N",
        help=f"random cases a layer (default {EXAMPLES})",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "normcheck: a test that `--normcheck` made of a configured layer")
    if not config.getoption("normcheck"):
        return
    from reference.configuration import configuration_for
    from reference.subjects.loading import Unusable

    try:
        found = configuration_for(config.invocation_params.dir)
    except Unusable as error:
        raise pytest.UsageError(str(error)) from None
    if found.file is None or not found.subjects:
        where = found.file or f"a pyproject.toml in {config.invocation_params.dir} or above"
        raise pytest.UsageError(f"--normcheck: Expected subjects in [tool.normcheck] of {where} but there are none")
    config.stash[FILE] = found.file
    # asked for like any other file; unless it is already, whole or with the id of one of its tests
    asked = [config.invocation_params.dir / argument.split("::")[0] for argument in config.args]
    if found.file.resolve() not in [path.resolve() for path in asked]:
        config.args.append(str(found.file))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "pytest.Collector | None":
    if file_path != parent.config.stash.get(FILE, None):
        return None
    collector: pytest.Collector = Layers.from_parent(parent, path=file_path)
    return collector


class Layers(pytest.File):
    """The configured layers."""

    def collect(self) -> Iterator[pytest.Item]:
        from reference.by_name import NOT_CHECKED
        from reference.configuration import configuration_for

        layers: list[Asked] = []
        for subject in configuration_for(self.path.parent).subjects:
            try:
                layers += subject.each()
            except NOT_CHECKED as error:
                raise self.CollectError(str(error)) from None
        short = [layer.shown.rpartition(":")[2] for layer in layers]
        for layer, name in zip(layers, short, strict=True):
            yield from self._checks(layer, name if short.count(name) == 1 else layer.shown)

    def _checks(self, layer: "Asked", name: str) -> Iterator[pytest.Item]:
        from dataclasses import replace

        from reference.by_name import NOT_CHECKED
        from reference.testing import LayerChecks, group_of

        examples = self.config.getoption("normcheck_examples")
        layer = replace(layer, options={**layer.options, "examples": examples})
        try:
            checks = LayerChecks(
                layer.kind(), name, examples, layer.options, layer.report, f"normcheck {layer.shown}"
            ).checks()
        except NOT_CHECKED as error:
            raise self.CollectError(f"{layer.shown}: {error}") from None
        for id, run in checks.items():
            yield Check.from_parent(self, name=id, run=run, marks=group_of(name))


class Check(pytest.Item):
    """One test of one layer."""

    def __init__(self, *, run: Callable[[], None], marks: Iterable[Any] = (), **others: Any) -> None:
        super().__init__(**others)
        self.run = run
        for mark in (pytest.mark.normcheck, *marks):
            self.add_marker(mark)

    def runtest(self) -> None:
        self.run()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The verdict alone; of an error that is ours to mend the frames too."""
        from reference.subjects.reading import Refused

        if isinstance(excinfo.value, (AssertionError, Refused)):
            return excinfo.getrepr(style="value")
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name
