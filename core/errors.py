"""Every error Textmill raises on purpose, told apart by what the caller does about it."""

from __future__ import annotations


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


class JobNotFoundError(InvalidJobError):
    """No job has this id or name."""


class JobConflictError(InvalidJobError):
    """The key belongs to a job with other input, or the job's status forbids the change."""


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
