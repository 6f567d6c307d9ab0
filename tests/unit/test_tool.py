"""The tool table: how a call finds its action, how arguments are read, what is refused and how it is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from pydantic import AwareDatetime, Field

from brolly.core.caller import Caller, anonymous
from brolly.core.errors import AppError
from brolly.core.habits import instead_of
from brolly.core.settings import Settings, load_settings
from brolly.core.tool import DESTROY, READ, Action, AppParams, AuditEvent, Params, Pending, Tool


class Find(AppParams):
    limit: int = Field(20, ge=1, le=100)
    kind: Literal["plain", "fancy"] | None = None
    note: str | None = None


class Make(AppParams):
    table_name: str
    columns: list[str]
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    note: str | None = None


class Drop(AppParams):
    table_name: str


class Part(Params):
    name: str = Field(min_length=1, max_length=5)


class Build(AppParams):
    parts: list[Part] = Field(min_length=1, max_length=2)
    whole: bool = False
    when: AwareDatetime | None = None
    as_role: Literal["anon", "user"] | None = None
    as_user: str | None = None


def text(value: Any) -> dict[str, Any]:
    return value.model_dump(exclude_unset=True)


async def echo(host: Any, caller: Caller, params: Params) -> dict[str, Any]:
    return text(params)


async def fail(host: Any, caller: Caller, params: Params) -> None:
    raise RuntimeError("bang")


async def two_rows(host: Any, caller: Caller, params: Drop) -> str | None:
    return None if params.table_name == "empty" else f"Drop {params.table_name} with 2 rows?"


TOOL = Tool(
    "manage_things",
    "Manage things",
    "Things of an app.",
    {
        "find": Action(echo, Find, effect=READ),
        "make": Action(echo, Make, "columns: names", idempotent=False, event="thing.create", verb="create"),
        "drop": Action(echo, Drop, effect=DESTROY, loses=two_rows, target="table_name"),
        "break": Action(fail, AppParams),
    },
    resource="thing",
    aliases={"search": "find"},
)
ALONE = Tool("look", "Look", "Look around.", {"": Action(echo, Find, effect=READ)}, resource="view")
BUILD = Tool("build", "Build", "Build it.", {"": Action(echo, Build, target="as_user")}, resource="building")
OWNER = Caller("service", account_id="a", key_id="k", scopes=frozenset({"*"}))


@dataclass
class Host:
    """What ``Deps`` gives to a tool."""

    settings: Settings = field(default_factory=lambda: load_settings({}))
    events: list[AuditEvent] = field(default_factory=list)

    async def record(self, event: AuditEvent) -> None:
        self.events.append(event)


async def agree(question: str, given: bool, call: str) -> None:
    if not given:
        raise AppError("CONFIRMATION_REQUIRED", question, details={"call": call})


async def call(tool: Tool = TOOL, caller: Caller = OWNER, host: Host | None = None, **arguments: Any) -> Any:
    return await tool.call(host or Host(), caller, arguments, agree)


async def refused(tool: Tool = TOOL, caller: Caller = OWNER, host: Host | None = None, **arguments: Any) -> AppError:
    with pytest.raises(AppError) as failed:
        await call(tool, caller, host, **arguments)
    return failed.value


async def test_the_action_picks_the_function_and_its_parameters() -> None:
    assert await call(action="find", app_id="x", limit=5) == {"app_id": "x", "limit": 5}
    assert await call(ALONE, app_id="x") == {"app_id": "x"}


async def test_an_alias_runs_the_renamed_action_and_is_recorded_under_its_name() -> None:
    host = Host()
    assert await call(host=host, action="search", app_id="x") == {"app_id": "x"}
    assert host.events[0].event_data["action"] == "find"
    assert "search" not in TOOL.input_schema()["properties"]["action"]["enum"]


@pytest.mark.parametrize(
    ("action", "hint"), [("fnd", "Did you mean find?"), ("Make", "Did you mean make?"), ("weather", "")]
)
async def test_an_unknown_action_is_answered_with_the_nearest_and_all(action: str, hint: str) -> None:
    error = await refused(action=action, app_id="x")
    assert error.code == "VALIDATION_INVALID_SCHEMA"
    assert error.message.endswith(hint or f"{action!r}.")
    assert error.remediation == "Call manage_things with action set to one of: find, make, drop, break."
    assert error.details is None


@pytest.mark.parametrize("arguments", [{}, {"action": None}])
async def test_a_missing_action_is_said(arguments: dict[str, Any]) -> None:
    error = await refused(**arguments)
    assert error.code == "VALIDATION_MISSING_FIELD"
    assert "action is missing" in error.message


@pytest.mark.parametrize("action", [7, ["find"], {"name": "find"}, True, ""])
async def test_an_action_that_is_no_name_is_refused(action: Any) -> None:
    assert (await refused(action=action, app_id="x")).code == "VALIDATION_INVALID_SCHEMA"


@pytest.mark.parametrize(
    ("sent", "near"), [("table", "table_name"), ("tableName", "table_name"), ("colums", "columns"), ("zzz", "")]
)
async def test_an_unknown_parameter_is_named_with_the_nearest(sent: str, near: str) -> None:
    unknown: dict[str, Any] = {sent: 1}
    error = await refused(action="make", app_id="x", table_name="t", columns=[], **unknown)
    assert error.code == "VALIDATION_INVALID_SCHEMA"
    assert f"{sent} does not belong here" in error.message
    assert (f"Did you mean {near}?" in error.message) == bool(near)
    assert not error.message.endswith("?.")
    assert error.remediation == (
        "Call manage_things with action make and app_id, table_name, columns, options?, note?."
    )
    assert error.details is None


async def test_a_parameter_of_another_action_is_refused() -> None:
    error = await refused(action="drop", app_id="x", table_name="t", limit=5)
    assert "limit does not belong here" in error.message


async def test_everything_that_is_wrong_is_said_at_once() -> None:
    error = await refused(action="make", columns=3, tableName="t")
    assert error.code == "VALIDATION_MISSING_FIELD"
    for part in ("app_id is missing", "table_name is missing", "columns: ", "tableName does not belong here"):
        assert part in error.message
    assert error.remediation == (
        "Call manage_things with action make and app_id, table_name, columns, options?, note?."
    )


@pytest.mark.parametrize("limit", [0, 101, "many", 2.5])
async def test_limits_that_are_not_advertised_hold_all_the_same(limit: Any) -> None:
    assert "maximum" not in TOOL.input_schema()["properties"]["limit"]
    assert "limit: " in (await refused(action="find", app_id="x", limit=limit)).message


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parts": [3]}, "parts.0: must be an object."),
        ({"parts": 3}, "parts: must be an array."),
        ({"parts": []}, "parts: has 0 items, at least 1."),
        ({"parts": [{"name": "a"}] * 3}, "parts: has 3 items, at most 2."),
        ({"parts": [{"name": ""}]}, "parts.0.name: must not be empty."),
        ({"parts": [{"name": "abcdef"}]}, "parts.0.name: has more than 5 characters."),
        ({"parts": [{"name": 1}]}, "parts.0.name: must be a text."),
        ({"parts": [{}]}, "parts.0.name is missing."),
        ({"whole": "perhaps"}, "whole: must be true or false."),
        ({"when": "2026-01-01T00:00:00"}, "when: must be a time with a zone, such as 2026-01-31T12:00:00Z."),
        ({"as_role": "admin"}, "as_role: must be 'anon' or 'user'."),
        ({"as_role": "service"}, "as_role: must be 'anon' or 'user'; leave as_role out to act as service."),
    ],
)
async def test_what_is_wrong_is_said_in_the_words_of_json(wrong: dict[str, Any], said: str) -> None:
    error = await refused(BUILD, **({"app_id": "x", "parts": [{"name": "a"}]} | wrong))
    assert error.message == f"build: {said}"


async def test_each_problem_is_a_sentence_of_its_own() -> None:
    error = await refused(action="make", app_id="x", columns=3, tableName="t")
    assert error.message == (
        "manage_things make: table_name is missing. columns: must be an array. "
        "tableName does not belong here. Did you mean table_name?"
    )


async def test_the_form_of_a_call_that_asks_names_confirm() -> None:
    error = await refused(action="drop", app_id="x")
    assert error.remediation == "Call manage_things with action drop and app_id, table_name, confirm?."


async def test_arrays_and_objects_may_come_as_json_text() -> None:
    made = await call(action="make", app_id="x", table_name="t", columns='["a", "b"]', options='{"deep": {"er": 1}}')
    assert made["columns"] == ["a", "b"]
    assert made["options"] == {"deep": {"er": 1}}


@pytest.mark.parametrize("columns", ["a, b", "[", '{"a": 1}', "7"])
async def test_text_that_is_not_the_json_needed_is_refused(columns: str) -> None:
    assert "columns: " in (await refused(action="make", app_id="x", table_name="t", columns=columns)).message


async def test_json_in_a_text_parameter_stays_text() -> None:
    assert (await call(action="drop", app_id="x", table_name="[1]", confirm=True))["table_name"] == "[1]"


async def test_null_and_blank_optionals_count_as_left_out() -> None:
    blank: dict[str, Any] = {"limit": "", "kind": "", "note": ""}
    assert await call(action="find", app_id="x", **blank) == {"app_id": "x"}
    nulls: dict[str, Any] = dict.fromkeys(blank)
    assert await call(action="find", app_id="x", **nulls) == {"app_id": "x"}


async def test_blank_text_where_text_is_needed_arrives() -> None:
    assert (await call(action="drop", app_id="x", table_name="", confirm=True))["table_name"] == ""


async def test_a_blank_unknown_parameter_is_still_unknown() -> None:
    assert "limt does not belong here" in (await refused(action="find", app_id="x", limt="")).message


async def test_what_is_lost_is_asked_for_first() -> None:
    error = await refused(action="drop", app_id="x", table_name="t")
    assert (error.code, error.message) == ("CONFIRMATION_REQUIRED", "Drop t with 2 rows?")
    assert error.details == {"call": "manage_things drop"}
    assert await call(action="drop", app_id="x", table_name="t", confirm=True) == {"app_id": "x", "table_name": "t"}
    assert await call(action="drop", app_id="x", table_name="empty") == {"app_id": "x", "table_name": "empty"}


@pytest.mark.parametrize("confirm", ["true", 1, "yes", [True]])
async def test_only_true_confirms(confirm: Any) -> None:
    assert (await refused(action="drop", app_id="x", table_name="t", confirm=confirm)).code == "CONFIRMATION_REQUIRED"


async def test_confirm_is_unknown_where_nothing_is_ever_lost() -> None:
    assert "confirm does not belong here" in (await refused(ALONE, app_id="x", confirm=True)).message


async def test_read_only_hides_and_refuses_what_changes() -> None:
    reader = Caller("service", account_id="a", scopes=frozenset({"*", "read"}))
    for caller, host in ((reader, Host()), (OWNER, Host(load_settings({}, read_only=True)))):
        assert (
            await refused(caller=caller, host=host, action="drop", app_id="x", table_name="t")
        ).code == "AUTH_FORBIDDEN"
        assert (await refused(caller=caller, host=host, action="nope")).remediation.endswith(" one of: find.")
        assert await call(caller=caller, host=host, action="find", app_id="x") == {"app_id": "x"}
        assert [e.success for e in host.events] == [False, False, True]
    assert list(TOOL.input_schema(read_only=True)["properties"]) == ["action", "app_id", "limit", "kind", "note"]
    assert TOOL.describe(read_only=True) == "Things of an app.\n- find(limit?, kind?, note?)"
    assert TOOL.annotations(read_only=True)["readOnlyHint"] is True


@pytest.mark.parametrize("caller", [anonymous(), Caller("user", user_id="u")])
async def test_a_tool_needs_a_service_key(caller: Caller) -> None:
    assert (await refused(caller=caller, action="find", app_id="x")).code == "AUTH_REQUIRED"


def test_the_description_is_a_sentence_and_a_signature_per_action() -> None:
    assert TOOL.describe().splitlines() == [
        "Things of an app.",
        "- find(limit?, kind?, note?)",
        "- make(table_name, columns, options?, note?) columns: names",
        "- drop(table_name, confirm?)",
        "- break()",
    ]
    assert ALONE.describe() == "Look around."


def test_the_schema_is_one_flat_object() -> None:
    schema = TOOL.input_schema()
    assert schema["required"] == ["action", "app_id"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["kind"] == {"type": "string", "enum": ["plain", "fancy"]}
    assert schema["properties"]["columns"] == {"type": "array", "items": {"type": "string"}}
    assert schema["properties"]["confirm"] == {"type": "boolean"}
    assert ALONE.input_schema()["required"] == ["app_id"]


def test_annotations_follow_from_the_effects() -> None:
    assert TOOL.annotations() == {"title": "Manage things", "readOnlyHint": False, "destructiveHint": True}
    assert ALONE.annotations() == {"title": "Look", "readOnlyHint": True}


def test_one_name_with_two_meanings_stops_the_start() -> None:
    class Other(AppParams):
        limit: str

    with pytest.raises(TypeError, match="t b: limit means something else in another action"):
        Tool("t", "T", "T.", {"a": Action(echo, Find), "b": Action(echo, Other)}, resource="t")


@pytest.mark.parametrize(
    ("scopes", "why"),
    [
        ({"*", "read"}, "This key has the scope read"),
        ({"*", "read", "read:client"}, "This client asked for read-only mode"),
    ],
)
async def test_who_asked_for_reads_alone_is_said(scopes: set[str], why: str) -> None:
    reader = Caller("service", account_id="a", scopes=frozenset(scopes))
    assert (await refused(caller=reader, action="drop", app_id="x", table_name="t")).message.startswith(why)


TOOLS = ["init_app", "manage_app", "manage_schema", "select_rows", "insert_row"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("apply_schema", "Call manage_schema with action dry_run, then apply"),
        ("createTable", "Call manage_schema with action dry_run, then apply"),
        ("create-app", "Call init_app"),
        ("list_apps", "Call manage_app with action list."),
        ("execute_sql", "No tool takes SQL"),
        ("delete_row", "No tool deletes rows: send DELETE /v1/{app_id}/{table}/{id} "),
        ("update_row", "No tool changes rows: send PATCH /v1/{app_id}/{table}/{id} "),
        ("select_row", "Call select_rows "),
        ("manage_apps", "Did you mean manage_app? The tools are: init_app, manage_app, "),
        ("weather", "The tools are: init_app, manage_app, "),
        # Held to other tools, this caller is not sent to manage_rls.
        ("create_policy", "The tools are: init_app, manage_app, "),
    ],
)
def test_a_tool_that_does_not_exist_is_answered_with_one_that_does(name: str, advice: str) -> None:
    assert instead_of(name, TOOLS).startswith(advice)


async def test_a_question_to_the_person_is_not_an_outcome() -> None:
    host = Host()

    async def later(question: str, given: bool, call: str) -> None:
        raise Pending("form")

    with pytest.raises(Pending):
        await TOOL.call(host, OWNER, {"action": "drop", "app_id": "x", "table_name": "t"}, later)
    assert not host.events
