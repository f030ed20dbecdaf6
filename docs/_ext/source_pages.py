"""Sphinx extension: a page for each file of the repository that a page of the documentation links to.

Pages link to source files with relative paths, which work in an editor and on a code host. This extension
writes a page with the file's content below docs/source/ and turns the link into a link to it.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

LINK = re.compile(r"\]\(([^):\s#]+)(#[^)\s]*)?\)")
FOLDER = "source"  # in docs/, not under version control
PAGES = {".md", ".ipynb"}
IMAGES = {".png", ".jpg", ".svg"}
LANGUAGES = {
    ".py": "python",
    ".json": "json",
    ".sh": "bash",
    ".c": "c",
    ".js": "javascript",
    ".mjs": "javascript",
    ".html": "html",
}


def linked_file(page: Path, target: str, root: Path) -> Path | None:
    """Return the file or folder of the repository that a link of a page names, relative to the repository."""
    path = (page.parent / target).resolve()
    return path.relative_to(root) if path.is_relative_to(root) and path.exists() else None


def page_name(file: Path, docs: Path) -> str | None:
    """Return the path below docs/ of the page of a file, or None for an image of a page."""
    path = docs.parent / file
    if path.is_relative_to(docs) and path.suffix in PAGES | IMAGES:
        return path.relative_to(docs).as_posix() if path.suffix in PAGES else None
    return f"{FOLDER}/{file.as_posix().removesuffix('.md')}.md"


def page_text(file: Path, root: Path) -> str:
    """Return the Markdown text of the page of a file or folder."""
    path, source = root / file, "../" * (len(file.parts) + 1) + file.as_posix()
    if path.suffix == ".md":
        return f"---\norphan: true\n---\n\n```{{include}} {source}\n```\n"
    head = f"---\norphan: true\n---\n\n# {file.as_posix()}\n\n"
    if path.is_dir():
        return head + "".join(f"* `{child.name}`\n" for child in sorted(path.iterdir()))
    if path.suffix in IMAGES:
        return f"{head}![{file.name}]({source})\n"
    language = LANGUAGES.get(path.suffix, "text")
    return f"{head}```{{literalinclude}} {source}\n:language: {language}\n```\n"


def write_pages(app: Sphinx) -> None:
    """Write a page for each file that a page, or a Markdown file it links to, names."""
    docs = Path(app.srcdir)
    root = docs.parent
    unread = [root / "README.md", *(path for kind in PAGES for path in docs.rglob(f"*{kind}"))]
    unread = [path for path in unread if not path.is_relative_to(docs / FOLDER)]
    written = set()
    while unread:
        page = unread.pop()
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            file = linked_file(page, target, root)
            name = None if file is None else page_name(file, docs)
            if file is None or name is None or not name.startswith(f"{FOLDER}/") or file in written:
                continue
            written.add(file)
            output, text = docs / name, page_text(file, root)
            if not output.exists() or output.read_text(encoding="utf-8") != text:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(text, encoding="utf-8")
            if file.suffix == ".md":
                unread.append(root / file)


def link_to_pages(docs: Path, page: Path, text: str) -> str:
    """Return the text of a page with links to the pages of the files that it names."""

    def replace(match: re.Match[str]) -> str:
        file = linked_file(page, match[1], docs.parent)
        name = None if file is None else page_name(file, docs)
        return match[0] if name is None else f"](/{name}{match[2] or ''})"

    return LINK.sub(replace, text)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Handle the event of a page that was read."""
    source[0] = link_to_pages(Path(app.srcdir), Path(app.env.doc2path(name)), source[0])


def read_included_file(app: Sphinx, path: Path, _parent: str, source: list[str]) -> None:
    """Handle the event of a file that a page includes; its path is relative to docs/."""
    source[0] = link_to_pages(Path(app.srcdir), app.srcdir / path, source[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the extension."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", read_page)
    app.connect("include-read", read_included_file)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
