"""What a user meets first: the package's names, and the answers of the command that need no layer. All come at once."""

import subprocess
import sys
from pathlib import Path

import pytest

import npnorm
import reference
from reference.command.main import main

ROOT = Path(__file__).parent.parent

SLOW = ("torch", "hypothesis", "mpmath")
AT_ONCE = {
    "help": (["--help"], 0),
    "version": (["--version"], 0),
    "faults": (["--faults"], 0),
    "explain": (["--explain", "dx-sign"], 0),
    "explain what is none": (["--explain", "dx-sing"], 2),
    "usage error": (["--examples", "many"], 2),
}


@pytest.mark.parametrize(("arguments", "code"), AT_ONCE.values(), ids=AT_ONCE)
def test_what_checks_nothing_loads_nothing_slow(arguments, code):
    program = (
        "import sys\nfrom reference.command.main import main\n"
        f"try:\n    code = main({arguments!r})\nexcept SystemExit as end:\n    code = end.code\n"
        f"print(code, [name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == f"{code} []"


def test_importing_the_package_loads_nothing():
    program = "import sys; before = set(sys.modules); import reference; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names] == ["reference"]


def test_command_imports_torch_in_part_and_the_rest_when_it_is_asked_for():
    program = (
        "import sys\nfrom reference.command.lean import PUT_OFF, import_torch_in_part\nimport_torch_in_part()\nimport torch\n"
        "print('torch._prims' in sys.modules, hasattr(sys.modules[PUT_OFF], '__file__'), 'torch._prims' in sys.modules)\n"
        "sys.modules[PUT_OFF].register_meta\n"
        "print('torch._prims' in sys.modules, torch.nn.LayerNorm(3, device='meta')(torch.ones(2, 3, device='meta')).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["False True False", "True torch.Size([2, 3])"]


def test_every_public_name_is_there():
    assert sorted(reference.__all__) == dir(reference)
    assert all(getattr(reference, name).__name__ == name for name in reference.__all__)
    with pytest.raises(AttributeError, match="module 'reference' has no attribute 'chek'"):
        reference.chek  # noqa: B018


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"normcheck {npnorm.__version__}\n"
