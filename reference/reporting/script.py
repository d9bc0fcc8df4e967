"""A program that shows a failure with numpy and torch alone, to paste into an issue or a debugger.

It holds the case's arrays, the functions of `replay` that it needs, and a few lines that call them: torch's answer in
float64, what the layer gives, the comparison. Where the layer's own file is at hand the program runs the layer again, so
that it passes once the layer is fixed; elsewhere it compares the arrays that the layer gave when it was checked. This
module writes text; it runs nothing, judges nothing, and must not know how a call is made or an array laid out.
"""

import ast
import base64
import inspect
import re
import textwrap
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from reference.cases.case import Array, Case
from reference.dtypes import carried, is_float, roundoff, smallest_normal
from reference.reporting import replay
from reference.reporting.foreign import NAME
from reference.subjects.guard import printable
from reference.subjects.judged import Judged
from reference.subjects.observation import GRADIENTS
from reference.subjects.spoken import Spoken, literal
from reference.truth.verdict import Trial

LITERAL = 400  # numbers up to which an array is written out
RUNNING = ("running_mean", "running_var")

LAYOUTS = {  # a copy of an array as the case has it
    "C": "{}.copy()",
    "read-only": "read_only({})",
    "F": "fortran({})",
    "strided": "strided({})",
    "flipped": "flipped({})",
    "transposed": "transposed({})",
    "sliced": "sliced({})",
}


def script_for(subject: Judged, trial: Trial, accepted: bool = False) -> str:
    """The program for one failing trial.

    Args:
        subject: whose file is looked for; a layer that asks for more than a line of ours is shown by what it gave.
        trial: what is shown.
        accepted: whether torch is not quite what the layer is held to.
    """
    case, parameters = trial.case, _parameters(trial.case)
    words = subject.spoken(case, tuple(parameters))
    calls = [case.arrays(call) for call in range(case.calls)]
    data = [
        f"x = [{', '.join(_array(call.x) for call in calls)}]",
        f"dy = [{', '.join(_array(call.dy) for call in calls)}]",
        *(f"{name} = {_array(value)}" for name, value in parameters.items()),
    ]
    lines = []
    if trial.wrong:
        lines += _torch(trial, parameters)
        if accepted:
            lines.append("# Conventions were accepted: where they apply torch is not what the layer is held to.")
        lines.append(f"got = {_recorded(trial)}  # when it was checked")
    if words:
        lines += _again(trial, words.path, _layer(trial, words, parameters))
    if trial.wrong:
        lines.append(f"compare(got, expected, {_tolerances(trial)})")
    if trial.findings and not words:
        lines.append(f"raise AssertionError({literal('; '.join(finding.detail for finding in trial.findings))})")
    else:
        lines.append('print("no difference")')
    name = printable(subject.name, most=NAME).replace("\\", "\\\\").replace('"', "'")
    return _program(f"{name} against torch.nn.{_module(case)}.\n\n{case}\n", data, lines)


# --- the parts of the program -----------------------------------------------------------------------------------------


def _torch(trial: Trial, parameters: Mapping[str, Array]) -> list[str]:
    """The lines that have torch's answer."""
    case, xs, rest = trial.case, "x", ", ".join(["dy", *parameters])
    options = case.options
    if case.kind.optional["eps"] is None and options.get("eps") is None:
        options["eps"] = case.eps  # torch's default depends on the dtype, which is float64 here
    module = f"torch.nn.{_module(case)}({_keywords(case, options)})"
    lines = []
    if case.kind.tracks:
        lines, module = [f"module = {module}"], "module"
        xs = f"in_modes(module, {_modes(case)}, x)"
    lines.append(f"expected = torch_answer({module}, {xs}, {rest})")
    lines += [f'expected["{name}"] = np.ravel(module.{name})' for name in RUNNING if name in trial.wrong]
    return lines


