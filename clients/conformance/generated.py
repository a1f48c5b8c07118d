#!/usr/bin/env python3
"""Clients that public generators make from the OpenAPI document compile, call every operation of a real server, and read its answers.

`python`: openapi-python-client, checked by mypy --strict. `typescript`: openapi-typescript with openapi-fetch, checked by tsc --strict.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
import typing
from pathlib import Path
from typing import Any, Iterator
from urllib.request import urlopen

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

from harness import ADMIN_KEY, Server, end_on_signals  # noqa: E402

ID = "01JD3V0S7W8Q4M2XKZC5T9R6BH"
MOMENT = "2030-01-31T12:00:00Z"
METHODS = ("get", "post", "put", "patch", "delete")
# They end the session or the key of the run.
LAST = {"logout"}
# What would answer for minutes.
SHORT = {"stream": {"end_after_seconds": 1}}


class Document:
    """The OpenAPI document, and examples of what its schemas allow."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        found = [(path, method, one[method]) for path, one in self.document["paths"].items() for method in METHODS if method in one]
        yield from sorted(found, key=lambda found: found[2]["operationId"] in LAST)

    def sample(self, schema: dict[str, Any]) -> Any:
        """The least that the schema allows: required fields alone."""
        if reference := schema.get("$ref"):
            return self.sample(self.document["components"]["schemas"][reference.rsplit("/", 1)[-1]])
        if "enum" in schema:
            return schema["enum"][0]
        if "allOf" in schema:
            return {name: value for part in schema["allOf"] for name, value in self.sample(part).items()}
        for choice in ("oneOf", "anyOf"):
            if choice in schema:
                return self.sample(schema[choice][0])
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) else kind
        if kind == "object":
            properties = schema.get("properties", {})
            return {name: self.sample(properties[name]) for name in schema.get("required", []) if name in properties}
        if kind == "array":
            return [self.sample(schema["items"])] if schema.get("minItems") else []
        if kind == "string":
            by_format = {"date-time": MOMENT, "date": MOMENT[:10]}
            return schema.get("example") or by_format.get(schema.get("format", "")) or (ID if "pattern" in schema else "text")
        if kind in ("integer", "number"):
            return max(1, schema.get("minimum", 1))
        return {"boolean": True}.get(kind, {})

    def body(self, operation: dict[str, Any]) -> Any:
        """An example of the body; `None` if there is none."""
        content = operation.get("requestBody", {}).get("content", {})
        first = content.get("application/json") or next(iter(content.values()), None)
        return self.sample(first["schema"]) if first else None

    def parameters(self, operation: dict[str, Any], place: str) -> dict[str, Any]:
        """Examples of the required parameters there."""
        required = {
            one["name"]: self.sample(one["schema"])
            for one in operation.get("parameters", []) if one["in"] == place and (one.get("required") or place == "path")
        }
        return required | (SHORT.get(operation["operationId"], {}) if place == "query" else {})


def is_described(operation: dict[str, Any], status: int) -> bool:
    return str(status) in operation["responses"]


# --- openapi-python-client --------------------------------------------------------------------------------------------


