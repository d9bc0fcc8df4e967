"""A program that shows a failure with numpy and torch alone, to paste into an issue or a debugger.

It holds the case's arrays, computes torch's answer in float64, and compares. Where the layer's own file is at hand the
program runs the layer again, so that it passes once the layer is mended; elsewhere it compares the arrays that the layer
gave when it was checked. This module writes text; it runs nothing and judges nothing.
"""

import base64
import inspect
import re
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.subjects.subject import Subject
from reference.truth.compare import roundoff
from reference.truth.verdict import Trial

LITERAL = 400  # numbers up to which an array is written out

LAYOUTS = {  # how to lay out an array as the case has it
    "C": "{}.copy()",
    "read-only": "read_only({}.copy())",
    "F": "np.array({}, order='F')",
    "transposed": "np.array({}.swapaxes(-1, -2), order='C').swapaxes(-1, -2)",
    "flipped": "np.array({}[..., ::-1], order='C')[..., ::-1]",
    "strided": "np.repeat({}, 2, axis=-1)[..., ::2]",
    "sliced": "np.pad({}, [(1, 1)] + [(0, 0)] * %d)[1:-1]",
}

TORCH = """\
# torch's answer, in float64
module = torch.nn.{module}({options}).double()
with torch.no_grad():
    for parameter, value in ((getattr(module, "weight", None), gamma), (getattr(module, "bias", None), beta)):
        if parameter is not None:
            parameter.copy_(torch.tensor(value))
for call in range({calls}):
    module.train({training}[call])
    t = torch.tensor(x[call], dtype=torch.float64, requires_grad=True)
    y = module(t)
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(y, [t, *parameters.values()], torch.tensor(dy[call], dtype=torch.float64))
expected = {{"y": y.detach().numpy(), "dx": gradients[0].numpy()}}
for name, gradient in zip(parameters, gradients[1:]):
    expected[{{"weight": "dgamma", "bias": "dbeta"}}[name]] = gradient.numpy()
"""

TORCH_RUNNING = """\
for name in ("running_mean", "running_var"):
    if getattr(module, name, None) is not None:
        expected[name] = getattr(module, name).numpy()
"""

LAYER = '''\
def run_layer():
    """The layer itself, from its own file."""
    spec = importlib.util.spec_from_file_location("layer_under_test", {path!r})
    their_module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, {folder!r})
    spec.loader.exec_module(their_module)
    layer = their_module.{name}({options})
    for name, value in (("gamma", gamma), ("beta", beta)):
        if value is not None:
            setattr(layer, name, value.reshape(np.shape(getattr(layer, name, value))))
    for call in range({calls}):
{mode}\
        a, b = {x_layout}, {dy_layout}
{refill}        a_before, b_before = a.copy(), b.copy()
        y = layer.forward(a)
        assert np.array_equal(a, a_before, equal_nan=True), "x was changed by forward"
        got["y"] = y.copy() if isinstance(y, np.ndarray) else y
{overwrite}\
        dx = layer.backward(b)
        got.update(dgamma=getattr(layer, "dgamma", None), dbeta=getattr(layer, "dbeta", None))
        if isinstance(dx, dict):
            got.update(dx)
        elif isinstance(dx, (tuple, list)):
            got.update(zip(("dx", "dgamma", "dbeta"), dx))
        else:
            got["dx"] = dx
        assert np.array_equal(b, b_before), "dy was changed by backward"
        for name in ("y", "dx"):
            assert isinstance(got[name], np.ndarray), f"{{name}}: got {{type(got[name]).__name__}}, expected an array"
        assert not np.may_share_memory(got["dx"], b), "dx shares its memory with dy"
        assert got["y"].dtype == got["dx"].dtype == a.dtype, f"dtypes: x {{a.dtype}}, y {{got['y'].dtype}}, dx {{got['dx'].dtype}}"
    got.update((name, getattr(layer, name, None)) for name in ("running_mean", "running_var"))
'''

READ_ONLY = """\
def read_only(a):
    a.flags.writeable = False
    return a

"""

COMPARE = """\
for name, tolerance in {tolerances}.items():
    if expected.get(name) is None:
        continue
    assert got.get(name) is not None, f"{{name}}: got nothing, expected shape {{expected[name].shape}}"
    actual = np.asarray(got[name])
    assert actual.size == expected[name].size, f"{{name}}: got shape {{actual.shape}}, expected {{expected[name].shape}}"
    np.testing.assert_allclose(actual.reshape(expected[name].shape), expected[name], rtol=0, atol=tolerance, err_msg=name)
print("no difference")
"""


def script_for(subject: Subject, trial: Trial, accepted: bool = False) -> str:
    """The program for one failing trial; `accepted` says that torch is not quite what the layer is held to."""
    case = trial.case
    calls = [case.arrays(call) for call in range(case.calls)]
    gamma, beta = case.parameters()
    lines = [
        f'"""{subject.name} against torch.nn.{_module(case)}.\n\n{case}\n"""',
        "",
        "IMPORTS",
        f"x = [{', '.join(_array(call.x) for call in calls)}]",
        f"dy = [{', '.join(_array(call.dy) for call in calls)}]",
        f"gamma = {_array(gamma)}",
        f"beta = {_array(beta)}",
        "",
        TORCH.format(
            module=_module(case),
            options=_options(case, None),
            calls=case.calls,
            training=[case.training_in(call) for call in range(case.calls)],
        ),
    ]
    if case.kind.tracks:
        lines.append(TORCH_RUNNING)
    if accepted:
        lines.append("# Conventions were accepted: where they apply torch is not what the layer is held to.")
    lines += ["# what the layer gave", f"got = {_recorded(trial)}", ""]
    place = _place(subject)
    if place:
        if "read-only" in (case.layout, case.dy_layout):
            lines.append(READ_ONLY)
        lines += [_layer(subject, case, *place), _run(place[0])]
    found = [finding.detail for finding in trial.findings]
    if found and not place:
        lines.append(f"raise AssertionError({'; '.join(found)!r})")
    lines.append(COMPARE.format(tolerances=_tolerances(trial)))
    return "\n".join(lines).replace("IMPORTS", _imports("\n".join(lines)), 1)


