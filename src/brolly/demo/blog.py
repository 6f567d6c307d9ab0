"""A blog: tables, policies, rows, who sees what, and who tries to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from rich.syntax import Syntax
from rich.table import Table

from brolly.demo.stage import Demo

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"

SCHEMA: dict[str, Any] = {
    "tables": {
        "users": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True},
                "name": {"type": "text", "nullable": False},
            }
        },
        "posts": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "author_id": {"type": "uuid", "nullable": False, "references": "users.id"},
                "title": {"type": "text", "nullable": False},
                "published": {"type": "boolean", "nullable": False, "default": "false"},
                "created_at": {"type": "timestamptz", "nullable": False, "default": "now()"},
            },
            "indexes": {"posts_author": {"columns": ["author_id"]}},
        },
        "comments": {
            "columns": {
                "id": {"type": "bigserial", "primaryKey": True},
                "post_id": {
                    "type": "bigint",
                    "nullable": False,
                    "references": {"table": "posts", "column": "id", "onDelete": "CASCADE"},
                },
                "author_id": {"type": "uuid", "nullable": False, "references": "users.id"},
                "body": {"type": "text", "nullable": False},
            },
            "checks": {"comments_body_short": "length(body) <= 1000"},
        },
    }
}

POSTS = (
    {"author_id": ALICE, "title": "Alice: hello world", "published": True},
    {"author_id": ALICE, "title": "Alice: secret draft", "published": False},
    {"author_id": BOB, "title": "Bob: first post", "published": True},
    {"author_id": BOB, "title": "Bob: unfinished draft", "published": False},
)
READERS: Mapping[str, dict[str, str]] = {
    "anonymous": {"as_role": "anon"},
    "Alice": {"as_role": "user", "as_user": ALICE},
    "Bob": {"as_role": "user", "as_user": BOB},
    "service key": {},
}
EXPECTED: Mapping[str, tuple[int, ...]] = {
    "anonymous": (0, 2),
    "Alice": (0, 1, 2),
    "Bob": (0, 2, 3),
    "service key": (0, 1, 2, 3),
}


async def play(demo: Demo, name: str) -> None:
    """The whole scene."""
    await _create(demo, name)
    await _build(demo)
    await _secure(demo)
    ids = await _seed(demo)
    await _read(demo)
    await _attack(demo, ids)


async def _create(demo: Demo, name: str) -> None:
    demo.step("Create an app", f'init_app name="{name}"')
    begun = time.perf_counter()
    app = await demo.call("init_app", name=name)
    took = (time.perf_counter() - begun) * 1000
    demo.app_id = app["app_id"]
    demo.expect(app["provisioning_status"] == "ready", f"{app['app_id']} is ready after {took:.0f} ms")
    demo.screen.print(f"  [dim]API {app['api_base']}[/]")


async def _build(demo: Demo) -> None:
    demo.step("Preview the tables", "manage_schema action=dry_run")
    plan = await demo.call("manage_schema", action="dry_run", schema=SCHEMA)
    table = Table("#", "what would be done", box=None, padding=(0, 1), show_header=False)
    for number, statement in enumerate(plan["statements"], 1):
        table.add_row(f"[dim]{number}[/]", statement["description"])
    demo.screen.print(table)
    before = await demo.call("manage_schema", action="get")
    demo.expect(not before["schema"]["tables"], "nothing was changed yet")
    demo.step("Create them", "manage_schema action=apply")
    done = await demo.call("manage_schema", action="apply", schema=SCHEMA, name="blog")
    demo.expect(done["applied"] == plan["applied"], f"{done['applied']} statements in one transaction")
    again = await demo.call("manage_schema", action="apply", schema=SCHEMA)
    demo.expect(again["applied"] == 0, "applying the same document again changes nothing")


async def _secure(demo: Demo) -> None:
    demo.step("Secure them", "manage_rls action=create_user_isolation …")
    for table, column, public in (
        ("users", "id", None),
        ("posts", "author_id", "published"),
        ("comments", "author_id", None),
    ):
        arguments = {"table_name": table, "user_column": column} | ({"public_read_column": public} if public else {})
        await demo.call("manage_rls", action="create_user_isolation", **arguments)
        rule = f"each user sees their own rows of {table}" + (", everybody the published ones" if public else "")
        demo.screen.print(f"  [green]✓[/] {rule}")
    expression = "exists (select 1 from posts p where p.id = post_id and p.published)"
    await demo.call(
        "manage_rls", action="create_policy", table_name="comments", policy_name="comments_of_published_posts",
        command="SELECT", using_expression=expression,
    )  # fmt: skip
    demo.screen.print("  [green]✓[/] everybody reads the comments of published posts")


async def _seed(demo: Demo) -> list[str]:
    demo.step("Put rows in", "seed_database")
    users = [{"id": ALICE, "name": "Alice"}, {"id": BOB, "name": "Bob"}]
    await demo.call("seed_database", table="users", rows=users)
    posts = await demo.call("seed_database", table="posts", rows=list(POSTS))
    ids = [row["id"] for row in posts["rows"]]
    comments = [{"post_id": post, "author_id": BOB, "body": "Bob was here"} for post in ids[:2]]
    await demo.call("seed_database", table="comments", rows=comments)
    demo.expect(len(ids) == len(POSTS), "2 users, 4 posts (2 of them drafts), 2 comments")
    return ids


async def _read(demo: Demo) -> None:
    demo.step("Who sees which post", "select_rows table=posts as_role=… as_user=…")
    seen: dict[str, list[str]] = {}
    for reader, role in READERS.items():
        answer = await demo.call("select_rows", table="posts", select="title", order="id.asc", **role)
        seen[reader] = [row["title"] for row in answer["rows"]]
    table = Table("post", *READERS, title_justify="left")
    for post in POSTS:
        marks = ["[green]sees it[/]" if post["title"] in seen[reader] else "[red]hidden[/]" for reader in READERS]
        table.add_row(str(post["title"]), *marks)
    demo.screen.print(table)
    for reader, numbers in EXPECTED.items():
        demo.expect(seen[reader] == [POSTS[n]["title"] for n in numbers], f"{reader} sees {len(numbers)} of 4 posts")


async def _attack(demo: Demo, post_ids: list[str]) -> None:
    demo.step("Alice tries to read Bob's draft by its id", "select_rows filters={id: eq.…}")
    alice, bobs_draft = READERS["Alice"], post_ids[3]
    answer = await demo.call("select_rows", table="posts", filters={"id": f"eq.{bobs_draft}"}, **alice)
    demo.expect(answer["rows"] == [], "the draft does not exist for her")

    demo.step("Alice tries to write a post in Bob's name", "insert_row data={author_id: Bob, …}")
    written = await demo.call("insert_row", table="posts", data={"author_id": BOB, "title": "Alice: forged"}, **alice)
    demo.expect(written["row"]["author_id"] == ALICE, "the row is hers: the database overwrites the author")

    demo.step("Somebody who is not signed in tries to write", "insert_row as_role=anon")
    refused, body = await demo.attempt(
        "insert_row", table="posts", data={"author_id": BOB, "title": "spam"}, as_role="anon"
    )
    demo.expect(refused, f"refused: {body.get('error', {}).get('code')}")
    demo.screen.print(Syntax(json.dumps(body, indent=2), "json", background_color="default", word_wrap=True))
