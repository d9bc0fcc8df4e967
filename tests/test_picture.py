"""The picture of a failure: what is drawn where, and that a file comes out, whatever is wrong."""

import re
from dataclasses import replace

import numpy as np
import pytest

import npnorm
from reference import check
from reference.cases.case import make
from reference.diagnosis.named import unknown
from reference.reporting.picture import as_matrix, draw
from reference.reporting.report import Report
from reference.reporting.result import Picture

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    yield
    assert pyplot.get_fignums() == before


def report_with(*pictures: Picture, passed: bool = False) -> Report:
    return Report(
        subject="MyNorm",
        like=pictures[0].case.kind.name if pictures else "LayerNorm",
        passed=passed,
        cases=1,
        seed=0,
        not_covered={},
        quantities={},
        faults=[],
        backward_is_derivative_of_forward=None,
        counterexample=None,
        pictures=pictures,
    )


def pair(case, quantity: str, got, expected) -> tuple[Picture, Picture]:
    return tuple(Picture(quantity, case, title, got, expected) for title in ("smallest", "typical"))


# --- arrays as rows and columns ---------------------------------------------------------------------------------------

GROUPS = make("GroupNorm", (2, 6, 4, 5), groups=3)
MATRICES = {  # the case, the shape of the array, that of the matrix, the lines between rows and between columns
    "GroupNorm 4D": (
        GROUPS, (2, 6, 4, 5), (12, 20), [(2, False), (4, False), (6, True), (8, False), (10, False)], [],
    ),
    "GroupNorm 2D": (make("GroupNorm", (5, 6), groups=2), (5, 6), (5, 6), [], [(3, False)]),
    "GroupNorm, one group": (make("GroupNorm", (2, 3, 4)), (2, 3, 4), (6, 4), [(3, True)], []),
    "dgamma of GroupNorm": (GROUPS, (6,), (1, 6), [], [(2, False), (4, False)]),
    "BatchNorm 3D": (make("BatchNorm", (3, 2, 5)), (3, 2, 5), (6, 5), [(2, True), (4, True)], []),
    "dbeta of BatchNorm": (make("BatchNorm", (3, 2, 5)), (2,), (1, 2), [], []),
    "LayerNorm": (make("LayerNorm", (3, 4, 5)), (3, 4, 5), (12, 5), [], []),
    "LayerNorm, two axes": (make("LayerNorm", (3, 4, 5), axes=2), (3, 4, 5), (3, 20), [], []),
    "dgamma of two axes": (make("LayerNorm", (3, 4, 5), axes=2), (4, 5), (4, 5), [], []),
}  # fmt: skip


@pytest.mark.parametrize(("case", "shape", "size", "rows", "columns"), MATRICES.values(), ids=MATRICES)
def test_array_as_a_matrix(case, shape, size, rows, columns):
    values = np.arange(np.prod(shape)).reshape(shape)
    matrix, _, column_words, lines = as_matrix(values, case)
    assert matrix.shape == size
    assert matrix.ravel().tolist() == values.ravel().tolist(), "in the order in which they were"
    assert lines == {"rows": rows, "columns": columns}
    assert column_words


# --- files ------------------------------------------------------------------------------------------------------------


class WrongGroupNorm(npnorm.GroupNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        if self.dgamma is not None:
            self.dgamma = -self.dgamma
        return dx + np.float16(0.5)


def test_report_of_a_check_has_a_smallest_and_a_typical_case_of_each_wrong_quantity():
    report = check(WrongGroupNorm, examples=0, ndims=[4], minimize=False)
    assert [(picture.quantity, picture.title) for picture in report.pictures] == [
        ("dx", "smallest"), ("dx", "typical"), ("dgamma", "smallest"), ("dgamma", "typical"),
    ]  # fmt: skip
    for smallest, typical in zip(report.pictures[::2], report.pictures[1::2], strict=True):
        assert smallest.got.shape == smallest.expected.shape
        assert np.prod(smallest.case.shape) < np.prod(typical.case.shape)
        assert not np.allclose(smallest.got, smallest.expected)


def _values(case, change):
    expected = np.random.default_rng(0).standard_normal(case.shape)
    got = expected.copy()
    change(got, expected)
    return got, expected


ODD = {
    "some NaN, some inf": lambda got, expected: got.flat.__setitem__(slice(2), (np.nan, np.inf)),
    "NaN and inf where they should be": lambda got, expected: [
        (array[:, :2].fill(np.nan), array[:, 2:].fill(np.inf)) for array in (got, expected)
    ],
    "all NaN": lambda got, expected: got.fill(np.nan),
    "zeros expected": lambda got, expected: expected.fill(0),
}


def test_odd_numbers_can_be_drawn(tmp_path):
    case = make("GroupNorm", (2, 4), groups=2)
    for first, second in zip(*[iter(ODD.values())] * 2, strict=True):  # a picture each, two in a row
        pictures = [
            Picture("dx", case, title, *_values(case, change))
            for title, change in (("smallest", first), ("typical", second))
        ]
        draw([report_with(*pictures)], tmp_path / "odd.png")
        assert (tmp_path / "odd.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("passed", [True, False])
def test_nothing_to_draw_is_a_picture_too(tmp_path, passed):
    draw([report_with(passed=passed)], tmp_path / "none.png")
    assert (tmp_path / "none.png").read_bytes().startswith(PNG)


def test_what_is_drawn(tmp_path):
    """As text in an SVG: the quantity, the case, the axes, whose layer it is."""
    case = replace(GROUPS, training=True)
    got, expected = _values(case, lambda got, expected: got.fill(1))
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        wrong = replace(report_with(*pair(case, "dx", got, expected)), faults=[unknown(("dx",), "seen")])
        small = make("GroupNorm", (1, 2), groups=1)
        other = pair(small, "dbeta", np.array([0.125, 3.0]), np.array([0.75, 3.0]))
        named = replace(wrong, subject="Other", pictures=other, faults=[unknown(("dbeta",), "seen")])
        draw([wrong, named], tmp_path / "error.svg")
    text = (tmp_path / "error.svg").read_text()
    assert text.index("MyNorm dx: unknown") < text.index("Other dbeta: unknown"), "each subject has its own title"
    for number in ("0.125", "0.75"):
        assert f">{number}</text>" in text, "the numbers of a small array stand in its cells"
    assert f">{expected.flat[0]:.3g}</text>" not in text, "those of a large one do not"
    for words in (
        "error / largest value",
        "dbeta, smallest failing case: got, and below it what should be there",
        "dx, smallest failing case",
        "dx, typical failing case",
        "x (2, 6, 4, 5) float64, 3 groups, unit data",
        "channel of each sample",
        "position in space",
    ):
        assert words in text


def test_each_row_of_a_small_array_has_a_whole_number(tmp_path):
    import matplotlib

    case = make("LayerNorm", (3, 2))
    got, expected = _values(case, lambda got, expected: got.fill(7))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw([report_with(*pair(case, "dx", got, expected))], tmp_path / "error.svg")
    ticks = set(re.findall(r">([-\d.]+)</text>", (tmp_path / "error.svg").read_text()))
    assert {"0", "1", "2"} <= ticks
    assert not {"0.5", "1.5", "0.0", "1.0"} & ticks


def test_file_of_no_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        draw([report_with()], tmp_path / "error.txt")
