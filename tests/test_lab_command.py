"""`python -m npnorm.lab`: what it prints, writes and refuses, as whoever types it sees it."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npnorm.lab import __main__ as command
from npnorm.lab import data as lab_data
from npnorm.lab import terminal
from npnorm.lab.data import Dataset

SMALL = ["--hidden", "8,6", "--epochs", "2"]


@pytest.fixture(autouse=True)
def _small_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that train in milliseconds in the place of scikit-learn's, and an environment without a terminal's hints."""
    rng = np.random.default_rng(2)
    images = rng.normal(size=(80, 9)).astype(np.float32)
    labels = np.abs(images[:, 0] * 6).astype(np.intp).clip(0, 9)
    data = Dataset("digits", images[:66], labels[:66], images[66:], labels[66:])
    monkeypatch.setattr(command, "load_digits", lambda: data)
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refusal prints."""
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m npnorm.lab: ")
    assert err.count("\n") == 1
    return err


def test_both_experiments_run_and_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*SMALL, "--seeds", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    lines = [line.rstrip() for line in out.splitlines() if line.strip()]
    assert lines[0] == "comparison on digits: 9-8-6-10, batch 64, 2 epochs, learning rate 0.1, 2 seeds"
    assert lines[1].split() == ["norm", "final", "train", "%", "final", "test", "%", "best", "test", "%", "seconds"]
    assert [line.split()[0] for line in lines[3:8]] == ["none", "batch", "layer", "rms", "group"]
    assert all(line.count("±") == 3 for line in lines[3:8])
    assert lines[8] == "small-batch on digits: 9-8-6-10, batch 4, 2 epochs, learning rate 0.05, 2 seeds"
    assert [line.split()[0] for line in lines[11:15]] == ["none", "batch", "layer", "group"]
    assert lines[15].startswith("In this run on digits, comparison: ")
    assert len(lines) == 16
    assert max(map(len, lines[:15])) <= 85


def test_the_table_shows_the_figures_of_the_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert command.main(["comparison", *SMALL, "--norms", "rms", "--json", str(file)]) == 0
    (run,) = json.loads(file.read_text())["runs"]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" rms"))
    expected = (run["train_accuracy"][-1], run["test_accuracy"][-1], max(run["test_accuracy"]))
    assert row.split()[1:4] == [f"{100 * value:.1f}" for value in expected]


def test_json_has_every_run_and_is_repeated_but_for_the_seconds(tmp_path: Path) -> None:
    results = []
    for name in ("one.json", "two.json"):
        assert command.main([*SMALL, "--seeds", "2", "--seed", "5", "--json", str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name).read_text()))
    first = results[0]
    assert list(first) == ["schema", "data", "runs"]
    assert (first["schema"], first["data"]) == (1, "digits")
    expected = [
        (experiment, norm, seed)
        for experiment, norms in (
            ("comparison", ("none", "batch", "layer", "rms", "group")),
            ("small-batch", ("none", "batch", "layer", "group")),
        )
        for norm in norms
        for seed in (5, 6)
    ]
    assert [(run["experiment"], run["norm"], run["seed"]) for run in first["runs"]] == expected
    for run in first["runs"]:
        assert list(run) == ["experiment", "norm", "seed", "train_accuracy", "test_accuracy", "seconds"]
        assert len(run["train_accuracy"]) == len(run["test_accuracy"]) == 2
        assert all(0 <= value <= 1 for value in run["train_accuracy"] + run["test_accuracy"])
    for run in first["runs"] + results[1]["runs"]:
        run.pop("seconds")
    assert first == results[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "one.json", tmp_path / "two.json"]


def test_options_change_the_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--norms", "rms,none", "--hidden", "7", "--batch-size", "16", "--epochs", "1", "--lr", "2e-3"]
    assert command.main(["small-batch", *options]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "small-batch on digits: 9-7-10, batch 16, 1 epoch, learning rate 0.002, 1 seed"
    assert [line.split()[0] for line in lines[3:5]] == ["rms", "none"]


@pytest.mark.parametrize(
    ("arguments", "rows"), [(["comparison"], 1), (["--seeds", "2"], 2)], ids=["one-experiment", "both-two-seeds"]
)
def test_the_picture_is_a_png_of_a_row_for_each_experiment(tmp_path: Path, arguments: list[str], rows: int) -> None:
    file = tmp_path / "curves.png"
    assert command.main([*arguments, *SMALL, "--plot", str(file)]) == 0
    content = file.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">2I", content[16:24])
    assert width == 990
    assert height == 374 * rows


def test_a_picture_has_a_curve_for_each_norm_in_each_panel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def spy(figure: Figure, *arguments: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    file = tmp_path / "out.json"
    options = ["--norms", "batch,layer", "--seeds", "3", "--json", str(file), "--plot", str(tmp_path / "out.png")]
    assert command.main(["comparison", *SMALL, *options]) == 0
    runs = json.loads(file.read_text())["runs"]
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["training set", "test set"]
    for panel, quantity in zip(panels, ("train_accuracy", "test_accuracy"), strict=True):
        assert [line.get_label() for line in panel.lines] == ["batch", "layer"]
        for line in panel.lines:
            values = 100 * np.array([run[quantity] for run in runs if run["norm"] == line.get_label()])
            np.testing.assert_allclose(line.get_ydata(), values.mean(0))
            assert line.get_xdata().tolist() == [1, 2]
        assert len(panel.collections) == 2  # a band for each
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["batch", "layer"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["training"], "argument experiment: Expected one of comparison, small-batch but got 'training'"),
        (["--norms", "batch,l2"], "argument --norms: Expected names from none, batch, layer, rms, group but got 'l2'"),
        (["--norms", ""], "argument --norms: Expected names from none, batch, layer, rms, group but got ''"),
        (["--norms", "rms,rms"], "argument --norms: Expected each name once but got 'rms' twice"),
        (["--epochs", "0"], "argument --epochs: Expected a whole number of at least 1 but got '0'"),
        (["--epochs", "1.5"], "argument --epochs: Expected a whole number of at least 1 but got '1.5'"),
        (["--batch-size", "-4"], "argument --batch-size: Expected a whole number of at least 1 but got '-4'"),
        (["--batch-size", "1"], "Expected --batch-size to be at least 2 for the norm batch"),
        (["--batch-size", "67"], "Expected --batch-size to be at most the 66 training samples but got 67"),
        (["--seeds", "0"], "argument --seeds: Expected a whole number of at least 1 but got '0'"),
        (["--seed", "-1"], "argument --seed: Expected a whole number of at least 0 but got '-1'"),
        (["--hidden", "8,,6"], "argument --hidden: Expected a whole number of at least 1 but got ''"),
        (["--hidden", "8,4"], "Expected --hidden to be widths of at least 5 for the norm group"),
        (["--lr", "nan"], "argument --lr: Expected a number above 0 but got 'nan'"),
        (["--lr", "0"], "argument --lr: Expected a number above 0 but got '0'"),
        (["--lr", "fast"], "argument --lr: Expected a number above 0 but got 'fast'"),
        (["--data", "cifar"], "argument --data: invalid choice: 'cifar'"),
        (["--data", "mnist"], "Expected --data-dir DIR with --data mnist"),
        (["--data", "mnist", "--data-dir", "no/such"], "Expected --data-dir to be a directory but got no/such"),
        (["--data-dir", "."], "Expected --data-dir only with --data mnist"),
        (["--download"], "Expected --download only with --data mnist"),
        (["--plot", "curves.pdf"], "argument --plot: Expected a name that ends in .png but got 'curves.pdf'"),
        (
            ["--plot", "no/such/curves.png"],
            "Expected --plot to be in a directory that exists but got no/such/curves.png",
        ),
        (["--json", "no/such/out.json"], "Expected --json to be in a directory that exists but got no/such/out.json"),
        (["--json", "."], "Expected --json to be a file but got the directory ."),
        (["--epoch=3"], "unrecognized arguments: --epoch=3"),
    ],
)
def test_bad_usage_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert f"python -m npnorm.lab: {sentence}" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("module", "arguments", "package"),
    [
        ("matplotlib.figure", ["--plot", "curves.png"], "matplotlib"),
        ("rich.table", [], "rich"),
        ("pooch", ["--data", "mnist", "--data-dir", "x", "--download"], "pooch"),
    ],
)
def test_a_missing_package_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    arguments: list[str],
    package: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert f"needs {package}, which cannot be imported" in refused(capsys, *SMALL, *arguments)


def test_results_are_written_whole_or_not_at_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "out.json"
    file.write_text("of an earlier run")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "out.json cannot be written: No space left on device" in refused(capsys, *SMALL, "--json", str(file))
    assert file.read_text() == "of an earlier run"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("")
    link = tmp_path / "link.json"
    link.symlink_to("real.json")
    assert command.main(["comparison", *SMALL, "--norms", "none", "--json", str(link)]) == 0
    assert link.is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["schema"] == 1
    assert command.main(["comparison", *SMALL, "--norms", "none", "--json", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


def test_interruption_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train", interrupt)
    assert command.main(SMALL) == 130
    assert capsys.readouterr().err == "python -m npnorm.lab: interrupted\n"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "bar", "colour"),
    [
        pytest.param({"TERM": "xterm"}, True, True, id="terminal"),
        pytest.param({"TERM": "xterm", "NO_COLOR": "1"}, True, False, id="no-color"),
        pytest.param({"TERM": "xterm", "CI": "true"}, False, False, id="ci"),
        pytest.param({"TERM": "dumb"}, False, False, id="dumb"),
    ],
)
def test_the_progress_bar_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], bar: bool, colour: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.progress(2) as advance:
        advance("comparison, batch, seed 0")
        advance("comparison, batch, seed 0")
    shown = stream.getvalue()
    assert ("comparison, batch, seed 0" in shown) == bar
    assert ("2/2" in shown) == bar
    assert ("\x1b[3" in shown) == colour  # a colour's escape sequence


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with terminal.progress(1) as advance:
        advance("comparison")
    assert sys.stderr.getvalue() == ""


def test_the_command_itself() -> None:
    """In a process of its own, on the real digits, its output a pipe that knows no ± sign."""
    code = (
        "import sys; from npnorm.lab.__main__ import main; "
        "lazy = {'sklearn', 'matplotlib', 'pooch', 'rich', 'torch', 'reference'}; "
        "print(sorted(lazy & set(sys.modules))); "
        "exit_code = main(['comparison', '--norms', 'batch,rms', '--epochs', '2', '--seeds', '2']); "
        "print(exit_code, sorted(lazy & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert lines[0] == "[]"
    assert lines[1] == "comparison on digits: 64-256-128-10, batch 64, 2 epochs, learning rate 0.1, 2 seeds"
    rows = [line for line in lines if line.count("+/-") == 3]
    assert [line.strip("| ").split()[0] for line in rows] == ["batch", "rms"]
    assert lines[-2].startswith("In this run on digits, comparison: ")
    assert lines[-1] == "0 ['rich', 'sklearn']"


def test_help_reads_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        command.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for option in ("comparison", "small-batch", "--data-dir DIR", "--seeds N", "--json FILE", "--plot FILE.png"):
        assert option in out


def test_mnist_goes_through_download_and_reading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[tuple[str, Path]] = []
    monkeypatch.setattr(command, "download", lambda directory: called.append(("download", directory)))
    monkeypatch.setattr(
        command, "load_mnist", lambda directory: called.append(("read", directory)) or command.load_digits()
    )
    arguments = ["comparison", *SMALL, "--norms", "none", "--data", "mnist", "--data-dir", str(tmp_path)]
    assert command.main(arguments) == 0
    assert command.main([*arguments, "--download"]) == 0
    assert called == [("read", tmp_path), ("download", tmp_path), ("read", tmp_path)]
    assert lab_data.load_mnist is not command.load_mnist
