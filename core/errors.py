"""Every error Textmill raises on purpose, told apart by what the caller does about it."""

from __future__ import annotations

from pathlib import Path


class TextmillError(Exception):
    """Base of all errors whose message is meant for a person."""

    exit_code = 1  # of the command line, which prints the message and no traceback


class InvalidJobError(TextmillError):
    """The job, its input or an option is wrong: nothing was submitted, nothing needs a retry."""

    exit_code = 2


class ConfigurationError(InvalidJobError):
    """A setting from the environment or an option of a service is wrong."""


class AlreadyRunningError(ConfigurationError):
    """What may run once in a data folder runs there; the message says as which process."""


class InputError(InvalidJobError):
    """The input cannot be read as records; the message names the file and the line."""


class QueryError(InvalidJobError):
    """A person's SQL cannot be run, or would do more than read."""


class JobNotFoundError(InvalidJobError):
    """No job has this id or name."""


class JobConflictError(InvalidJobError):
    """The key belongs to a job with other input, or the job's status forbids the change."""


class PurgedJobError(TextmillError):
    """The job's texts and outputs were removed; nothing brings them back."""


class ServiceUnavailableError(TextmillError):
    """The database or the broker does not answer, refuses the login, or has no space."""


class NoSpaceError(ServiceUnavailableError):
    """A disk is full, the database's or an export's: waiting alone does not mend that."""


class ModelLoadError(TextmillError):
    """A model cannot be loaded as what the task needs; the message says what was found."""


class RetryableError(TextmillError):
    """A failure of the system, not of the work: the chunk goes back and is tried again."""


class EngineClosedError(RetryableError):
    """The engine was closed or lost its thread while work waited in it."""


class RecordError(TextmillError):
    """One record cannot be processed; stored on its row as ``error_code`` and ``error_message``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def describe_error(error: BaseException) -> str:
    """An error for a log or a job: its message only where that cannot quote a record's text.

    Any other is named by its kind and place, as in ``ValueError in spans.py, line 88``.
    """
    kind = type(error).__name__
    if isinstance(error, TextmillError) and not isinstance(error, RecordError):
        return str(error)
    if isinstance(error, OSError):
        return f"{kind}: {error}"
    state = getattr(getattr(error, "orig", None), "sqlstate", None)  # of a database's error
    kind += f" {state}" if state else ""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return kind
    return f"{kind} in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
