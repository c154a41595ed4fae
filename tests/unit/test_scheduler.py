"""The scheduler: which waiting items share a batch."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmill.workers.items import Item
from textmill.workers.scheduler import (
    GOOD_BATCHES_TO_RECOVER,
    Entry,
    Run,
    Scheduler,
    TokenBudget,
    padded_tokens,
)

RUN = Run("a job", kept=True)


def make_scheduler(max_batch_tokens: int, max_batch_items: int = 4096) -> Scheduler[str]:
    return Scheduler(TokenBudget(max_batch_tokens), max_batch_items=max_batch_items)


def entry(length: int, owner: str = "a", group: Hashable = None) -> Entry[str]:
    return Entry(Item(length, None, group), owner, RUN)


def drain(scheduler: Scheduler[str]) -> list[list[Entry[str]]]:
    batches = []
    while batch := scheduler.next_batch():
        batches.append(batch)
    return batches


def lengths(batch: list[Entry[str]]) -> list[int]:
    return sorted(entry.item.length for entry in batch)


def test_nothing_waiting_gives_an_empty_batch() -> None:
    assert make_scheduler(100).next_batch() == []


@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from("xyz")), max_size=200),
    st.integers(1, 600),
    st.integers(1, 20),
)
def test_each_item_comes_once_in_a_batch_within_every_bound(
    items: list[tuple[int, str]], max_batch_tokens: int, max_batch_items: int
) -> None:
    scheduler = make_scheduler(max_batch_tokens, max_batch_items)
    entries = [entry(length, group=group) for length, group in items]
    scheduler.add(entries)

    batches = drain(scheduler)

    assert sorted(map(id, entries)) == sorted(id(e) for batch in batches for e in batch)
    assert len(scheduler) == 0
    for batch in batches:
        assert len(batch) == 1 or padded_tokens(batch) <= max_batch_tokens
        assert len(batch) <= max_batch_items
        assert len({e.item.group for e in batch}) == 1


@given(st.lists(st.integers(1, 9), max_size=100), st.integers(1, 40))
def test_where_lengths_are_not_mixed_a_batch_has_one(
    items: list[int], max_batch_tokens: int
) -> None:
    scheduler = Scheduler[str](TokenBudget(max_batch_tokens), mixes_lengths=False)
    scheduler.add([entry(length) for length in items])
    batches = [lengths(batch) for batch in drain(scheduler)]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert sorted(length for batch in batches for length in batch) == sorted(items)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=100), st.integers(1, 600))
def test_the_oldest_waiting_item_is_always_in_the_next_batch(
    items: list[int], max_batch_tokens: int
) -> None:
    scheduler = make_scheduler(max_batch_tokens)
    waiting = [entry(length) for length in items]
    scheduler.add(waiting)
    while waiting:
        batch = scheduler.next_batch()
        assert waiting[0] in batch
        waiting = [e for e in waiting if e not in batch]


def test_a_batch_is_the_oldest_and_its_nearest_neighbours_in_length() -> None:
    scheduler = make_scheduler(4 * 52)
    scheduler.add([entry(n) for n in (50, 10, 52, 200, 49, 90, 51)])
    assert lengths(scheduler.next_batch()) == [49, 50, 51, 52]


def test_an_item_over_the_budget_comes_alone() -> None:
    scheduler = make_scheduler(100)
    scheduler.add([entry(500), entry(500), entry(3)])
    assert [lengths(batch) for batch in drain(scheduler)] == [[500], [500], [3]]


def test_items_of_very_different_length_do_not_share_a_batch_to_fill_it() -> None:
    scheduler = make_scheduler(1024)
    scheduler.add([entry(10), entry(200), entry(11)])
    assert [lengths(batch) for batch in drain(scheduler)] == [[10, 11], [200]]


def test_a_late_rare_length_waits_for_no_more_than_those_before_it() -> None:
    """Given a stream of short items, an old long one is not passed over."""
    scheduler = make_scheduler(100)
    scheduler.add([entry(10) for _ in range(30)])
    scheduler.add([entry(90)])
    taken = []
    for _ in range(4):
        scheduler.add([entry(10) for _ in range(10)])
        taken.append(lengths(scheduler.next_batch()))
    assert [90] in taken


def test_drop_forgets_one_owners_items_and_keeps_the_order_of_the_others() -> None:
    scheduler = make_scheduler(1)
    scheduler.add([entry(1, "a"), entry(2, "b"), entry(3, "a"), entry(4, "c")])
    scheduler.drop("a")
    assert len(scheduler) == 2
    assert [batch[0].owner for batch in drain(scheduler)] == ["b", "c"]


def test_taken_items_do_not_pile_up_behind_an_old_one() -> None:
    """Given old items of many groups, newer ones that leave with them leave nothing behind."""
    scheduler = make_scheduler(1000)
    scheduler.add([entry(1, group=n) for n in range(300)])
    for n in range(200):
        scheduler.add([entry(1, group=n) for _ in range(40)])
        assert len(scheduler.next_batch()) == 41
    assert len(scheduler) == 100
    assert len(scheduler._arrivals) <= 2 * 100 + 1024 + 41


def test_padding_of_uneven_lengths_stays_small() -> None:
    """Lengths like those of SMS; 1,024 waiting, as with four chunks of 256."""
    rng = random.Random(1)
    scheduler = make_scheduler(1024)
    scheduler.add([entry(min(200, 3 + int(rng.expovariate(1 / 22)))) for _ in range(1024)])
    padded = real = 0
    for _ in range(100):
        batch = scheduler.next_batch()
        padded += padded_tokens(batch)
        real += sum(e.item.length for e in batch)
        scheduler.add(
            [entry(min(200, 3 + int(rng.expovariate(1 / 22)))) for _ in range(len(batch))]
        )
    assert padded / real < 1.08


def test_budget_halves_what_failed_and_recovers_after_good_batches() -> None:
    budget = TokenBudget(1000)
    budget.shrink(800)
    assert budget.tokens == 400
    budget.shrink(900)
    assert budget.tokens == 400, "a bigger batch that failed late must not raise the budget"

    for _ in range(GOOD_BATCHES_TO_RECOVER - 1):
        budget.recover()
    assert budget.tokens == 400
    budget.recover()
    assert budget.tokens == 800
    for _ in range(GOOD_BATCHES_TO_RECOVER):
        budget.recover()
    assert budget.tokens == 1000, "never above its limit"


@pytest.mark.parametrize("failed", [0, 1])
def test_budget_never_falls_below_one_token(failed: int) -> None:
    budget = TokenBudget(1000)
    budget.shrink(failed)
    assert budget.tokens == 1
