"""The pages as HTML: self-contained, everything escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from importlib import resources

from markdown_it import MarkdownIt

from brolly.core.errors import CODES, Code
from brolly.docs.topics import TOPICS, pages, summary


@cache
def _style() -> str:
    return (resources.files("brolly.docs") / "style.css").read_text("utf-8")


@cache
def security_headers() -> dict[str, str]:
    """Headers that let the page use its own style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _document(title: str, body: str) -> str:
    links = " ".join(f'<a href="/docs/{name}">{name}</a>' for name in (*TOPICS, "errors"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} – Brolly</title>\n<style>{_style()}</style>\n</head>\n<body>\n"
        f'<nav><b><a href="/docs">Brolly</a></b> {links}</nav>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


@cache
def page_html(name: str) -> str:
    """A topic or tool page."""
    # Raw HTML stays text; links with unsafe schemes are dropped by the parser.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return _document(name, markdown.render(pages()[name]))


@cache
def index_html() -> str:
    """The list of all pages."""
    tools = [name for name in pages() if name not in TOPICS]
    return _document(
        "Documentation",
        f"<h1>Documentation</h1>\n{_list(list(TOPICS))}\n<h2>Tools</h2>\n{_list(tools)}\n"
        '<h2>Errors</h2>\n<p><a href="/docs/errors">Every error code</a>: what it means and what to do.</p>',
    )


def _list(names: list[str]) -> str:
    inline = MarkdownIt("commonmark", {"html": False}).disable("image").renderInline
    return "".join(
        f'<section><h2><a href="/docs/{name}">{name}</a></h2><p>{inline(summary(name))}</p></section>' for name in names
    )


@cache
def errors_html() -> str:
    """Every error code with its anchor, status, meaning and remedy."""
    intro = (
        "<h1>Error codes</h1>\n<p>Every failure has one form: <code>code</code>, <code>message</code>, "
        "<code>remediation</code> (what to do next), <code>documentation_url</code> (this page) and often "
        "<code>details</code>. Over HTTP it comes with the status shown here, over MCP as a result with "
        "<code>isError</code>.</p>\n"
    )
    return _document("Error codes", intro + "\n".join(_code(name, code) for name, code in CODES.items()))


def _code(name: str, code: Code) -> str:
    slug = name.lower().replace("_", "-")
    retired = ' <span class="dim">(no longer used)</span>' if code.retired else ""
    return (
        f'<section id="{slug}"><span class="status">HTTP {code.status}</span>'
        f'<h2><a href="#{slug}"><code>{name}</code></a>{retired}</h2>'
        f"<p>{escape(code.meaning)}</p><p><b>What to do:</b> {escape(code.remediation)}</p></section>"
    )
