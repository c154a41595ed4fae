"""Fixtures on real parts: Valkey, PostgreSQL, and a data folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from textmill.core.settings import Settings, load_settings

from .machine import lacks
from .servers import PostgresServer, ValkeyServer, processes_of, wait_until

# Set before any test module imports a Hugging Face library, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
# Tests start hundreds of commands: each would compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for _name in [name for name in os.environ if name.startswith("TEXTMILL_")]:
    del os.environ[_name]  # a developer's own settings must not reach a test

# ``pytest --hypothesis-profile=thorough`` tries much more than ``make test`` does.
hypothesis_settings.register_profile("thorough", max_examples=5000, deadline=None)


def _start(server: Any) -> None:
    try:
        server.start()
    except (ImportError, OSError, AssertionError) as error:
        server.close()
        lacks(f"{type(server).__name__} cannot be started here: {error}")


@pytest.fixture(scope="session", autouse=True)
def no_leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ends last: no process that a test started, directly or in the background, may be left."""
    folder = str(tmp_path_factory.getbasetemp())
    yield
    try:
        wait_until(lambda: not processes_of(folder), 5, what="without processes left by tests")
    finally:
        left = processes_of(folder)
        for process in left:
            process.kill()
        assert not left, f"left behind by tests: {left}"


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A Valkey server with a password, for the whole session; do not kill it."""
    server = ValkeyServer()
    _start(server)
    yield server
    server.close()


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """URL of an empty broker."""
    valkey.flush()
    return valkey.url


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server of the test's own, started, to be killed and restarted at will."""
    server = ValkeyServer()
    _start(server)
    yield server
    server.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the test's own, started, to be crashed and restarted at will."""
    server = PostgresServer(synchronous_commit="on")  # a crash must not undo what was committed
    _start(server)
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session; do not kill it."""
    server = PostgresServer()
    _start(server)
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database of the test's own."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database: the test runs on SQLite and again on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'textmill.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own, in ``TEXTMILL_HOME``."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("TEXTMILL_HOME", str(folder))
    return folder


@pytest.fixture
def settings(home: Path) -> Callable[..., Settings]:
    """``settings(broker_url=…, lease_seconds=1)``: settings in the test's data folder."""
    return load_settings
