"""The command `python -m npnorm.lab`: options in; table, closing line, JSON and picture out.

Knows the other modules of the lab and puts them together; computes nothing itself.

Exit codes: 0 the experiments ran; 2 they could not be run, or their results not be written, with one sentence on
stderr that says why; 130 interrupted.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from npnorm.lab import summary, terminal
from npnorm.lab.data import DataError, Dataset, MissingPackage, download, load_digits, load_mnist, require
from npnorm.lab.mlp import NORMS
from npnorm.lab.train import EXPERIMENTS, Experiment, Run, one_blas_thread, refusal, train

PROGRAM = "python -m npnorm.lab"

DESCRIPTION = """\
Train the same small network without a normalization and with each of npnorm's,
and compare the accuracies.

  comparison    none, batch, layer, rms, group: batches of 64, 20 epochs,
                learning rate 0.1, hidden layers of 256 and 128
  small-batch   none, batch, layer, group: batches of 4, 15 epochs,
                learning rate 0.05, hidden layers of 128 and 64
"""

EPILOG = """\
The networks of one seed start from the same weights and see the same batches.
An incomplete last batch is skipped. The same seed gives the same accuracies.

  python -m npnorm.lab
  python -m npnorm.lab small-batch --seeds 5 --json out.json --plot out.png
  python -m npnorm.lab comparison --data mnist --data-dir mnist --download
"""


class Refused(Exception):
    """The command cannot do what was asked; its text is one sentence for the user."""


class Parser(argparse.ArgumentParser):
    """argparse, refusing in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        _run(_parser().parse_args(arguments))
    except (Refused, DataError, MissingPackage) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _run(options: argparse.Namespace) -> None:
    experiments = [_configured(EXPERIMENTS[name], options) for name in options.experiment or EXPERIMENTS]
    for option in ("json", "plot"):
        _check_writable(f"--{option}", getattr(options, option))
    if options.plot is not None:  # said now, not after the training
        require("matplotlib.figure", "matplotlib", "--plot")
    data = _data(options)
    for experiment in experiments:
        if (reason := refusal(experiment, data)) is not None:
            raise Refused(reason)

    seeds = range(options.seed, options.seed + options.seeds)
    runs = _train(experiments, seeds, data)

    if options.json is not None:
        results = {"schema": 1, "data": data.name, "runs": [asdict(run) for run in runs]}
        _write(options.json, (json.dumps(results, indent=1) + "\n").encode())
    if options.plot is not None:
        from npnorm.lab import plot

        bands = " (mean; lowest to highest)" if len(seeds) > 1 else ""
        titles = {e.name: _heading(e, data, len(seeds)) + bands for e in experiments}
        _write(options.plot, plot.curves(runs, titles))
    tested = len(data.test_labels)
    for experiment in experiments:
        rows = summary.figures(runs, experiment.name, tested)
        terminal.show(_heading(experiment, data, len(seeds)), rows)
    batch_sizes = {experiment.name: experiment.batch_size for experiment in experiments}
    terminal.say(summary.conclusion(runs, data.name, batch_sizes, tested))


def _train(experiments: Sequence[Experiment], seeds: range, data: Dataset) -> list[Run]:
    plan = [(experiment, norm, seed) for experiment in experiments for norm in experiment.norms for seed in seeds]
    runs = []
    with one_blas_thread(), terminal.progress(sum(e.epochs for e, _, _ in plan)) as advance:
        for experiment, norm, seed in plan:
            now = f"{experiment.name}, {norm}, seed {seed}"
            runs.append(train(experiment, norm, seed, data, lambda now=now: advance(now)))  # type: ignore[misc]
    return runs


def _configured(experiment: Experiment, options: argparse.Namespace) -> Experiment:
    """The experiment with what the options change of it."""
    names = ("norms", "hidden", "batch_size", "epochs", "lr")
    return replace(experiment, **{n: getattr(options, n) for n in names if getattr(options, n) is not None})


