"""A block that changes in place: what stands on the screen after each change, and nothing else."""

from __future__ import annotations

import io

import pytest

from textmill.producer.painter import Line, Painter

from ..screens import Screen, styles


class Window(io.StringIO):
    """A terminal that is written to, as a file."""

    encoding = "utf-8"

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self.screen = screen
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        self.screen.feed(text.replace("\n", "\r\n"))  # as a terminal's driver does
        return super().write(text)


class WindowPainter(Painter):
    """Paints on it; the size is the screen's."""

    def __init__(self, screen: Screen, *, colors: bool = False) -> None:
        self.window = Window(screen)
        super().__init__(self.window, colors=colors)

    def size(self) -> tuple[int, int]:
        return self.window.screen.columns, self.window.screen.lines


@pytest.fixture
def painter() -> WindowPainter:
    """On a terminal that has something above already."""
    screen = Screen(40, 12)
    screen.feed("$ textmill watch\r\n")
    return WindowPainter(screen)


def block(*lines: str) -> list[Line]:
    return [[(line, "")] for line in lines]


def test_a_block_takes_the_place_of_the_last_one(painter: WindowPainter) -> None:
    painter.paint(block("a" * 30, "b" * 30, "c" * 30))
    painter.paint(block("one", "two"))
    assert painter.window.screen.text() == ["$ textmill watch", "one", "two"]
    painter.paint(block("1", "2", "3", "4"))
    assert painter.window.screen.text() == ["$ textmill watch", "1", "2", "3", "4"]
    painter.clear()
    assert painter.window.screen.text() == ["$ textmill watch"]
    painter.clear()
    assert painter.window.screen.text() == ["$ textmill watch"]


def test_what_stands_there_already_is_not_written_again(painter: WindowPainter) -> None:
    painter.paint(block("one"))
    painter.paint(block("one"))
    assert painter.window.writes == 1, "a person could not mark it with the mouse"
    painter.clear()
    painter.paint(block("one"))
    assert painter.window.screen.text() == ["$ textmill watch", "one"]


@pytest.mark.parametrize("columns", [13, 20, 39, 60])
def test_nothing_is_left_of_a_block_when_the_terminal_is_resized(
    painter: WindowPainter, columns: int
) -> None:
    painter.paint([*block("x" * 39, "漢" * 19), [], *block("short")])
    painter.window.screen.resize(columns, 12)
    above = painter.window.screen.text()[:2][: 1 + (columns < 16)]
    painter.paint(block("new", "lines"))
    assert painter.window.screen.text() == [*above, "new", "lines"]


def test_at_the_bottom_it_scrolls_once(painter: WindowPainter) -> None:
    painter.window.screen.feed("\r\n" * 20)
    for at in range(5):
        painter.paint(block("one", "two", str(at)))
    assert painter.window.screen.text()[-3:] == ["one", "two", "4"]
    assert "\n".join(painter.window.screen.text()).count("one") == 1


def test_a_line_that_is_wider_than_it_was_taken_for_is_cut(painter: WindowPainter) -> None:
    painter.paint(block("x" * 50, "two"))
    assert painter.window.screen.text() == ["$ textmill watch", "x" * 40, "two"]
    painter.window.screen.feed("y" * 50)
    assert painter.window.screen.text()[-2:] == ["y" * 40, "y" * 10], "and it wraps again"


def test_texts_can_do_nothing_to_the_terminal(painter: WindowPainter) -> None:
    painter.paint(block("a\x1b[2Jb\x9b5Ac\x07d\ne\tf\rg"))
    assert painter.window.screen.text()[1:] == [r"a\x1b[2Jb\x9b5Ac\x07d e f\x0dg"]


def test_styles_are_sent_with_colours_only() -> None:
    line: Line = [("bad", "bad"), (" news", ""), ("!", "strong")]
    with_colors, without = (WindowPainter(Screen(40), colors=on) for on in (True, False))
    for one in (with_colors, without):
        one.paint([line])
        assert one.window.screen.text() == ["bad news!"]
    assert styles(with_colors.window.getvalue()) == ["\x1b[31m", "\x1b[0m", "\x1b[1m", "\x1b[0m"]
    assert styles(without.window.getvalue()) == []


def test_a_terminal_without_unicode_gets_as_many_cells(painter: WindowPainter) -> None:
    painter.window.encoding = "ascii"
    painter.paint(block("━━─ █▍ 漢é…|"))
    assert painter.window.screen.text()[1:] == ["==- ## ???.|"]


def test_the_size_of_what_is_no_terminal_is_the_usual_one() -> None:
    assert Painter(io.StringIO(), colors=False).size() == (80, 24)
