"""What finds results, as it stands in a database: the words and values of its indexes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, select

from textmill.db.indexing import BLOCK_BITS
from textmill.db.models import result_values

# https://www.sqlite.org/fts5.html#the_fts5vocab_virtual_table_module
VOCABULARY = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.words_kept "
    "USING fts5vocab('main', 'result_words', 'instance')"
)
LEXEMES = (
    "SELECT row_id, lexeme, positions FROM result_words, LATERAL unnest(words) "
    "AS one (lexeme, positions, weights)"
)


def empty_words(connection: Connection) -> None:
    """Forget every word."""
    if connection.dialect.name == "sqlite":
        statement = "INSERT INTO result_words (result_words) VALUES ('delete-all')"
        connection.exec_driver_sql(statement)
    else:
        connection.exec_driver_sql("DELETE FROM result_words")


def read_words(connection: Connection) -> dict[int, list[str]]:
    """The words of every row in order; on PostgreSQL each row is seen to name its blocks."""
    placed: dict[int, dict[int, str]] = defaultdict(dict)
    blocks: dict[int, set[str]] = defaultdict(set)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(VOCABULARY)
        for word, row, place in connection.exec_driver_sql(
            'SELECT term, doc, "offset" FROM temp.words_kept'
        ):
            placed[row][place] = word
    else:
        for row, word, places in connection.exec_driver_sql(LEXEMES):
            if places is None:
                blocks[row].add(word)
            for place in places or ():
                placed[row][place] = word
        for row in placed:
            assert blocks[row] == {
                f"/{level}/{row >> bits:x}" for level, bits in enumerate(BLOCK_BITS)
            }
    return {row: [words[place] for place in sorted(words)] for row, words in placed.items()}


def read_values(connection: Connection) -> set[tuple[Any, ...]]:
    """Job, name, value and index of every entry of declared columns and further labels."""
    return {tuple(row) for row in connection.execute(select(result_values))}
