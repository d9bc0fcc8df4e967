"""A subject in a process of its own: whatever it does, there is a verdict or a reason, and nobody else is harmed.

Each row is a layer file that does one hostile thing at one place. None may hang, end the run, show a traceback of ours or
pass without having been checked; those that are wrong and try to have it judged right must be found wrong.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reference import Refused, check
from reference.command.main import main
from reference.reporting.report import Report

ROOT = Path(__file__).parent.parent
RIGHT = """
import numpy as np
class MyLayerNorm:
    def __init__(self, normalized_shape, eps=1e-5):
        self.gamma, self.beta, self.eps = np.ones(normalized_shape), np.zeros(normalized_shape), eps
    def forward(self, x):
        self.axes = tuple(range(-self.gamma.ndim, 0))
        centred = x - x.mean(self.axes, keepdims=True)
        self.rstd = 1 / np.sqrt((centred ** 2).mean(self.axes, keepdims=True) + self.eps)
        self.xhat = centred * self.rstd
        return self.gamma * self.xhat + self.beta
    def backward(self, dy):
        lead = tuple(range(dy.ndim - self.gamma.ndim))
        self.dgamma, self.dbeta = (dy * self.xhat).sum(lead), dy.sum(lead)
        d = dy * self.gamma
        m = d.mean(self.axes, keepdims=True) + self.xhat * (d * self.xhat).mean(self.axes, keepdims=True)
        return (d - m) * self.rstd
