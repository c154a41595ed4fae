"""Vectors as JSON text: each number in as few digits as tell its float32 from all others."""

from __future__ import annotations

from typing import Any

from textmill.db.columns import constant


def vector_texts(vectors: Any) -> Any:
    """An array of lists of float32 as one of strings, such as ``[0.1, -0.33333334]``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if vectors.null_count == len(vectors):
        return pa.nulls(len(vectors), pa.string())
    numbers = vectors.values
    texts = pc.if_else(pc.is_finite(numbers), pc.cast(numbers, pa.string()), constant("null"))
    lists = pa.ListArray.from_arrays(vectors.offsets, texts, mask=vectors.is_null())
    joined = pc.binary_join(lists, constant(", "))
    return pc.binary_join_element_wise(constant("["), joined, constant("]"), constant(""))
