"""Patterns of adapters: the same answers as Python's matcher, in a bounded number of steps."""

import re
import threading
import time
import warnings

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.adapters import patterns
from decaf_theory.adapters.patterns import PatternError, matches

ATOMS = st.sampled_from(
    ["a", "b", r"\.", ".", "[ab]", "[^a]", r"\d", r"\w", r"\b", "^", "$", "[a-b_.]"]
)
QUANTIFIERS = st.sampled_from(["", "", "?", "*", "+", "*?", "{2}", "{1,2}", "{0,}"])
PATTERNS = st.recursive(
    st.builds("{}{}".format, ATOMS, QUANTIFIERS).filter(lambda p: not re.match(r"(\^|\$|\\b).", p)),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{}){}".format, inner, inner, QUANTIFIERS),
        st.builds("(?:{}){}".format, inner, QUANTIFIERS),
        st.builds("(?={}){}".format, inner, inner),
        st.builds("(?!{}){}".format, inner, inner),
    ),
    max_leaves=6,
)
NAMES = st.text(st.sampled_from("ab._1"), max_size=7)


@given(PATTERNS, NAMES)
def test_a_pattern_matches_the_names_that_it_matches_in_python(pattern, name):
    found = re.match(pattern, name) is not None
    event(f"matches: {found}")
    assert matches(pattern, name) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+!",
        "(a*)*!",
        "(a|a)*!",
        "(a|aa)+!",
        "(.*a){20}!",
        "a?" * 60 + "a" * 60 + "!",
        "((((a+)+)+)+)+!",
        "(a+){4294967294}!",
        "((a{999}){999}){999}!",
        "(((a*){999}){999}){999}!",
        ".*.*.*.*.*.*.*.*!",
    ],
)
def test_no_pattern_takes_long(pattern):
    start = time.process_time()
    try:
        found = matches(rf"(.*\.)?({pattern})$", "a" * 200)
    except PatternError as error:
        found = "too many steps" not in str(error)
    assert found is False
    # 1e5 steps of well under 10 us; Python's matcher takes 2^60 of them
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression: missing"),
        ("*", "not a regular expression: nothing to repeat"),
        (r"(a)\1", "groupref is not followed"),
        ("(?<=a)b", "assert is not followed"),
        ("(?i)a", "flags inside of a pattern are not followed"),
        ("(?i:a)", "subpattern is not followed"),
        ("a++", "possessive repeat is not followed"),
        ("a" * 1001, "longer than 1000 characters"),
        ("(" * 490 + "a" + ")" * 490, "nested too deeply|not a regular expression: maximum rec"),
        ("a{99999999999999999999}", "not a regular expression: the repetition number is too large"),
    ],
)
def test_what_is_not_followed_is_named(pattern, message):
    with pytest.raises(PatternError, match=message):
        matches(pattern, "aa")


def test_too_many_steps_are_an_error_and_no_answer(monkeypatch):
    monkeypatch.setattr(patterns, "STEPS", 10)
    with pytest.raises(PatternError, match="takes too many steps to match"):
        matches("a" * 20, "a" * 20)


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("a{1,2}$", "aaa", False),
        ("a{1,2}$", "aa", True),
        ("a{2,}$", "a", False),
        ("a$", "a\n", True),
        (r"a\Z", "a\n", False),
        (r"\bq_proj", "k.q_proj", False),
        (r"(.*\.)?(q|v)_proj$", "layers.0.v_proj", True),
    ],
)
def test_ends_and_counts_are_python_s(pattern, name, found):
    assert (re.match(pattern, name) is not None) is found
    assert matches(pattern, name) is found


def test_patterns_that_are_read_in_threads_leave_the_filters_of_warnings_as_they_were(monkeypatch):
    parse, inside, together, two = patterns._parser.parse, [], [], threading.Event()

    def slow(pattern):
        inside.append(pattern)
        together.append(len(inside))
        if len(inside) == 2:
            two.set()
        two.wait(0.5)  # for the other thread, which must not come in
        found = parse(pattern)
        inside.remove(pattern)
        return found

    monkeypatch.setattr(patterns._parser, "parse", slow)
    patterns._parsed.cache_clear()
    before = list(warnings.filters)
    both = (("[[a]", "name"), ("[[b]", "name"))
    threads = [threading.Thread(target=patterns.matches, args=words) for words in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1]  # of two at once the one that leaves last would put back the other's
    assert list(warnings.filters) == before


def test_only_the_latest_patterns_are_kept():
    for number in range(2 * patterns.KEPT):
        patterns.matches(f"a{number}", "name")
    assert patterns._parsed.cache_info().currsize == patterns.KEPT
