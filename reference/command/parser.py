"""The arguments of `normcheck`: what there is, and what is refused before anything is loaded. Knows names, runs nothing."""

import argparse
from pathlib import Path

from reference.configuration import NAMES
from reference.dtypes import DTYPES
from reference.kinds import KINDS

EXAMPLES = 200  # random cases a subject
FIX_SECONDS = 10.0

EPILOG = """\
SUBJECT is package.module:Name or path/file.py:Name, a class or factory that takes torch's keywords and has
forward(x), backward(dy), gamma, beta, dgamma, dbeta (BatchNorm: training, running_mean, running_var too); or
path/file.py:forward_function+backward_function, (x, gamma, beta, ...) -> (y, cache) and (dy, cache) -> gradients.
Other names are found where only one thing fits, and the report says so; --names says them outright.
Without one, those of [tool.normcheck] in the nearest pyproject.toml are checked, or else npnorm's own.
Errors are in unit roundoffs (u) of each number's natural scale.

exit code: 0 everything agrees, 1 something is wrong, 2 it could not be checked"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="normcheck",
        description="Hold a normalization layer, in NumPy or torch, against torch.nn, and name what is wrong with it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("subjects", nargs="*", metavar="SUBJECT")
    found.add_argument("--like", metavar="NAME", help=f"one of {', '.join(KINDS)}; by default what "
                       "the name says")  # fmt: skip
    found.add_argument("--examples", type=_count, metavar="N", help=f"random cases (default {EXAMPLES})")
    found.add_argument("--seed", type=_count, default=0, metavar="N", help="of the random cases (default 0)")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    shown = found.add_mutually_exclusive_group()
    shown.add_argument("--verbose", action="store_true", help="print all there is to say, the script included")
    shown.add_argument("--script", action="store_true", help="print only a program that shows the smallest failing case "
                       "with numpy and torch alone: normcheck SUBJECT --script > repro.py")  # fmt: skip
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="draw where it is wrong")
    found.add_argument("--accept", action="append", default=[], metavar="ID", help="a convention that is not counted "
                        "as wrong, by its id; may be repeated")  # fmt: skip
    found.add_argument("--strict", action="store_true", help="let hazards fail too, and random cases "
                       "for which there was no time")  # fmt: skip
    found.add_argument("--names", action="append", default=[], metavar="OURS=THEIRS,...", help="what things are called, "
                       "as gamma=scale,dgamma=grads['scale'],eps=epsilon")  # fmt: skip
    found.add_argument("--dtypes", type=_dtypes, metavar="float32,...", help="the dtypes of x to try (default: all)")
    found.add_argument("--device", metavar="cuda", help="where a layer of torch's computes (default cpu)")
    found.add_argument("--channels-last", action="store_true", help="the layer takes x as (N, ..., C)")
    found.add_argument("--ndims", type=_numbers, metavar="2,4", help="the ranks of x to try (default: all)")
    found.add_argument(
        "--timeout", type=_seconds, metavar="S", help="seconds a subject (default 60, and 0.03 for each random case)"
    )
    fixing = found.add_mutually_exclusive_group()
    fixing.add_argument("--fix", action="store_true", help="write the fix into the layer's file, if one is proved")
    fixing.add_argument("--no-fix-search", action="store_true", help="look for no fix")
    found.add_argument("--fix-seconds", type=_seconds, metavar="S", help="seconds of search for a "
                       f"fix, at most (default {FIX_SECONDS:g}); its proof takes some more")  # fmt: skip
    found.add_argument("--annotate", action="store_true", help="say what the layer's lines hold in a failing case, "
                       "also where a fix is found")  # fmt: skip
    found.add_argument("--shard", type=_shard, metavar="2/5", help="check the second fifth of the subjects alone")
    found.add_argument("--baseline", type=Path, metavar="FILE", help="hold each quantity's worst error, and the number of "
                       "cases, against what they were")  # fmt: skip
    found.add_argument("--update-baseline", action="store_true", help="write them there instead")
    found.add_argument("--audit", metavar="COMMAND", help="run these tests on mistakes made in the layer, and say "
                       "which of them they would not notice, and why: normcheck --audit 'pytest tests' SUBJECT")  # fmt: skip
    found.add_argument(
        "--mutants", type=_count, default=60, metavar="N", help="mistakes that an audit makes (default 60)"
    )
    found.add_argument("--faults", action="store_true", help="print the dictionary of mistakes")
    found.add_argument("--explain", metavar="ID", help="print one entry of it")
    found.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("npnorm")


def _dtypes(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(DTYPES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(DTYPES)}, apart by commas, but got {text!r}")
    return names


def names_of(texts: list[str]) -> dict[str, str]:
    """The pairs of `--names`.

    Raises:
        ValueError: one is no pair, or its first name is none of ours.
    """
    found = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair.strip()):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not equals or not theirs or ours not in NAMES:
            raise ValueError(f"Expected --names OURS=THEIRS with OURS one of {', '.join(NAMES)} but got {pair!r}")
        found[ours] = theirs
    return found


def _count(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0 but got {text!r}")
    return value


def _shard(text: str) -> tuple[int, int]:
    """Which of how many."""
    which, slash, count = text.partition("/")
    if not (slash and which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected a part of all subjects, as 2/5, but got {text!r}")
    return int(which), int(count)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, but got {text!r}")
    return value


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip() in ("2", "3", "4", "5") for part in parts):
        raise argparse.ArgumentTypeError(f"expected ranks from 2 to 5, as 2,4, but got {text!r}")
    return [int(part) for part in parts]
