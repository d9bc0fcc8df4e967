"""`[tool.normcheck]` of a pyproject.toml: the subjects of a project, each with its options, found from any folder below it.

    [tool.normcheck]                  # for all of them
    dtypes = ["float32"]
    baseline = "tests/baseline.json"  # of the command

    [[tool.normcheck.subjects]]
    subject = "my_layers.py:MyBatchNorm"
    accept = ["running-var-biased"]

Refuses by name what is not known or of another type; what only the layer can tell, as its ranks, its check refuses. Reads
one file and imports nothing that is named in it.
"""

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from reference.by_name import Asked
from reference.dtypes import DTYPES
from reference.kinds import KINDS
from reference.subjects.loading import ALL, Unusable, parts_of

NAMES = (  # what a layer's own words can be said for
    *("gamma", "beta", "dgamma", "dbeta", "running_mean", "running_var", "forward", "backward", "training"),
    *dict.fromkeys(keyword for kind in KINDS.values() for keyword in kind.keywords),
)
FILE = "pyproject.toml"
TABLE = "tool.normcheck"
RANKS = (2, 3, 4, 5)


@dataclass(frozen=True)
class Configuration:
    """What a project says of its layers.

    Attributes:
        file: that says it; None where there is none.
        subjects: with their options. defaults: the options of all others.
        baseline: the file that the command holds them against, if one is said.
    """

    file: Path | None = None
    subjects: list[Asked] = field(default_factory=list)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    baseline: Path | None = None

    def asked(self, subject: str) -> Asked:
        """A subject that was named otherwise, as on a command line: with its options if it is one of these."""
        own = {name: one.options for name, one in self._layers_of(subject).items()}
        for one in self.subjects:
            if _same(one.where, subject):
                return Asked(subject, subject, one.options, one.folder, own)
        return Asked(subject, subject, self.defaults, of_layers=own)

    def _layers_of(self, subject: str) -> dict[str, Asked]:
        """The subjects of the file of one that stands for all of them."""
        if not subject.endswith(f":{ALL}"):
            return {}
        place = subject.removesuffix(ALL)
        named = {parts_of(one.where)[1]: one for one in self.subjects}
        return {name: one for name, one in named.items() if name != ALL and _same(one.where, place + name)}


def configuration_for(folder: Path) -> Configuration:
    """That of the nearest pyproject.toml with a [tool.normcheck], from a folder upward; an empty one where there is none.

    Raises:
        Unusable: it is not what it should be; the text says where and what was expected.
    """
    for above in (folder.absolute(), *folder.absolute().parents):
        file = above / FILE
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "normcheck" not in text:  # most are none of our business, broken or not
            continue
        try:
            table = tomllib.loads(text).get("tool", {}).get("normcheck")
        except (tomllib.TOMLDecodeError, AttributeError) as error:
            raise Unusable(f"{_shown(file)} cannot be read: {error}") from None
        if table is not None:
            return _read(file, table)
    return Configuration()


class _Option(NamedTuple):
    """What an option may be.

    Attributes:
        expected: in words. fits: whether a value is that. of: how `check` takes it.
    """

    expected: str
    fits: Callable[[Any], bool]
    of: Callable[[Any], Any] = lambda value: value


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