def _layer(trial: Trial, words: Spoken, parameters: Mapping[str, Array]) -> list[str]:
    """The lines that build the layer, run it, and leave what it gives in `got`."""
    case = trial.case
    if words.roles:
        values = {name: role for name, role in words.roles.items() if role in parameters}
        roles = {name: role for name, role in words.roles.items() if role in parameters or role in trial.comparisons}
        given = ", ".join(f"{literal(name)}: {role}" for name, role in values.items())
        layouts = [
            f"{name} = [{LAYOUTS[layout].format('a')} for a in {name}]"
            for name, layout in (("x", case.layout), ("dy", case.dy_layout))
            if layout != "C"
        ]
        return [*words.build, *layouts, f"got = answer_of(layer, x, dy, {_modes(case)}, {{{given}}}, {roles!r})"]
    found = {(finding.id, finding.quantity): finding.detail for finding in trial.findings}
    forward, backward = words.forward, words.backward
    xs = f"[{LAYOUTS[case.layout].format('a')} for a in x]"
    dys = f"[{LAYOUTS[case.dy_layout].format('a')} for a in dy]"
    if case.history == "forward only":
        dys = f"[{'None, ' * (case.calls - 1)}{LAYOUTS[case.dy_layout].format('dy[-1]')}]"
    lines = list(words.build)
    if ("gamma-per-group", "y") in found:
        lines.append(f"check_size({literal(words.name('gamma'))}, {words.value('gamma')}, {case.parameter_shape[0]})")
    lines += words.setting(parameters)
    lines.append(f"xs, dys = {xs}, {dys}")

    for key, text in {("input-mutated", "y"): forward, ("input-mutated", "dx"): backward}.items():
        if "changed" in found.get(key, ""):  # what only tried to, with a read-only array, ended in an exception
            watched = f"untouched({text}, xs, {literal(found[key])})"
            forward, backward = (watched, backward) if text == forward else (forward, watched)
    if "changed" in found.get(("upstream-gradient-mutated", "dx"), ""):
        backward = f"untouched({backward}, dys[-1:], {literal(found['upstream-gradient-mutated', 'dx'])})"
    held = [name for id, name in found if id == "result-overwritten"]
    if held:
        lines.append("held = []")
        forward = f"remembering({forward}, held)" if "y" in held else forward
        backward = f"remembering({backward}, held)" if "dx" in held else backward
    inputs = "refilled(xs)" if case.history == "refilled" else "xs"
    if case.kind.tracks:
        modes = "".join(f", {name}={values}" for name, values in words.modes.items())
        inputs = f"in_modes(layer, {_modes(case)}, {inputs}{modes})"
    lines.append(f"y, returned = run{'_with_cache' * words.cache}({forward}, {backward}, {inputs}, dys)")
    lines += _collected(trial, words, parameters)
    for (id, name), detail in found.items():
        if id == "dtype-demoted":
            lines.append(f'assert got["{name}"].dtype == x[-1].dtype, {literal(detail)}')
        elif id == "result-overwritten":
            lines.append(f"check_held(held, {literal(detail)})")
    return lines


def _collected(trial: Trial, words: Spoken, parameters: Mapping[str, Array]) -> list[str]:
    """The lines that put into `got` what was wrong."""
    wrong = {*trial.wrong, *(finding.quantity for finding in trial.findings)}
    misshapen = {finding.quantity for finding in trial.findings if finding.id == "parameter-gradients-misshapen"}
    lines = []
    if wrong & set(GRADIENTS):
        of_parameters = [f"d{name}" for name in parameters if f"d{name}" in wrong]
        lines.append(f"given = {words.gradients(of_parameters)}")
    values = {}
    for name in ("y", *GRADIENTS):
        if name not in wrong:
            continue
        values[name], own = "y" if name == "y" else f'given.get("{name}")', name.removeprefix("d")
        if name in misshapen:
            lines.append(f'check_update("{name}", {values[name]}, {words.value(own)})')
        if own in parameters:
            values[name] = f"parameter_gradient({values[name]}, {words.value(own)}, {own})"
    values |= {name: f"np.ravel({words.value(name)})" for name in RUNNING if name in wrong}
    if len(values) == 1:
        return [*lines, *(f'got = {{"{name}": {value}}}' for name, value in values.items())]
    return [*lines, "got = {}", *(f'got["{name}"] = {value}' for name, value in values.items())]


def _again(trial: Trial, path: str, lines: list[str]) -> list[str]:
    """The lines that load the layer's file and then do the others; only if it is there, if there is something else."""
    lines = [f"their_module = load({literal(path)})", *lines]
    if not trial.wrong:
        return lines
    return [f"if Path({literal(path)}).exists():", *(f"    {line}" for line in lines)]


def _program(title: str, data: list[str], lines: list[str]) -> str:
    """The parts in their order, with the functions and the imports that they need."""
    sources, needs = _sources()
    called = _names("\n".join(lines))
    functions = [name for name in sources if name in called]
    used = called.union({"np"}, *(needs[name] for name in functions))
    arrays = "\n".join(data)
    if "zlib." in arrays:
        used |= {"base64", "zlib"}
    if "ml_dtypes." in arrays:
        used |= {"ml_dtypes"}
    parts = [f'"""{title}"""', _imports(used), arrays, *(f"\n{sources[name]}\n" for name in functions)]
    return "\n\n".join([*parts, "\n".join(lines)]).replace("\n\n\n\n", "\n\n\n") + "\n"


