"""A report as one web page that holds its pictures: `report.html` beside `report.md`."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path

from rlhydra.files import write_atomically

STYLE = """
:root { color-scheme: light dark; --line: #8885; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; border-bottom: 1px solid var(--line); }
pre { padding: 0.8rem; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; }
img { max-width: 100%; background: white; border-radius: 6px; }
h2 { margin-top: 2.5rem; }
"""


def write_page(report: Path) -> Path:
    """Write `report.html` beside the Markdown of `report`; return it."""
    # Imported here: it takes 0.1 s, and a trial that shows its result does without.
    from markdown import Markdown

    text = report.read_text(encoding="utf-8")
    text = re.sub(r"^\[[^\]]* as SVG\]\([^)]*\)\n\n", "", text, flags=re.MULTILINE)
    markdown = Markdown(extensions=["tables", "fenced_code"])
    # What a report quotes, such as an error, is text: nothing of it becomes a part of the page.
    markdown.preprocessors.deregister("html_block")
    markdown.inlinePatterns.deregister("html")
    body = re.sub(r'src="([^":]+\.png)"', lambda match: _inlined(report, match[1]), str(
        markdown.convert(text)
    ))  # fmt: skip
    title = escape(text.partition("\n")[0].lstrip("# "))
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )
    path = report.with_suffix(".html")
    write_atomically(path, page.encode())
    return path


def _inlined(report: Path, name: str) -> str:
    data = base64.b64encode((report.parent / name).read_bytes()).decode()
    return f'src="data:image/png;base64,{data}"'