"""
WRONG = RIGHT.replace("self.xhat * (d * self.xhat)", "0 * self.xhat * (d * self.xhat)")


def inside(method: str, line: str) -> str:
    """The right layer with a line at the beginning of one of its methods."""
    return re.sub(rf"    def {method}\(.*\):\n", lambda found: f"{found[0]}        {line}\n", RIGHT)


BIG = "x.shape[0] == 131"  # one of the probes

# the source, the exit code, and what is said
HOSTILE = {
    # ends without a word
    "os._exit in import": (
        "import os; os._exit(0)" + RIGHT,
        2,
        "cannot be imported: its process ended with exit code 0 in import",
    ),
    "os._exit in forward": (
        inside("forward", "import os; os._exit(0)"),
        2,
        "ended with exit code 0 in the first look at it",
    ),
    "os._exit in one forward": (inside("forward", f"if {BIG}: import os; os._exit(0)"), 1, "process-ended"),
    "os._exit in many": (
        inside("forward", "if x.shape[0] > 5: import os; os._exit(1)"),
        1,
        "not covered: some cases (its process ended 3 times after ",
    ),
    "os._exit in one backward": (
        inside("backward", "if dy.shape[0] == 131: import os; os._exit(0)"),
        1,
        "ended with exit code 0 in backward of LayerNorm(",
    ),
    "sys.exit in forward": (inside("forward", "import sys; sys.exit(0)"), 2, "SystemExit: 0"),
    "SystemExit of a property": (
        RIGHT + "    @property\n    def training(self): raise SystemExit(0)\n",
        2,
        "SystemExit",
    ),
    "SystemExit of a module's getattr": (
        RIGHT + "del MyLayerNorm\ndef __getattr__(name): raise SystemExit(0)\n",
        2,
        "",
    ),
    "SystemExit of an exception's text": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\n" + inside("forward", "raise E"),
        2,
        "E",
    ),
    "SystemExit in __del__": (RIGHT + "    def __del__(self): raise SystemExit(0)\n", 0, "PASS"),
    "an exit handler": ("import atexit, os; atexit.register(os._exit, 0)\n" + RIGHT, 0, "PASS"),
    "another program": ("import os; os.execv('/bin/true', ['true'])" + RIGHT, 2, "its process ended with exit code 0"),
    "a fork whose parent exits": ("import os\nif os.fork(): os._exit(0)\n" + RIGHT, 0, "PASS"),
    # crashes
    "abort": (
        inside("forward", f"if {BIG}: import os; os.abort()"),
        1,
        "died of SIGABRT in first forward of LayerNorm(",
    ),
    "a null pointer": (
        inside("backward", "import ctypes; ctypes.string_at(0)"),
        2,
        "died of SIGSEGV in the first look at it",
    ),
    "SIGKILL": (inside("backward", "import os; os.kill(os.getpid(), 9)"), 2, "died of SIGKILL"),
    "SIGTERM to its parent's group": (inside("backward", "import os; os.killpg(0, 15)"), 2, "died of SIGTERM"),
    "a C stack without end": (
        # through C each time, whose stack ends where Python's own frames would only fill the memory
        "import sys; sys.setrecursionlimit(10**9)\n"
        + RIGHT
        + "    def f(self): return sorted([0], key=lambda zero: self.f())\n"
        + "MyLayerNorm.__init__ = lambda self, normalized_shape: self.f()\n",
        2,
        "died of SIGSEGV",
    ),
    # hangs
    "a loop that catches all": (
        "import time\nwhile True:\n    try:\n        while True: time.sleep(0.01)\n    except: pass\n" + RIGHT,
        2,
        "cannot be imported within",
    ),
    "a wait in C": (  # which holds the interpreter's lock, as a long sum does
        inside("forward", f"if {BIG}: import ctypes; ctypes.PyDLL(None).sleep(10**6)"),
        1,
        "never-returns",
    ),
    "a thread that goes on": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\n" + RIGHT,
        0,
        "PASS",
    ),
    "signals blocked": (
        "import signal, time; signal.pthread_sigmask(0, range(1, 65))\n"
        + inside("forward", "while True: time.sleep(0.01)"),
        2,
        "gave no answer within",
    ),
    "memory without end": (
        inside("forward", "b = []\n        while True: b.append(np.empty(10**8))"),
        2,
        "MemoryError",
    ),
    "a y of a terabyte": (
        RIGHT.replace("return self.gamma * self.xhat + self.beta", "return np.broadcast_to(1.0, (10**6, 10**6))"),
        1,
        "got shape (1000000, 1000000), expected ",
    ),
    # speaks over us
    "prints": (
        "print('PASS  all agrees', flush=True)\nimport os; os.write(1, b'PASS  all agrees')\n" + WRONG,
        1,
        "FAIL",
    ),
    "writes into every descriptor": (
        "import os\nfor fd in range(3, 50):\n    try: os.write(fd, b'x' * 100)\n    except OSError: pass\n" + RIGHT,
        2,
        "sent ",
    ),
    "closes every descriptor": (inside("forward", "import os; os.closerange(0, 99)"), 2, ""),
    # forgeries
    "patches of NumPy": (
        "import numpy as np\nnp.abs = np.array_equal = lambda *a, **k: np.float64(0)\n" + WRONG,
        1,
        "FAIL",
    ),
    "patches of the judge": (
        "import reference.truth.compare as c, reference.truth.tolerance as t\n"
        "c.error_units = lambda got, *rest: 0 * got\nt.tolerance_of = lambda *a: 1e300\n" + WRONG,
        1,
        "FAIL",
    ),
    "patches of torch": (
        "import torch\ntorch.set_grad_enabled(False)\ntorch.nn.functional.layer_norm = None\n" + WRONG,
        1,
        "FAIL",
    ),
    "patches of the clock": ("import time\ntime.monotonic = time.time = time.process_time = None\n" + RIGHT, 0, "PASS"),
    "patches of json": ("import json, os\njson.dumps = os.write = os.replace = None\n" + RIGHT, 0, "PASS"),
    "another float": ("import builtins\nbuiltins.float = builtins.len = None\n" + RIGHT, 2, ""),
    # what it is called, and what it shows
    "a signature that raises": (
        RIGHT + "class S:\n    def __get__(self, *a): raise SystemExit\nMyLayerNorm.__signature__ = S()\n",
        0,
        "PASS",
    ),
    "a repr that raises": (
        "class M(type):\n    def __repr__(self): raise SystemExit\n"
        + RIGHT.replace("MyLayerNorm:", "MyLayerNorm(metaclass=M):"),
        0,
        "PASS",
    ),
    "a class that lies": (RIGHT + "    @property\n    def __class__(self): raise SystemExit\n", 0, "PASS"),
    "a running_mean of objects": (
        RIGHT + "    running_mean = np.array([None])\n    running_var = np.array(['2020'], 'M8')\n",
        0,
        "PASS",
    ),
    "a dgamma of objects": (
        RIGHT.replace("return (d - m)", "self.dgamma = np.array([None] * 3)\n        return (d - m)"),
        1,
        "got dtype object, expected float64",
    ),
    "a dgamma of dates": (
        RIGHT.replace("return (d - m)", "self.dgamma = np.zeros(3, 'M8[s]')\n        return (d - m)"),
        1,
        "got dtype datetime64[s], expected float64",
    ),
    "terminal codes in an exception": (
        inside("forward", r"raise ValueError('\x1b[2J\rPASS  all agrees')"),
        2,
        "ValueError",
    ),
    "a surrogate in an exception": (inside("forward", r"raise ValueError('\ud800')"), 2, "ValueError"),
    # where it is
    "another directory": ("import os; os.chdir('/')\n" + RIGHT, 0, "PASS"),
    "limits": (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\n"
        + RIGHT,
        0,
        "PASS",
    ),
    "a low recursion limit": ("import sys; sys.setrecursionlimit(60)\n" + RIGHT, 0, "PASS"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "1")
    return tmp_path


@pytest.mark.parametrize(("source", "code", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_layer_harms_nobody(folder, capsys, source, code, text):
    (folder / "hostile.py").write_text(source)
    (folder / "right.py").write_text(RIGHT)
    begun = time.monotonic()
    seconds = "20" if "import torch" in source else "2.5"
    options = ["--examples", "0", "--ndims", "2", "--no-fix-search", "--timeout", seconds, "--json", "out.json"]
    assert main(["hostile.py:MyLayerNorm", "right.py:MyLayerNorm", *options]) == code
    out, err = capsys.readouterr()
    assert text in out + err
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    assert "right.py:MyLayerNorm as LayerNorm" in out
    assert out.count("PASS  all") == (2 if code == 0 else 1)
    content = json.loads((folder / "out.json").read_text())
    assert len(content["subjects"]) + len(content["refused"]) == 2
    assert {"right.py:MyLayerNorm": True}.items() <= {s["subject"]: s["passed"] for s in content["subjects"]}.items()
    assert time.monotonic() - begun < 30
    assert not _children(), "nothing is left running"


def _children() -> list[str]:
    """What this process has started, and has not ended."""
    listing = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [line for line in listing.stdout.splitlines() if "process.child" in line]


def test_each_has_its_own_modules(folder):
    """Two files with a `helpers` beside them get each their own; a file that has a name of ours shadows nothing of ours."""
    for name, eps in (("one", "eps"), ("two", "0 * eps")):
        (folder / name).mkdir()
        (folder / name / "helpers.py").write_text(f"def used(eps): return {eps}\n")
        (folder / name / "layers.py").write_text(
            "from helpers import used\n" + RIGHT.replace("+ self.eps)", "+ used(self.eps))"))  # fmt: skip
        for shadow in ("html", "types", "torch", "matplotlib", "rich", "json", "numpy_", "reference", "queue"):
            (folder / name / f"{shadow}.py").write_text("raise SystemExit('shadowed')\n")
    options = ["--examples", "0", "--ndims", "2", "--no-fix-search"]
    assert main(["one/layers.py:MyLayerNorm", *options]) == 0
    assert main(["two/layers.py:MyLayerNorm", *options]) == 1
    assert main(["two/layers.py:MyLayerNorm", "one/layers.py:MyLayerNorm", "--json", "out.json", *options]) == 1
    content = json.loads((folder / "out.json").read_text())
    assert [subject["passed"] for subject in content["subjects"]] == [False, True]


def test_star_is_every_layer_of_a_file(folder, capsys):
    pair = "def layernorm_forward(x): pass\ndef layernorm_backward(dy, cache): pass\nclass LayerNormConfig: pass\n"
    (folder / "many.py").write_text(RIGHT + RIGHT.replace("MyLayerNorm", "OtherLayerNorm") + pair)
    main(["many.py:*", "--examples", "0", "--ndims", "2", "--no-fix-search"])
    out, err = capsys.readouterr()
    assert re.findall(r"many.py:\S+", out) == ["many.py:MyLayerNorm", "many.py:OtherLayerNorm"]
    assert "many.py:layernorm_forward+layernorm_backward" in err
    (folder / "none.py").write_text("import numpy\n")
    assert main(["none.py:*"]) == 2
    assert (
        "none.py has no layer whose name tells its kind: no class with forward and backward" in capsys.readouterr().err
    )


@pytest.mark.parametrize("subjects", [1, 2], ids=["alone", "in a pool"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_in_the_middle(folder, number, subjects):
    """The older file is as it was, the code is not 0, and the layer's process is gone."""
    (folder / "slow.py").write_text(
        "import os\nopen('pid', 'w').write(str(os.getpid()))\n" + inside("forward", "while True: pass")
    )
    (folder / "out.json").write_text("older")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "reference", *["slow.py:MyLayerNorm"] * subjects, "--json", "out.json"]
    command += ["--examples", "1000"]  # so many that several subjects are checked at once
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell's background ignores it
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, **heard) as running:
        for _ in range(200):
            time.sleep(0.05)
            if (folder / "pid").exists() and (folder / "pid").read_text():
                break
        running.send_signal(number)
        _, err = running.communicate(timeout=20)
    assert (running.returncode, "Traceback" in err) == (2, False)
    assert err.startswith("normcheck: ")
    assert (folder / "out.json").read_text() == "older"
    time.sleep(0.2)
    state = Path(f"/proc/{(folder / 'pid').read_text()}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "it is still at it"


def test_ctrl_c_within_a_text_that_is_executed_has_the_code_too(folder):
    """There CPython remembers that it was interrupted although that was caught, and `python -m` ends by the signal.

    Dataclasses execute texts, and so are made while the command imports what it needs.
    """
    (folder / "program.py").write_text(
        "from reference.command import main as command\n"
        "def main():\n"
        "    try:\n        exec('raise KeyboardInterrupt')\n    except KeyboardInterrupt:\n        return 2\n"
        "command.main = main\n"
        "command.run()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-m", "program"], cwd=folder, env=environment).returncode == 2


