#!/usr/bin/env python3
"""Runs a command beside a private server, which HOLDFAST_URL and HOLDFAST_API_KEY name: beside.py --holdfast PATH -- COMMAND…"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Server, child_env, end_on_signals  # noqa: E402

#: For the command, in seconds.
LIMIT_SECONDS = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    end_on_signals()
    server = Server(options.holdfast, "sqlite")
    try:
        env = child_env(HOLDFAST_URL=server.url, HOLDFAST_API_KEY=ADMIN_KEY)
        return subprocess.run(options.command, env=env, timeout=LIMIT_SECONDS, check=False).returncode
    finally:
        server.end()


if __name__ == "__main__":
    sys.exit(main())
