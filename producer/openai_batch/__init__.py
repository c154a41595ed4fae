"""OpenAI Batch files: their lines become records of a job, and its rows the lines of their answer.

A line asks one thing of one endpoint. It becomes one record, or several where it asks for several
answers (``n``) or gives several texts; they share the line's ``custom_id`` as their record id, and
lie one after another. The job has the options of the file's first good line; a record has those in
which its own line differs. What only the answer needs, such as the model's name in the line, is
kept in ``extra``, in the column ``openai``. ``docs/openai-batch.md`` says what becomes of each
field.

Recognising and reading: ``endpoints``, ``fields``, ``messages``, ``requests``, ``census``,
``reader``; making the job: ``plan``; writing the answer: ``responses``, ``writer``.
"""

from textmill.producer.openai_batch.plan import parse_aliases, plan_batch, refuse_aliases
from textmill.producer.openai_batch.reader import BatchReader, open_batch, open_batch_objects

__all__ = [
    "BatchReader",
    "open_batch",
    "open_batch_objects",
    "parse_aliases",
    "plan_batch",
    "refuse_aliases",
]
