"""Writing the results of a job into files of many formats, as a stream, whole or not at all.

``write_export`` is the way in; ``registry.py`` says which formats there are. Where the rows come
from is the caller's: a function that gives record batches, such as ``db.batches.iter_batches``.
"""

from textmill.producer.exports.export import Export
from textmill.producer.exports.registry import find_format
from textmill.producer.exports.writing import write_export

__all__ = ["Export", "find_format", "write_export"]
