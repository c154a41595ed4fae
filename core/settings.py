"""The only reader of the environment: every ``TEXTMILL_*`` variable, validated and frozen."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from textmill.core.errors import ConfigurationError
from textmill.core.stored_texts import MIN_KEY_BYTES

BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel")
MAX_SOCKET_PATH_BYTES = 100  # sockaddr_un holds 108 with its NUL; kombu adds to ours


class Settings(BaseSettings):
    """How this process reaches its services and how it works; units are in the names."""

    model_config = SettingsConfigDict(
        env_prefix="TEXTMILL_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("textmill")),
        description="data folder of the embedded services: SQLite file, logs, locks",
    )
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL (default: SQLite in the data folder)"
    )
    sql_database_url: str | None = Field(
        default=None,
        description="what `textmill sql` asks instead: with a role that only reads",
    )
    broker_url: str | None = Field(
        default=None, description="redis:// or rediss:// URL (default: the bundled Valkey)"
    )
    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="comma-separated modules that register further tasks"
    )
    slots: int = Field(default=4, ge=1, le=256, description="chunks a worker holds at once")
    lease_seconds: float = Field(
        default=60, gt=0, description="how long a claim lasts without a renewal"
    )
    sweep_seconds: float = Field(default=5, gt=0, description="pause between two sweeps")
    drain_seconds: float = Field(
        default=30, ge=0, description="how long a stopping worker may finish what runs"
    )
    max_batch_tokens: int | None = Field(
        default=None, ge=1, description="padded tokens per batch (default: by device)"
    )
    max_model_memory_gb: float | None = Field(
        default=None, gt=0, description="memory for loaded models (default: half of the device's)"
    )
    load_timeout_seconds: float = Field(
        default=900, gt=0, description="a model load that takes longer counts as hung"
    )
    batch_timeout_seconds: float = Field(
        default=300, gt=0, description="a batch that takes longer counts as hung"
    )
    dispatch_grace_seconds: float = Field(
        default=10,
        gt=0,
        description="a message not consumed for so long beside an empty queue is lost",
    )
    starvation_seconds: float = Field(
        default=60,
        gt=0,
        description="a worker that gets no message for so long, though chunks wait, is replaced",
    )
    allow_pickle: bool = Field(
        default=False, description="a worker may load pickles for jobs that say --allow-pickle"
    )
    trust_remote_code: bool = Field(
        default=False,
        description="a worker may run a model's Python files for jobs that say --trust-remote-code",
    )
    hash_key: SecretStr | None = Field(
        default=None,
        description="secret of at least 16 bytes for --store-text hash, everywhere the same",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="debug, info, warning or error; texts are logged at debug only",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="console or json lines, on stderr"
    )

    @field_validator("plugins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str | None) -> str | None:
        if value is None:
            return None
        for part in value.split(";"):
            problem = _broker_problem(part)
            if problem:
                raise ValueError(
                    f"{problem}; expected redis://:PASSWORD@HOST:PORT/NUMBER, with "
                    "special characters of the password as %XX"
                )
        return value

    @field_validator("hash_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        size = 0 if value is None else len(value.get_secret_value().encode())
        if value is not None and size < MIN_KEY_BYTES:
            raise ValueError(
                f"it has {size} bytes, expected at least {MIN_KEY_BYTES}, such as from "
                "`openssl rand -hex 32`"
            )
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def hash_key_bytes(self) -> bytes | None:
        """The key of keyed hashes, None if there is none."""
        return None if self.hash_key is None else self.hash_key.get_secret_value().encode()

    @property
    def embedded_broker(self) -> bool:
        """True if the bundled Valkey server is to be used."""
        return self.broker_url is None

    @property
    def runtime_dir(self) -> Path:
        """A folder with a path short enough for a socket, one per data folder and user."""
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:10]
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        short = Path(base) if base and Path(base).is_dir() else Path(tempfile.gettempdir())
        if len(os.fsencode(short)) + 50 > MAX_SOCKET_PATH_BYTES:
            short = Path("/tmp")
        return short / f"textmill-{os.getuid()}-{digest}"

    @property
    def socket_path(self) -> Path:
        """The private socket of the bundled Valkey server."""
        return self.runtime_dir / "valkey.sock"

    @property
    def effective_broker_url(self) -> str:
        """The URL as kombu wants it."""
        return self.broker_url or f"redis+socket://{self.socket_path}"

    @property
    def effective_database_url(self) -> str:
        """The database's URL; PostgreSQL always through psycopg 3."""
        if self.database_url is None:
            return f"sqlite:///{self.home / 'textmill.db'}"
        return _through_psycopg(self.database_url)

    @property
    def read_database_url(self) -> str:
        """The URL that a person's own SQL is sent to."""
        if self.sql_database_url is None:
            return self.effective_database_url
        return _through_psycopg(self.sql_database_url)


def _through_psycopg(url: str) -> str:
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def _explain(detail: ErrorDetails) -> str:
    name = f"TEXTMILL_{str(detail['loc'][0]).upper()}"
    secret = name.endswith(("_URL", "_KEY"))
    given = name if secret else f"{name}={detail['input']!r}"
    return f"{given}: {detail['msg'].removeprefix('Value error, ')}"


def _broker_problem(url: str) -> str | None:
    """What is wrong with a broker's URL, in words that hold no password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError:
        return "its host or port cannot be read"
    if parts.scheme not in BROKER_SCHEMES:
        return f"its scheme {parts.scheme!r} is none of {', '.join(BROKER_SCHEMES)}"
    if parts.fragment:
        return "it has a '#', which ends a URL"
    tcp = parts.scheme in ("redis", "rediss", "sentinel")
    if tcp and parts.path.strip("/") and not parts.path.strip("/").isdigit():
        return "what follows the host is no database number"
    return None


def unknown_variables() -> list[str]:
    """The TEXTMILL_* variables of the environment that no setting reads."""
    known = {f"TEXTMILL_{name.upper()}" for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith("TEXTMILL_") and name not in known)


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; raises ConfigurationError that names each wrong variable."""
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(_explain(detail) for detail in error.errors(include_url=False))
        raise ConfigurationError(f"wrong setting: {problems}") from None
