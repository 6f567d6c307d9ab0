"""select_rows, against rows that are there."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import ToolFailed, hold_open, make_owner, mcp_session

ALICE, BOB = str(uuid4()), str(uuid4())
SETUP = """
create table notes (
    id integer primary key, title text, stars integer, owner uuid, done boolean, price numeric(10, 2),
    short varchar(3), fixed char(4), doc jsonb, raw json, tags text[], at timestamptz, "Odd "" name;--" text, r text
);
insert into notes (id, title, stars, owner, done, price, short, fixed, doc, tags, at, "Odd "" name;--", r)
select n, 'Note ' || n, nullif(n % 5, 0), case when n % 2 = 0 then '{alice}' else '{bob}' end::uuid, n % 3 = 0,
    n * 1.10, 'n' || n % 10, 'f', jsonb_build_object('n', n), array['t' || n % 2, 'a,b'],
    timestamptz '2026-01-01 00:00:00.123456+00' + n * interval '1 day', 'odd', 'r' from generate_series(1, 30) n;
create table bare (n integer);
insert into bare select generate_series(1, 3);
create table "select" ("order" integer primary key, "limit" text);
insert into "select" values (1, 'x')
"""


@pytest.fixture
async def call(deps: Deps, mcp: Any, app: App) -> Any:
    """``await call(table, …)``: select_rows in an app with notes."""
    async with deps.pools.owner(app) as connection:
        await connection.execute(SETUP.format(alice=ALICE, bob=BOB))
    await deps.catalog.changed(app)

    async def run(table: str = "notes", **arguments: Any) -> Any:
        return await mcp("select_rows", app_id=app.id, table=table, **arguments)

    return run


async def change(deps: Deps, app: App, sql: str) -> None:
    async with deps.pools.owner(app) as connection:
        await connection.execute(sql)
    await deps.catalog.changed(app)


def ids(answer: Any) -> list[int]:
    return [row["id"] for row in answer["rows"]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"id": "eq.7"}, [7]),
        ({"id": ["gt.3", "lte.6"]}, [4, 5, 6]),
        ({"id": "in.(3, 1,2)"}, [1, 2, 3]),
        ({"id": "in.()"}, []),
        ({"title": 'in.("Note 1","Note 2","x,y")'}, [1, 2]),
        ({"title": "like.Note 1_", "done": "is.true"}, [12, 15, 18]),
        ({"title": "ilike.%NOTE 3%", "id": "neq.3"}, [30]),
        ({"title": "fts.notes", "id": "lt.3"}, [1, 2]),
        ({"stars": "is.null", "id": "lt.11"}, [5, 10]),
        ({"stars": "not.is.null", "id": "lte.5"}, [1, 2, 3, 4]),
        ({"id": "not.in.(1,2)", "stars": "eq.1"}, [6, 11, 16, 21, 26]),
        ({"owner": f"eq.{ALICE}", "id": "lt.5"}, [2, 4]),
        ({"price": "eq.1.10"}, [1]),
        ({"price": "eq.1.104"}, []),
        ({"short": "eq.n1xx"}, []),
        ({"fixed": "eq.fool"}, []),
        ({"fixed": "eq.f", "id": "eq.1"}, [1]),
        ({"doc": 'eq.{"n": 3}'}, [3]),
        ({"tags": 'eq.{t1,"a,b"}', "id": "lt.4"}, [1, 3]),
        ({"at": "lt.2026-01-03"}, [1]),
        ({'Odd " name;--': "eq.odd", "id": "eq.1"}, [1]),
    ],
)
async def test_filters_choose_rows(call: Any, filters: dict[str, Any], expected: list[int]) -> None:
    assert ids(await call(filters=filters, select="id")) == expected


async def test_pages_lead_to_each_other(call: Any) -> None:
    first = await call(select="id")
    assert first["untrusted"] is True
    assert ids(first) == list(range(1, 21))
    assert first["next"]["offset"] == 20
    assert "repeat the call with offset 20" in first["next"]["hint"]
    second = await call(select="id", offset=20)
    assert ids(second) == list(range(21, 31))
    assert "next" not in second
    assert "next" not in await call(limit=30)
    assert (await call(offset=99))["rows"] == []


async def test_order_is_kept_and_completed(call: Any) -> None:
    answer = await call(order="stars.desc.nullslast,id.desc", limit=1000, select="id,stars")
    assert ids(answer)[:6] == [29, 24, 19, 14, 9, 4]
    assert [r["stars"] for r in answer["rows"][-6:]] == [None] * 6
    tied = await call(order="stars.asc.nullsfirst", select="id", limit=6)
    assert ids(tied) == [5, 10, 15, 20, 25, 30]
    # Cursor sends empty texts for what it leaves out.
    assert ids(await call(select="", order="", as_user="", limit=2)) == [1, 2]


async def test_odd_names_are_names(call: Any) -> None:
    row = (await call(limit=1))["rows"][0]
    assert row['Odd " name;--'] == "odd"
    assert row["r"] == "r"
    assert (await call("select", filters={"order": "eq.1", "limit": "eq.x"}, order="limit"))["rows"] == [
        {"order": 1, "limit": "x"}
    ]


@pytest.mark.parametrize("hostile", ["'; drop table notes; --", '"; drop table notes; --', "$1", "\\", "1) or (1=1"])
async def test_sql_in_any_text_has_no_effect(call: Any, hostile: str) -> None:
    assert ids(await call(filters={"title": f"eq.{hostile}"})) == []
    assert ids(await call(filters={"title": f'in.("{hostile.replace(chr(34), "")}")'.replace("\\", "\\\\")})) == []
    await call(filters={"title": f"fts.{hostile}"})
    for arguments in (
        {"table": hostile},
        {"select": hostile},
        {"order": hostile},
        {"filters": {hostile: "eq.1"}},
        {"filters": {"id": f"eq.{hostile}"}},
        {"filters": {"id": f"{hostile}.1"}},
        {"as_role": hostile},
    ):
        with pytest.raises(ToolFailed):
            await call(**arguments)
    assert len(ids(await call(limit=1000, as_role="user", as_user=hostile))) == 30


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        ("VALIDATION_TABLE_NOT_FOUND", {"table": "note"}, "Did you mean notes?"),
        ("VALIDATION_COLUMN_NOT_FOUND", {"select": "titel"}, "did you mean title?"),
        ("VALIDATION_COLUMN_NOT_FOUND", {"order": "titel"}, "did you mean title?"),
        ("VALIDATION_COLUMN_NOT_FOUND", {"filters": {"titel": "eq.1"}}, "invalidFilters"),
        ("VALIDATION_INVALID_SCHEMA", {"filters": {"id": "5", "title": "x.y"}}, 'did you mean \\"eq.5\\"?'),
        ("VALIDATION_INVALID_SCHEMA", {"filters": {"id": []}}, "invalidFilters"),
        ("VALIDATION_INVALID_SCHEMA", {"filters": {"title": "is.true"}}, "needs a boolean"),
        ("VALIDATION_INVALID_SCHEMA", {"limit": 1001}, "limit"),
        ("VALIDATION_INVALID_SCHEMA", {"as_user": "x"}, "as_role user"),
        ("VALIDATION_MISSING_FIELD", {"as_role": "user"}, "as_user"),
        ("VALIDATION_INVALID_INPUT", {"filters": {"title": "eq.x", "owner": "eq.me"}}, "for owner is not valid"),
        ("VALIDATION_INVALID_INPUT", {"filters": {"id": "in.(1,two)"}}, "type integer"),
        ("VALIDATION_INVALID_INPUT", {"filters": {"id": "eq.99999999999"}}, "for id is not valid"),
        ("VALIDATION_INVALID_INPUT", {"filters": {"doc": "eq.{"}}, "for doc is not valid"),
        ("VALIDATION_INVALID_INPUT", {"filters": {"title": "like.\\"}}, "escape"),
    ],
)
async def test_errors_say_what_to_send(call: Any, code: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolFailed) as refused:
        await call(**arguments)
    assert refused.value.code == code
    assert said in str(refused.value)


async def test_roles_see_what_policies_let_them(deps: Deps, app: App, call: Any) -> None:
    nobody = await call(as_role="anon")
    assert nobody["rows"] == []
    assert "No row-level security on notes" in nobody["warnings"][0]
    everyone = await call(as_role="user", as_user=ALICE, limit=1000)
    assert len(everyone["rows"]) == 30
    assert "create_user_isolation" in everyone["warnings"][0]
    assert "warnings" not in await call()

    await change(
        deps,
        app,
        "alter table notes enable row level security; grant select, insert on notes to butterbase_anon;"
        "create policy service on notes to butterbase_service using (true)",
    )
    for role in ({"as_role": "anon"}, {"as_role": "user", "as_user": ALICE}):
        answer = await call(**role)
        assert answer["rows"] == []
        assert "No SELECT policy on notes" in answer["warnings"][0]
    assert len((await call(limit=1000))["rows"]) == 30

    await change(
        deps, app, "create policy own on notes to butterbase_user using (owner = public.current_user_id()::uuid)"
    )
    answer = await call(as_role="user", as_user=ALICE, limit=1000, select="owner")
    assert {row["owner"] for row in answer["rows"]} == {ALICE}
    assert len(answer["rows"]) == 15
    assert "warnings" not in answer
    with pytest.raises(ToolFailed) as refused:
        await call(as_role="user", as_user="alice")
    assert refused.value.code == "VALIDATION_INVALID_INPUT"
    assert "as_user must be a value of that type" in refused.value.error["remediation"]


async def test_a_policy_that_reads_a_closed_table_says_so(deps: Deps, app: App, call: Any) -> None:
    await change(
        deps,
        app,
        "alter table notes enable row level security; grant select on notes to butterbase_anon;"
        "create policy seen on notes using (exists (select from bare where n = id))",
    )
    with pytest.raises(ToolFailed) as refused:
        await call(as_role="anon")
    assert refused.value.code == "AUTH_RLS_POLICY_VIOLATION"
    assert "bare" in refused.value.error["details"]["reason"]


async def test_a_table_closed_a_moment_ago(deps: Deps, app: App, call: Any) -> None:
    await change(
        deps,
        app,
        "alter table notes enable row level security; grant select on notes to butterbase_anon;"
        "create policy all_see on notes using (true)",
    )
    assert len((await call(as_role="anon"))["rows"]) == 20
    async with deps.pools.owner(app) as connection:  # as another process would, before its announcement arrives
        await connection.execute(
            "alter table notes disable row level security; revoke all on notes from butterbase_anon"
        )
    answer = await call(as_role="anon")
    assert answer["rows"] == []
    assert "No row-level security on notes" in answer["warnings"][0]


async def test_closed_apps_and_other_accounts(deps: Deps, mcp: Any, app: App, call: Any) -> None:
    await mcp("manage_app", action="update_access_mode", app_id=app.id, access_mode="authenticated")
    with pytest.raises(ToolFailed) as refused:
        await call(as_role="anon")
    assert refused.value.code == "AUTH_REQUIRED"
    stranger, _ = await make_owner(deps)
    as_stranger, close = await hold_open(mcp_session(deps, stranger))
    with pytest.raises(ToolFailed) as hidden:
        await as_stranger("select_rows", app_id=app.id, table="notes")
    assert hidden.value.code == "RESOURCE_NOT_FOUND"
    await close()
    await mcp("manage_app", action="pause", app_id=app.id, paused=True)
    with pytest.raises(ToolFailed) as paused:
        await call()
    assert paused.value.code == "APP_PAUSED"


async def test_an_answer_has_a_size(deps: Deps, app: App, call: Any) -> None:
    await change(deps, app, "update notes set title = repeat('é', 5000)")
    answer = await call()
    assert ids(answer) == [1, 2, 3, 4, 5]
    assert answer["next"]["offset"] == 5
    assert "title" in answer["warnings"][0]
    assert len((await call(select="id,stars"))["rows"]) == 20
    await change(deps, app, "update notes set title = repeat('x', 70000) where id = 3")
    assert ids(await call()) == [1, 2]
    with pytest.raises(ToolFailed) as refused:
        await call(offset=2)
    assert refused.value.code == "REQUEST_TOO_LARGE"
    assert refused.value.error["details"]["columns"][0] == {"name": "title", "bytes": 70002}
    assert ids(await call(offset=3)) == [4, 5, 6, 7, 8]


async def test_no_primary_key_no_fixed_pages(call: Any) -> None:
    answer = await call("bare", limit=1)
    assert "give order" in answer["warnings"][0]
    assert "warnings" not in await call("bare")
    assert (await call("bare", order="n.desc", limit=1))["rows"] == [{"n": 3}]


async def test_odd_times_keep_their_meaning(deps: Deps, app: App, call: Any) -> None:
    await change(
        deps,
        app,
        "create table times (id integer primary key, at timestamptz, many timestamptz[]);"
        "insert into times values (1, 'infinity', null), (2, '0044-03-15 12:00:00+00 BC', '{}'),"
        "(3, '9999-12-31 23:59:59.9999+00', '{infinity,null}'), (4, null, null)",
    )
    rows = (await call("times"))["rows"]
    assert [row["at"] for row in rows] == ["infinity", "0044-03-15 12:00:00 BC", "9999-12-31T23:59:59.999Z", None]
    assert [row["many"] for row in rows] == [None, [], ["infinity", None], None]


async def test_an_index_is_used(deps: Deps, app: App, call: Any) -> None:
    from brolly.data import query
    from brolly.data.plan import plan_read
    from brolly.data.request import parse_read

    await change(
        deps,
        app,
        "create table many (id bigint primary key, at timestamptz, name varchar(20));"
        "create index on many (at); create index on many (name);"
        "insert into many select n, now() + n * interval '1 s', 'n' || n from generate_series(1, 20000) n;"
        "analyze many",
    )
    snapshot = await deps.catalog.get(app)
    for filters in ({"id": "eq.77"}, {"id": "in.(1,2)"}, {"at": "eq.2026-01-01"}, {"name": "eq.n5"}):
        built = query.read(plan_read(parse_read("many", filters=filters.items()), snapshot), 1000)
        async with deps.pools.owner(app) as connection:
            plan = "\n".join(r[0] for r in await connection.fetch("explain " + built.text, *built.args))
        assert "Index Scan" in plan or "Bitmap" in plan, plan
        assert "Seq Scan" not in plan
