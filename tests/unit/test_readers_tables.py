"""CSV and TSV: what is read, and what is said about rows that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.producer.readers import ReadOptions, open_records, tables


def write(folder: Path, content: str | bytes, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, options: ReadOptions | None = None) -> list[Record | BadRecord]:
    with open_records([path], ["text"], options or ReadOptions()) as reader:
        return list(reader)


def texts(records: list[Record | BadRecord]) -> list[str]:
    return [r.inputs["text"] if isinstance(r, Record) else f"<{r.code}>" for r in records]


SKIP = ReadOptions(skip_bad=True)


def test_a_row_becomes_a_record_with_its_other_columns_as_extra(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,label\n7,hello,ham\n8,win now,spam\n")
    assert read(path) == [
        Record(0, "0", {"text": "hello"}, None, {"id": "7", "label": "ham"}),
        Record(1, "1", {"text": "win now"}, None, {"id": "8", "label": "spam"}),
    ]


def test_the_id_column_gives_the_record_id_and_is_not_extra(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,label\n7,hello,ham\n")
    assert read(path, ReadOptions(id_column="id")) == [
        Record(0, "7", {"text": "hello"}, None, {"label": "ham"})
    ]


def test_extra_is_none_where_there_is_no_other_column(tmp_path: Path) -> None:
    assert read(write(tmp_path, "text\nhello\n")) == [Record(0, "0", {"text": "hello"})]


def test_the_reader_tells_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,a,b\n7,hello,1,2\n")
    with open_records([path], ["text"], ReadOptions(id_column="id")) as reader:
        assert reader.columns == ("id", "text", "a", "b")
        assert dict(reader.fields) == {"text": "text"}
        assert reader.extra_columns == ("a", "b")


def test_a_task_with_several_fields_reads_a_column_for_each(tmp_path: Path) -> None:
    path = write(tmp_path, "Question,body,n\nwho?,me,1\nwhen?, ,2\n")
    options = ReadOptions(columns={"context": "body"})
    first, second = open_records([path], ["question", "context"], options)
    assert first == Record(0, "0", {"question": "who?", "context": "me"}, None, {"n": "1"})
    assert isinstance(second, BadRecord)
    assert (second.code, second.extra) == ("empty_text", {"n": "2"})


def test_quoted_cells_keep_line_ends_delimiters_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\r\n"a\r\nb, ""c""",1\r\n"d",2\r\n')
    assert texts(read(path)) == ['a\r\nb, "c"', "d"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(tmp_path: Path, end: str) -> None:
    assert texts(read(write(tmp_path, end.join(["text,n", "a,1", "b,2", ""])))) == ["a", "b"]


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    assert texts(read(write(tmp_path, "\ntext,n\n\na,1\n\n\nb,2\n\n"))) == ["a", "b"]


def test_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert texts(read(write(tmp_path, "text\tn\na, b\t1\n", "in.tsv"))) == ["a, b"]


@pytest.mark.parametrize(("given", "used"), [(";", ";"), ("\\t", "\t"), ("|", "|")])
def test_the_delimiter_can_be_chosen(tmp_path: Path, given: str, used: str) -> None:
    path = write(tmp_path, f"text{used}n\na,b{used}1\n")
    assert texts(read(path, ReadOptions(delimiter=given))) == ["a,b"]


def test_a_header_with_another_delimiter_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'id;text' is one column .* Pass --delimiter ';'"):
        read(write(tmp_path, "id;text\n1;hello\n"))


def test_without_a_header_columns_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path, "ham,see you\nspam,win\n")
    options = ReadOptions(header=False, columns={"text": "column2"})
    assert read(path, options)[0] == Record(0, "0", {"text": "see you"}, None, {"column1": "ham"})


def test_quotes_can_be_ordinary_characters(tmp_path: Path) -> None:
    path = write(tmp_path, 'label\ttext\nham\t"hi there\nham\tsay "x\n', "in.tsv")
    options = ReadOptions(quoting="none", columns={"text": "text"})
    assert texts(read(path, options)) == ['"hi there', 'say "x']


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    assert texts(read(write(tmp_path, b"\xef\xbb\xbftext,n\na,1\n"))) == ["a"]


def test_nul_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,n\ni\0d,a\0b,\0\n")
    assert read(path, ReadOptions(id_column="id")) == [
        Record(0, "i�d", {"text": "a�b"}, None, {"n": "�"})
    ]


@pytest.mark.parametrize("cell", ["", "  ", '"\n"'])
def test_an_empty_text_is_an_error_row_and_never_aborts(tmp_path: Path, cell: str) -> None:
    path = write(tmp_path, f"id,text,n\nx,{cell},1\ny,b,2\n")
    bad, good = read(path, ReadOptions(id_column="id"))
    message = f"{path}, line 2: column 'text' is empty; expected a text"
    assert bad == BadRecord(0, "x", "empty_text", message, {"n": "1"})
    assert good == Record(1, "y", {"text": "b"}, None, {"n": "2"})


