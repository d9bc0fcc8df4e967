"""A program that shows a failure with numpy and torch alone, to paste into an issue or a debugger.

It holds the case's arrays, the functions of `replay` that it needs, and a few lines that call them: torch's answer in
float64, what the layer gives, the comparison. Where the layer's own file is at hand the program runs the layer again, so
that it passes once the layer is fixed; elsewhere it compares the arrays that the layer gave when it was checked. This
module writes text; it runs nothing, judges nothing, and must not know how a call is made or an array laid out.
"""

import ast
import base64
import inspect
import json
import re
import textwrap
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from reference.cases.case import ANOTHER, Array, Case
from reference.reporting import replay
from reference.subjects.observation import GRADIENTS
from reference.subjects.subject import Subject
from reference.truth.compare import roundoff
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


def script_for(subject: Subject, trial: Trial, accepted: bool = False) -> str:
    """The program for one failing trial.

    Args:
        subject: whose file is looked for; a layer that asks for more than a line of ours is shown by what it gave.
        trial: what is shown.
        accepted: whether torch is not quite what the layer is held to.
    """
    case, names = trial.case, subject.form.plain_names()
    plain = names is not None and case.history != ANOTHER and "gamma" not in subject.constructor.takes
    place = _place(subject) if plain else None
    calls = [case.arrays(call) for call in range(case.calls)]
    parameters = _parameters(case)
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
    if place:
        path, name = place
        positional, given = subject.constructor.arguments(case)
        arguments = [*map(repr, positional), *(f"{theirs}={value!r}" for theirs, value in given.items())]
        build = f"their_module.{name}({', '.join(arguments)})"
        lines += _again(trial, path, _layer(trial, build, parameters, names or {}))
    if trial.wrong:
        lines.append(f"compare(got, expected, {_tolerances(trial)})")
    if trial.findings and not place:
        lines.append(f"raise AssertionError({_quoted('; '.join(finding.detail for finding in trial.findings))})")
    else:
        lines.append('print("no difference")')
    return _program(f"{subject.name} against torch.nn.{_module(case)}.\n\n{case}\n", data, lines)


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
    if set(RUNNING) & set(trial.wrong):
        lines.append("expected |= running_statistics(module)")
    return lines


def _layer(trial: Trial, build: str, parameters: Mapping[str, Array], names: Mapping[str, str]) -> list[str]:
    """The lines that build the layer, run it, and leave what it gives in `got`."""
    case = trial.case
    found = {(finding.id, finding.quantity): finding.detail for finding in trial.findings}
    forward, backward = (f"layer.{names.get(name, name)}" for name in ("forward", "backward"))
    xs = f"[{LAYOUTS[case.layout].format('a')} for a in x]"
    dys = f"[{LAYOUTS[case.dy_layout].format('a')} for a in dy]"
    if case.history == "forward only":
        dys = f"[{'None, ' * (case.calls - 1)}{LAYOUTS[case.dy_layout].format('dy[-1]')}]"
    lines = [f"layer = {build}"]
    if ("gamma-per-group", "y") in found:
        own = names.get("gamma", "gamma")
        lines.append(f"check_size({_quoted(own)}, layer.{own}, {case.parameter_shape[0]})")
    lines += [f"set_parameter(layer, {_quoted(names.get(name, name))}, {name})" for name in parameters]
    lines.append(f"xs, dys = {xs}, {dys}")

    for key, text in {("input-mutated", "y"): forward, ("input-mutated", "dx"): backward}.items():
        if "changed" in found.get(key, ""):  # what only tried to, with a read-only array, ended in an exception
            watched = f"untouched({text}, xs, {_quoted(found[key])})"
            forward, backward = (watched, backward) if text == forward else (forward, watched)
    if "changed" in found.get(("upstream-gradient-mutated", "dx"), ""):
        backward = f"untouched({backward}, dys[-1:], {_quoted(found['upstream-gradient-mutated', 'dx'])})"
    if case.overwrite:
        forward = f"overwriting_{case.overwrite}({forward})"
    inputs = "refilled(xs)" if case.history == "refilled" else "xs"
    if case.kind.tracks:
        inputs = f"in_modes(layer, {_modes(case)}, {inputs})"
    lines.append(f"y, returned = run({forward}, {backward}, {inputs}, dys)")
    lines += _collected(trial, parameters, names)
    for (id, name), detail in found.items():
        if id in ("dtype-promoted", "dtype-demoted"):
            lines.append(f'assert got["{name}"].dtype == x[-1].dtype, {_quoted(detail)}')
        elif id == "dx-aliases-dy":
            lines.append(f'assert not np.may_share_memory(got["dx"], dys[-1]), {_quoted(detail)}')
    return lines


