"""Two hosts on one machine, for tests: network namespaces whose links can be cut without a sound.

The near host is where the test and the servers run, the far one has a link of its own to each
service. A cut link drops every packet of both directions, as a dead switch between two hosts would:
no reset and no ICMP message tells either end, only their time limits can.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
NOBODY = "02:00:00:00:ff:ff"  # a hardware address that no interface has

_libc = ctypes.CDLL(None, use_errno=True)


class NetworkError(Exception):
    """This machine makes no network namespaces, or not for this user."""


class Network:
    """The two hosts, joined by ``links``, each with addresses of its own; all linked at first."""

    def __init__(self, links: Sequence[str]) -> None:
        token = secrets.token_hex(4)
        self.near = f"textmill-near-{token}"
        self.far = f"textmill-far-{token}"
        self.links = tuple(links)

    def __enter__(self) -> Network:
        """Make both; raises NetworkError, and leaves nothing, where that is not possible."""
        try:
            for host in (self.near, self.far):
                _ip("netns", "add", host)
                _ip("-n", host, "link", "set", "lo", "up")
            for link in self.links:
                self._join(link)
        except NetworkError:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove both, whatever there is of them."""
        for host in (self.near, self.far):
            if Path("/run/netns", host).exists():
                _ip("netns", "del", host)

    def address(self, link: str) -> str:
        """The near host's address on this link: where its service listens."""
        return self._end(self.near, link)[0]

    @contextmanager
    def on(self, host: str) -> Iterator[None]:
        """What this thread opens and starts inside the block is on ``near`` or ``far``."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            with open(f"/run/netns/{host}") as entry:  # noqa: PTH123 - a handle, not a file's text
                _enter(entry.fileno())
            yield
        finally:
            _enter(before)
            os.close(before)

    def cut(self, *links: str) -> None:
        """Lose every packet of these links from now on."""
        for link in links:
            self._send_to(self.near, link, NOBODY)
            self._send_to(self.far, link, NOBODY)

    def heal(self, *links: str) -> None:
        """Lose no more packets."""
        for link in links:
            self._send_to(self.near, link, self._end(self.far, link)[1])
            self._send_to(self.far, link, self._end(self.near, link)[1])

    def _join(self, link: str) -> None:
        _, near_hardware = self._end(self.near, link)
        _, far_hardware = self._end(self.far, link)
        pair = ["link", "add", link, "address", near_hardware, "type", "veth"]
        _ip(
            "-n", self.near, *pair, "peer", "name", link, "address", far_hardware, "netns", self.far
        )
        for host in (self.near, self.far):
            _ip("-n", host, "address", "add", f"{self._end(host, link)[0]}/30", "dev", link)
            _ip("-n", host, "link", "set", link, "up")
        self.heal(link)

    def _end(self, host: str, link: str) -> tuple[str, str]:
        """IP address and hardware address of one end."""
        net, number = self.links.index(link), 1 if host == self.near else 2
        return f"10.0.{net}.{number}", f"02:00:00:00:{net:02x}:{number:02x}"

    def _send_to(self, host: str, link: str, hardware: str) -> None:
        """Write the host's neighbour table by hand: a name to ask for would tell of the cut."""
        other = self.far if host == self.near else self.near
        entry = [self._end(other, link)[0], "lladdr", hardware, "dev", link, "nud", "permanent"]
        _ip("-n", host, "neighbour", "replace", *entry)


def _enter(handle: int) -> None:
    if _libc.setns(handle, CLONE_NEWNET):  # os.setns came with Python 3.12
        raise NetworkError(f"setns: {os.strerror(ctypes.get_errno())}")


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NetworkError("there is no `ip` (iproute2)") from error
    except subprocess.CalledProcessError as error:
        raise NetworkError(f"ip {' '.join(words)}: {error.stderr.strip()}") from error
