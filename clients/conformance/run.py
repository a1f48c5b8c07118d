#!/usr/bin/env python3
"""Plays the scenarios against a real server, with a client's adapter or without. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import scenarios  # noqa: E402, F401
import server_scenarios  # noqa: E402, F401
from adapter import Adapter, AdapterError, Unsupported  # noqa: E402
from harness import Failure, Server, end_on_signals, scratch  # noqa: E402
from world import SCENARIOS, Scenario, World  # noqa: E402

PASSED, FAILED, SKIPPED = "ok", "FAILED", "skipped"


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that both commands have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("--adapter", metavar="COMMAND", type=from_anywhere, help="the client's adapter; without it only the server is tested")
    parser.add_argument("--only", metavar="TEXT", default="", help="scenarios whose sentence contains this")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    parser.add_argument("--allow-skips", action="store_true", help="what the client cannot do is no failure")
    return parser


def from_anywhere(command: str) -> str:
    """The command with absolute paths: each adapter runs in a directory of its own."""
    words = shlex.split(command)
    return shlex.join(os.path.abspath(word) if os.sep in word and os.path.exists(word) else word for word in words)


def play(one: Scenario, server: Server, adapter: str | None, directory: Path) -> tuple[str, str]:
    """The verdict, and what is to be said about it."""
    world = World(server, directory, adapter)
    try:
        one.play(world)
    except Unsupported as reason:
        return SKIPPED, str(reason)
    except (Failure, AdapterError) as failure:
        return FAILED, f"{failure}\n{transcript(world)}"
    except Exception:  # noqa: BLE001 - a fault of the scenario fails this scenario, and no other
        return FAILED, f"{traceback.format_exc()}\n{transcript(world)}"
    finally:
        world.close()
    return PASSED, ""


def transcript(world: World) -> str:
    """What the adapters of a failed scenario said last."""
    parts = []
    for opened in world._open:
        if isinstance(opened, Adapter):
            parts += [f"--- {opened.directory.name}", *(line[:400] for line in opened.lines[-15:])]
            parts += ["--- its standard error", opened.stderr()[-3000:]]
    return "\n".join(parts)


def report(one: Scenario, verdict: str, reason: str, seconds: float) -> None:
    print(f"{verdict:8} {seconds:5.1f} s  {one.sentence}", flush=True)
    if reason:
        print("    " + reason.strip().replace("\n", "\n    "), flush=True)


def conclude(verdicts: list[str], allow_skips: bool, began: float) -> int:
    counts = {name: verdicts.count(name) for name in (PASSED, FAILED, SKIPPED)}
    print(f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[SKIPPED]} skipped in {time.monotonic() - began:.0f} s")
    return 1 if counts[FAILED] or not verdicts or (counts[SKIPPED] and not allow_skips) else 0


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--jobs", metavar="N", type=int, default=8, help="scenarios at the same time (default: %(default)s)")
    parser.add_argument("--clients-only", action="store_true", help="leave out what concerns the server alone")
    parser.add_argument("--keep-log", metavar="PATH", help="copy the API's log there at the end")
    options = parser.parse_args()
    chosen = [
        one for one in SCENARIOS
        if options.only in one.sentence
        and (options.adapter or options.list or not one.needs_adapter)
        and not (options.clients_only and not one.needs_adapter)
    ]
    if options.list:
        print("\n".join(one.sentence for one in chosen))
        return 0
    end_on_signals()
    began = time.monotonic()
    server = Server(options.holdfast, options.database)
    directory = scratch("holdfast-scenarios-")
    verdicts = []
    with contextlib.closing(_Closing(server)), ThreadPoolExecutor(options.jobs) as pool:

        def timed(one: Scenario) -> tuple[Scenario, str, str, float]:
            started = time.monotonic()
            verdict, reason = play(one, server, options.adapter, directory)
            return one, verdict, reason, time.monotonic() - started

        for done in as_completed([pool.submit(timed, one) for one in chosen]):
            one, verdict, reason, seconds = done.result()
            report(one, verdict, reason, seconds)
            verdicts.append(verdict)
    if options.keep_log:
        Path(options.keep_log).write_text(server.log_of("api"))
    return conclude(verdicts, options.allow_skips, began)


class _Closing:
    def __init__(self, server: Server) -> None:
        self._server = server

    def close(self) -> None:
        self._server.end()


if __name__ == "__main__":
    sys.exit(main())
