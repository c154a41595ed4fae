"""Full-text search in ``result_words``: which records of a job have the words, in input order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from textmill.core.search import AllOf, AnyOf, Search
from textmill.db.indexing import BLOCK_BITS, CROWDED, IndexedJob, block_word, row_id

SQLITE_PAGE = text(
    "SELECT rowid FROM result_words WHERE result_words MATCH :query "
    "AND rowid BETWEEN :first AND :last ORDER BY rowid LIMIT :limit"
)
# By the index of words alone: a prepared statement is planned for any words and any rows, and so
# would go through the primary key.
POSTGRESQL_PAGE = text(
    "SELECT row_id FROM result_words WHERE words @@ CAST(:query AS tsquery) "
    "AND row_id + 0 BETWEEN :first AND :last ORDER BY row_id + 0 LIMIT :limit"
)
# Row by row: the other way round the index would give all rows of a word first.
POSTGRESQL_AMONG = text(
    "WITH asked AS MATERIALIZED "
    "(SELECT row_id, words FROM result_words WHERE row_id = ANY(CAST(:rows AS bigint[]))) "
    "SELECT row_id FROM asked WHERE words @@ CAST(:query AS tsquery)"
)


def find_words(
    connection: Connection,
    job: IndexedJob,
    search: Search,
    *,
    after: int,
    end: int,
    limit: int,
) -> Sequence[int]:
    """Indexes of at most ``limit`` records after one and before ``end`` that have the words."""
    base = row_id(job, 0)
    first, last = base + after + 1, base + end - 1
    if connection.dialect.name == "sqlite":
        rows = _page(connection, SQLITE_PAGE, fts5_query(search), first, last, limit)
    else:
        # Of a prefix all rows are collected for each question: it begins with more blocks.
        least = 1 if _has_prefix(search) else 0
        rows = _block_by_block(connection, tsquery(search), first, last, limit, least)
    return [row - base for row in rows]


def have_words(
    connection: Connection, job: IndexedJob, search: Search, indexes: Sequence[int]
) -> Sequence[int]:
    """Which of these records may have the words, in no order.

    All of them on SQLite: FTS5 takes as long to say it of a row as reading the row takes.
    """
    if connection.dialect.name == "sqlite":
        return indexes
    base = row_id(job, 0)
    values = {"query": tsquery(search), "rows": [base + index for index in indexes]}
    return [row - base for row in connection.scalars(POSTGRESQL_AMONG, values)]


def _page(
    connection: Connection, page: Any, query: str, first: int, last: int, limit: int
) -> list[int]:
    values = {"query": query, "first": first, "last": last, "limit": limit}
    return list(connection.scalars(page, values))


def _block_by_block(
    connection: Connection, query: str, first: int, last: int, limit: int, least: int
) -> list[int]:
    """Ask for blocks that grow as long as little is found in them.

    A GIN index gives all rows of a query before the first can be had, of a frequent word millions.
    A block's word in the query bounds that: of the blocks of one size asked for at once, as many as
    reach to the next border of a larger one.
    """
    found: list[int] = []
    step = least
    while first <= last and len(found) < limit:
        until, blocks = _blocks(step, first, last)
        among = f"{query} & ({' | '.join(blocks)})"
        page = _page(connection, POSTGRESQL_PAGE, among, first, until, limit - len(found))
        found += page
        first = until + 1
        many = len(page) * 4 >= limit  # a few more blocks of this size will do
        step = least if many else min(step + 1, len(BLOCK_BITS))
    return found


def _blocks(step: int, first: int, last: int) -> tuple[int, list[str]]:
    """The last row to ask for at this step, and the words of the blocks up to there.

    At first one of the smallest blocks, then its siblings as far as the border of the next size,
    then of that size, and so on to the end.
    """
    until = last
    if step < len(BLOCK_BITS):
        until = min(last, first | (1 << BLOCK_BITS[step]) - 1)
    level = max(step - 1, 0)
    bits = BLOCK_BITS[level]
    numbers = range(first >> bits, (until >> bits) + 1)
    return until, [f"'{block_word(level, number)}'" for number in numbers]


def _has_prefix(search: Search) -> bool:
    if isinstance(search, AnyOf):
        return any(map(_has_prefix, search.either))
    if isinstance(search, AllOf):
        return any(map(_has_prefix, (*search.wanted, *search.unwanted)))
    return search.prefix


def fts5_query(search: Search) -> str:
    """The search as FTS5 reads it."""
    if isinstance(search, AnyOf):
        return f"({' OR '.join(map(fts5_query, search.either))})"
    if isinstance(search, AllOf):
        wanted = f"({' AND '.join(map(fts5_query, search.wanted))})"
        unwanted = " OR ".join(map(fts5_query, search.unwanted))
        return f"({wanted} NOT ({unwanted}))" if unwanted else wanted
    return f'"{" ".join(search.words)}"' + (" *" if search.prefix else "")


def tsquery(search: Search, *, unwanted: bool = False) -> str:
    """The search as PostgreSQL reads a tsquery.

    It may find a row too many, which the caller looks at, and misses none: of a row in which a word
    stands too often for all its places to be known, a phrase's words count wherever they stand.
    """
    if isinstance(search, AnyOf):
        return f"({' | '.join(tsquery(one, unwanted=unwanted) for one in search.either)})"
    if isinstance(search, AllOf):
        parts = [tsquery(one, unwanted=unwanted) for one in search.wanted]
        parts += [f"!{tsquery(one, unwanted=not unwanted)}" for one in search.unwanted]
        return f"({' & '.join(parts)})"
    *firm, last = [f"'{word}'" for word in search.words]
    words = [*firm, last + (":*" if search.prefix else "")]
    phrase = f"({' <-> '.join(words)})"
    if len(words) == 1 or unwanted:
        return phrase
    return f"({phrase} | '{CROWDED}' & {' & '.join(words)})"
