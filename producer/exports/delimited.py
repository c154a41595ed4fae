"""CSV and TSV (RFC 4180): a page of columns becomes text without a step per row.

A NULL is an empty cell and an empty text is ``""``, so that who reads with care can tell them
apart. For spreadsheets, which take some cells for formulas, texts can be made harmless.
"""

from __future__ import annotations

from typing import IO, Any

from textmill.db.columns import constant, texts_of
from textmill.producer.exports.export import Export
from textmill.producer.exports.vector_texts import vector_texts

DELIMITERS = {"csv": ",", "tsv": "\t"}

# https://owasp.org/www-community/attacks/CSV_Injection and OWASP ASVS 1.2.10, also in other forms
# of the signs, and with blanks before: those of Unicode too, and marks that show nothing.
FORMULA = "^(?:[\\s\\v\\p{Z}\\p{Cf}]*[=+\\-@＝＋－＠﹦﹢﹣﹫−⁼⁺₌₊]|[\\t\\r\\n\\x00])"


def write(export: Export, file: IO[bytes]) -> int:
    """Write a header and every row; returns the number of rows."""
    table = _Table(DELIMITERS[export.format], export.spreadsheet_safe)
    file.write(table.header(export.schema().names))
    count = 0
    with export.batches() as batches:
        for batch in batches:
            file.write(table.lines(batch))
            count += batch.num_rows
    return count


class _Table:
    def __init__(self, delimiter: str, safe: bool) -> None:
        self._delimiter = delimiter
        self._safe = safe
        self._special = f'[{delimiter}"\\r\\n]|^$'

    def header(self, names: list[str]) -> bytes:
        import pyarrow as pa

        cells = [texts_of([name]) for name in names]
        return bytes(self.lines(pa.RecordBatch.from_arrays(cells, names=names)))

    def lines(self, batch: Any) -> Any:
        """The rows as one buffer of text."""
        import pyarrow.compute as pc

        cells = [self._cells(column) for column in batch.columns]
        lines = pc.binary_join_element_wise(
            *cells, constant(self._delimiter), null_handling="replace", null_replacement=""
        )
        # Strings of Arrow lie one after another in memory: with their ends of line they are a file.
        ended = pc.binary_join_element_wise(lines, constant(""), constant("\n"))
        return memoryview(ended.buffers()[2])[: pc.sum(pc.binary_length(ended)).as_py()]

    def _cells(self, column: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column.null_count == len(column):
            return pa.nulls(len(column), pa.string())
        if pa.types.is_list(column.type):
            column = vector_texts(column)
        if pa.types.is_string(column.type):
            return self._texts(column)
        texts = pc.cast(column, pa.string())
        if pa.types.is_floating(column.type):  # 1.0, not 1: who guesses types shall see a fraction
            texts = pc.replace_substring_regex(texts, r"^(-?\d+)$", r"\1.0")
        return texts

    def _texts(self, column: Any) -> Any:
        """Quoted where they have to be; safe ones always, lest a ``;`` begins a new cell."""
        import pyarrow.compute as pc

        if self._safe:
            harmless = pc.binary_join_element_wise(constant("'"), column, constant(""))
            column = pc.if_else(pc.match_substring_regex(column, FORMULA), harmless, column)
            return _quoted(column)
        special = pc.match_substring_regex(column, self._special)
        return pc.if_else(special, _quoted(column), column) if pc.any(special).as_py() else column


def _quoted(column: Any) -> Any:
    import pyarrow.compute as pc

    quote = constant('"')
    doubled = pc.replace_substring(column, '"', '""')
    return pc.binary_join_element_wise(quote, doubled, quote, constant(""))
