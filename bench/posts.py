"""Posts of users with comments, in several sizes: the same rows and the same rules behind every server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

USERS = 10
PREPARED = 500
BODY = "word " * 20
KINDS = ("key", "list", "insert", "embed")
TITLES = {
    "key": "(a) one row by key",
    "list": "(b) 20 rows by a filter",
    "insert": "(c) one row stored",
    "embed": "(d) 10 rows with their comments",
}

COLUMNS = {
    "id": {"type": "bigserial", "primaryKey": True},
    "user_id": {"type": "uuid", "nullable": False},
    "title": {"type": "text", "nullable": False},
    "body": {"type": "text"},
    "status": {"type": "text", "nullable": False},
    "created_at": {"type": "timestamptz", "nullable": False, "default": "now()"},
}


def size_name(rows: int) -> str:
    """The table of that many posts."""
    return f"posts_{rows}"


def comments_name(rows: int) -> str:
    """The comments on them."""
    return f"comments_{rows}"


def fill(rows: int, users: Sequence[str], link: str = "post_id") -> str:
    """SQL that fills the two tables, alike everywhere: two comments by the author on every post.

    ``link`` is the column of the comments that names the post.
    """
    ids = "array[" + ",".join(f"'{user}'" for user in users) + "]::uuid[]"
    posts, comments = size_name(rows), comments_name(rows)
    return (
        f"insert into {posts} (id, user_id, title, body, status, created_at) select n, ({ids})[1 + n % {len(users)}], "
        f"'Post ' || n, '{BODY}', case when n % 3 = 0 then 'draft' else 'open' end, "
        f"now() - n * interval '1 second' from generate_series(1, {rows}) n;"
        f"insert into {comments} ({link}, user_id, body) select 1 + n / 2, ({ids})[1 + (1 + n / 2) % {len(users)}], "
        f"'Comment ' || n from generate_series(0, {2 * rows - 1}) n;"
        f"select setval(pg_get_serial_sequence('{posts}', 'id'), {10 * rows});"
        f"analyze {posts}; analyze {comments};"
    )


def clean(rows: int) -> tuple[str, str]:
    """Statements that take away what was stored since."""
    return f"delete from {size_name(rows)} where id > {rows}", f"vacuum {size_name(rows)}"


@dataclass(frozen=True)
class Ask:
    """One request, as any of the servers may put it."""

    user: int
    method: str
    path: str
    body: str = ""
    headers: Mapping[str, str] | None = None


def asks(kind: str, make: Callable[[str, int, int], Ask], rows: int) -> list[Ask]:
    """Requests scattered over rows and users, always the same ones."""
    return [make(kind, rows, 1 + (step * 7919) % rows) for step in range(PREPARED)]


def owner_of(post: int) -> int:
    """The user, by number, whose post it is."""
    return post % USERS


def new_post(user_id: str) -> str:
    """The body that stores a post."""
    return json.dumps({"user_id": user_id, "title": "New post", "body": BODY, "status": "open"})


def schema(sizes: Sequence[int]) -> dict[str, Any]:
    """The tables of all sizes as Brolly's schema document."""
    tables: dict[str, Any] = {}
    for rows in sizes:
        posts, comments = size_name(rows), comments_name(rows)
        tables[posts] = {"columns": COLUMNS, "indexes": {f"{posts}_user": {"columns": ["user_id", "status", "id"]}}}
        tables[comments] = {
            "columns": {
                "id": COLUMNS["id"],
                "post_id": {"type": "bigint", "nullable": False, "references": f"{posts}.id"},
                "user_id": {"type": "uuid", "nullable": False},
                "body": {"type": "text"},
            },
            "indexes": {f"{comments}_post": {"columns": ["post_id"]}},
        }
    return {"tables": tables}
