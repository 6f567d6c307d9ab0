"""Rows from functions: as the caller, under the policies, and nothing that could make the caller another."""

from __future__ import annotations

import re

import pytest

from brolly.core.errors import AppError
from brolly.pg.free_statement import check_statement
from tests.functions.conftest import Stage

INSERT = "insert into notes (body, amount, meta, tags) values ($1, $2, $3, $4) returning *"
TRANSFER = """
export async function handler(request: Request, ctx: any) {
  const { fail } = await request.json();
  try {
    await ctx.db.transaction(async (tx: any) => {
      await tx.query("insert into notes (body) values ('first')");
      await Promise.all([tx.query("insert into notes (body) values ('second')"), tx.query("select 1")]);
      if (fail) throw new Error("changed my mind");
    });
  } catch (error) { return new Response(error.message, { status: 409 }); }
  return new Response("done");
}
"""


async def test_values_go_there_and_back(stage: Stage) -> None:
    answer = await stage.sql(INSERT, "hi", 1.5, {"a": [1, None]}, ["x", "y"])
    row = answer["rows"][0]
    assert (row["body"], row["amount"], row["meta"], row["tags"]) == ("hi", 1.5, {"a": [1, None]}, ["x", "y"])
    assert row["user_id"] == stage.ids["ann"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", row["at"])
    assert answer["rowCount"] == 1
    many = await stage.sql(
        "select $1::bigint + 1 as big, $2::bool as yes, $3::text as word, $4::timestamptz as at, $5::uuid as id, "
        "'NaN'::numeric as nan, int4range(1, 5) as span, null as nothing, interval '1 day' as day",
        str(2**53), "true", 7, "2026-01-02T03:04:05Z", stage.ids["ann"],
    )  # fmt: skip
    assert many["rows"][0] == {
        "big": str(2**53 + 1), "yes": True, "word": "7", "at": "2026-01-02T03:04:05+00:00", "id": stage.ids["ann"],
        "nan": "NaN", "span": "[1,5)", "nothing": None, "day": "1 day",
    }  # fmt: skip


async def test_each_caller_sees_their_own_rows(stage: Stage) -> None:
    await stage.sql("delete from notes where true", who="owner")
    await stage.sql("insert into notes (body) values ('by ann')")
    assert [r["body"] for r in (await stage.sql("select body from notes"))["rows"]] == ["by ann"]
    assert (await stage.sql("select * from notes", who="bob"))["rows"] == []
    assert (await stage.sql("update notes set body = 'x'", who="bob"))["rowCount"] == 0
    assert (await stage.sql("delete from notes", who=None))["rowCount"] == 0
    refused = await stage.sql("insert into notes (body) values ('x')", who=None)
    assert refused["code"] == "AUTH_RLS_POLICY_VIOLATION"
    assert "run_as" in refused["remediation"]
    assert len((await stage.sql("select * from notes", who="owner"))["rows"]) == 1
    # The explicit doors.
    assert (await stage.sql("select * from notes", who="bob", **{"as": stage.ids["ann"]}))["rows"] != []
    assert (await stage.sql("select * from notes", who="ann", **{"as": "anon"}))["rows"] == []


async def test_run_as_service_is_asked_for(stage: Stage) -> None:
    code = """export const handler = async (_: Request, ctx: any) =>
      Response.json((await ctx.db.query("select count(*) as n from notes")).rows[0].n)"""
    await stage.sql("insert into notes (body) values ('seen by the service')")
    await stage.deploy("count", code)
    assert (await stage.call("count")).json() == 0
    await stage.deploy("count", code, triggers=[{"type": "http", "config": {"auth": "none", "run_as": "service"}}])
    assert (await stage.call("count")).json() > 0


async def test_a_transaction_lasts_whole_or_not_at_all(stage: Stage) -> None:
    await stage.deploy("transfer", TRANSFER)
    await stage.sql("delete from notes")
    assert (await stage.call("transfer", "ann", json={"fail": True})).text == "changed my mind"
    assert (await stage.sql("select * from notes"))["rows"] == []
    assert (await stage.call("transfer", "ann", json={})).text == "done"
    assert len((await stage.sql("select * from notes"))["rows"]) == 2


ATTACKS = [
    "select set_config('role', 'butterbase_service', true)",
    "select set_config('request.jwt.claim.sub', '{bob}', true)",
    "select pg_catalog.set_config('request.jwt.claims', '{{\"sub\":\"{bob}\"}}', false), body from notes",
    "select \"set_config\"('role', 'butterbase_service', false)",
    "select U&\"set\\005fconfig\"('role', 'butterbase_service', false)",
    "with x as (select 1) select /* */ set_config ('a.b', 'c', true) from x",
    "set role butterbase_service",
    "set local request.jwt.claims = '{{}}'",
    "reset role",
    "reset all",
    "set session authorization postgres",
    "do $$ begin perform set_config('role', 'butterbase_service', true); end $$",
    "select 1; set role butterbase_service",
    "select 1; select 2",
    "begin",
    "commit",
    "rollback",
    "savepoint a",
    "prepare p as select 1",
    "execute p",
    "discard all",
    "copy notes to '/tmp/x'",
    "copy (select 1) to program 'id'",
    "create table mine (a int)",
    "create temp table mine (a int)",
    "select 1 as a into mine",
    "alter table notes disable row level security",
    "drop table notes",
    "truncate notes",
    "grant all on notes to public",
    "lock table notes",
    "listen x",
    "notify x",
    "explain select 1",
    "vacuum",
    "call something()",
    "select pg_read_file('/etc/passwd')",
    "select * from pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "select * from dblink('dbname=postgres', 'select 1') as t (a int)",
    "select query_to_xml('select set_config(''role'', ''butterbase_service'', true)', true, true, '')",
    "select pg_terminate_backend(pg_backend_pid())",
    "select pg_advisory_lock(1)",
    "select pg_notify('x', 'y')",
    "select datname from pg_database",
    "select rolname from pg_roles",
    "select * from pg_stat_activity",
    "select * from pg_settings",
    "select * from auth.users",
    "select * from functions.functions",
    "select * from storage.objects",
    "select * from brolly.applied_migrations",
    # Names, quotes and tags with characters beyond ASCII, which Python sorts otherwise than Postgres.
    "select 1 as \u00d7$$, set_config('request.jwt.claim.sub', '{bob}', true) as \u00d7$$",
    "select $\u00d7$ ' $\u00d7$, set_config('request.jwt.claim.sub', '{bob}', true) --'",
    "select 1 as \u00a0$$, set_config('request.jwt.claim.sub', '{bob}', true) as \u00a0$$",
    "select E'a'\n'\\' || ', set_config($$role$$, $$butterbase_service$$, true)",
    "select E'a' -- why\n -- so\n'\\' || ', set_config($$role$$, $$butterbase_service$$, true)",
    # Functions that run a text.
    "select ts_rewrite('a'::tsquery, $$select set_config('request.jwt.claim.sub', '{bob}', true)::tsquery, 'b'$$)",
    "select * from crosstab('select 1') as t (a int)",
    "select xpath_table('a', 'b', 'c', 'd', 'e')",
    # What other apps are called.
    "select (16384 + n)::regrole from generate_series(1, 1000) as n",
    "select pg_input_is_valid('postgres', 'regrole')",
    "select pg_describe_object(1262, 1, 0)",
    "select * from pg_lock_status()",
    "select 'unclosed",
    "",
    "  -- nothing",
]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_nothing_that_reaches_further_is_run(stage: Stage, attack: str) -> None:
    answer = await stage.sql(attack.replace("{{", "{").replace("}}", "}").replace("{bob}", stage.ids["bob"]))
    assert answer.get("code"), answer
    who = await stage.sql("select current_user as role, current_setting('request.jwt.claim.sub') as sub")
    assert who["rows"] == [{"role": "butterbase_user", "sub": stage.ids["ann"]}]


async def test_a_caller_changed_by_other_means_is_noticed(stage: Stage) -> None:
    """The owner's own function may set what it likes; the statement that called it is undone."""
    async with stage.deps.pools.owner(stage.app) as connection:
        await connection.execute(
            "create function public.become(who text) returns void language plpgsql as $$ begin "
            "execute format('set local request.jwt.claim.sub = %L', who); end $$"
        )
        await connection.execute("grant execute on function public.become(text) to butterbase_user")
    answer = await stage.sql("with b as (select public.become($1)) select body from notes, b", stage.ids["bob"])
    assert answer["code"] == "VALIDATION_INVALID_SCHEMA"
    assert "who the caller is" in answer["message"]


async def test_a_long_statement_ends_and_a_wrong_one_says_where(stage: Stage) -> None:
    assert (await stage.sql("select nope from notes"))["code"] == "VALIDATION_COLUMN_NOT_FOUND"
    assert (await stage.sql("select * from nowhere"))["code"] == "VALIDATION_TABLE_NOT_FOUND"
    assert (await stage.sql("select $1::int"))["code"] == "VALIDATION_INVALID_SCHEMA"
    assert (await stage.sql("select $1::int", "x"))["code"].startswith("VALIDATION")
    assert "10000" in (await stage.sql("select * from generate_series(1, 20000)"))["message"]
    for endless in (
        "with recursive r (n) as (select 1 union all select n + 1 from r) select n from r",
        "select repeat('x', 100000000)",
    ):
        assert "8 MB" in (await stage.sql(endless))["message"]
    assert len((await stage.sql("select repeat('x', 7000000) as x"))["rows"][0]["x"]) == 7_000_000


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "  (select 1)",
        "-- why\nselect 1;",
        "/* a /* nested */ comment */ with x as (select ';') select * from x;",
        "select $$set_config;$$, 'pg_roles', E'it\\'s; set_config'",
        "insert into t (a) values ($1) on conflict do nothing",
        "select nextval('s'), format('%s', 1), pg_advisory_xact_lock(1)",
        "merge into t using s on t.id = s.id when matched then delete",
        "values (1), (2)",
        "select 'größe'::text as größe, E'\\'' 'b' from t where a = $1 and b >= 1.5e3-2/4*-1 -- set_config",
    ],
)
def test_what_programs_write_is_taken(sql: str) -> None:
    check_statement(sql)


@pytest.mark.parametrize("sql", ["select 'a", 'select "a', "select $x$ a", "select /* a", "select 1\0", "x" * 200_000])
def test_what_cannot_be_read_is_refused(sql: str) -> None:
    with pytest.raises(AppError):
        check_statement(sql)
