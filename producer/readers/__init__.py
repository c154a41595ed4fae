"""Reading inputs as a stream of records: files, stdin or Python objects, in bounded memory.

Knows nothing of jobs in SQL: ``submit`` reads from here and writes there.
"""

from textmill.producer.readers.ids import IdCheck
from textmill.producer.readers.options import ReadOptions, Records
from textmill.producer.readers.reader import RecordReader, open_records, records_from_objects
from textmill.producer.readers.rules import RecordRules

__all__ = [
    "IdCheck",
    "ReadOptions",
    "RecordReader",
    "RecordRules",
    "Records",
    "open_records",
    "records_from_objects",
]
