"""What the tool table tells the audit log: every outcome once, under which names and which app."""

from __future__ import annotations

from typing import Any

import pytest

from brolly.core.errors import AppError
from brolly.core.tool import Action, Tool
from brolly.core.tool import refused as record_refused
from tests.unit.test_tool import BUILD, OWNER, Find, Host, call, echo, refused


async def test_every_outcome_is_recorded_once() -> None:
    host = Host()
    await call(host=host, action="make", app_id="x", table_name="t", columns=["secret"])
    await refused(host=host, action="make", app_id="x")
    await refused(host=host, action="drop", app_id="y", table_name="t")
    with pytest.raises(RuntimeError):
        await call(host=host, action="break", app_id="z")
    assert [(e.app_id, e.event_type, e.action, e.success) for e in host.events] == [
        ("x", "thing.create", "create", True),
        ("_platform", "thing.create", "create", False),
        ("y", "thing.drop", "delete", False),
        ("z", "thing.break", "update", False),
    ]
    assert [e.event_data.get("code") for e in host.events] == [
        None,
        "VALIDATION_MISSING_FIELD",
        "CONFIRMATION_REQUIRED",
        "INTERNAL_ERROR",
    ]
    assert host.events[2].resource_id == "t"
    assert all(e.durable for e in host.events)
    assert all(e.event_data["duration_ms"] >= 0 for e in host.events)
    assert "secret" not in str([e.event_data for e in host.events])
    assert host.events[3].error_message == "internal error"


async def test_a_call_that_reaches_no_action_is_recorded() -> None:
    host = Host()
    wrongs: list[dict[str, Any]] = [{"action": "fnd", "app_id": "app_1"}, {"app_id": "x"}, {"action": ["find"]}]
    codes = [(await refused(host=host, **wrong)).code for wrong in wrongs]
    unknown = AppError("VALIDATION_INVALID_SCHEMA", "There is no tool 'zz'.")
    await record_refused(host, OWNER, "zz", {"app_id": "app_1"}, unknown)
    assert [
        (e.app_id, e.event_data["tool"], e.event_data.get("action"), e.event_data["code"]) for e in host.events
    ] == [
        ("app_1", "manage_things", "fnd", codes[0]),
        ("_platform", "manage_things", None, codes[1]),
        ("_platform", "manage_things", None, codes[2]),
        ("app_1", "zz", None, unknown.code),
    ]
    assert {(e.event_type, e.action, e.resource_type, e.success) for e in host.events} == {
        ("tool.refused", "invoke", "tool", False)
    }
    assert [e.resource_id for e in host.events] == ["manage_things"] * 3 + ["zz"]


@pytest.mark.parametrize(
    ("app_id", "filed"),
    [("app_1", "app_1"), ("x", "_platform"), (7, "_platform"), ("app_" + "x" * 100, "_platform"), (None, "_platform")],
)
async def test_a_call_with_wrong_arguments_is_filed_under_the_app_it_names(app_id: Any, filed: str) -> None:
    host = Host()
    await refused(host=host, action="make", app_id=app_id)
    assert [e.app_id for e in host.events] == [filed]


async def test_names_in_the_log_may_follow_from_the_call() -> None:
    host = Host()
    action = Action(
        echo,
        Find,
        event=lambda p, r: "view.all" if p is None or p.kind is None else "view.kind",
        verb=lambda p, r: "read" if p is None else "create",
        target=lambda p, r: r and r["limit"],
        platform=True,
    )
    tool = Tool("look", "Look", "Look around.", {"": action}, resource="view")
    await call(tool, host=host, app_id="app_1", kind="fancy", limit=5)
    await refused(tool, host=host, app_id="app_1", limit=0)
    assert [(e.app_id, e.event_type, e.action, e.resource_id) for e in host.events] == [
        ("_platform", "view.kind", "create", "5"),
        ("_platform", "view.all", "read", None),
    ]


async def test_whom_a_call_acted_as_is_recorded() -> None:
    host = Host()
    await call(BUILD, host=host, app_id="x", parts=[{"name": "a"}], as_role="user", as_user="u\x00\ud800" + "x" * 300)
    await call(BUILD, host=host, app_id="x", parts=[{"name": "a"}])
    first, second = host.events
    assert first.event_data["as_role"] == "user"
    assert first.event_data["as_user"] == first.resource_id == "u??" + "x" * 197
    assert {"as_role", "as_user"}.isdisjoint(second.event_data)