# --- the functions that it needs --------------------------------------------------------------------------------------


@cache
def _sources() -> tuple[dict[str, str], dict[str, set[str]]]:
    """Of each function of `replay` the source, and the names that it uses."""
    sources = {}
    for name, value in vars(replay).items():
        if inspect.isfunction(value):
            # torch is imported inside of the one that uses it, to be had without it; a program imports it at its top
            sources[name] = re.sub(r"    import \w+\n\n", "", inspect.getsource(value)).rstrip()
    return sources, {name: _names(source) for name, source in sources.items()}


def _imports(used: set[str]) -> str:
    """The imports of those of these names that `replay` imports, or that an array's text needs."""
    lines = []
    for node in _import_statements():
        names = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in used]
        if isinstance(node, ast.Import):
            lines += [f"import {ast.unparse(alias)}" for alias in names]
        elif names:
            lines.append(f"from {node.module} import {', '.join(alias.name for alias in names)}")
    others = [line for line in lines if line.split()[1] in ("ml_dtypes", "numpy", "torch")]
    standard = [line for line in lines if line not in others]
    standard.sort(key=lambda line: (line.startswith("from"), line))
    return "\n".join([*dict.fromkeys(standard), *([""] if standard else []), *dict.fromkeys(others)])


@cache
def _import_statements() -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(f"import base64, ml_dtypes, zlib\n{inspect.getsource(replay)}")
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _names(text: str) -> set[str]:
    """The names that a piece of program uses."""
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


# --- texts ------------------------------------------------------------------------------------------------------------


def _module(case: Case) -> str:
    return case.kind.torch[len(case.shape)]


def _keywords(case: Case, options: Mapping[str, Any]) -> str:
    """Options as arguments, in torch's order."""
    return ", ".join(f"{name}={options[name]!r}" for name in case.kind.keywords if name in options)


def _modes(case: Case) -> str:
    return repr([case.training_in(call) for call in range(case.calls)])


def _parameters(case: Case) -> dict[str, Array]:
    """gamma and beta, those of them that there are."""
    return {name: value for name, value in zip(("gamma", "beta"), case.parameters(), strict=True) if value is not None}


def _array(array: Array) -> str:
    """An array as an expression that makes it again, to the last bit."""
    if array.dtype.name == "bfloat16":
        return f"{_array(carried(array))}.astype(ml_dtypes.bfloat16)"
    if 0 < array.size <= LITERAL:
        dtype = "" if array.dtype == np.float64 else f", np.{array.dtype}"
        numbers = re.sub(r"\b(nan|inf)\b", r"np.\1", repr(array.tolist()))
        if len(numbers) <= 90:
            return f"np.array({numbers}{dtype})"
        body = textwrap.fill(numbers, 110, initial_indent="    ", subsequent_indent="     ")
        return f"np.array(\n{body}{dtype}\n)"
    packed = base64.b85encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()
    pieces = "\n".join(f"    {packed[i : i + 100]!r}" for i in range(0, len(packed), 100))
    return f"np.frombuffer(zlib.decompress(base64.b85decode(\n{pieces}\n)), np.{array.dtype}).reshape({array.shape})"


def _recorded(trial: Trial) -> str:
    entries = []
    for name in trial.wrong:
        value = trial.seen.outcome.get(name)
        numeric = value is not None and is_float(value.dtype)
        entries.append(f'"{name}": {_array(value) if value is not None and numeric else None}')
    return f"{{{', '.join(entries)}}}"


def _tolerances(trial: Trial) -> str:
    """What each wrong quantity may differ by, as an absolute number."""
    u = roundoff(trial.case.dtype)
    found = []
    for name in trial.wrong:
        scales = trial.expected.truth.scale[name].astype(np.float64)
        scale = float(np.max(scales[np.isfinite(scales)], initial=smallest_normal(trial.case.dtype)))
        errors = trial.comparisons[name]
        unit = u * scale * errors.tolerance
        if errors.got is not None and errors.expected is not None and np.isfinite([errors.got, errors.expected]).all():
            unit = min(unit, abs(errors.got - errors.expected) / 2)  # one bound for all entries must not hide the worst
        found.append(f'"{name}": {unit:.3g}')
    return f"{{{', '.join(found)}}}"
