"""docs/reliability.md and the README's line say what the tests are."""

from tests import reliability
from tests.reliability import CASES, FAULTS, INPUTS, PAGE, ROOT


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == reliability.page(), "python -m tests.reliability"


def test_the_readme_says_how_many_behave_as_written():
    assert f"\n{reliability.total()}: " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_45_cases_and_each_has_its_test():
    assert [case.number for case in CASES] == list(range(1, 46))
    assert reliability.shown() == CASES


def test_every_test_of_a_case_is_on_the_page():
    named = {reliability.place_of(case) for case in CASES}
    for file in (INPUTS, FAULTS):
        for name in reliability.tests_of(file):
            assert (file, name) in named