def test_as_a_process_of_its_own(folder):
    """Its exit code, its streams, and the module form; what the layer's file prints is seen by nobody."""
    (folder / "layers.py").write_text("print('imported')\n" + WRONG)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    subjects = ["layers.py:MyLayerNorm", "layers.py:Nothing", "--examples", "0", "--ndims", "2", "--no-fix-search"]
    command = [sys.executable, "-W", "error", "-m", "reference", *subjects]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("layers.py:MyLayerNorm as LayerNorm: ")
    assert "\x1b" not in done.stdout + done.stderr
    assert re.fullmatch(r"normcheck: layers.py has no Nothing; it has .*\n", done.stderr)


@pytest.mark.parametrize("output", ["closed", "full"])
def test_output_that_cannot_be_written(folder, output):
    (folder / "right.py").write_text(RIGHT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    end = {"closed": ">&-", "full": ">/dev/full"}[output]
    command = f"{sys.executable} -m reference right.py:MyLayerNorm --examples 0 --ndims 2 --no-fix-search --json out.json {end}"
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == (0 if output == "closed" else 2)
    assert json.loads((folder / "out.json").read_text())["subjects"][0]["passed"]


# --- from Python ------------------------------------------------------------------------------------------------------


def in_file(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch, name: str = "their_own"):
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return __import__(name).MyLayerNorm


def test_isolated_check_gives_the_same_report(folder, monkeypatch):
    """All of it: names, figures, the smallest case and its script."""
    layer = in_file(folder, WRONG, monkeypatch, "half_wrong")
    here, there = (check(layer, examples=30, isolated=isolated) for isolated in (False, True))
    assert isinstance(there, Report)
    assert there.to_dict() == here.to_dict()
    assert not here.passed


def test_isolated_check_outlives_a_crash(folder, monkeypatch):
    source = inside("backward", "if dy.shape[0] == 131: import os; os._exit(3)")
    report = check(in_file(folder, source, monkeypatch, "crashing"), examples=0, ndims=[2], isolated=True)
    assert [fault.id for fault in report.faults] == ["process-ended"]
    assert "its process ended with exit code 3 in backward of LayerNorm(" in report.faults[0].evidence


@pytest.mark.parametrize("where", ["local", "lambda"])
def test_isolated_needs_what_can_be_imported(where):
    class MyLayerNorm:
        pass

    layer = MyLayerNorm if where == "local" else lambda: None
    with pytest.raises(
        Refused, match=r"isolated: .* cannot be imported by another process: expected a class or function"
    ):
        check(layer, "LayerNorm", isolated=True)
