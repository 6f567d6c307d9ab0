"""Every tool has a page that names what exists, and every example on every page works as it says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from brolly.core.pages import tool_pages
from brolly.deps import Deps
from brolly.docs.topics import TOPICS, pages
from brolly.rag.jobs import read_document
from brolly.registry import App
from tests.conftest import ToolFailed, http_client
from tests.contract.mentions import TOOLS, wrong_names
from tests.hosting.zips import PAGE, upload, zipped

STAND_IN = "app_abc123"


def json_blocks(page: str) -> list[dict[str, Any]]:
    """The page's JSON blocks: calls, and the errors that the call before answers with."""
    tokens = MarkdownIt("commonmark").parse(pages()[page])
    return [json.loads(t.content) for t in tokens if t.type == "fence" and t.info.strip() == "json"]


def calls(page: str) -> list[tuple[dict[str, Any], str | None]]:
    """Each example call, with the code of the error that it is there to show."""
    found: list[tuple[dict[str, Any], str | None]] = []
    for block in json_blocks(page):
        if block.keys() == {"error"}:
            found[-1] = (found[-1][0], block["error"]["code"])
        else:
            assert block.keys() == {"tool", "arguments"}, f"{page}: neither a call nor an error: {block}"
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


@pytest.mark.parametrize("page", sorted(pages()))
async def test_examples_work_as_the_page_says(page: str, deps: Deps, mcp: Any, app: App) -> None:
    known = {STAND_IN: app.id}
    for block, code in calls(page):
        arguments = filled(block["arguments"], known)
        assert "<" not in re.sub(r"<[=>]|\s<\s", "", json.dumps(arguments)), f"nothing to fill in: {arguments}"
        if code is None:
            result = await mcp(block["tool"], **arguments)
            remember(result, known)
            if "maxSizeBytes" in result:
                assert (await upload(deps, result, zipped({"index.html": PAGE.format("Hello")}))).status_code == 200
            elif "upload_url" in result:
                await send(deps, result, arguments["size_bytes"])
            if arguments.get("action") == "ingest_document":
                # As a server's worker does it.
                await read_document(deps, {"app_id": app.id, "document_id": result["document_id"], "revision": 1}, 0)
            continue
        with pytest.raises(ToolFailed) as failed:
            await mcp(block["tool"], **arguments)
        assert failed.value.code == code, failed.value.error


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_page_shows_every_action(tool: str) -> None:
    shown = {(call["tool"], call["arguments"].get("action", "")) for call, code in calls(tool) if code is None}
    missing = [label for label in TOOLS[tool].actions if (tool, label) not in shown]
    assert not missing, f"tools/{tool}.md has no working example of: {', '.join(missing)}"


@pytest.mark.parametrize("page", sorted(pages()))
def test_a_page_names_only_what_exists(page: str) -> None:
    assert not list(wrong_names(pages()[page]))


def test_every_page_belongs_to_a_tool() -> None:
    assert set(tool_pages()) == set(TOOLS)
    assert set(pages()) == set(TOOLS) | set(TOPICS)


@pytest.mark.parametrize("page", sorted(pages()))
def test_a_page_begins_with_title_and_summary(page: str) -> None:
    title, blank, first, *_ = pages()[page].splitlines()
    assert title.startswith("# ")
    assert not blank
    assert first
    assert not first.startswith(("#", "-", "|", "`" * 3))


def test_names_that_do_not_exist_are_found() -> None:
    assert list(wrong_names("Call manage_app with action lst.")) == ["manage_app has no action lst"]
    assert list(wrong_names("Call manage_app, action revoke.")) == ["manage_app has no action revoke"]
    assert list(wrong_names("See `manage_app lst`.")) == ["manage_app has no action lst"]
    assert list(wrong_names("Call manage_app revoke.")) == ["manage_app has no action revoke"]
    assert list(wrong_names("Call manage_apps list.")) == ["manage_apps is not a tool"]
    assert not list(wrong_names("Repeat the manage_app call; manage_app list, `manage_app` with action `pause`."))
