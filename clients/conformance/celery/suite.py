#!/usr/bin/env python3
"""Runs Celery's own integration suite on Redis and on Holdfast, and compares: what passes on Redis must pass on ours.

The suite is `t/integration` of Celery's source distribution, as it is, with one change: where a test asks whether the result backend
is Redis, because it needs a Redis to count side effects in, it is told yes (there is one). The exceptions are listed, each with its reason, in
docs/celery.md between the marks `suite-exceptions`: tests by a pattern, and files that are not run at all by their names.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from brokers import ADMIN_KEY, HERE, Broker, Redis, environment, holdfast_url

from harness import end_on_signals, scratch

DOCS = HERE.parents[2] / "docs/celery.md"

#: Of one run, in seconds. The whole takes a quarter of that.
LONGEST_SECONDS = 3_600


def exceptions() -> dict[str, str]:
    """Patterns of test names, and names of files, and why they are no part of the comparison."""
    text = DOCS.read_text()
    part = text.partition("<!-- suite-exceptions -->")[2].partition("<!-- /suite-exceptions -->")[0]
    return {name: reason.strip() for name, reason in re.findall(r"^\| `([^`]+)` \| (.+) \|$", part, re.M)}


def prepared(source: Path, into: Path) -> Path:
    """The sources for one run: with ours as a backend that tests may count in Redis beside."""
    shutil.copytree(source / "t", into / "t")
    for file in (into / "t/integration").glob("test_*.py"):
        text = file.read_text()
        text = re.sub(r"\b(result_backend|url)\.startswith\((['\"])redis\2\)", r"\1.startswith(('redis', 'holdfast'))", text)
        file.write_text(text.replace("result_backend.startswith(('redis', 'rpc'))", "result_backend.startswith(('redis', 'rpc', 'holdfast'))"))
    for file in source.glob("pyproject.toml"):
        shutil.copy(file, into)
    return into


def run(name: str, holdfast: str, source: Path, only: str, tests: list[str]) -> dict[str, str]:
    """One run of the suite: outcomes by test."""
    began = time.monotonic()
    directory = prepared(source, scratch(f"holdfast-celery-{name}-"))
    broker = Broker(name, holdfast, beat=True)
    # The suite purges its queue, which a key of an application may not.
    url = holdfast_url(broker.server, key=ADMIN_KEY) if broker.server else broker.url
    # The tests' own instrument: they push and pop lists in a Redis.
    tool = broker.redis or Redis()
    report = directory / "report.xml"
    env = environment(
        url, TEST_BROKER=url, TEST_BACKEND=url, REDIS_HOST="127.0.0.1", REDIS_PORT=str(tool.port),
        # Some tests call the program `celery`.
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "celery.contrib.pytest", "-p", "no:cacheprovider", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    command += ["-o", "addopts=", "--timeout=300", "--tb=short", "-W", "ignore"]
    command += [f"--ignore=t/integration/{one}" for one in exceptions() if one.endswith(".py")]
    command += ["-k", only] if only else []
    command += tests or ["t/integration"]
    log = directory / "log.txt"
    try:
        with log.open("wb") as file:
            subprocess.run(command, cwd=directory, env=env, stdout=file, stderr=file, timeout=LONGEST_SECONDS, check=False)
    finally:
        broker.end()
        if tool is not broker.redis:
            tool.end()
    kept = Path(f"{source.parent}/suite-{name}.txt")
    shutil.copy(log, kept)
    outcomes = read(report)
    counts = {one: sum(1 for outcome in outcomes.values() if outcome == one) for one in sorted(set(outcomes.values()))}
    print(f"    {name}: {counts}, {time.monotonic() - began:.0f} s; its output is {kept}", flush=True)
    return outcomes


def read(report: Path) -> dict[str, str]:
    """A test that was run again counts as its last run."""
    if not report.exists():
        return {}
    outcomes: dict[str, str] = {}
    for case in xml.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rsplit('.', 1)[-1]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        # An error of the teardown is a second case of the same name.
        outcomes[name] = "failed" if outcomes.get(name) == "failed" and outcome == "passed" else outcome
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--holdfast", required=True, metavar="PATH", help="the built program")
    parser.add_argument("--source", required=True, type=Path, metavar="PATH", help="the unpacked source distribution of Celery")
    parser.add_argument("--on", default="sqlite,postgres", help="databases of Holdfast, separated by commas (default: %(default)s)")
    parser.add_argument("-k", dest="only", default="", help="only tests with this expression (pytest -k)")
    parser.add_argument("tests", nargs="*", help="files or tests, such as t/integration/test_tasks.py")
    options = parser.parse_args()
    end_on_signals()
    names = ["redis", *options.on.split(",")]
    with ThreadPoolExecutor(len(names)) as pool:
        found = dict(zip(names, pool.map(lambda name: run(name, options.holdfast, options.source.resolve(), options.only, options.tests), names)))
    expected = found.pop("redis")
    excused = {name: reason for name, reason in exceptions().items() if not name.endswith(".py")}
    passed = [name for name, outcome in expected.items() if outcome == "passed"]
    faults, unused = [], set(excused)
    for database, outcomes in found.items():
        for name in passed:
            pattern = next((one for one in excused if fnmatch.fnmatchcase(name, one)), None)
            if pattern is not None:
                unused.discard(pattern)
            elif outcomes.get(name) != "passed":
                faults.append(f"{name} on {database}: {outcomes.get(name, 'not run')}")
    for fault in faults:
        print(f"    not ok {fault}")
    if not options.only and not options.tests:
        for pattern in sorted(unused):
            print(f"    the exception {pattern} matches no test that passes on Redis: take it out of {DOCS.name}")
    ours = sum(1 for outcomes in found.values() for name in passed if outcomes.get(name) == "passed")
    print(f"    figure: {len(passed)} tests pass on Redis; on Holdfast {ours} of {len(passed) * len(found)}, {len(faults)} missing without a reason")
    return 1 if faults or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
