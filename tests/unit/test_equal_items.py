"""Equal items: one is computed, the others get its row."""

from __future__ import annotations

from typing import Any

import pytest

from textmill.core.errors import RecordError
from textmill.workers.equal_items import EqualItems
from textmill.workers.items import Item
from textmill.workers.scheduler import Entry, Run


def entry(key: str | None, owner: str = "a", run: str = "", kept: bool = True) -> Entry[str]:
    return Entry(Item(1, None, key=key and key.encode()), owner, Run(run, kept))


@pytest.fixture
def equal() -> EqualItems[str]:
    return EqualItems()


def test_one_of_equal_entries_is_computed_and_the_others_get_its_row(
    equal: EqualItems[str],
) -> None:
    first, second, other = entry("x"), entry("x"), entry("y")
    assert equal.admit([first, second, other]) == ([first, other], 0)
    third = entry("x", "b")
    assert equal.admit([third]) == ([], 0)
    assert equal.settle(first, "row") == [second, third]
    assert equal.settle(other, "row") == []


def test_a_row_is_kept_for_later(equal: EqualItems[str]) -> None:
    first, later = entry("x"), entry("x", "b")
    equal.admit([first])
    equal.settle(first, ["row"])
    assert equal.admit([later]) == ([], 1)
    assert later.row == ["row"]


def test_no_run_is_answered_from_what_another_computed(equal: EqualItems[str]) -> None:
    first, again, other = entry("x", run="job 1"), entry("x", run="job 1"), entry("x", run="job 2")
    assert equal.admit([first, other]) == ([first, other], 0)
    equal.settle(first, "row")
    equal.settle(other, "own")
    assert equal.admit([again]) == ([], 1)
    assert again.row == "row"
    assert equal.admit([entry("x", run="job 1, anew")])[1] == 0


def test_of_texts_that_are_not_to_be_kept_nothing_stays(equal: EqualItems[str]) -> None:
    first, second, later = (entry("x", kept=False) for _ in range(3))
    other = entry("x", run="job 2", kept=False)
    assert equal.admit([first, second, other]) == ([first, other], 0)
    assert equal.settle(first, "row") == [second]
    assert equal.settle(other, "row") == []
    assert equal.forget_old() is None
    assert equal.admit([later]) == ([later], 0)


def test_a_row_is_forgotten_so_long_after_it_was_last_asked_for() -> None:
    now = 0.0
    equal: EqualItems[str] = EqualItems(keep_seconds=10, clock=lambda: now)
    first = entry("x")
    equal.admit([first])
    equal.settle(first, "row")
    now = 9.0
    assert equal.admit([entry("x")])[1] == 1
    now = 18.0
    assert equal.forget_old() == 1.0
    now = 19.0
    assert equal.forget_old() is None
    assert equal.admit([entry("x")])[1] == 0


def test_all_is_forgotten_with_the_engine(equal: EqualItems[str]) -> None:
    first = entry("x")
    equal.admit([first])
    equal.settle(first, "row")
    equal.forget_all()
    assert equal.forget_old() is None
    assert equal.admit([entry("x")])[1] == 0


def test_entries_without_a_key_are_all_computed(equal: EqualItems[str]) -> None:
    both = [entry(None), entry(None)]
    assert equal.admit(both) == (both, 0)
    assert equal.settle(both[0], "row") == []
    assert equal.drop(both) == []


def test_an_error_is_shared_but_not_kept(equal: EqualItems[str]) -> None:
    first, second, later = entry("x"), entry("x"), entry("x")
    equal.admit([first, second])
    assert equal.settle(first, RecordError("not_finite", "…")) == [second]
    assert equal.admit([later]) == ([later], 0)


def test_what_waited_for_a_dropped_entry_is_computed_in_its_place(equal: EqualItems[str]) -> None:
    own = [entry("x"), entry("x"), entry("y"), entry("z")]
    heir, follower, leader = entry("x", "b"), entry("x", "c"), entry("w", "b")
    equal.admit([*own, heir, follower, leader])
    assert equal.drop(own) == [heir]
    assert equal.settle(heir, "row") == [follower]
    again = entry("y", "b")
    assert equal.admit([again]) == ([again], 0)


def test_a_dropped_follower_gets_nothing(equal: EqualItems[str]) -> None:
    leader, follower = entry("x"), entry("x", "b")
    equal.admit([leader, follower])
    assert equal.drop([follower]) == []
    assert equal.settle(leader, "row") == []


@pytest.mark.parametrize("row", ["r" * 1000, b"r" * 1000, ("r" * 1000, [1.5])])
def test_memory_is_bounded_and_the_least_used_goes_first(row: Any) -> None:
    equal: EqualItems[str] = EqualItems(max_bytes=4000)
    for key in "abc":
        one = entry(key)
        equal.admit([one])
        equal.settle(one, row)
    assert equal.admit([entry("a")])[1] == 1  # used again: now "b" is the least
    for key in "d":
        one = entry(key)
        equal.admit([one])
        equal.settle(one, row)
    assert [equal.admit([entry(key)])[1] for key in "abcd"] == [1, 0, 1, 1]
