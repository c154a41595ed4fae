"""A folder that ``datasets.load_from_disk`` reads, written without that library.

The layout is that of ``Dataset.save_to_disk``: Arrow streams, ``state.json`` that lists them, and
``dataset_info.json`` with the types.
https://huggingface.co/docs/datasets/package_reference/main_classes#datasets.Dataset.save_to_disk
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import orjson

from textmill.producer.exports.atomic import durable_file
from textmill.producer.exports.export import Export

STATE, INFO = "state.json", "dataset_info.json"
MARKS = (STATE, INFO)
SHARD_BYTES = 500 << 20  # as the library's own


def write(export: Export, folder: Path) -> int:
    """Write every row; returns their number."""
    schema = export.schema()
    features = {field.name: _feature(field.type) for field in schema}
    # The library asks this metadata for the types; the job's own stays beside it.
    known = orjson.dumps({"info": {"features": features}})
    schema = schema.with_metadata({**schema.metadata, b"huggingface": known})
    count = 0
    with export.batches() as batches, _Shards(folder, schema) as shards:
        for batch in batches:
            shards.write(batch)
            count += batch.num_rows
    _write_json(folder / STATE, _state(shards.name_all()))
    _write_json(folder / INFO, _info(export, features))
    return count


class _Shards:
    """Arrow streams, one after another, each ended at SHARD_BYTES; at least one: it has the types.

    Every other file has to be durable when this is left, and so is each of these.
    """

    def __init__(self, folder: Path, schema: Any) -> None:
        self._folder = folder
        self._schema = schema
        self._paths: list[Path] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, batch: Any) -> None:
        if self._bytes >= SHARD_BYTES:
            self._begin()
        self._stream.write_batch(batch)
        self._bytes += batch.nbytes

    def name_all(self) -> list[str]:
        """Give each its name, which says how many there are; returns the names."""
        total = len(self._paths)
        names = [f"data-{at:05d}-of-{total:05d}.arrow" for at in range(total)]
        for path, name in zip(self._paths, names, strict=True):
            path.rename(self._folder / name)
        return names

    def _begin(self) -> None:
        import pyarrow as pa

        self._open.close()
        self._paths.append(self._folder / f"data-{len(self._paths):05d}.arrow")
        file = self._open.enter_context(durable_file(self._paths[-1]))
        self._stream = self._open.enter_context(pa.ipc.new_stream(file, self._schema))
        self._bytes = 0


def _feature(kind: Any) -> dict[str, Any]:
    """A type as the library writes it; ``Sequence`` is what all its versions know of a list."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "length": -1, "_type": "Sequence"}
    name = {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


def _state(names: list[str]) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": name} for name in names],
        # By it the library knows what it has cached of this data: another export is other data.
        "_fingerprint": secrets.token_hex(8),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def _info(export: Export, features: dict[str, Any]) -> dict[str, Any]:
    job = export.job
    return {
        "citation": "",
        "description": f"Results of Textmill's job {job.id}: {job.task} by {job.model}",
        "features": features,
        "homepage": "",
        "license": "",
    }


def _write_json(path: Path, value: Any) -> None:
    with durable_file(path) as file:
        file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2))
