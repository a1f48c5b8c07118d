"""The Python of the README and of the guide runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import Program, Server

HERE = Path(__file__).resolve()
DOCUMENTS = [HERE.parents[1] / "README.md", *(one / "docs/python.md" for one in HERE.parents if (one / "mkdocs.yml").exists())]
BLOCK = re.compile(r"^```python(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: one.name)
def test_the_examples_of_a_document_run(
    document: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_URL", server.url)
    monkeypatch.setenv("HOLDFAST_API_KEY", server.key)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "myapp", raising=False)
    blocks = BLOCK.findall(document.read_text())
    assert len(blocks) >= 2
    program = None
    for title, code in blocks:
        if title:
            (tmp_path / title).write_text(code)
            program = Program(tmp_path, server, "worker", f"{Path(title).stem}:app")
            program.says("registered as worker")
        else:
            exec(compile(code, f"{document.name} block", "exec"), {})
    assert program is not None and program.end() == 0
    monkeypatch.delitem(sys.modules, "myapp", raising=False)
