"""`pytest --normcheck`: the subjects of [tool.normcheck] as tests, without a file that asks for them.

One test for each layer, quantity, dtype and rank, with the ids of `parametrize_with_checks`, below the pyproject.toml that
names the layers: `pyproject.toml::MyGroupNorm-dx-float64-4D`. A layer is run once, in a process of its own, by the first of
its tests, and where it is wrong a fix is looked for once. In a job of GitHub the verdicts are told as the command tells them.
pytest imports this module in every run of everybody: without the flag it must load nothing else, and do nothing.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reference.by_name import Asked

EXAMPLES = 100  # random cases a layer, as `parametrize_with_checks` has them
FIX_SECONDS = 5.0  # of search for a fix of a layer that is wrong
FILE: pytest.StashKey[Path] = pytest.StashKey()  # the pyproject.toml, where the flag is given
OUTCOMES: "pytest.StashKey[dict[str, tuple[Asked, Any]]]" = pytest.StashKey()  # by what the layer is called
SENT = "normcheck"  # under which a worker of pytest-xdist sends them


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("normcheck", "normalization layers, held against torch.nn")
    group.addoption(
        "--normcheck", action="store_true", help="test the layers of [tool.normcheck] in pyproject.toml too"
    )
    group.addoption(
        "--normcheck-examples",
        type=int,
        metavar="N",
        help=f"random cases a layer (default: as configured, or {EXAMPLES})",
    )
    group.addoption(
        "--normcheck-no-fix-search",
        action="store_true",
        help=f"look for no fix of a layer that is wrong (default: fix_seconds as configured, or {FIX_SECONDS:g} s)",
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
    config.stash[OUTCOMES] = {}
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(OfWorkers(config))
    # asked for like any other file; unless it is already, whole or with the id of one of its tests
    asked = [config.invocation_params.dir / argument.split("::")[0] for argument in config.args]
    if found.file.resolve() not in [path.resolve() for path in asked]:
        config.args.append(str(found.file))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker sends what it has found to the process that started it."""
    found = session.config.stash.get(OUTCOMES, None)
    if found and hasattr(session.config, "workeroutput"):
        import pickle

        session.config.workeroutput[SENT] = pickle.dumps(found)


class OfWorkers:
    """What pytest-xdist asks of the process that has workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.outcomes = config.stash[OUTCOMES]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        import pickle

        sent = getattr(node, "workeroutput", {}).get(SENT)
        self.outcomes |= pickle.loads(sent) if sent else {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """In a job of GitHub: annotations and the summary, each layer once."""
    found = config.stash.get(OUTCOMES, None)
    if not found or hasattr(config, "workerinput"):
        return
    from reference import github
    from reference.subjects.guard import printable
    from reference.subjects.loading import Unusable

    def say(line: str) -> None:
        terminalreporter.write_line(printable(line, sys.stdout.encoding or "ascii", 10 * len(line)))

    if github.is_job():
        terminalreporter.ensure_newline()
        try:
            github.tell([found[name] for name in sorted(found)], say)
        except Unusable as error:
            terminalreporter.write_line(f"normcheck: {error}")


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
                self._tell(subject, str(error))
                raise self.CollectError(str(error)) from None
        short = [layer.shown.rpartition(":")[2] for layer in layers]
        for layer, name in zip(layers, short, strict=True):
            yield from self._checks(layer, name if short.count(name) == 1 else layer.shown)

    def _checks(self, layer: "Asked", name: str) -> Iterator[pytest.Item]:
        from reference.by_name import NOT_CHECKED
        from reference.testing import LayerChecks, group_of

        typed = self.config.getoption("normcheck_examples")
        layer = layer.with_defaults({"examples": EXAMPLES, "fix_seconds": FIX_SECONDS})
        layer = layer.with_options({} if typed is None else {"examples": typed})
        layer = layer.with_options({"fix_seconds": 0.0} if self.config.getoption("normcheck_no_fix_search") else {})
        try:
            checks = LayerChecks(
                layer.kind(),
                name,
                layer.options["examples"],
                layer.options,
                lambda: self._report(layer),
                f"normcheck {layer.shown}",
            ).checks()
        except NOT_CHECKED as error:
            self._tell(layer, str(error))
            raise self.CollectError(f"{layer.shown}: {error}") from None
        for id, run in checks.items():
            yield Check.from_parent(self, name=id, run=run, marks=group_of(name))

    def _report(self, layer: "Asked") -> Any:
        from reference.by_name import NOT_CHECKED
        from reference.subjects.reading import Refused

        try:
            report = layer.report()
        except NOT_CHECKED as error:
            self._tell(layer, str(error))
            if isinstance(error, Refused):
                raise
            raise Refused(str(error)) from None
        self._tell(layer, report)
        return report

    def _tell(self, layer: "Asked", outcome: Any) -> None:
        self.config.stash[OUTCOMES][layer.shown] = (layer, outcome)


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
