#!/usr/bin/env python3
"""Pastes the block of the README's "From any language" into a shell, beside a real server. The package is installed already."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Server, child_env, end_on_signals, scratch  # noqa: E402

BLOCK = re.compile(r"^## From any language\n.*?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("--bin", metavar="PATH", required=True, help="where the `python` is that has the package")
    options = parser.parse_args()
    end_on_signals()
    found = BLOCK.search((HERE.parents[1] / "README.md").read_text())
    assert found, "the README has no such block"
    lines = [line for line in found[1].splitlines() if not line.startswith("pip install")]
    server = Server(options.holdfast, "sqlite")
    script = "set -e\n" + "\n".join(lines).replace("http://127.0.0.1:8080", server.url)
    env = child_env(HOLDFAST_API_KEY=ADMIN_KEY)
    env["PATH"] = f"{options.bin}:{env['PATH']}"
    try:
        ran = subprocess.run(["bash", "-c", script], cwd=scratch("holdfast-readme-"), env=env, timeout=120, stdout=subprocess.PIPE, check=False)
    finally:
        server.end()
    printed = ran.stdout.decode()
    print(printed)
    assert ran.returncode == 0 and "{'width': 120}" in printed, f"exit code {ran.returncode}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
