"""What a client is told about the tools: portable, honest, small, always the same, without the network."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from mcp import Client
from mcp.types import Tool as Listed

from brolly.core.caller import Caller
from brolly.core.flat_schema import Schema, flat_object
from brolly.core.tool import DESTROY, READ, Action, AppParams, Tool
from brolly.deps import Deps
from brolly.mcp_server import BrollyServer
from tests.contract.mentions import TOOLS

# The whole list for all 32 tools is to stay under 20,000 characters.
BUDGET_PER_TOOL = 620
DESCRIPTION_LIMIT = 2000

ROOT_KEYS = {"type", "properties", "required", "additionalProperties"}
NODE_KEYS = {"type", "description", "enum", "items", "properties", "required"}
TYPES = {"string", "integer", "number", "boolean", "array", "object"}
# Cursor counts server and tool together up to 60; Gemini prefixes both up to 63.
NAME = re.compile(r"^[a-z][a-z0-9_]{0,49}$")
KEY = re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")


def wrong_in_node(node: Any, where: str) -> Iterator[str]:
    """What model APIs or clients would refuse in one schema, and below it."""
    if not isinstance(node, dict) or not node:
        yield f"{where}: a schema must be a non-empty object"
        return
    kind = node.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        yield f"{where}: type is {kind!r}"
    yield from (f"{where}: {key} is not portable" for key in node.keys() - NODE_KEYS)
    if "enum" in node and (kind != "string" or not all(isinstance(v, str) and v for v in node["enum"])):
        yield f"{where}: enum must list texts, with type string"
    if (kind == "array") != ("items" in node):
        yield f"{where}: items and arrays belong together"
    if "items" in node:
        yield from wrong_in_node(node["items"], f"{where}[]")
    yield from wrong_in_properties(node, where)


def wrong_in_properties(node: Schema, where: str) -> Iterator[str]:
    properties: dict[str, Any] = node.get("properties", {})
    for name, below in properties.items():
        if not KEY.match(name):
            yield f"{where}: the key {name!r} is refused by some model APIs"
        yield from wrong_in_node(below, f"{where}.{name}")
    yield from (
        f"{where}: requires {n}, which it does not have" for n in node.get("required", ()) if n not in properties
    )


def wrong_in_root(schema: Schema, where: str) -> Iterator[str]:
    """As below, and only what is needed at the root."""
    yield from (f"{where}: {key} is not portable at the root" for key in schema.keys() - ROOT_KEYS)
    if schema.get("type") != "object" or schema.get("additionalProperties") is not False:
        yield f"{where}: the root must be an object that refuses unknown keys"
    yield from wrong_in_properties(schema, where)


def wrong_in_tool(tool: Listed, actions: dict[str, Action]) -> Iterator[str]:
    """Everything that is wrong with one tool as listed."""
    if not NAME.match(tool.name):
        yield f"{tool.name}: bad name"
    if not 10 <= len(tool.description or "") <= DESCRIPTION_LIMIT:
        yield f"{tool.name}: {len(tool.description or '')} characters of description"
    if tool.output_schema is not None or tool.title is not None:
        yield f"{tool.name}: pays for an output schema or a second title"
    yield from wrong_in_root(tool.input_schema, tool.name)
    hints = tool.annotations
    if hints is None or not hints.title:
        yield f"{tool.name}: no title"
        return
    effects = {action.effect for action in actions.values()}
    if hints.read_only_hint is not (effects == {READ}):
        yield f"{tool.name}: readOnlyHint is {hints.read_only_hint}, its effects are {sorted(effects)}"
    # The protocol's default for destructiveHint is true, so only what reads alone may leave it out.
    if effects != {READ} and hints.destructive_hint is not (DESTROY in effects):
        yield f"{tool.name}: destructiveHint is {hints.destructive_hint}, its effects are {sorted(effects)}"


def as_sent(tools: list[Listed]) -> list[str]:
    """Each tool as it goes over the wire: compact JSON."""
    return [
        json.dumps(
            t.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"), ensure_ascii=False
        )
        for t in tools
    ]


async def listed(deps: Deps, caller: Caller, **client: Any) -> list[Listed]:
    """The tools as an MCP client receives them."""
    async with Client(BrollyServer(deps, caller), **client) as session:
        result = await session.list_tools()
        assert result.next_cursor is None
        return result.tools


async def test_every_tool_is_portable_and_honest(deps: Deps, owner: Caller) -> None:
    tools = await listed(deps, owner)
    assert [t.name for t in tools] == list(TOOLS)
    assert not [wrong for t in tools for wrong in wrong_in_tool(t, dict(TOOLS[t.name].actions))]


async def test_the_list_fits_its_budget(deps: Deps, owner: Caller) -> None:
    sizes = {json.loads(text)["name"]: len(text) for text in as_sent(await listed(deps, owner))}
    # As in the answer: with what stands around and between the tools.
    total = sum(sizes.values()) + len(sizes) - 1 + len('{"tools":[]}')
    assert total <= BUDGET_PER_TOOL * len(sizes), f"{total} characters, {total / len(sizes):.0f} per tool: {sizes}"


async def test_the_list_is_the_same_each_time_and_in_both_eras(deps: Deps, owner: Caller) -> None:
    first, again = as_sent(await listed(deps, owner)), as_sent(await listed(deps, owner))
    assert first == again
    # The older era's client reads into other models, which give the keys another order.
    older = as_sent(await listed(deps, owner, mode="legacy"))
    assert [json.loads(text) for text in first] == [json.loads(text) for text in older]


async def test_the_list_needs_no_network(deps: Deps, owner: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tools/list opened a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert await listed(deps, owner)


async def test_a_read_only_key_is_offered_reads_alone(deps: Deps, owner: Caller) -> None:
    reader = replace(owner, scopes=frozenset({"*", "read"}))
    tools = await listed(deps, reader)
    reads = {n: {k: a for k, a in t.actions.items() if a.effect is READ} for n, t in TOOLS.items()}
    assert [t.name for t in tools] == [name for name in TOOLS if reads[name]]
    for tool in tools:
        assert not list(wrong_in_tool(tool, reads[tool.name]))
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        offered = tool.input_schema["properties"].get("action", {}).get("enum", [""])
        assert offered == list(reads[tool.name])
        for label in TOOLS[tool.name].actions.keys() - reads[tool.name].keys():
            assert f"- {label}(" not in (tool.description or "")
        assert "confirm" not in tool.input_schema["properties"]


@pytest.mark.parametrize(
    "planted",
    [
        {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        {"a": {"type": ["string", "null"]}},
        {"a": {"type": "integer", "enum": [1, 2]}},
        {"a": {"enum": ["x"]}},
        {"a": {"type": "array"}},
        {"a": {"type": "array", "items": {}}},
        {"a": {"$ref": "#/$defs/A"}},
        {"a": {"type": "string", "maxLength": 5}},
        {"a": {"type": "object", "additionalProperties": {"type": "string"}}},
        {"a": {"type": "object", "properties": {"b": {}}}},
        {"a b": {"type": "string"}},
        {"a": True},
    ],
)
def test_the_lint_finds_what_clients_refuse(planted: dict[str, Any]) -> None:
    assert list(wrong_in_root(flat_object(planted, []), "planted"))


def test_the_lint_finds_a_dishonest_hint() -> None:
    async def nothing(*_: Any) -> None: ...

    tool = Tool("drop_it", "Drop", "Drops everything there is.", {"": Action(nothing, AppParams, effect=DESTROY)}, "x")
    hints = {"title": "Drop", "readOnlyHint": False, "destructiveHint": False}
    told = Listed.model_validate(
        {"name": tool.name, "description": tool.describe(), "inputSchema": tool.input_schema(), "annotations": hints}
    )
    assert [w for w in wrong_in_tool(told, dict(tool.actions)) if "destructiveHint" in w]
