"""`[tool.normcheck]`: found from below, options of each subject, and refused by name where it is not what it should be."""

import json
import re
import sys
from pathlib import Path

import pytest

from reference.command.main import main
from reference.configuration import OPTIONS, configuration_for
from reference.kinds import KINDS
from reference.subjects.loading import Unusable

LAYERS = """\
import npnorm


class GoodLayerNorm(npnorm.LayerNorm):
    pass


class HalfLayerNorm(npnorm.LayerNorm):
    def backward(self, dy):
        return super().backward(dy) / 2


class BiasedBatchNorm(npnorm.BatchNorm):
    def forward(self, x):
        before = None if self.running_var is None else self.running_var.copy()
        y = super().forward(x)
        if before is not None and self.training:
            n = x.size // x.shape[1]
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            decayed = (1 - momentum) * before
            self.running_var[...] = decayed + (self.running_var - decayed) * ((n - 1) / n)
        return y
"""

TWO = """\
[tool.normcheck]
ndims = [2]
dtypes = ["float64"]

[[tool.normcheck.subjects]]
subject = "my_layers.py:GoodLayerNorm"

[[tool.normcheck.subjects]]
subject = "my_layers.py:BiasedBatchNorm"
accept = ["running-var-biased"]
"""

QUICK = ["--examples", "0", "--no-fix-search"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """`project(text)`: the folder of a project with layers and that pyproject.toml, in which we are."""
    (tmp_path / "my_layers.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def with_text(text):
        (tmp_path / "pyproject.toml").write_text(text)
        return tmp_path

    return with_text


def test_subjects_have_their_own_options_and_the_defaults(project):
    folder = project(TWO)
    found = configuration_for(folder)
    assert [one.shown for one in found.subjects] == ["my_layers.py:GoodLayerNorm", "my_layers.py:BiasedBatchNorm"]
    assert [one.options for one in found.subjects] == [
        {"ndims": [2], "dtypes": ["float64"]},
        {"ndims": [2], "dtypes": ["float64"], "accept": ["running-var-biased"]},
    ]


def test_command_without_arguments_checks_them_from_below(project, monkeypatch, capsys):
    below = project(TWO) / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert main([*QUICK, "--json", "out.json"]) == 0, "the convention is accepted for the one that has it"
    subjects = json.loads(Path("out.json").read_text())["subjects"]
    assert [one["subject"] for one in subjects] == ["my_layers.py:GoodLayerNorm", "my_layers.py:BiasedBatchNorm"]
    assert [one["accepted"] for one in subjects] == [[], ["running-var-biased"]]
    assert all({"float32", "3D"} <= one["not_covered"].keys() for one in subjects), "the defaults hold for both"


def test_subject_that_is_typed_has_its_configured_options(project, capsys):
    folder = project(TWO)
    assert main([f"{folder}/my_layers.py:BiasedBatchNorm", *QUICK]) == 0
    assert "accepted: running-var-biased" in capsys.readouterr().out
    project(TWO.replace("accept = ", "# "))
    assert main(["my_layers.py:BiasedBatchNorm", *QUICK]) == 1


def test_what_is_typed_goes_before_what_is_configured(project):
    project(TWO.replace("[2]", "[2, 3]"))
    main(["my_layers.py:GoodLayerNorm", "--ndims", "3", *QUICK, "--json", "out.json"])
    (subject,) = json.loads(Path("out.json").read_text())["subjects"]
    assert "2D" in subject["not_covered"]
    assert "3D" not in subject["not_covered"]


def test_module_of_the_project_is_imported_from_below(project, monkeypatch, capsys):
    folder = project('[tool.normcheck]\nndims = [2]\nsubjects = ["my_layers:GoodLayerNorm"]')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(QUICK) == 0
    assert capsys.readouterr().out.startswith("my_layers:GoodLayerNorm as LayerNorm: ")
    assert str(folder) not in sys.path, "a stranger's modules are not in the reach of ours"


def test_star_stands_for_every_layer_of_the_file(project, monkeypatch, capsys):
    folder = project('[tool.normcheck]\nndims = [2]\nsubjects = ["my_layers.py:*"]')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(QUICK) == 1
    titles = re.findall(r"^(\S+) as ", capsys.readouterr().out, flags=re.M)
    assert titles == [f"my_layers.py:{name}" for name in ("GoodLayerNorm", "HalfLayerNorm", "BiasedBatchNorm")]


def test_star_that_is_typed_has_the_options_of_each_layer(project, monkeypatch):
    project(TWO)
    assert main(["my_layers.py:*", *QUICK, "--json", "out.json"]) == 1
    subjects = json.loads(Path("out.json").read_text())["subjects"]
    assert {one["subject"].split(":")[1]: one["accepted"] for one in subjects} == {
        "GoodLayerNorm": [],
        "HalfLayerNorm": [],
        "BiasedBatchNorm": ["running-var-biased"],
    }
    assert all("float32" in one["not_covered"] for one in subjects), "the defaults hold for all"


def test_star_that_is_configured_leaves_out_what_is_named_by_itself(project):
    project(TWO.replace('"my_layers.py:GoodLayerNorm"', '"my_layers.py:*"'))
    main([*QUICK, "--json", "out.json"])
    subjects = json.loads(Path("out.json").read_text())["subjects"]
    assert [(one["subject"].split(":")[1], one["accepted"]) for one in subjects] == [
        ("GoodLayerNorm", []),
        ("HalfLayerNorm", []),
        ("BiasedBatchNorm", ["running-var-biased"]),
    ]


def test_baseline_and_examples_are_configured(project, monkeypatch, capsys):
    folder = project(TWO.replace("[tool.normcheck]\n", '[tool.normcheck]\nbaseline = "tests/was.json"\nexamples = 3\n'))
    (folder / "tests").mkdir()
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(["--no-fix-search"]) == 2
    assert "Expected a baseline in " in capsys.readouterr().err
    assert main(["--no-fix-search", "--update-baseline"]) == 0
    recorded = json.loads((folder / "tests" / "was.json").read_text())["subjects"]
    assert {name: one["examples"] for name, one in recorded.items()} == {
        "my_layers.py:GoodLayerNorm": 3,
        "my_layers.py:BiasedBatchNorm": 3,
    }
    assert main(["--no-fix-search"]) == 0
    for one in recorded.values():
        one["quantities"]["dx"]["error"] = 1e-9
    (folder / "tests" / "was.json").write_text(json.dumps({"schema": 1, "subjects": recorded}))
    less = "    def backward(self, dy):\n        return super().backward(dy) * (1 + 1e-15)"
    (folder / "my_layers.py").write_text(LAYERS.replace("    pass", less))
    assert main(["--no-fix-search"]) == 1
    assert "dx is off by" in capsys.readouterr().out
    assert main(["../my_layers.py:HalfLayerNorm", *QUICK]) == 1, "what is typed is held against what is typed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('acept = ["x"]', "tool.normcheck: Expected keys of subjects, baseline, like, accept, .* but got 'acept'"),
        ("subjects = 3", r"tool.normcheck.subjects: Expected an array of tables, .* but got 3"),
        ('subjects = [{like = "LayerNorm"}]', "subjects, number 1: Expected a table with subject = .* but got {'like'"),
        ('subjects = ["a:B", {subject = "c.py:D", ndim = [2]}]', "subjects, number 2: Expected keys .* but got 'ndim'"),
        ('subjects = ["layers.py"]', r"subjects, number 1: Expected package.module:Name, .* but got 'layers.py'"),
        ('subjects = ["a:B", "a:B"]', "subjects, number 2: Expected each subject once but got 'a:B' again"),
        ('like = "Layernorm"', "like: Expected one of GroupNorm, .* but got 'Layernorm'"),
        ("accept = [1]", r"accept: Expected a list of ids of conventions but got \[1\]"),
        ('names = {gama = "scale"}', "names: Expected a table from some of gamma, .* but got {'gama': 'scale'}"),
        ("names = {gamma = 1}", "names: Expected a table from some of gamma, .* but got {'gamma': 1}"),
        ("channels_last = 1", "channels_last: Expected true or false but got 1"),
        ("ndims = [1]", r"ndims: Expected a list of ranks from 2 to 5, as \[2, 4\] but got \[1\]"),
        ("ndims = 4", "ndims: Expected a list of ranks"),
        ('dtypes = ["float128"]', "dtypes: Expected a list of some of float64, .* but got"),
        ("dtypes = []", "dtypes: Expected a list of some of"),
        ('strict = "yes"', "strict: Expected true or false but got 'yes'"),
        ("timeout = 0", "timeout: Expected seconds, more than 0 but got 0"),
        ("examples = -1", "examples: Expected a number of random cases, at least 0 but got -1"),
        ("fix_seconds = true", "fix_seconds: Expected seconds of search for a fix, 0 for none but got True"),
        ("baseline = 3", "baseline: Expected the name of a file but got 3"),
        (
            'subjects = [{subject = "a.py:B", baseline = "x"}]',
            "number 1: Expected keys of subject, like, .* but got 'baseline'",
        ),
        ("timeout = true", "timeout: Expected seconds, more than 0 but got True"),
        ("strict = ", "cannot be read: "),
    ],
)
def test_what_is_not_known_is_refused_by_name(project, text, said, capsys):
    project(f"[tool.normcheck]\n{text}\n")
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert re.match(f"normcheck: pyproject.toml.*{said}", err), err
    assert (out, err.count("\n")) == ("", 1)


