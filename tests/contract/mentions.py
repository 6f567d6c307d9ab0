"""Finds tools and actions named in prose, and says which of them do not exist."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from brolly.core.tool import Tool
from brolly.slices import SLICES

TOOLS: Mapping[str, Tool] = {tool.name: tool for part in SLICES for tool in part.tools}
ACTIONS = {label for tool in TOOLS.values() for label in tool.actions if label}

# The names of the published tool set; what is not offered yet must not be recommended.
PUBLISHED = frozenset(
    [
        "init_app",
        "deploy_function",
        "invoke_function",
        "select_rows",
        "insert_row",
        "seed_database",
        "create_frontend_deployment",
        "rag_query",
        "query_audit_logs",
        "butterbase_docs",
        "submit_suggestion",
        "list_regions",
        "move_app",
        "move_app_status",
        "teardown_source_replica",
    ]
)
_TOOL = re.compile(r"\b(manage_[a-z_]+|" + "|".join(sorted(PUBLISHED, key=len, reverse=True)) + r")\b")
_AFTER = re.compile(r"^`?(?:,| with(?: the)?)* actions? `?([a-z_]+)`?|^ ([a-z_]+)")


def named_tools(text: str) -> list[str]:
    """The tools that the text names, whether they exist or not."""
    return _TOOL.findall(text)


def wrong_names(text: str) -> Iterator[str]:
    """What the text says about tools and actions that does not hold."""
    for match in _TOOL.finditer(text):
        name = match.group(1)
        if name not in TOOLS:
            yield f"{name} is not a tool"
            continue
        after = _AFTER.match(text[match.end() :])
        if after is None or TOOLS[name].standalone:
            continue
        stated, plain = after.groups()
        quoted = text[: match.start()].endswith("`") and text[match.end() :].split("\n")[0].count("`") > 0
        # "manage_app list" names an action; "manage_app call" is plain prose unless it stands in code.
        label = stated or (plain if quoted or plain in ACTIONS else None)
        if label is not None and label not in TOOLS[name].actions:
            yield f"{name} has no action {label}"
