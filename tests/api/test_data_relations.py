"""Related tables inside rows: which way, under whose policies, in what order."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from brolly.deps import Deps
from brolly.registry import App
from tests.conftest import http_client

ALICE = "aaaaaaaa-0000-4000-8000-00000000000a"
SETUP = f"""
create table authors (id int primary key, name text, boss_id int references authors);
create table profiles (author_id int primary key references authors, bio text);
create table posts (id int primary key, title text, big bigint,
    author_id int constraint written_by references authors, editor_id int references authors);
create table tags (id int primary key, label text);
create table post_tags (post_id int references posts, tag_id int references tags, primary key (post_id, tag_id));
create table comments (id int primary key, post_id int references posts, owner uuid, body text);
insert into authors values (1, 'Ann', null), (2, 'Ben', 1), (3, 'Cy', 1);
insert into profiles values (1, 'about Ann');
insert into posts values (1, 'One', 1, 1, 2), (2, 'Two', 2, 1, null), (3, 'Three', 3, 2, 1), (4, 'Four', 4, null, null);
insert into tags values (1, 'red'), (2, 'blue');
insert into post_tags values (1, 1), (1, 2), (2, 2);
insert into comments values (1, 1, '{ALICE}', 'hers'), (2, 1, null, 'nobody''s'), (3, 2, '{ALICE}', 'hers too');
"""


@pytest.fixture
async def get(deps: Deps, app: App, http: httpx.AsyncClient) -> Any:
    """``await get(table, name=value, …)``: the answer for a table; values of ``headers`` are sent as such."""
    async with deps.pools.owner(app) as conn:
        await conn.execute(SETUP)
    await deps.catalog.changed(app)

    async def run(table: str, headers: Any = None, **params: str) -> httpx.Response:
        named = {name.replace("__", "."): value for name, value in params.items()}
        return await http.get(f"/v1/{app.id}/{table}", params=named, headers=headers)

    return run


CASES: list[tuple[str, dict[str, str], Any]] = [
    ("posts", {"select": "id,written_by(name)", "id": "lte.1"}, [{"id": 1, "written_by": {"name": "Ann"}}]),
    ("posts", {"select": "id,author:author_id(name)", "id": "eq.4"}, [{"id": 4, "author": None}]),
    ("posts", {"select": "id,authors!editor_id(id)", "id": "eq.3"}, [{"id": 3, "authors": {"id": 1}}]),
    (
        "posts",
        {"select": "title,tags(label)", "id": "lte.2", "tags__order": "label"},
        [
            {"title": "One", "tags": [{"label": "blue"}, {"label": "red"}]},
            {"title": "Two", "tags": [{"label": "blue"}]},
        ],
    ),
    (
        "posts",
        {"select": "id,comments(id)", "comments__order": "id.desc", "comments__limit": "1", "id": "eq.1"},
        [{"id": 1, "comments": [{"id": 2}]}],
    ),
    (
        "posts",
        {"select": "id,comments(id)", "comments__id": "gt.1", "id": "lte.2"},
        [{"id": 1, "comments": [{"id": 2}]}, {"id": 2, "comments": [{"id": 3}]}],
    ),
    (
        "posts",
        {"select": "id,comments!inner(id)", "comments__body": "eq.hers"},
        [{"id": 1, "comments": [{"id": 1}]}],
    ),
    ("posts", {"select": "id,comments!inner()", "comments__body": "like.hers%"}, None),
    (
        "posts",
        {"select": "id,...author_id(writer:name)", "id": "in.(1,4)"},
        [{"id": 1, "writer": "Ann"}, {"id": 4, "writer": None}],
    ),
    (
        "comments",
        {"select": "id,posts(title,author_id(name))", "id": "eq.3"},
        [{"id": 3, "posts": {"title": "Two", "author_id": {"name": "Ann"}}}],
    ),
    (
        "comments",
        {"select": "id,...posts(title,...author_id(name))", "id": "eq.3"},
        [{"id": 3, "title": "Two", "name": "Ann"}],
    ),
    (
        "authors",
        {"select": "id,profiles(bio)", "id": "lte.2"},
        [{"id": 1, "profiles": {"bio": "about Ann"}}, {"id": 2, "profiles": None}],
    ),
    ("authors", {"select": "name,boss:boss_id(name)", "id": "eq.2"}, [{"name": "Ben", "boss": {"name": "Ann"}}]),
    (
        "authors",
        {"select": "name,team:authors!boss_id(name)", "id": "eq.1"},
        [{"name": "Ann", "team": [{"name": "Ben"}, {"name": "Cy"}]}],
    ),
    (
        "authors",
        {"select": "id,posts!written_by(count())", "order": "id"},
        [
            {"id": 1, "posts": [{"count": 2}]},
            {"id": 2, "posts": [{"count": 1}]},
            {"id": 3, "posts": [{"count": 0}]},
        ],
    ),
    ("posts", {"select": "id,comments()", "comments": "is.null", "order": "id"}, None),
    ("posts", {"select": "id,c:comments()", "c": "not.is.null", "order": "id", "c__id": "lt.3"}, None),
    ("posts", {"select": "id,p:author_id!inner(id)", "p__name": "eq.Ben"}, [{"id": 3, "p": {"id": 2}}]),
    (
        "posts",
        {"select": "*,tags(*)", "id": "eq.2"},
        [
            {
                "id": 2,
                "title": "Two",
                "big": "2",
                "author_id": 1,
                "editor_id": None,
                "tags": [{"id": 2, "label": "blue"}],
            }
        ],
    ),
]


async def test_relations(get: Any) -> None:
    ids = {"comments!inner()": [1, 2], "comments()": [3, 4], "c:comments()": [1]}
    for table, params, expected in CASES:
        answer = await get(table, **params)
        assert answer.status_code == 200, (params, answer.text)
        by_embedding = [{"id": n} for n in ids.get(params["select"].partition(",")[2], [])]
        assert answer.json() == (by_embedding if expected is None else expected), params


async def test_several_ways_are_listed(get: Any) -> None:
    answer = await get("posts", select="id,authors(name)")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    choices = [choice["embed"] for choice in error["details"]["choices"]]
    assert sorted(choices) == ["authors!posts_editor_id_fkey", "authors!written_by"]
    for choice in choices:
        assert (await get("posts", select=f"id,{choice}(name)")).status_code == 200


async def test_what_cannot_be_embedded(deps: Deps, app: App, get: Any) -> None:
    for select in (
        "id,profiles(bio)",
        "id,autors(name)",
        "id,authors!nope(name)",
        "...comments(id)",
        "id,tags!inner!left(id)",
        "count(),tags(id)",
        "id,tags(nope)",
        "id,tags(id",
        "id,tags(id))",
        "tags:id,tags(id)",
        "comments(posts(comments(posts(comments(posts(id))))))",
        ",".join(f"t{n}:tags(id)" for n in range(30)),
    ):
        answer = await get("posts", select=select)
        assert answer.status_code == 400, select
    assert (await get("posts", select="id", tags__id="eq.1")).status_code == 400
    owners = await get("posts", select="autors(name)")
    assert owners.json()["error"]["details"]["related"]
    told = await get("posts", {"X-Butterbase-As-Role": "anon"}, select="autors(name)")
    assert "authors" in told.text  # a service key asks, be it as another role
    async with http_client(deps) as nobody:
        quiet = await nobody.get(f"/v1/{app.id}/posts?select=autors(name)")
    assert quiet.status_code == 400
    assert "authors" not in quiet.text
    assert (await get("posts", select="id,tags(id)", tags="eq.1")).status_code == 400
    assert (await get("posts", select="id,tags(id)", tags__id="eq.x")).json()["error"]["details"]["column"] == "id"


async def test_policies_hold_for_what_is_embedded(get: Any, app: App, http: httpx.AsyncClient) -> None:
    for name in ("posts", "comments"):
        await http.post(f"/v1/{app.id}/rls/enable", json={"table_name": name})
    policy = {"policy_name": "p", "command": "SELECT"}
    url = f"/v1/{app.id}/rls/policies"
    await http.post(url, json={**policy, "table_name": "posts", "using_expression": "true"})
    mine = "owner = current_user_id()::uuid"
    await http.post(url, json={**policy, "table_name": "comments", "role": "user", "using_expression": mine})
    alice = {"X-Butterbase-As-Role": "user", "X-Butterbase-As-User": ALICE}
    query = {"select": "id,comments(id)", "id": "lte.2", "order": "id"}
    seen = (await get("posts", alice, **query)).json()
    assert seen == [{"id": 1, "comments": [{"id": 1}]}, {"id": 2, "comments": [{"id": 3}]}]
    anon = {"X-Butterbase-As-Role": "anon"}
    assert (await get("posts", anon, **query)).json() == [{"id": 1, "comments": []}, {"id": 2, "comments": []}]
    # Neither does a filter by what is embedded tell anything.
    inner = {"select": "id,comments!inner()", "order": "id"}
    assert (await get("posts", alice, **inner, comments__id="eq.2")).json() == []
    assert (await get("posts", anon, **inner)).json() == []
    # A table that is closed to the caller is refused, not left out.
    closed = await get("posts", anon, select="id,tags(label)")
    assert (closed.status_code, closed.json()["error"]["code"]) == (403, "AUTH_RLS_POLICY_VIOLATION")
    assert "No row-level security on post_tags" in closed.json()["error"]["message"]


async def test_what_was_written_comes_with_its_relations(get: Any, app: App, http: httpx.AsyncClient) -> None:
    base = f"/v1/{app.id}/posts"
    made = await http.post(f"{base}?select=id,author_id(name)", json={"id": 9, "title": "x", "author_id": 2})
    assert made.json() == {"id": 9, "author_id": {"name": "Ben"}}
    changed = await http.patch(f"{base}?select=id,w:author_id(name)&id=eq.9", json={"author_id": 3})
    assert changed.json() == [{"id": 9, "w": {"name": "Cy"}}]
    only = await http.patch(f"{base}?select=id,w:author_id!inner()&w.name=eq.Cy", json={"title": "by Cy"})
    assert only.json() == [{"id": 9}]
    # A filter that leaves no row out is none.
    for query in ("select=id,w:author_id()&w.name=eq.Cy", "select=id,w:author_id!inner()"):
        assert (await http.delete(f"{base}?{query}")).status_code == 400
    gone = await http.delete(f"{base}?select=id,w:author_id!inner()&w.name=eq.Cy")
    assert gone.json() == {"deleted": True, "count": 1}
