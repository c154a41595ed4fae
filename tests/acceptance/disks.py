"""Small disks of our own, which a test fills or makes read-only: mounts in a namespace."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..machine import lacks
from ..servers import PostgresServer, die_with_parent
from .conftest import Shell

READ_TABLE = """
import pickle, sys
from sqlalchemy import select
from textmill.core.settings import load_settings
from textmill.db.models import metadata
from textmill.db.session import Database
with Database.open(load_settings()).read() as connection:
    rows = connection.execute(select(metadata.tables[sys.argv[1]]))
    pickle.dump([{str(k): v for k, v in row._mapping.items()} for row in rows], sys.stdout.buffer)
"""


class Disk:
    """A tmpfs on a folder, in a mount namespace that a process of ours keeps.

    Only what runs with ``prefix`` in front of its command sees it. As root no user namespace is
    needed, and a program inside may become another user.
    """

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        mount = f"mount -t tmpfs -o size={size} tmpfs {folder} && echo ready && exec sleep inf"
        self._keeper = subprocess.Popen(
            ["unshare", *(["-m"] if os.geteuid() == 0 else ["-rm"]), "sh", "-c", mount],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self.prefix = ["nsenter", "--target", str(self._keeper.pid), "--mount", *user]
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"ready\n":
            self.close()
            lacks("this machine allows no mount namespace, in which a small disk is made")

    def inside(self, command: str) -> None:
        """Run a shell command where the disk is mounted."""
        subprocess.run([*self.prefix, "sh", "-c", command], check=True, capture_output=True)

    def fill(self) -> None:
        """Leave no byte free."""
        self.inside(f"cat /dev/zero > {self.folder}/ballast || true")

    def free(self) -> None:
        """Undo ``fill``."""
        self.inside(f"rm {self.folder}/ballast")

    def turn(self, mode: str) -> None:
        """Remount it ``ro`` or ``rw``; to ``ro`` as soon as no file on it is open for writing."""
        command = f"until mount -o remount,{mode} {self.folder}; do sleep 0.01; done"
        self.inside(f"timeout 30 sh -c {command!r}")

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()


class DiskShell(Shell):
    """A shell whose commands see a small disk, and keep their database on it."""

    def __init__(self, folder: Path, size: str = "8m", **variables: str) -> None:
        place = folder / "disk"
        place.mkdir()
        super().__init__(folder, **variables)
        self.env.setdefault("TEXTMILL_DATABASE_URL", f"sqlite:///{place}/textmill.db")
        self.disk = Disk(place, size)
        self.prefix = [*self.disk.prefix, f"--wd={folder}"]

    def rows(self, table: str) -> list[dict[str, Any]]:
        command = [*self.prefix, sys.executable, "-c", READ_TABLE, table]
        found = subprocess.run(command, env=self.env, capture_output=True, check=True)
        rows: list[dict[str, Any]] = pickle.loads(found.stdout)
        return rows

    def close(self) -> None:
        super().close()
        self.disk.close()


class SmallDiskPostgres(PostgresServer):
    """A server with a tablespace on a small disk; its log of transactions has room elsewhere."""

    def __init__(self, size: str = "24m") -> None:
        super().__init__(synchronous_commit="on")
        place = self._folder / "disk"
        place.mkdir()
        self.disk = Disk(place, size)

    def _prefix(self, user: str | None) -> list[str]:
        if user is None:
            return self.disk.prefix
        self.disk.inside(f"chown {user} {self.disk.folder}")
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return [*self.disk.prefix, *become]

    def create_database(self) -> str:
        """On the small disk."""
        self.execute(f"CREATE TABLESPACE small LOCATION '{self.disk.folder}'")
        url = super().create_database()
        self.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET TABLESPACE small")
        return url

    def close(self) -> None:
        super().close()
        self.disk.close()
