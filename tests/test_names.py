"""Names that a command line asks for."""

import pytest

from decaf_theory.names import picked, spelled

KNOWN = ("T1", "T2", "T2-sharp", "T13")


def asked(*words):
    return picked(words, KNOWN, KeyError)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["T2"], ["T2"]),
        (["t2", "T1"], ["T2", "T1"]),
        (["T2*"], ["T2", "T2-sharp"]),
        (["T1,T13"], ["T1", "T13"]),
        (["T1,", "T13"], ["T1", "T13"]),
        (["T1", "t*"], ["T1", "T2", "T2-sharp", "T13"]),
        (["T?"], ["T1", "T2"]),
        ([], []),
    ],
)
def test_words_are_names_in_any_case_patterns_and_lists(words, found):
    assert asked(*words) == found


@pytest.mark.parametrize("words", [["T9"], ["T1,T9"], ["T9*"], [""], ["T"]])
def test_what_fits_nothing_is_named(words):
    with pytest.raises(KeyError) as caught:
        asked(*words)
    assert caught.value.args == (words[0].split(",")[-1],)


def test_names_are_spelled_in_any_case_by_commas_and_patterns_and_others_stay():
    known = ["ring", "star", "dlora", "dlora_fa"]
    assert spelled(["Ring,", "STAR", "ring"], known) == ["ring", "star"]
    assert spelled(["DLO*"], known) == ["dlora", "dlora_fa"]
    assert spelled(["rng, star"], known) == ["rng", "star"]