def python(document: Document, server: Server, scripts: Path) -> list[str]:
    """Must run in the environment that has the generator: what it makes is imported."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-generated-"))
    (directory / "openapi.json").write_text(json.dumps(document.document))
    run(directory, scripts / "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "made")
    # The generator's own template, which is the same for every document, is not what is tested.
    (directory / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-made.client]\nignore_errors = true\n")
    run(directory, scripts / "mypy", "-p", "made")
    sys.path.insert(0, str(directory))
    client = importlib.import_module("made").AuthenticatedClient(base_url=server.url, token=ADMIN_KEY, raise_on_unexpected_status=False)
    modules = {path.stem: path for path in (directory / "made/api").rglob("*.py")}
    faults = []
    for path, method, operation in document.operations():
        name = operation["operationId"]
        if name not in modules:
            faults.append(f"{method} {path}: no module {name} was generated")
            continue
        call = importlib.import_module(".".join(modules[name].relative_to(directory).with_suffix("").parts)).sync_detailed
        try:
            status = int(call(client=client, **python_arguments(document, operation, call)).status_code)
        except Exception as fault:  # noqa: BLE001 - whatever it raises is the fault
            faults.append(f"{method} {path}: {type(fault).__name__}: {fault}")
            continue
        if not is_described(operation, status):
            faults.append(f"{method} {path}: answered {status}, which is not described")
    return faults


def python_arguments(document: Document, operation: dict[str, Any], call: Any) -> dict[str, Any]:
    """Its required parameters, and the body as the generated model."""
    given = {**document.parameters(operation, "path"), **document.parameters(operation, "query")}
    arguments: dict[str, Any] = {name.rstrip("_"): value for name, value in given.items()}
    arguments = {("id" if name == "id" else name.replace("-", "_")): value for name, value in arguments.items()}
    wanted = inspect.signature(call).parameters
    arguments = {(name if name in wanted else f"{name}_"): value for name, value in arguments.items()}
    if "body" in wanted:
        arguments["body"] = modelled(typing.get_type_hints(call)["body"], document.body(operation))
    return arguments


def modelled(hint: Any, value: Any) -> Any:
    parts = typing.get_args(hint)
    if isinstance(value, list):
        item = next((part for part in (typing.get_args(hint) if typing.get_origin(hint) is list else ()) if part), None)
        return [modelled(item, one) for one in value] if item else value
    for part in (hint, *parts):
        if hasattr(part, "from_dict"):
            return part.from_dict(value)
    return value


# --- openapi-typescript -----------------------------------------------------------------------------------------------


def typescript(document: Document, server: Server, scripts: Path) -> list[str]:
    """In the folder whose `node_modules` have the generator."""
    directory = scripts.parents[1]
    (directory / "openapi.json").write_text(json.dumps(document.document))
    run(directory, scripts / "openapi-typescript", "openapi.json", "--output", "made.d.ts")
    lines = [
        'import createClient from "openapi-fetch";', 'import type { paths } from "./made.d.ts";',
        f"const client = createClient<paths>({{ baseUrl: {json.dumps(server.url)}, "
        f'headers: {{ Authorization: {json.dumps("Bearer " + ADMIN_KEY)} }} }});',
        "const statuses: Record<string, number> = {};",
    ]
    for path, method, operation in document.operations():
        places = {place: values for place in ("path", "query") if (values := document.parameters(operation, place))}
        options: dict[str, Any] = {"params": places} if places else {}
        if (body := document.body(operation)) is not None:
            options["body"] = body
        if not all("json" in kind for answer in operation["responses"].values() for kind in answer.get("content", {})):
            options["parseAs"] = "text"
        answer = f"await client.{method.upper()}({json.dumps(path)}, {json.dumps(options)})"
        lines.append(f"statuses[{json.dumps(f'{method} {path}')}] = ({answer}).response.status;")
    lines.append("console.log(JSON.stringify(statuses));")
    (directory / "calls.ts").write_text("\n".join([*lines, ""]))
    compiler = ("--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2022", "--skipLibCheck", "false")
    run(directory, scripts / "tsc", *compiler, "--lib", "es2022,dom,dom.iterable", "calls.ts")
    statuses = json.loads(run(directory, "node", "calls.js"))
    described = {f"{method} {path}": operation for path, method, operation in document.operations()}
    return [
        f"{name}: answered {statuses.get(name)}, which is not described"
        for name, operation in described.items() if not is_described(operation, statuses.get(name, 0))
    ]


def run(directory: Path, *command: str | Path) -> str:
    ran = subprocess.run([str(part) for part in command], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = ran.stdout.decode(errors="replace")
    if ran.returncode:
        sys.exit(f"{command[0]} fails:\n{text[-5000:]}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("language", choices=("python", "typescript"))
    parser.add_argument("--holdfast", metavar="PATH", default="target/debug/holdfast", help="the built program (default: %(default)s)")
    parser.add_argument("--scripts", metavar="PATH", required=True, help="where the generator's commands are", type=Path)
    options = parser.parse_args()
    end_on_signals()
    server = Server(options.holdfast, "sqlite")
    try:
        with urlopen(f"{server.url}/openapi.json") as answer:
            document = Document(json.load(answer))
        faults = (python if options.language == "python" else typescript)(document, server, options.scripts.absolute())
    finally:
        server.end()
    for fault in faults:
        print(fault)
    count = sum(1 for _ in document.operations())
    print(f"figure: {count} operations were called by the generated {options.language} client, {len(faults)} with a fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
