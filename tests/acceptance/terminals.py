"""A command on a terminal of a given size, and what a person sees there."""

from __future__ import annotations

import codecs
import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path
from types import TracebackType

from ..screens import Screen
from ..servers import die_with_parent, wait_until
from .conftest import TEXTMILL, Shell


class Terminal:
    """``textmill …`` on a pseudo-terminal of its own."""

    def __init__(
        self, shell: Shell, *words: str | Path, columns: int = 80, lines: int = 50, **variables: str
    ) -> None:
        self.screen = Screen(columns, lines)
        self.output = ""  # all that it wrote, raw
        self._lock = threading.Lock()
        self._problem: BaseException | None = None
        self._ours, theirs = os.openpty()
        _set_size(self._ours, columns, lines)
        environment = {k: v for k, v in shell.env.items() if k not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [str(TEXTMILL), *map(str, words)],
            cwd=shell.folder,
            env=environment | {"TERM": "xterm-256color", **variables},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # a command that has a worker ends it
            self.process.wait(30)
        self._reader.join(10)
        os.close(self._ours)
        if kind is None and self._problem is not None:
            raise self._problem

    def rows(self) -> list[str]:
        """What stands on the screen now."""
        with self._lock:
            return self.screen.text()

    def wait_for(self, *parts: str, timeout: float = 60) -> list[str]:
        """The screen once it shows all of these."""
        seen: list[str] = []

        def shows() -> bool:
            seen[:] = self.rows()
            assert self._problem is None, self._problem
            return all(part in "\n".join(seen) for part in parts)

        try:
            wait_until(shows, timeout, what=f"showing {parts}", every=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n" + "\n".join(seen)) from None
        return seen

    def resize(self, columns: int, lines: int = 50) -> None:
        """Give it another size, as a person does who drags its edge."""
        with self._lock:
            self.screen.resize(columns, lines)
            _set_size(self._ours, columns, lines)

    def write(self, text: str) -> None:
        """What another program, such as the shell, writes on the same screen."""
        with self._lock:
            self.screen.feed(text)

    def type(self, keys: bytes) -> None:
        """Press keys; b"\x03" is Ctrl-C."""
        os.write(self._ours, keys)

    def wait(self, timeout: float = 60) -> int:
        """The exit code, once it has ended and all that it wrote is on the screen."""
        code = self.process.wait(timeout)
        self._reader.join(10)
        assert self._problem is None, self._problem
        return code

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            try:
                given = os.read(self._ours, 65536)
            except OSError:  # as a terminal says that nobody holds it any more
                return
            if not given:
                return
            with self._lock:
                text = decoder.decode(given)
                self.output += text
                try:
                    self.screen.feed(text)
                except BaseException as error:
                    self._problem = self._problem or error


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    die_with_parent()


def _set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
