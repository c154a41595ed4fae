"""The Celery side of one worker process: one task, a pool of threads, and the signals around it."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import time
import warnings
from typing import Any, NoReturn

import structlog
from celery import signals
from celery.platforms import SecurityWarning

from textmill.core.broker import make_celery, worker_queues
from textmill.core.errors import InvalidJobError, TextmillError
from textmill.core.logs import configure_logging
from textmill.core.messages import TASK_NAME
from textmill.core.settings import Settings, load_settings
from textmill.core.tasks import load_plugins
from textmill.workers.lifeline import at_end_of_input, start_pulse
from textmill.workers.process import WorkerOptions, WorkerProcess
from textmill.workers.tasks import process_chunk
from textmill.workers.watchdog import REPLACE_EXIT_CODE

log = structlog.get_logger("textmill.worker")


def run_worker(settings: Settings, options: WorkerOptions) -> None:
    """Consume messages until SIGTERM; then finish what runs and give back the rest."""
    app = make_celery(settings, for_worker=True)
    process = WorkerProcess(settings, options)

    def handle(chunk_id: int, attempt: int) -> None:
        process_chunk(process, chunk_id, attempt)

    app.task(name=TASK_NAME, ignore_result=True)(handle)
    _connect_signals(process)
    # A threads pool in one process per device: CUDA does not survive a fork. Without heartbeats:
    # with them a broker that hangs held SIGTERM for over a minute.
    arguments = ["--quiet", "worker", "--pool", "threads", "--concurrency", str(options.slots)]
    arguments += ["--queues", ",".join(worker_queues(options.queues))]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    arguments += ["--loglevel", settings.log_level.upper(), "-n", options.id]
    app.worker_main(arguments)


def _connect_signals(process: WorkerProcess) -> None:
    def start(**_: Any) -> None:
        try:
            process.start()
        # Of all exceptions only SystemExit stops a Celery worker's boot. After any other it would
        # say that it is ready, and claim chunks whose leases nobody renews.
        except TextmillError as error:
            log.error("worker not started", reason=str(error))
            raise SystemExit(error.exit_code) from None
        except Exception:
            log.exception("worker not started")
            raise SystemExit(REPLACE_EXIT_CODE) from None

    def ready(**_: Any) -> None:
        log.info(
            "ready",
            worker=process.options.id,
            slots=process.options.slots,
            queues=",".join(process.options.queues),
        )

    signals.setup_logging.connect(lambda **_: configure_logging(process.settings), weak=False)
    signals.worker_init.connect(start, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(lambda **_: process.stopping.set(), weak=False)
    signals.worker_shutdown.connect(lambda **_: process.stop(), weak=False)


def _end_alone(drain_seconds: float) -> None:
    """The supervisor is gone, and with it whoever would end a drain that takes too long."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain_seconds)
    log.warning("drain time is over")
    os._exit(REPLACE_EXIT_CODE)


def main(arguments: list[str] | None = None) -> int:
    """A child of the supervisor, ``python -P -m textmill.workers.app``, and its exit code."""
    parser = argparse.ArgumentParser(prog="textmill worker process")
    parser.add_argument("--id", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--queues", required=True)
    parser.add_argument("--slots", type=int, required=True)
    given = parser.parse_args(arguments)
    settings = load_settings()
    configure_logging(settings)
    # A chunk makes thousands of objects at once, none of them in cycles: at Python's default
    # thresholds the collector would look through them again and again.
    gc.set_threshold(50_000, 20, 100)
    # Celery warns of root because of pickles, which are refused here; containers run as root.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    at_end_of_input(lambda: _end_alone(settings.drain_seconds))
    start_pulse()
    load_plugins(settings.plugins)
    queues = tuple(given.queues.split(","))
    try:
        run_worker(settings, WorkerOptions(given.id, given.device, queues, given.slots))
    except TextmillError as error:
        log.error("worker not started", reason=str(error))
        return error.exit_code
    except SystemExit as ended:
        return _own_exit_code(ended.code)
    except Exception:
        log.exception("worker ended")
        return REPLACE_EXIT_CODE
    return 0


def _own_exit_code(code: object) -> int:
    """What the supervisor is told of an end that Celery has decided on, for its broker's sake say.

    Any code but these is that of native code which ended the process: a crash.
    """
    if code in (None, 0):
        return 0
    return InvalidJobError.exit_code if code == InvalidJobError.exit_code else REPLACE_EXIT_CODE


def _end(code: int) -> NoReturn:
    """End at once: what was held is given back, and Python takes seconds to take torch apart."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())
