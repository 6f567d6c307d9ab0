"""Before something is lost the person is asked, through ``brolly mcp``, by clients of the handshake era as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import ElicitResult

from tests.e2e.pipes import INITIALIZE, call, pipes, read
from tests.e2e.processes import Machine, stdio


@pytest.fixture(scope="module")
def home(shared: Machine) -> Path:
    """A data folder whose server the first ``brolly mcp`` starts."""
    return shared.home()


async def test_the_person_is_asked_in_the_handshake_era_too(home: Path) -> None:
    """The model's own confirm: true does not count where the person can be asked."""
    asked: list[str] = []
    replies = [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"confirm": False}),
        ElicitResult(action="accept", content={"confirm": True}),
    ]

    async def answer(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return replies[len(asked) - 1]

    async with Client(stdio(home), mode="legacy", elicitation_callback=answer) as client:
        app_id = read(await client.call_tool("init_app", {"name": "doomed-early"}))["app_id"]
        delete = {"action": "delete", "app_id": app_id, "confirm": True}
        for reply in replies:
            done = await client.call_tool("manage_app", delete)
            agreed = reply is replies[-1]
            assert bool(done.is_error) is not agreed
            if not agreed:
                assert read(done)["error"]["code"] == "CONFIRMATION_REQUIRED"
                assert read(done)["error"]["message"] == "The user did not agree, so nothing was changed."
        listed = read(await client.call_tool("manage_app", {"action": "list"}))["apps"]
    assert app_id not in [app["id"] for app in listed]
    assert len(asked) == len(replies)
    assert all("doomed-early" in question for question in asked)


async def test_a_client_that_cannot_ask_confirms_itself(home: Path) -> None:
    async with Client(stdio(home), mode="legacy") as client:
        app_id = read(await client.call_tool("init_app", {"name": "doomed-silent"}))["app_id"]
        refused = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id})
        assert read(refused)["error"]["code"] == "CONFIRMATION_REQUIRED"
        done = await client.call_tool("manage_app", {"action": "delete", "app_id": app_id, "confirm": True})
        assert not done.is_error


def test_questions_are_told_apart_and_end_with_their_call(home: Path) -> None:
    capable = {**INITIALIZE["params"], "capabilities": {"elicitation": {}}}
    with pipes(home) as session:
        session.send({**INITIALIZE, "params": capable})
        session.answer("first")
        session.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        apps: list[str] = []
        for number in range(3):
            session.send(call(number, "init_app", name=f"doomed-{number}"))
            apps.append(json.loads(session.answer(number)["result"]["content"][0]["text"])["app_id"])
        session.send(*(call(f"delete {app}", "manage_app", action="delete", app_id=app) for app in apps))
        questions = [session.receive() for _ in apps]
        assert {q["method"] for q in questions} == {"elicitation/create"}
        assert questions[0]["params"]["requestedSchema"]["required"] == ["confirm"]
        ids = {app: q["id"] for app in apps for q in questions if f"doomed-{apps.index(app)}" in q["params"]["message"]}
        assert len(set(ids.values())) == 3

        params = {"requestId": f"delete {apps[0]}"}
        session.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        taken_back = session.receive()
        assert (taken_back["method"], taken_back["params"]["requestId"]) == ("notifications/cancelled", ids[apps[0]])
        late = {"action": "accept", "content": {"confirm": True}}
        session.send({"jsonrpc": "2.0", "id": ids[apps[0]], "result": late})
        session.send({"jsonrpc": "2.0", "id": ids[apps[2]], "result": late})
        assert not session.answer(f"delete {apps[2]}")["result"].get("isError")
        session.send({"jsonrpc": "2.0", "id": ids[apps[1]], "error": {"code": -32603, "message": "no window"}})
        refused = session.answer(f"delete {apps[1]}")["result"]
        assert "no window" in refused["content"][0]["text"]
        session.send(call("list", "manage_app", action="list"))
        left = session.answer("list")["result"]["content"][0]["text"]
        assert [app in left for app in apps] == [True, True, False]
