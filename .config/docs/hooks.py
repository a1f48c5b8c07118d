"""What the site changes in the pages of docs/, which are written to be read in the repository as well.

- A link that leads out of docs/ (to a source file, to CONTRIBUTING.md) becomes a link to the repository, or plain text
  where the repository's address is not known. A link to a file that does not exist fails the build.
- A block marked `console` (its commands are run by a test) is coloured like any other shell block.
"""

import logging
import os
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("mkdocs.hooks.holdfast")

FENCE = re.compile(r"^(\s*)(```+|~~~+)(.*)$")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def repository():
    """Address of the repository's files, such as https://github.com/owner/name/blob/main; None where it is not known."""
    address = os.environ.get("HOLDFAST_REPOSITORY_URL")
    if not address and os.environ.get("GITHUB_REPOSITORY"):
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        address = f"{server}/{os.environ['GITHUB_REPOSITORY']}/blob/{os.environ.get('GITHUB_SHA', 'main')}"
    return address.rstrip("/") if address else None


def on_page_markdown(markdown, page, **_):
    """Rewrites the links of the prose, which may run over lines, and the languages of the fenced blocks."""
    parts, prose, fence = [], [], None
    for line in markdown.split("\n"):
        match = FENCE.match(line)
        if fence is None and not match:
            prose.append(line)
            continue
        if fence is None:
            parts.append(with_links(prose, page))
            prose, fence = [], match[2]
            line = f"{match[1]}{match[2]}bash" if match[3].strip() == "console" else line
        elif match and match[2].startswith(fence) and not match[3].strip():
            fence = None
        parts.append(line)
    return "\n".join([*parts, with_links(prose, page)])


def with_links(lines, page):
    return LINK.sub(lambda link: rewritten(link, page), "\n".join(lines))


def rewritten(link, page):
    text, target = link[1], link[2]
    if "://" in target or target.startswith(("#", "mailto:")):
        return link[0]
    path, _, anchor = target.partition("#")
    inside = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), path))
    if inside.startswith("docs/") and inside.endswith(".md"):
        return link[0]
    if inside.startswith("..") or not (ROOT / inside).exists():
        LOG.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        return text
    address = repository()
    return f"[{text}]({address}/{inside}{'#' + anchor if anchor else ''})" if address else text
