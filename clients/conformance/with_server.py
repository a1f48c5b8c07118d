#!/usr/bin/env python3
"""Runs a command beside a real server on SQLite; `{url}` in its arguments is the server's."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Server, child_env, end_on_signals  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()
    end_on_signals()
    server = Server(options.holdfast, "sqlite")
    command = [part.replace("{url}", server.url) for part in options.command]
    try:
        return subprocess.run(command, env=child_env(HOLDFAST_URL=server.url, HOLDFAST_API_KEY=ADMIN_KEY), check=False).returncode
    finally:
        server.end()


if __name__ == "__main__":
    sys.exit(main())
