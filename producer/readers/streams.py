"""Bytes of an input: opening, decompressing, and cutting into blocks of whole lines.

Blocks let the formats work at C speed (one decode and one split a block) in bounded memory.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from textmill.core.errors import InputError

BLOCK_BYTES = 256 * 1024
MAX_LINE_BYTES = 64 * 1024 * 1024
STDIN = "-"
ENCODING_HINT = "If the file has another encoding, convert it: iconv -f LATIN1 -t UTF-8 OLD > NEW."
_NUL, _NUL_REPLACEMENT = b"\0", "\N{REPLACEMENT CHARACTER}".encode()
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# A frame of 128 KiB of zeros takes 4 bytes, so what one read may expand to is bounded here.
_ZSTD_READ_BYTES = 4096


class _GzipStream(gzip.GzipFile):
    """Closes the file below with itself, which GzipFile leaves open."""

    def __init__(self, raw: Stream) -> None:
        super().__init__(fileobj=raw)
        self._below = raw

    def close(self) -> None:
        super().close()
        self._below.close()


class _ZstdStream(io.RawIOBase):
    """Decompresses zstd frames one after another and, unlike zstandard's own reader, raises
    EOFError where the last frame is cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._new_frame: Callable[[], Any] = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._output:
            if not self._decompress():
                return 0
        count = min(len(target), len(self._output))
        target[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _decompress(self) -> bool:
        data = self._input or self._raw.read(_ZSTD_READ_BYTES)
        if not data:
            if self._frame is not None:
                raise EOFError("the last zstd frame is cut off")
            return False
        if self._frame is None:
            self._frame = self._new_frame()
        self._output = memoryview(self._frame.decompress(data))
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Borrowed(io.RawIOBase):
    """Reads from a stream it does not own, so that closing the reader leaves stdin open."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._read = cast("Callable[[Any], int]", cast("Any", stream).readinto)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        return self._read(target)


Stream: TypeAlias = "io.BufferedReader[Any]"


def display_name(path: str | Path) -> str:
    """How messages call an input."""
    return "stdin" if str(path) == STDIN else str(path)


def open_bytes(path: str | Path) -> Stream:
    """Open a file (or stdin for ``-``) and decompress it by its first bytes.

    Raises InputError where it is missing, a directory, or not readable.
    """
    raw = _open_stdin() if str(path) == STDIN else _open_file(Path(path))
    try:
        magic = raw.peek(4)[:4]
    except OSError as error:
        raw.close()
        raise InputError(f"{display_name(path)}: cannot be read: {error.strerror}") from None
    if magic.startswith(_GZIP_MAGIC):
        return io.BufferedReader(cast("Any", _GzipStream(raw)), BLOCK_BYTES)
    if magic == _ZSTD_MAGIC:
        return io.BufferedReader(_ZstdStream(raw), BLOCK_BYTES)
    return raw


def _open_stdin() -> Stream:
    return io.BufferedReader(_Borrowed(sys.stdin.buffer), BLOCK_BYTES)


def _open_file(path: Path) -> Stream:
    try:
        return io.BufferedReader(path.open("rb", buffering=0), BLOCK_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a directory; expected a file of records") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None


class Blocks:
    """Iterates over an input's bytes in blocks that end at a line's end.

    NUL becomes U+FFFD, a UTF-8 byte order mark is dropped; raises InputError for UTF-16, for
    other binary data, for damaged compression and for a line over 64 MiB.
    """

    def __init__(self, path: str | Path, *, lone_cr_ends_line: bool = False) -> None:
        self.name = display_name(path)
        self._stream = open_bytes(path)
        self._lone_cr = lone_cr_ends_line
        self._iterator = self._blocks()
        try:
            # Two blocks: the first may end after a header whose first row is very long.
            self.first = b"".join(islice(self._iterator, 2))
        except InputError:
            self.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        """All blocks, beginning with what was read ahead; call once."""
        if self.first:
            yield self.first
        yield from self._iterator

    def close(self) -> None:
        self._stream.close()

    def _blocks(self) -> Iterator[bytes]:
        pieces: list[bytes] = []
        data = self._without_mark(self._read())
        while data:
            cut = self._last_line_end(data)
            if cut:
                pieces.append(data[:cut])
                yield self._whole(pieces)
                data, pieces = data[cut:], []
            pieces.append(data)
            if sum(map(len, pieces)) > MAX_LINE_BYTES:
                raise InputError(
                    f"{self.name}: a line is over {MAX_LINE_BYTES >> 20} MiB; "
                    "expected one record a line (is it another format?)"
                )
            data = self._read()
        if any(pieces):
            yield self._whole(pieces)

    def _last_line_end(self, data: bytes) -> int:
        cut = data.rfind(b"\n") + 1
        if not cut and self._lone_cr:
            # A final "\r" may be half of "\r\n".
            cut = data.rfind(b"\r", 0, -1) + 1
        return cut

    def _whole(self, pieces: list[bytes]) -> bytes:
        block = b"".join(pieces)
        return block.replace(_NUL, _NUL_REPLACEMENT) if _NUL in block else block

    def _read(self) -> bytes:
        # zstandard's error is imported with it only where it is needed, hence the broad last case.
        try:
            # One read of the system at most: read() goes on until the block is full, without
            # looking for signals, so that Ctrl-C would wait for a slow pipe's next data.
            return self._stream.read1(BLOCK_BYTES)
        except EOFError:
            raise InputError(f"{self.name}: the compressed data ends too early") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self.name}: damaged gzip data: {error}") from None
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read: {error.strerror or error}") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise InputError(f"{self.name}: damaged zstd data: {error}") from None

    def _without_mark(self, data: bytes) -> bytes:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(
                f"{self.name}: is UTF-16; expected UTF-8. "
                "Convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"
            )
        start = data[:1024]
        if start.count(_NUL) * 4 > len(start):
            raise InputError(
                f"{self.name}: is binary data or UTF-16 without a byte order mark; "
                "expected UTF-8 text"
            )
        return data.removeprefix(b"\xef\xbb\xbf")


class Lines:
    """Iterates over the text lines of an input (line ends kept) at C speed.

    Bytes that are not UTF-8 come through as lone surrogates (PEP 383) and set ``suspect`` from
    that block on, so that only then each row is checked and the bad one is found exactly.
    """

    def __init__(self, blocks: Blocks, newline: str) -> None:
        self.suspect = False
        self._blocks = blocks
        self._newline = newline

    def __iter__(self) -> Iterator[io.StringIO]:
        return map(self.decode, self._blocks)

    def decode(self, block: bytes) -> io.StringIO:
        """The lines of one block."""
        try:
            text = block.decode()
        except UnicodeDecodeError:
            self.suspect = True
            text = block.decode(errors="surrogateescape")
        return io.StringIO(text, self._newline)