@pytest.mark.parametrize(("row", "cells"), [("only", "1 cell"), ("a,b,c", "3 cells")])
def test_a_ragged_row_is_refused_with_its_line(tmp_path: Path, row: str, cells: str) -> None:
    path = write(tmp_path, f"text,n\nok,1\n\n{row}\nlast,2\n")
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert f"{path}, line 4: the row has {cells}; expected 2" in message
    assert "--skip-bad" in message
    assert "--quoting none" in message


def test_a_ragged_row_can_be_skipped_and_keeps_its_index(tmp_path: Path) -> None:
    path = write(tmp_path, "text,n\na,1\nonly\nb,2\n")
    records = read(path, SKIP)
    assert texts(records) == ["a", "<bad_row>", "b"]
    assert [r.index for r in records] == [0, 1, 2]
    assert records[1].record_id == "1"


def test_a_line_number_counts_lines_inside_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\n"a\nb\nc",1\nonly\n')
    with pytest.raises(InputError, match="line 5: the row has 1 cell"):
        read(path)


def test_text_after_a_closing_quote_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\na,1\n"b"x,2\n')
    with pytest.raises(InputError, match=r"line 3: .*closing quote.*--quoting none"):
        read(path)


def test_a_quote_that_never_closes_is_named_by_the_line_that_opens_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\na,1\n"b,2\nc,3\nd,4\n')
    with pytest.raises(InputError, match=r"line 3: .*never closed.*--quoting none"):
        read(path)


def test_skipping_a_stray_quote_loses_only_its_own_row(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\na,1\n"b,2\nc,3\n"d,4\ne,5\n')
    records = read(path, SKIP)
    assert texts(records) == ["a", "<bad_row>", "c", "<bad_row>", "e"]
    bad = [r for r in records if isinstance(r, BadRecord)]
    assert [r.message.split(":")[0].rsplit(" ", 1)[1] for r in bad] == ["3", "5"]


def test_line_numbers_stay_right_after_a_stray_quote(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,n\n"a,1\nb,2\nc,3\nonly\n')
    records = read(path, SKIP)
    assert texts(records) == ["<bad_row>", "b", "c", "<bad_row>"]
    messages = [r.message for r in records if isinstance(r, BadRecord)]
    assert "line 2: the row cannot be read" in messages[0]
    assert "line 5: the row has 1 cell" in messages[1]


def test_a_cell_over_the_limit_is_a_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import csv

    monkeypatch.setattr(tables, "MAX_CELL_CHARACTERS", 1000)
    before = csv.field_size_limit(1000)
    try:
        path = write(tmp_path, f"text,n\na,1\n{'x' * 2000},2\nb,3\n")
        assert texts(read(path, SKIP)) == ["a", "<bad_row>", "b"]
        with pytest.raises(InputError, match=r"line 3: .*over 1000 characters"):
            read(path)
    finally:
        csv.field_size_limit(before)


def test_a_text_of_a_megabyte_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, f"text,n\n{'x' * 1_000_000},2\n")
    assert texts(read(path)) == ["x" * 1_000_000]


def test_a_row_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, b"text,n\na,1\ncaf\xe9,2\nb,3\n")
    with pytest.raises(InputError, match=r"in\.csv, line 3: the row is not UTF-8.*iconv.*--skip"):
        read(path)


def test_a_row_that_is_not_utf8_can_be_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, b"text,n\na,1\ncaf\xe9,2\n" + "é,3\n".encode())
    assert texts(read(path, SKIP)) == ["a", "<bad_encoding>", "é"]


def test_a_limit_stops_before_a_later_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, b"text,n\na,1\nb,2\ncaf\xe9\n")
    assert texts(read(path, ReadOptions(limit=2))) == ["a", "b"]


def test_a_limit_counts_bad_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "text,n\na,1\nonly\nb,2\n")
    assert texts(read(path, ReadOptions(limit=2, skip_bad=True))) == ["a", "<bad_row>"]


def test_rows_across_many_blocks_are_all_read(tmp_path: Path) -> None:
    rows = [f'"text {n}\n{"é" * 50}",{n}' for n in range(20_000)]
    records = read(write(tmp_path, "text,n\n" + "\n".join(rows)))
    assert [r.extra for r in records] == [{"n": str(n)} for n in range(20_000)]
    assert all(isinstance(r, Record) for r in records)


def test_a_first_row_longer_than_a_block_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "body,n\n" + "long " * 100_000 + ",1\n")
    assert len(read(path)) == 1


def test_an_empty_id_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text\n,hello\n")
    with pytest.raises(InputError, match="line 2: the id column 'id' is missing or empty"):
        read(path, ReadOptions(id_column="id"))


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column 'n' occurs twice"):
        read(write(tmp_path, "text,n,n\na,1,2\n"))


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.csv: has a header but no rows"):
        read(write(tmp_path, "text,n\n\n"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.csv: is empty"):
        read(write(tmp_path, ""))


def test_a_broken_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: the first row cannot be read"):
        read(write(tmp_path, '"text"x,n\na,1\n'))


def test_a_header_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: the header is not UTF-8"):
        read(write(tmp_path, b"text,caf\xe9\na,1\n"))
