"""The command line: ``holdfast worker myapp:app`` and ``holdfast declare myapp:app``.

Exit codes: 0 for a worker that was stopped or drained, 2 for what no restart mends (a wrong setting, a refused registration), 1 else.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

from ._version import VERSION
from .app import App
from .errors import ApiError, ConfigurationError, ConnectionFailed, Forbidden, HoldfastError
from .worker import Worker
from .worker._supervisor import PARENT, Supervisor

log = logging.getLogger("holdfast")

#: How often a worker of a supervisor looks whether that is alive, in seconds.
PARENT_SECONDS = 1.0


#: Pause between tries to declare kinds, each of which has its own patience, in seconds.
DECLARE_PAUSE_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, and exits."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        sys.exit(options.run(options))
    except (ConfigurationError, ApiError) as error:
        print(f"holdfast: {error}{_advice(error)}", file=sys.stderr)
        sys.exit(2)
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast",
        description="Workers in Python for Holdfast. The server's command is named holdfast too; `python -m holdfast` is always this one.",
    )
    parser.add_argument("--version", action="version", version=f"holdfast-python {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("app", help="the App, as module:name, such as myapp:app")
    shared.add_argument("--url", help="the API; default: HOLDFAST_URL, or http://127.0.0.1:8080")
    shared.add_argument("--ca-file", help="certificates of authorities to trust, instead of the usual ones")
    shared.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])

    worker = commands.add_parser("worker", parents=[shared], help="run the jobs of an App (the key is read from HOLDFAST_API_KEY)")
    worker.add_argument("--concurrency", type=int, default=16, help="handlers at the same time, in each process (default 16)")
    worker.add_argument("--processes", type=int, default=1, help="worker processes (default 1)")
    worker.add_argument("--queues", help="queues to take jobs from, separated by commas; default: those of the App's kinds")
    worker.add_argument("--name", help="the worker's name in lists; default: the host's name and the process' id")
    worker.add_argument("--grace", type=float, default=20.0, help="seconds that handlers may go on after SIGTERM (default 20)")
    worker.add_argument("--no-declare", action="store_true", help="do not declare the kinds; `holdfast declare` has done it")
    worker.set_defaults(run=_worker)

    declare = commands.add_parser("declare", parents=[shared], help="declare the kinds of an App (the key needs the scope admin)")
    declare.set_defaults(run=_declare)
    return parser


def load(name: str) -> App:
    """The App that ``module:name`` names."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ConfigurationError(f"there is no module {module_name!r} here; give the App as module:name") from None
    found = getattr(module, attribute or "app", None)
    if not isinstance(found, App):
        raise ConfigurationError(f"{module_name!r} has no App named {attribute or 'app'!r}; give it as module:name")
    return found


def _declare(options: argparse.Namespace) -> int:
    app = load(options.app)
    app.connect(options.url, ca_file=options.ca_file)
    for name in app.declare():
        print(name)
    return 0


def _worker(options: argparse.Namespace) -> int:
    if options.processes < 1:
        raise ConfigurationError("--processes must be at least 1")
    app = load(options.app)
    app.connect(options.url, ca_file=options.ca_file)
    if not options.no_declare:
        _declare_kinds(app)
    if options.processes > 1:
        return Supervisor(options.processes, _arguments_of_child()).run()
    worker = Worker(
        app,
        queues=options.queues.split(",") if options.queues else None,
        concurrency=options.concurrency,
        name=options.name,
        grace_seconds=options.grace,
        kill_when_stuck=True,
    )
    _stop_without_parent(worker)
    reason = worker.run(second_signal_ends=PARENT not in os.environ)
    return 1 if reason == "stuck" else 0


def _declare_kinds(app: App) -> None:
    """As far as the key allows; what is missing then is found by the registration. Waits while the API is unavailable."""
    while True:
        try:
            log.info("declared %s", ", ".join(app.declare()))
            return
        except ConnectionFailed as error:
            log.warning("the kinds are not declared yet: %s", error)
        except Forbidden:
            # It lacks the scope, or is bound to queues.
            log.info("the key may not declare kinds (that needs the scope admin): `holdfast declare` does it, with another key")
            return
        except ApiError as error:
            if not error.is_transient and error.status < 500:
                raise
            log.warning("the kinds are not declared yet: %s", error)
        time.sleep(DECLARE_PAUSE_SECONDS)


def _arguments_of_child() -> list[str]:
    """Those of this process; argparse takes the last of repeated options."""
    return [*sys.argv[1:], "--processes", "1", "--no-declare"]


def _stop_without_parent(worker: Worker) -> None:
    """A supervisor that was killed leaves its workers behind: they drain."""
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(PARENT_SECONDS)
        log.warning("the supervisor is gone: the worker stops")
        worker.stop()

    threading.Thread(target=watch, name="holdfast-parent", daemon=True).start()


def _advice(error: Exception) -> str:
    if not isinstance(error, ApiError):
        return ""
    return {
        "unauthenticated": "\n  Set HOLDFAST_API_KEY to a key of this server (`holdfast keys create --name … --scopes work`).",
        "missing-scope": "\n  A worker needs the scope `work`, and `admin` to declare kinds.",
        "unknown-queue": "\n  Declare the kinds and their queues with a key of the scope `admin`: holdfast declare module:app",
    }.get(error.type, "")
