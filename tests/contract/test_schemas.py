"""schemas/ is what the code says, and a difference is found and named with the command that mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from brolly.deps import Deps
from scripts import schemas


@pytest.fixture(scope="module")
async def described(deps: Deps) -> dict[str, str]:
    """The files as the code and this run's Postgres give them."""
    return schemas.describe_code() | await schemas.describe_databases(deps)


def test_the_folder_is_what_the_code_says(described: dict[str, str]) -> None:
    said = schemas.report(schemas.read_files(schemas.FOLDER), described)
    assert not said, said


async def test_describing_twice_gives_the_same(deps: Deps, described: dict[str, str]) -> None:
    assert await schemas.describe_databases(deps) | schemas.describe_code() == described


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tools/manage_app.json", '"destructiveHint": true', '"destructiveHint": false'),
        ("errors.json", '"status": 413', '"status": 414'),
        ("settings.json", "BROLLY_READ_ONLY", "BROLLY_READONLY"),
        ("control.sql", "constraint apps_pkey PRIMARY KEY (id)", "constraint apps_pkey PRIMARY KEY (name)"),
        ("app.sql", "grant insert, select on table brolly.migrations", "grant select on table brolly.migrations"),
    ],
)
def test_a_planted_difference_is_found(described: dict[str, str], name: str, old: str, new: str) -> None:
    assert old in described[name]
    said = schemas.report({**described, name: described[name].replace(old, new, 1)}, described)
    assert "make schemas" in said
    assert f"--- schemas/{name}" in said
    assert new in said


def test_a_missing_and_a_stale_file_are_found_and_mended(described: dict[str, str], tmp_path: Path) -> None:
    schemas.write_files(tmp_path, described)
    assert not schemas.report(schemas.read_files(tmp_path), described)
    (tmp_path / "errors.json").unlink()
    (tmp_path / "tools/manage_weather.json").write_text("{}\n")
    said = schemas.report(schemas.read_files(tmp_path), described)
    assert "schemas/errors.json" in said
    assert "schemas/tools/manage_weather.json" in said
    assert schemas.write_files(tmp_path, described) == ["errors.json", "tools/manage_weather.json"]
    assert not schemas.report(schemas.read_files(tmp_path), described)


def test_a_long_difference_is_cut() -> None:
    said = schemas.report({"errors.json": "line\n" * 1000}, {"errors.json": "", "settings.json": "x\n"})
    assert len(said.splitlines()) == schemas.SHOWN_LINES + 4
    assert "  schemas/settings.json" in said


async def test_what_a_database_grants_is_listed(deps: Deps) -> None:
    async with schemas.scratch_database(deps) as connection:
        await connection.execute(
            "create schema s; create type s.mood as enum ('good', 'bad'); "
            "create table s.t (id bigserial primary key, mood s.mood not null default 'good', "
            "twice int generated always as (2) stored, constraint fine check (id > 0)); "
            "create view s.v as select id from s.t; alter table s.t enable row level security; "
            "create policy p on s.t for select to public using (id > 1); "
            "grant select (id) on s.t to butterbase_anon; grant update on s.t to butterbase_user; "
            "create function s.f() returns int language sql return 1; revoke all on function s.f() from public; "
            "alter default privileges in schema s grant select on tables to butterbase_service"
        )
        text = await schemas.describe_database(connection)
    for line in (
        "create type s.mood as enum ('good', 'bad');",
        "    mood s.mood not null default 'good'::s.mood,",
        "    twice integer generated always as (2),",
        "    constraint fine CHECK ((id > 0))",
        "alter table s.t enable row level security;",
        "create policy p on s.t as permissive for select to public using ((id > 1));",
        "create view s.v as",
        "create sequence s.t_id_seq as bigint;",
        "grant select on table s.t (id) to butterbase_anon;",
        "grant update on table s.t to butterbase_user;",
        "alter default privileges for role administrator in schema s grant select on tables to butterbase_service;",
    ):
        assert line in text.splitlines(), line
    assert "grant execute on routine s.f()" not in text