def _collected(trial: Trial, parameters: Mapping[str, Array], names: Mapping[str, str]) -> list[str]:
    """The lines that put into `got` what was wrong."""
    own = {name: names.get(name, name) for name in (*GRADIENTS, *RUNNING, *parameters)}
    wrong = {*trial.wrong, *(finding.quantity for finding in trial.findings)}
    order = tuple(own[name] for name in GRADIENTS)
    call = f"by_name(returned{'' if order == GRADIENTS else f', {order}'})"
    wanted = [name for name in ("y", *GRADIENTS) if name in wrong]
    given = call if len(wanted) == 1 else "given"
    entries = {"y": "y", **{name: f"{given}.get({_quoted(own[name])})" for name in GRADIENTS}}
    for gamma in parameters:
        name = f"d{gamma}"
        arguments = f"{entries[name]}, layer, {_quoted(own[name])}, {_quoted(own[gamma])}, {gamma}"
        entries[name] = f"parameter_gradient({arguments})"
    if len(wanted) == 1:
        lines = [f'got = {{"{wanted[0]}": {entries[wanted[0]]}}}']
    else:
        lines = [f"given = {call}"] if wrong & set(GRADIENTS) else []
        lines += ["got = {}", *(f'got["{name}"] = {entries[name]}' for name in wanted)]
    if wrong & set(RUNNING):
        order = tuple(own[name] for name in RUNNING)
        lines.append(f"got |= running_statistics(layer{'' if order == RUNNING else f', {order}'})")
    return lines


def _again(trial: Trial, path: str, lines: list[str]) -> list[str]:
    """The lines that load the layer's file and then do the others; only if it is there, if there is something else."""
    lines = [f"their_module = load({_quoted(path)})", *lines]
    if not trial.wrong:
        return lines
    return [f"if Path({_quoted(path)}).exists():", *(f"    {line}" for line in lines)]


def _program(title: str, data: list[str], lines: list[str]) -> str:
    """The parts in their order, with the functions and the imports that they need."""
    sources, needs = _sources()
    called = _names("\n".join(lines))
    functions = [name for name in sources if name in called]
    used = called.union({"np"}, *(needs[name] for name in functions))
    arrays = "\n".join(data)
    if "zlib." in arrays:
        used |= {"base64", "zlib"}
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
    others = [line for line in lines if line.split()[1] in ("numpy", "torch")]
    standard = [line for line in lines if line not in others]
    standard.sort(key=lambda line: (line.startswith("from"), line))
    return "\n".join([*standard, *([""] if standard else []), *others])


@cache
def _import_statements() -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(f"import base64, zlib\n{inspect.getsource(replay)}")
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


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _modes(case: Case) -> str:
    return repr([case.training_in(call) for call in range(case.calls)])


def _parameters(case: Case) -> dict[str, Array]:
    """gamma and beta, those of them that there are."""
    return {name: value for name, value in zip(("gamma", "beta"), case.parameters(), strict=True) if value is not None}


def _array(array: Array) -> str:
    """An array as an expression that makes it again, to the last bit."""
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
        numeric = value is not None and value.dtype.kind == "f"
        entries.append(f'"{name}": {_array(value) if value is not None and numeric else None}')
    return f"{{{', '.join(entries)}}}"


def _tolerances(trial: Trial) -> str:
    """What each wrong quantity may differ by, as an absolute number."""
    u = roundoff(trial.case.dtype)
    found = []
    for name in trial.wrong:
        scales = trial.expected.truth.scale[name].astype(np.float64)
        scale = float(np.max(scales[np.isfinite(scales)], initial=float(np.finfo(trial.case.dtype).tiny)))
        errors = trial.comparisons[name]
        unit = u * scale * errors.tolerance
        if errors.got is not None and errors.expected is not None and np.isfinite([errors.got, errors.expected]).all():
            unit = min(unit, abs(errors.got - errors.expected) / 2)  # one bound for all entries must not hide the worst
        found.append(f'"{name}": {unit:.3g}')
    return f"{{{', '.join(found)}}}"


# --- where the layer is -----------------------------------------------------------------------------------------------


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
