"""The suite notices what may go wrong in the kernel: each listed change fails the test that is listed beside it."""

import ast
import re

import pytest

from tests.kernel_mutants import KERNEL, MUTANTS, ROOT, copied, run


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_mutant_is_one_change_of_the_kernel_as_it_is(mutant):
    text = (ROOT / KERNEL).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


def test_a_dozen_of_them_and_each_once():
    assert len(MUTANTS) >= 12
    assert len({mutant.id for mutant in MUTANTS}) == len({mutant.old for mutant in MUTANTS}) == len(MUTANTS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("copy"))


@pytest.mark.slow
@pytest.mark.parametrize("test", sorted({mutant.test for mutant in MUTANTS}))
def test_without_a_mutant_it_passes(copy, test):
    code, printed = run(copy, test)
    assert code == 0, printed
    assert re.search(r"\d+ passed", printed)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_mutant_is_noticed(copy, mutant):
    code, printed = run(copy, mutant.test, mutant)
    assert code == pytest.ExitCode.TESTS_FAILED, printed
    assert re.search(r"^FAILED ", printed, flags=re.M), printed
