#!/usr/bin/env python3
"""Asks every operation of a real server with schemathesis, as its OpenAPI document describes it: no answer of 5xx, no answer that the
document does not describe, no body that its schema does not allow, nothing accepted that the document forbids, and nothing refused that
it allows but for the reasons that refusals.py lists. The same requests at each run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Server, end_on_signals  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--schemathesis", metavar="PATH", default="st", help="its command (default: %(default)s)")
    parser.add_argument("--phases", default="examples,coverage,fuzzing", help="of schemathesis (default: %(default)s)")
    parser.add_argument("--examples", metavar="N", type=int, default=10, help="of each operation when fuzzing (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the requests when fuzzing (default: %(default)s)")
    options = parser.parse_args()
    end_on_signals()
    began = time.monotonic()
    server = Server(options.holdfast, options.database)
    command = [
        options.schemathesis, "--config-file", str(HERE / "schemathesis.toml"), "run", f"{server.url}/openapi.json",
        "--header", f"Authorization: Bearer {ADMIN_KEY}", "--phases", options.phases, "--max-examples", str(options.examples),
        "--seed", str(options.seed), "--continue-on-failure", "--workers", "2", "--request-timeout", "40", "--no-color",
    ]
    try:
        # Its cache of examples would make runs differ.
        with tempfile.TemporaryDirectory() as directory:
            env = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "SCHEMATHESIS_HOOKS": "refusals"}
            code = subprocess.run(command, cwd=directory, env=env, check=False).returncode
        if not server.services["api"].is_running():
            print(f"the API has ended:\n{server.services['api'].tail()}")
            code = 1
    finally:
        server.end()
    print(f"figure: every operation was asked in {time.monotonic() - began:.0f} s, with the seed {options.seed}")
    return code


if __name__ == "__main__":
    sys.exit(main())
