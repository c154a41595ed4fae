"""Job ids and the table of legal transitions."""

from __future__ import annotations

import re

import pytest

from textmill.core.jobs import (
    CHUNK_TRANSITIONS,
    CROCKFORD,
    ENDED,
    JOB_TRANSITIONS,
    ChunkStatus,
    JobStatus,
    new_job_id,
    refusal,
    sources_of,
    whats_possible,
)


def test_an_id_has_16_characters_that_cannot_be_misread() -> None:
    ids = {new_job_id() for _ in range(5000)}
    assert len(ids) == 5000
    assert all(len(one) == 16 and set(one) <= set(CROCKFORD) for one in ids)
    assert len(CROCKFORD) == 32
    assert not set("ilou") & set(CROCKFORD)


def test_ids_sort_by_time_even_when_their_random_part_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    milliseconds = [0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1]
    ids = []
    for count, ms in enumerate(milliseconds):
        monkeypatch.setattr("time.time_ns", lambda ms=ms: ms * 1_000_000 + 999_999)
        random = 0 if count % 2 else 2**32 - 1
        monkeypatch.setattr("secrets.randbits", lambda bits, random=random: random)
        ids.append(new_job_id())
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_every_status_has_its_transitions_and_none_leads_to_itself() -> None:
    assert set(JOB_TRANSITIONS) == set(JobStatus)
    assert set(CHUNK_TRANSITIONS) == set(ChunkStatus)
    for table in (JOB_TRANSITIONS, CHUNK_TRANSITIONS):
        assert not [status for status, targets in table.items() if status in targets]


def test_from_every_status_a_job_can_still_end() -> None:
    for status in set(JobStatus) - ENDED:
        assert JOB_TRANSITIONS[status] & ENDED
        assert JobStatus.CANCELLED in JOB_TRANSITIONS[status]


def test_an_ended_job_can_only_be_queued_again_and_a_cancelled_one_not_even_that() -> None:
    assert JOB_TRANSITIONS[JobStatus.CANCELLED] == frozenset()
    for status in ENDED - {JobStatus.CANCELLED}:
        assert JOB_TRANSITIONS[status] == {JobStatus.QUEUED}


def test_a_chunk_whose_results_are_written_never_changes_again() -> None:
    for status in (ChunkStatus.DONE, ChunkStatus.SPLIT, ChunkStatus.CANCELLED):
        assert CHUNK_TRANSITIONS[status] == frozenset()


def test_the_sources_of_a_status_are_read_from_the_table() -> None:
    for target in JobStatus:
        expected = [source for source in JobStatus if target in JOB_TRANSITIONS[source]]
        assert sources_of(target) == expected


COMMANDS = {
    "cancel": {JobStatus.CANCELLED},
    "pause": {JobStatus.PAUSED},
    "resume": {JobStatus.QUEUED, JobStatus.RUNNING},
    "retry": {JobStatus.QUEUED},
    "retry --all": {JobStatus.QUEUED},
}


@pytest.mark.parametrize("status", JobStatus)
def test_what_is_possible_with_a_job_is_what_its_status_allows(status: JobStatus) -> None:
    told = re.findall(r"`textmill ([a-z -]+) job7`", whats_possible("job7", status))
    assert all(COMMANDS[command] & JOB_TRANSITIONS[status] for command in told), told
    assert ("cancel" in told) == (JobStatus.CANCELLED in JOB_TRANSITIONS[status])
    assert ("pause" in told) == (JobStatus.PAUSED in JOB_TRANSITIONS[status])
    assert bool(told) == bool(JOB_TRANSITIONS[status])


@pytest.mark.parametrize(
    ("status", "wanted", "words"),
    [
        (JobStatus.PAUSED, "paused", "job j is already paused; `textmill resume j`"),
        (JobStatus.RUNNING, "resumed", "job j is already running; `textmill pause j`"),
        (JobStatus.LOADING, "paused", "job j is loading and cannot be paused; `textmill cancel j`"),
        (JobStatus.FAILED, "cancelled", "job j has ended (failed) and cannot be cancelled; "),
    ],
)
def test_a_refusal_says_what_the_job_is(status: JobStatus, wanted: str, words: str) -> None:
    assert refusal("j", status, wanted).startswith(words)
