"""The same command gives the same JSON, whatever of the environment is nobody's business; and shards are all subjects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reference.command.main import main
from reference.reporting.json_report import _number

# without BLAS, and with a mistake: names, evidence and the smallest case are to be the same too
LAYERS = """\
import numpy as np


class MyRMSNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.eps = np.ones(normalized_shape), eps

    def forward(self, x):
        self.rms = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps)
        self.xhat = x / self.rms
        return self.gamma * self.xhat

    def backward(self, dy):
        self.dgamma = (dy * self.xhat).reshape(-1, self.gamma.size).sum(axis=0)
        d = dy * self.gamma
        return (d - self.xhat * (dy * self.xhat).mean(axis=-1, keepdims=True)) / self.rms


class FirstLayerNorm:
    pass


class SecondLayerNorm:
    pass


class ThirdLayerNorm:
    pass
"""

OTHERWISE = {
    "PYTHONHASHSEED": "7",
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "OPENBLAS_CORETYPE": "Nehalem" if os.uname().machine == "x86_64" else "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def json_of(*arguments, **environment):
    """What the command writes, in a process that has that environment."""
    command = [sys.executable, "-m", "reference", *arguments, "--no-fix-search", "--json", "out.json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return Path("out.json").read_text()


@pytest.mark.slow  # each process imports torch once more
def test_json_is_the_same_whatever_the_environment(folder):
    mine = ("my_layers.py:MyRMSNorm", "--ndims", "2", "--examples", "30")
    first = json_of(*mine, PYTHONHASHSEED="1")
    assert json.loads(first)["subjects"][0]["faults"], "there is something to be the same"
    assert json_of(*mine, **OTHERWISE) == first


@pytest.mark.slow
def test_json_of_layers_with_blas_is_the_same_but_for_what_blas_rounds(folder):
    ours = ("npnorm:GroupNorm", "npnorm:BatchNorm", "npnorm:LayerNorm")
    threads = {name: value for name, value in OTHERWISE.items() if name != "OPENBLAS_CORETYPE"}
    first = json_of(*ours, PYTHONHASHSEED="1")
    assert json_of(*ours, **threads) == first

    def without_errors(text):
        content = json.loads(text)
        for subject in content["subjects"]:
            for figures in subject["quantities"].values():
                for key in ("worst_error", "tolerance", "torch_error", "largest_error"):
                    del figures[key]
        return content

    assert without_errors(json_of(*ours, **OTHERWISE)) == without_errors(first)


@pytest.mark.parametrize(
    ("value", "written"), [(3.8650603, 3.87), (70.80553, 70.8), (2391234.5, 2390000.0), (0.0, 0.0)]
)
def test_errors_have_three_digits(value, written):
    assert _number(value) == written


def refused_in(shard):
    """Whom a part of all subjects has: here all are refused, which takes no time."""
    main(["my_layers.py:*", "--ndims", "3", "--timeout", "5", "--shard", shard, "--json", "out.json"])
    return [one["subject"] for one in json.loads(Path("out.json").read_text())["refused"]]


def test_shards_are_all_subjects_and_each_once(folder, monkeypatch, capsys):
    monkeypatch.setattr("reference.command.main.outcome_of", lambda one, progress=None: f"{one.shown} is left out")
    (folder / "my_layers.py").write_text(
        LAYERS.replace("    pass", "    def forward(self, x):\n        return x\n\n    backward = forward")
    )
    every = refused_in("1/1")
    assert len(every) == 4
    parts = [refused_in(f"{which}/3") for which in (1, 2, 3)]
    assert parts == [[every[0], every[3]], [every[1]], [every[2]]]
    assert refused_in("5/5") == [], "more parts than subjects"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "²/2", "1/2/3"])
def test_shard_that_is_none_is_refused(shard, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--shard", shard])
    assert exit.value.code == 2
    assert f"expected a part of all subjects, as 2/5, but got '{shard}'" in capsys.readouterr().err
