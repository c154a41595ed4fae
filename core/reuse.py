"""When an earlier result answers a record (``--reuse``): equal model, task, options and inputs.

Only the rule: a key of 16 bytes for all of these. Where keys lie and who looks is said in
``db.reuse``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from textmill.core.jobs import Record
from textmill.core.params import TaskParams
from textmill.core.stored_texts import fit_key

KEY_BYTES = 16
PERSON = b"textmill reuse"  # no key of a record is a hash of a text, whatever the secret


@dataclass(frozen=True, slots=True)
class ReuseScope:
    """What records must share to be answered alike; ``key`` is that of one record among them.

    With a ``secret`` (``TEXTMILL_HASH_KEY``) nobody without it can try texts on the keys.
    """

    digest: bytes
    params: TaskParams
    secret: bytes | None = None

    @classmethod
    def of(
        cls,
        *,
        task: str,
        model: str,
        version: str | None,
        dtype: str,
        params: TaskParams,
        store_text: str,
        secret: bytes | None = None,
    ) -> ReuseScope:
        """The scope of a job whose model is pinned; a digest of a local model stands for itself.

        What rows keep of texts counts too: it is left out of some tasks' details.
        """
        is_digest = version is not None and version.startswith("sha256:")
        options = params.model_dump(mode="json", exclude_defaults=True, exclude={"own_columns"})
        about = [task, None if is_digest else model, version, dtype, options, store_text]
        digest = blake2b(orjson.dumps(about, option=orjson.OPT_SORT_KEYS)).digest()
        return cls(digest, params, secret)

    def key(self, record: Record) -> bytes:
        """The record's key; its id counts where what is drawn depends on it."""
        own = record.params or {}
        known_by = record.record_id if self.params.is_drawn(own) else None
        about = [record.inputs, own, known_by]
        made = blake2b(
            self.digest, digest_size=KEY_BYTES, key=fit_key(self.secret or b""), person=PERSON
        )
        made.update(orjson.dumps(about, option=orjson.OPT_SORT_KEYS))
        return made.digest()


def without_own_columns(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a job but for where its records' own are read: those count with each record."""
    return {name: value for name, value in options.items() if name != "own_columns"}
