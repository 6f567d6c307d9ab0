"""Every tool has a page that names what exists, and every example on every page works as it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.core.pages import tool_pages
from brolly.deps import Deps
from brolly.docs.topics import TOPICS, pages
from brolly.registry import App
from tests.ai.conftest import stand_in
from tests.conftest import mcp_session
from tests.contract.examples import calls, run_examples
from tests.contract.mentions import TOOLS, wrong_names


@pytest.mark.parametrize("page", sorted(set(pages()) - {"manage_ai"}))
async def test_examples_work_as_the_page_says(page: str, deps: Deps, mcp: Any, app: App) -> None:
    await run_examples(pages()[page], deps, mcp, app)


async def test_examples_of_models_work_where_there_is_a_provider(deps: Deps, owner: Caller, app: App) -> None:
    async with stand_in() as provider:
        deps = replace(deps, settings=replace(deps.settings, ai_providers=provider.settings))
        async with mcp_session(deps, owner) as mcp:
            await run_examples(pages()["manage_ai"], deps, mcp, app)


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_page_shows_every_action(tool: str) -> None:
    shown = {(call["tool"], call["arguments"].get("action", "")) for call, code in calls(pages()[tool]) if code is None}
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
