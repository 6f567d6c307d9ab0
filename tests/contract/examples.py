"""The examples in pages and workflows: read from the Markdown, and run one after the other."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from brolly.deps import Deps
from brolly.rag.jobs import read_document
from brolly.registry import App
from tests.conftest import ToolFailed, http_client
from tests.hosting.zips import PAGE, upload, zipped

STAND_IN = "app_abc123"


def json_blocks(text: str) -> list[dict[str, Any]]:
    """The text's JSON blocks: calls, and the errors that the call before answers with."""
    tokens = MarkdownIt("commonmark").parse(text)
    return [json.loads(t.content) for t in tokens if t.type == "fence" and t.info.strip() == "json"]


def calls(text: str) -> list[tuple[dict[str, Any], str | None]]:
    """Each example call, with the code of the error that it is there to show."""
    found: list[tuple[dict[str, Any], str | None]] = []
    for block in json_blocks(text):
        if block.keys() == {"error"}:
            found[-1] = (found[-1][0], block["error"]["code"])
        else:
            assert block.keys() == {"tool", "arguments"}, f"neither a call nor an error: {block}"
            found.append((block, None))
    return found


def filled(value: Any, known: dict[str, str]) -> Any:
    """The example with the ids of this run: ``app_abc123``, and ``<name>`` for what an earlier result held."""
    text = json.dumps(value)
    for name, real in known.items():
        text = text.replace(name, real)
    return json.loads(text)


def remember(result: Any, known: dict[str, str]) -> None:
    """Keep a result's texts for the page's later examples."""
    if isinstance(result, dict):
        known |= {f"<{k}>": v for k, v in result.items() if isinstance(v, str) and v.isprintable() and '"' not in v}


async def send(deps: Deps, link: dict[str, Any], size: int) -> None:
    """What a client does between two calls: the bytes go to the URL."""
    async with http_client(deps) as client:
        answer = await client.put(link["upload_url"], content=bytes(size), headers=link["headers"])
    assert answer.status_code == 200, answer.text


async def follow(deps: Deps, arguments: dict[str, Any], result: Any, app: App) -> None:
    """What happens between two calls: a client sends the bytes, a worker reads the document."""
    if "maxSizeBytes" in result:
        assert (await upload(deps, result, zipped({"index.html": PAGE.format("Hello")}))).status_code == 200
    elif "upload_url" in result:
        await send(deps, result, arguments["size_bytes"])
    if arguments.get("action") == "ingest_document":
        await read_document(deps, {"app_id": app.id, "document_id": result["document_id"], "revision": 1}, 0)


async def run_examples(text: str, deps: Deps, mcp: Any, app: App) -> None:
    """Each does what it says: it works, or fails with the code that stands below it."""
    known = {STAND_IN: app.id}
    for block, code in calls(text):
        arguments = filled(block["arguments"], known)
        assert "<" not in re.sub(r"<[=>]|\s<\s", "", json.dumps(arguments)), f"nothing to fill in: {arguments}"
        if code is None:
            result = await mcp(block["tool"], **arguments)
            remember(result, known)
            await follow(deps, arguments, result, app)
            continue
        with pytest.raises(ToolFailed) as failed:
            await mcp(block["tool"], **arguments)
        assert failed.value.code == code, failed.value.error