def _imports(text: str) -> str:
    """The imports that the program needs, no others."""
    standard = [name for name in ("base64", "importlib.util", "os", "sys", "zlib") if f"{name}." in text]
    special = [name for name in ("inf", "nan") if re.search(rf"[\[ -]{name}[,\]]", text)]
    lines = [*(f"import {name}" for name in standard), "" if standard else None, "import numpy as np", "import torch"]
    lines += [f"from numpy import {', '.join(special)}" if special else None, ""]
    return "\n".join(line for line in lines if line is not None)


def _module(case: Case) -> str:
    return case.kind.torch[len(case.shape)]


def _options(case: Case, keywords: frozenset[str] | None) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in case.config if keywords is None or name in keywords)


def _array(array: Array | None) -> str:
    """An array as an expression that makes it again, to the last bit."""
    if array is None:
        return "None"
    if array.size <= LITERAL:
        numbers = ", ".join(repr(value) for value in array.reshape(-1).tolist())
        body = textwrap.fill(f"[{numbers}]", 110, initial_indent="    ", subsequent_indent="     ")
        return f"np.array(\n{body},\n    np.{array.dtype},\n).reshape({array.shape})"
    packed = base64.b85encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    pieces = "\n".join(f"    {packed[i : i + 100]!r}" for i in range(0, len(packed), 100))
    return f"np.frombuffer(zlib.decompress(base64.b85decode(\n{pieces}\n)), np.{array.dtype}).reshape({array.shape})"


def _recorded(trial: Trial) -> str:
    entries = []
    for name in trial.wrong:
        value = trial.seen.outcome.get(name)
        numeric = value is not None and value.dtype.kind == "f"
        entries.append(f"{name!r}: {_array(value) if numeric else None}")
    return "{" + ", ".join(entries) + "}"


def _tolerances(trial: Trial) -> dict[str, float]:
    """What each wrong quantity may differ by, as an absolute number."""
    u = roundoff(trial.case.dtype)
    found = {}
    for name in trial.wrong:
        scales = trial.expected.truth.scale[name].astype(np.float64)
        scale = float(np.max(scales[np.isfinite(scales)], initial=float(np.finfo(trial.case.dtype).tiny)))
        errors = trial.comparisons[name]
        unit = u * scale * errors.tolerance
        if errors.got is not None and errors.expected is not None and np.isfinite([errors.got, errors.expected]).all():
            unit = min(unit, abs(errors.got - errors.expected) / 2)  # one bound for all entries must not hide the worst
        found[name] = float(f"{unit:.3g}")
    return found


def _place(subject: Subject) -> tuple[str, str] | None:
    """The file and the name under which the layer can be had again."""
    factory: Any = subject.factory
    name = getattr(factory, "__qualname__", "")
    if subject.channels_last or not name.isidentifier():
        return None
    try:
        path = inspect.getsourcefile(factory)
    except (TypeError, OSError):
        return None
    # Of two modules of one name Python remembers one file, for the classes of both.
    methods = [value for value in vars(factory).values() if inspect.isfunction(value)]
    if methods and path not in {method.__code__.co_filename for method in methods}:
        return None
    if path is None or not Path(path).is_file() or (Path(path).parent / "__init__.py").exists():
        return None
    return str(Path(path).resolve()), name


def _layer(subject: Subject, case: Case, path: str, name: str) -> str:
    mode = ""
    if case.kind.tracks:
        mode = f"        mode = {[case.training_in(call) for call in range(case.calls)]}[call]\n"
        mode += "        getattr(layer, 'train' if mode else 'eval', lambda: None)()\n"
        mode += "        if hasattr(layer, 'training'):\n            layer.training = mode\n"
    refill = ""
    if case.history == "refilled":  # one array for all calls
        refill = "        if call:\n            first.flags.writeable = True\n            first[...] = a\n            a = first\n"
        refill += "        first = a\n"
    overwrite = {
        "x": "        a.flags.writeable = True\n        a[...] = 3 - 2 * a[::-1]\n        a_before = a.copy()\n",
        "y": "        y[...] = 3 - 2 * y[::-1]\n",
        "": "",
    }[case.overwrite]
    if case.history == "forward only":
        overwrite += f"        if call < {case.calls} - 1:\n            continue\n"
    return LAYER.format(
        path=path,
        folder=str(Path(path).parent),
        name=name,
        options=_options(case, subject.keywords),
        calls=case.calls,
        mode=mode,
        x_layout=_laid_out("x[call]", case.layout, case),
        dy_layout=_laid_out("dy[call]", case.dy_layout, case),
        overwrite=overwrite,
        refill=refill,
    )


def _laid_out(name: str, layout: str, case: Case) -> str:
    text = LAYOUTS[layout].format(name)
    return text % (len(case.shape) - 1) if layout == "sliced" else text


def _run(path: str) -> str:
    return f"\nif os.path.exists({path!r}):\n    run_layer()\n"