def test_table_that_is_none_is_refused(project):
    with pytest.raises(Unusable, match=r"tool.normcheck: Expected a table but got 3"):
        configuration_for(project("[tool]\nnormcheck = 3"))


def test_every_option_of_a_subject_can_be_configured():
    wanted = {"like", "accept", "names", "channels_last", "device", "ndims", "dtypes", "strict", "timeout"}
    wanted |= {"examples", "fix_seconds"}
    assert OPTIONS.keys() == wanted


def test_example_of_the_readme_is_one(project):
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", readme, flags=re.S | re.M)
    found = configuration_for(project(example))
    assert [one.shown for one in found.subjects] == ["my_layers.py:MyLayerNorm", "my_layers.py:MyBatchNorm"]
    listed = re.search(r"each with its options \((.*?);", " ".join(readme.split()))[1]
    assert set(re.findall(r"`(\w+)`", listed)) == OPTIONS.keys()


def test_files_of_others_are_none_of_our_business(project):
    """A broken one above, and a nearer one that says nothing of us: the nearest that does counts."""
    folder = project(TWO)
    (folder / "package").mkdir()
    (folder / "package" / "pyproject.toml").write_text("[project\nname = broken")
    assert configuration_for(folder / "package").file == folder / "pyproject.toml"
    (folder / "package" / "pyproject.toml").write_text("[tool.normcheck]\nstrict = true")
    nearer = configuration_for(folder / "package")
    assert (nearer.subjects, nearer.defaults) == ([], {"strict": True})


def test_nothing_configured_is_npnorms_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reference.command.main.outcome_of", lambda one, progress=None: "left out")
    assert configuration_for(tmp_path).subjects == []
    assert main(["--json", "out.json"]) == 2
    written = json.loads(Path("out.json").read_text())
    assert [one["subject"] for one in written["refused"]] == [f"npnorm:{name}" for name in KINDS]
