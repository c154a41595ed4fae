"""``python -P -m textmill.workers``: what ``textmill worker`` becomes."""

from __future__ import annotations

import argparse
import os
import sys

from textmill.core.embedded import EmbeddedServices
from textmill.core.errors import TextmillError
from textmill.core.logs import configure_logging
from textmill.core.printable import printable
from textmill.core.settings import load_settings
from textmill.core.tasks import load_plugins
from textmill.workers.lifeline import at_end_of_input
from textmill.workers.supervisor import Supervisor, find_devices

# Libraries draw progress bars on stderr, where a worker's log has one line an event. They read
# these when they are imported, in the processes that the supervisor starts.
NO_PROGRESS_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS")


def main() -> int:
    """Parse the options, start the supervisor, return its exit code."""
    parser = argparse.ArgumentParser(prog="textmill worker")
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--queues", default="default")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--drain-seconds", type=float)
    parser.add_argument("--end-with-parent", action="store_true")
    given = parser.parse_args()
    try:
        settings = load_settings(slots=given.slots, drain_seconds=given.drain_seconds)
        for name in NO_PROGRESS_BARS:
            os.environ.setdefault(name, "1")
        configure_logging(settings)
        load_plugins(settings.plugins)
        queues = [name.strip() for name in given.queues.split(",") if name.strip()]
        with EmbeddedServices(settings) as services:
            devices = find_devices(given.devices)
            supervisor = Supervisor(settings, devices, queues or ["default"], services.ensure)
            if given.end_with_parent:
                at_end_of_input(supervisor.request_stop)
            return supervisor.run()
    except TextmillError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