def _data(options: argparse.Namespace) -> Dataset:
    if options.data == "digits":
        for option, given in (("--data-dir", options.data_dir is not None), ("--download", options.download)):
            if given:
                raise Refused(f"Expected {option} only with --data mnist: the digits come with scikit-learn")
        return load_digits()
    if options.data_dir is None:
        raise Refused("Expected --data-dir DIR with --data mnist: the directory of the four IDX files")
    if options.download:
        download(options.data_dir)
    return load_mnist(options.data_dir)


def _heading(experiment: Experiment, data: Dataset, seeds: int) -> str:
    sizes = "-".join(str(size) for size in experiment.layer_sizes(data))
    runs = "1 seed" if seeds == 1 else f"{seeds} seeds"
    return (
        f"{experiment.name} on {data.name}: {sizes}, batch {experiment.batch_size}, "
        f"{experiment.epochs} epoch{'s' * (experiment.epochs > 1)}, learning rate {experiment.lr:g}, {runs}"
    )


def _check_writable(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before the minutes of training."""
    if path is None:
        return
    if path.is_dir():
        raise Refused(f"Expected {option} to be a file but got the directory {path}")
    if not path.parent.is_dir():
        raise Refused(f"Expected {option} to be in a directory that exists but got {path}")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise Refused(f"Expected {option} to be a file that can be written but got {path}")


def _write(path: Path, content: bytes) -> None:
    """Write the file whole or not at all: a reader never sees half of it, and an interrupted run leaves the old one."""
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            path.write_bytes(content)
            return
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror or error}") from None


def _norms(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in NORMS:
            raise argparse.ArgumentTypeError(f"Expected names from {', '.join(NORMS)} but got {name!r}")
        if names.count(name) > 1:
            raise argparse.ArgumentTypeError(f"Expected each name once but got {name!r} twice")
    return names


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    return _whole(text, at_least=1)


def _seed(text: str) -> int:
    return _whole(text, at_least=0)


def _whole(text: str, at_least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise argparse.ArgumentTypeError(f"Expected a whole number of at least {at_least} but got {text!r}")
    return number


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"Expected a number above 0 but got {text!r}")
    return number


def _png(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"Expected a name that ends in .png but got {text!r}")
    return path


def _experiment(text: str) -> tuple[str, ...]:
    if text not in EXPERIMENTS:
        raise argparse.ArgumentTypeError(f"Expected one of {', '.join(EXPERIMENTS)} but got {text!r}")
    return (text,)


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "experiment", nargs="?", type=_experiment, help="comparison or small-batch; both if none is named"
    )
    add = parser.add_argument_group("data").add_argument
    add("--data", choices=("digits", "mnist"), default="digits", help="default: digits, from scikit-learn")
    add("--data-dir", type=Path, metavar="DIR", help="the directory of MNIST's four IDX files, gzip or plain")
    add("--download", action="store_true", help="fetch those files into DIR first, verified by SHA-256")
    add = parser.add_argument_group("instead of an experiment's own settings").add_argument
    add("--norms", type=_norms, metavar="A,B", help=f"some of {','.join(NORMS)}")
    add("--hidden", type=_widths, metavar="N,N", help="widths of the hidden layers")
    add("--batch-size", type=_count, metavar="N")
    add("--epochs", type=_count, metavar="N")
    add("--lr", type=_rate, metavar="X", help="learning rate")
    add = parser.add_argument_group("seeds and results").add_argument
    add("--seeds", type=_count, default=1, metavar="N", help="how many seeds; the table has mean and spread")
    add("--seed", type=_seed, default=0, metavar="N", help="the first of them (default: 0)")
    add("--json", type=Path, metavar="FILE", help="write the accuracy of every epoch of every run")
    add("--plot", type=_png, metavar="FILE.png", help="draw the accuracy curves")
    return parser


if __name__ == "__main__":
    sys.exit(main())
