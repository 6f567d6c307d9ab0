"""submit_suggestion, by what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from brolly.core.caller import Caller
from brolly.deps import Deps
from brolly.registry import App
from brolly.suggestions.service import CONTEXT_LIMIT, HOURLY_LIMIT, TEXT_LIMIT
from tests.conftest import ToolFailed, make_owner, mcp_session

WISH = {"category": "feature_request", "description": "Let a pause end by itself."}


async def kept(deps: Deps, suggestion_id: str) -> dict[str, Any]:
    row = await deps.control.fetchrow("select * from brolly.suggestions where id = $1", suggestion_id)
    return dict(row)


async def refusal(mcp: Any, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as failed:
        await mcp("submit_suggestion", **arguments)
    return failed.value.error


async def test_a_suggestion_is_kept_whole(deps: Deps, owner: Caller, mcp: Any, app: App) -> None:
    sent = {
        **WISH,
        "severity": "low",
        "affected_tool": "manage_app",
        "proposed_solution": "A parameter until.",
        "source": "human_prompted",
        "app_id": app.id,
    }
    answer = (await mcp("submit_suggestion", **sent, agent_context={"model": "m", "deep": {"er": [1]}}))["suggestion"]
    assert answer == {**sent, "id": answer["id"], "status": "new", "created_at": answer["created_at"]}
    row = await kept(deps, answer["id"])
    assert str(row["account_id"]) == owner.account_id
    assert {name: row[name] for name in sent} == sent
    assert json.loads(row["agent_context"]) == {"model": "m", "deep": {"er": [1]}}
    assert row["status"] == "new"


async def test_the_least_is_enough(deps: Deps, mcp: Any) -> None:
    answer = (await mcp("submit_suggestion", **WISH))["suggestion"]
    row = await kept(deps, answer["id"])
    assert (row["source"], row["severity"], row["app_id"], row["agent_context"]) == ("agent", None, None, None)


async def test_the_callers_last_calls_go_along(deps: Deps, owner: Caller, mcp: Any, app: App) -> None:
    stranger, _ = await make_owner(deps)
    colleague, _ = await make_owner(deps, account=owner.account_id)
    for other in (stranger, colleague):
        async with mcp_session(deps, other) as theirs:
            await theirs("list_regions")
    for _ in range(25):
        await mcp("manage_app", action="get_config", app_id=app.id)
    with pytest.raises(ToolFailed):
        await mcp("manage_app", action="get_config", app_id="app_000000000000")
    answer = (await mcp("submit_suggestion", **WISH))["suggestion"]
    calls = json.loads((await kept(deps, answer["id"]))["recent_calls"])
    assert len(calls) == 20
    assert calls[0] == {
        "tool": "manage_app",
        "action": "get_config",
        "success": False,
        "code": "RESOURCE_NOT_FOUND",
        "created_at": calls[0]["created_at"],
    }
    assert {(c["tool"], c["success"]) for c in calls[1:]} == {("manage_app", True)}
    assert [c["created_at"] for c in calls] == sorted((c["created_at"] for c in calls), reverse=True)
    assert "recent_calls" not in answer


async def test_calls_of_another_hour_stay_out(deps: Deps, owner: Caller, mcp: Any) -> None:
    await mcp("list_regions")
    await deps.control.execute(
        "update brolly.audit_log set created_at = created_at - interval '61 minutes' where actor_id = $1", owner.key_id
    )
    answer = (await mcp("submit_suggestion", **WISH))["suggestion"]
    assert json.loads((await kept(deps, answer["id"]))["recent_calls"]) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"category": "praise"}, "VALIDATION_INVALID_SCHEMA"),
        ({"category": None}, "VALIDATION_MISSING_FIELD"),
        ({"description": "too short"}, "VALIDATION_INVALID_SCHEMA"),
        ({"description": "x" * (TEXT_LIMIT + 1)}, "VALIDATION_INVALID_SCHEMA"),
        ({"proposed_solution": "x" * (TEXT_LIMIT + 1)}, "VALIDATION_INVALID_SCHEMA"),
        ({"affected_tool": "x" * 101}, "VALIDATION_INVALID_SCHEMA"),
        ({"severity": "urgent"}, "VALIDATION_INVALID_SCHEMA"),
        ({"source": "robot"}, "VALIDATION_INVALID_SCHEMA"),
        ({"agent_context": "text"}, "VALIDATION_INVALID_SCHEMA"),
        ({"agent_context": {"x": "y" * CONTEXT_LIMIT}}, "VALIDATION_INVALID_SCHEMA"),
        ({"app_id": "app_000000000000"}, "RESOURCE_NOT_FOUND"),
        ({"title": "x"}, "VALIDATION_INVALID_SCHEMA"),
    ],
)
async def test_what_is_wrong_is_not_kept(
    deps: Deps, owner: Caller, mcp: Any, change: dict[str, Any], code: str
) -> None:
    assert (await refusal(mcp, **(WISH | change)))["code"] == code
    count = "select count(*) from brolly.suggestions where account_id = $1"
    assert await deps.control.fetchval(count, owner.account_id) == 0


async def test_somebody_elses_app_is_not_found(deps: Deps, app: App) -> None:
    stranger, _ = await make_owner(deps)
    async with mcp_session(deps, stranger) as theirs:
        assert (await refusal(theirs, **WISH, app_id=app.id))["code"] == "RESOURCE_NOT_FOUND"


async def test_a_key_for_one_app_may_suggest(deps: Deps, owner: Caller, app: App) -> None:
    scoped, _ = await make_owner(deps, (f"app:{app.id}",), owner.account_id)
    async with mcp_session(deps, scoped) as call:
        assert (await call("submit_suggestion", **WISH))["suggestion"]["status"] == "new"


async def test_a_loop_does_not_fill_the_table(deps: Deps, owner: Caller, mcp: Any) -> None:
    for _ in range(HOURLY_LIMIT):
        await mcp("submit_suggestion", **WISH)
    error = await refusal(mcp, **WISH)
    assert error["code"] == "QUOTA_RATE_LIMIT"
    assert 3000 < error["details"]["retry_after"] <= 3600
    await deps.control.execute(
        "update brolly.suggestions set created_at = created_at - interval '1 hour' where account_id = $1",
        owner.account_id,
    )
    assert await mcp("submit_suggestion", **WISH)


async def test_a_suggestion_is_audited_without_its_words(deps: Deps, owner: Caller, mcp: Any) -> None:
    await mcp("submit_suggestion", **WISH)
    row = await deps.control.fetchrow(
        "select * from brolly.audit_log where account_id = $1 and event_type = 'suggestion.create'", owner.account_id
    )
    assert (row["action"], row["success"], row["app_id"]) == ("create", True, "_platform")
    assert "pause" not in row["event_data"]
