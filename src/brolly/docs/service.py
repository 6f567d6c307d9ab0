"""What can be read."""

from __future__ import annotations

import difflib

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import Params
from brolly.deps import Deps
from brolly.docs.search import rank, snippet
from brolly.docs.topics import ALL, TOPICS, pages, summary
from brolly.engines.embedding import LocalModel

LISTED = 5
SNIPPET = 160
QUERY_LIMIT = 500


class ReadDocs(Params):
    """Parameters of butterbase_docs. A tool's name is a topic as well, but not worth advertising."""

    topic: str | None = Field(None, json_schema_extra={"enum": [ALL, *TOPICS]})
    query: str | None = Field(None, max_length=QUERY_LIMIT)


async def read_docs(deps: Deps, caller: Caller, params: ReadDocs) -> str:
    """A page, the list of pages, or what fits the words; a topic wins over words."""
    if params.topic is not None and params.topic != ALL:
        return page(params.topic)
    if params.topic is None and params.query is not None and params.query.strip():
        return await search(deps.local_model, params.query.strip())
    return contents()


def page(name: str) -> str:
    """A topic or a tool's page. Raises ``VALIDATION_INVALID_SCHEMA`` with the nearest name."""
    if name in pages():
        return pages()[name]
    near = difflib.get_close_matches(name, pages(), 1)
    raise AppError(
        "VALIDATION_INVALID_SCHEMA",
        f"There is no topic {name!r}." + (f" Did you mean {near[0]}?" if near else ""),
        remediation="Call butterbase_docs without parameters for the list of topics, or with query to search.",
        details={"allowed": [ALL, *pages()]},
    )


def contents() -> str:
    """The list of topics and tool pages, one line each."""
    tools = [name for name in pages() if name not in TOPICS]
    lines = ["# Topics", *(f"- {topic}: {summary(topic)}" for topic in TOPICS)]
    lines += ["", "# Tools (query: the name)", *(f"- {name}: {summary(name)}" for name in tools)]
    return "\n".join(lines)


async def search(model: LocalModel, query: str) -> str:
    """At most five sections with a snippet each, and the best of them in full."""
    name = query.lower().replace(" ", "_")
    if name in pages():
        return pages()[name]
    found = await rank(model, query, LISTED)
    if not found:
        return f"Nothing fits {query!r}.\n\n{contents()}"
    best = found[0]
    listed = [f"{n}. {s.page} > {s.heading}: {snippet(s, query, SNIPPET)}" for n, s in enumerate(found, 1)]
    return "\n".join([*listed, "", f"# {best.page} > {best.heading}", "", best.text])