OPTIONS = {
    "like": _Option(f"one of {', '.join(KINDS)}", lambda value: isinstance(value, str) and value in KINDS),
    "accept": _Option(
        "a list of ids of conventions",
        lambda value: isinstance(value, str) or _strings(value),
        lambda value: [value] if isinstance(value, str) else value,
    ),
    "names": _Option(
        f'a table from some of {", ".join(NAMES)} to their names, as {{gamma = "scale"}}',
        lambda value: isinstance(value, dict) and value.keys() <= set(NAMES) and _strings(list(value.values())),
    ),
    "channels_last": _Option("true or false", lambda value: isinstance(value, bool)),
    "device": _Option('the name of a device of torch\'s, as "cuda"', lambda value: isinstance(value, str)),
    "ndims": _Option(
        "a list of ranks from 2 to 5, as [2, 4]",
        lambda value: isinstance(value, list) and bool(value) and all(type(n) is int and n in RANKS for n in value),
    ),
    "dtypes": _Option(
        f"a list of some of {', '.join(DTYPES)}",
        lambda value: _strings(value) and bool(value) and {*value} <= {*DTYPES},
    ),
    "strict": _Option("true or false", lambda value: isinstance(value, bool)),
    "timeout": _Option("seconds, more than 0", lambda value: type(value) in (int, float) and value > 0, float),
    "examples": _Option("a number of random cases, at least 0", lambda value: type(value) is int and value >= 0),
    "fix_seconds": _Option(
        "seconds of search for a fix, 0 for none", lambda value: type(value) in (int, float) and value >= 0, float
    ),
}
BASELINE = _Option("the name of a file", lambda value: isinstance(value, str) and bool(value), Path)


def _read(file: Path, table: Any) -> Configuration:
    if not isinstance(table, dict):
        raise _wrong(file, TABLE, "a table", table)
    entries = table.get("subjects", [])
    if not isinstance(entries, list):
        raise _wrong(file, f"{TABLE}.subjects", f"an array of tables, [[{TABLE}.subjects]]", entries)
    baseline = table.get("baseline")
    if "baseline" in table and not BASELINE.fits(baseline):
        raise _wrong(file, f"{TABLE}, baseline", BASELINE.expected, baseline)
    defaults = _options(file, TABLE, table, ("subjects", "baseline"))
    subjects: list[Asked] = []
    for number, entry in enumerate(entries, 1):
        where = f"{TABLE}.subjects, number {number}"
        entry = {"subject": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("subject"), str):
            raise _wrong(file, where, 'a table with subject = "path/file.py:Name"', entry)
        shown = entry["subject"]
        try:
            place, name = parts_of(shown)
        except Unusable as error:
            raise Unusable(f"{_shown(file)}, {where}: {error}") from None
        if any(one.shown == shown for one in subjects):
            raise Unusable(f"{_shown(file)}, {where}: Expected each subject once but got {shown!r} again")
        options = defaults | _options(file, where, entry, ("subject",))
        path = f"{_from_here(file.parent / place)}:{name}" if _is_file(place) else shown
        subjects.append(Asked(path, shown, options, str(file.parent)))
    found = Configuration(file, subjects, defaults, baseline and Path(_from_here(file.parent / baseline)))
    # one that is named by itself is not checked once more with all others of its file
    apart = [replace(one, of_layers=dict.fromkeys(found._layers_of(one.where))) for one in subjects]
    return replace(found, subjects=apart)


def _options(file: Path, where: str, table: Mapping[str, Any], others: Iterable[str]) -> dict[str, Any]:
    """The options of a table, which has nothing else but `others`."""
    found = {}
    for key, value in table.items():
        if key in others:
            continue
        if key not in OPTIONS:
            raise Unusable(
                f"{_shown(file)}, {where}: Expected keys of {', '.join([*others, *OPTIONS])} but got {key!r}"
            )
        if not OPTIONS[key].fits(value):
            raise _wrong(file, f"{where}, {key}", OPTIONS[key].expected, value)
        found[key] = OPTIONS[key].of(value)
    return found


def _wrong(file: Path, where: str, expected: str, got: Any) -> Unusable:
    return Unusable(f"{_shown(file)}, {where}: Expected {expected} but got {got!r}")


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _same(one: str, other: str) -> bool:
    """Whether two SUBJECTs are one; a file may have several names."""
    if one == other:
        return True
    try:
        (place, name), (other_place, other_name) = parts_of(one), parts_of(other)
    except Unusable:
        return False
    if name != other_name or not (_is_file(place) and _is_file(other_place)):
        return False
    return os.path.realpath(place) == os.path.realpath(other_place)


def _from_here(path: Path) -> str:
    """A path from the current folder, if it is not far."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _shown(file: Path) -> str:
    return _from_here(file)
