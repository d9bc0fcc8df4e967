"""The action, the hook and the workflows: that they are YAML of the form they should have, and that what they run runs."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from reference.command.parser import parser

ROOT = Path(__file__).parent.parent
ACTION = ROOT / ".github" / "actions" / "normcheck" / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """`recorded(script, **environment)`: the arguments with which a script calls `normcheck`, and its exit code."""
    fake = tmp_path / "normcheck"
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" > arguments.txt\nexit 1\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)

    def run(script, **environment):
        env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **environment}
        # as a composite action runs bash
        done = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script], env=env, check=False)
        return Path("arguments.txt").read_text().splitlines(), done.returncode

    return run


@pytest.mark.parametrize(
    ("subjects", "arguments", "passed"),
    [
        ("", "", [""]),
        ("a.py:B\n", "", ["a.py:B"]),
        (
            "a.py:B\n\nmy layers.py:*\n",
            "--shard 1/2 --strict",
            ["a.py:B", "my layers.py:*", "--shard", "1/2", "--strict"],
        ),
        (
            "$(touch broken)\n`touch broken`",
            "; touch broken",
            ["$(touch broken)", "`touch broken`", ";", "touch", "broken"],
        ),
    ],
)
def test_action_calls_the_command(recorded, subjects, arguments, passed):
    script = read(ACTION)["runs"]["steps"][-1]["run"]
    assert recorded(script, SUBJECTS=subjects, ARGUMENTS=arguments) == (passed, 1), "its exit code is the command's"
    assert not Path("broken").exists()


def test_action_has_the_form_of_one():
    action = read(ACTION)
    assert {"name", "description", "inputs", "runs"} == action.keys()
    assert action["runs"]["using"] == "composite"
    assert all("shell" in step for step in action["runs"]["steps"] if "run" in step), "GitHub asks for it"
    used = set(re.findall(r"inputs\.([\w-]+)", ACTION.read_text()))
    assert used == action["inputs"].keys()
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "an input in a script is a hole"


def test_action_installs_this_repository():
    (install,) = [step["run"] for step in read(ACTION)["runs"]["steps"] if step.get("name") == "install"]
    (folder,) = re.findall(r'"\$GITHUB_ACTION_PATH(/[./]+)"', install)
    assert Path(os.path.normpath(f"{ACTION.parent}{folder}")) == ROOT


def test_hook_is_what_is_installed():
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    scripts = re.search(r"\[project.scripts\]\n(\w+) = ", (ROOT / "pyproject.toml").read_text())
    assert (hook["id"], hook["entry"], hook["language"]) == ("normcheck", scripts[1], "python")
    assert not hook["pass_filenames"], "a path is no SUBJECT"
    parser().parse_args(hook["entry"].split()[1:])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_the_form_of_one(path):
    workflow = read(path)
    assert True in workflow, "`on`, which is a YAML word for true"
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        assert all(step.keys() & {"uses", "run"} for step in job["steps"])


def commands_of(path):
    """What a workflow runs: each line of its steps and of its matrix of commands."""
    for job in read(path)["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for text in [*matrix.get("command", []), *(step["run"] for step in job["steps"] if "run" in step)]:
            yield from text.splitlines()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_files_that_a_workflow_names_are_there(path):
    words = [word for line in commands_of(path) for word in line.split()]
    for word in words:
        if re.fullmatch(r"[\w./-]+\.(py|json)|\.ci/\w+", word):
            assert (ROOT / word).exists(), word
        if word.startswith("tests."):
            assert (ROOT / word.replace(".", "/")).with_suffix(".py").exists(), word
    assert "bash .ci/run" in list(commands_of(ROOT / ".github" / "workflows" / "ci.yml"))


def test_ci_holds_npnorm_to_its_baseline():
    (line,) = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("normcheck")]
    options = parser().parse_args(line.split()[1:])
    assert (ROOT / options.baseline).is_file()
    assert not options.update_baseline
    assert options.subjects == [], "all that npnorm has"


def test_each_night_the_slow_tests_run_and_other_cases_are_drawn():
    nightly = ROOT / ".github" / "workflows" / "nightly.yml"
    commands = list(commands_of(nightly))
    assert 'pytest -m "slow or not slow"' in commands, "the mutants of the kernel among them"
    assert any("--hypothesis-profile=soak" in line for line in commands)
    assert any("tests.soak" in line and "--seed $GITHUB_RUN_NUMBER" in line for line in commands)
    slow = read(nightly)["jobs"]["slow"]
    assert slow["steps"][-1]["env"] == {"CI": "false"}, "the profile `ci` draws the same cases each time"


def test_each_night_the_frameworks_are_held_against_the_truth():
    nightly = ROOT / ".github" / "workflows" / "nightly.yml"
    steps = [step["run"] for step in read(nightly)["jobs"]["frameworks"]["steps"] if "run" in step]
    install, tests = steps
    assert re.fullmatch(r"pip install -e '\.\[test,frameworks\]'", install)
    assert tests == "pytest tests/frameworks"
