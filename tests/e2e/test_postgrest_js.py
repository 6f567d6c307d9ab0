"""The unmodified postgrest-js against a real server: its everyday queries, as two signed-in users and as nobody."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import npm
from tests.e2e.processes import Machine, Process

VERSION = "2.109.0"
SCHEMA: dict[str, Any] = {
    "tables": {
        "posts": {
            "columns": {
                "id": {"type": "integer", "primaryKey": True},
                "owner": {"type": "uuid"},
                "title": {"type": "text", "nullable": False, "default": "'untitled'"},
                "stars": {"type": "integer"},
                "published": {"type": "boolean", "nullable": False, "default": "false"},
                "tags": {"type": "text[]"},
                "doc": {"type": "jsonb"},
            }
        },
        "comments": {
            "columns": {
                "id": {"type": "integer", "primaryKey": True},
                "owner": {"type": "uuid"},
                "post_id": {"type": "integer", "references": "posts.id"},
                "body": {"type": "text"},
            }
        },
        "tags": {
            "columns": {
                "id": {"type": "uuid", "primaryKey": True, "default": "gen_random_uuid()"},
                "label": {"type": "text", "unique": True},
                "weight": {"type": "integer"},
            }
        },
    }
}
ARGUMENT = {"words": "text"}
SCHEMA["functions"] = {
    "titled": {
        "arguments": ARGUMENT,
        "returns": "setof posts",
        "body": "select * from posts where title ilike '%' || words || '%' order by id",
        "volatility": "stable",
        "expose": ["anon", "user"],
    },
    "add": {
        "arguments": {"a": "integer", "b": "integer"},
        "returns": "integer",
        "body": "select a + b",
        "volatility": "immutable",
        "expose": ["user"],
    },
    "rename": {
        "arguments": {"number": "integer", **ARGUMENT},
        "returns": "void",
        "body": "update posts set title = words where id = number",
        "expose": ["user"],
    },
    "fail": {
        "returns": "void",
        "language": "plpgsql",
        "body": "begin raise exception 'no luck' using hint = 'ask'; end",
        "expose": ["user"],
    },
}
PASSWORD = "Correct-horse-9"


def sign_up(http: httpx.Client, app: str, name: str) -> str:
    """A new user's access token."""
    who = {"email": f"{name}@example.test", "password": PASSWORD}
    assert http.post(f"/auth/{app}/signup", json=who).status_code == 201
    return http.post(f"/auth/{app}/login", json=who).json()["access_token"]


def make_app(served: Process) -> tuple[str, str, str]:
    """The app's address and two users' tokens."""
    with served.client() as http:
        app = http.post("/init", json={"name": "js"}).json()["app_id"]
        made = http.post(f"/v1/{app}/schema/apply", json={"schema": SCHEMA})
        assert made.status_code == 200, made.text
        for table, more in (("posts", {"public_read_column": "published"}), ("comments", {})):
            rule = {"table_name": table, "user_column": "owner", **more}
            assert http.post(f"/v1/{app}/rls", json=rule).is_success
        return f"{served.url}/v1/{app}", sign_up(http, app, "ann"), sign_up(http, app, "ben")


@pytest.fixture(scope="module")
def told(shared: Machine) -> dict[str, Any]:
    """What each call of everyday.mjs gave."""
    modules = npm.packages(f"@supabase/postgrest-js@{VERSION}") / "node_modules"
    served = shared.serve(shared.home())
    done = subprocess.run(
        [npm.program("node"), str(Path(__file__).with_name("everyday.mjs")), str(modules), *make_app(served)],
        env=npm.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# What is in ``data`` where all goes well; with the number of rows where it is asked for.
EXPECTED: dict[str, Any] = {
    "insert select": [{"id": 2, "title": "Two, (too)", "published": False}],
    "insert single": {"id": 3},
    "insert defaults": [{"id": 6, "title": "Six"}, {"id": 7, "title": "untitled"}],
    "columns": [
        {"id": 1, "name": "One", "stars": "5", "k": "1"},
        {"id": 2, "name": "Two, (too)", "stars": None, "k": None},
    ],
    "embedding": [
        {"title": "One", "comments": [{"body": "second"}, {"body": "first"}]},
        {"title": "Two, (too)", "comments": []},
    ],
    "inner": [{"id": 4, "comments": [{"id": 3}]}],
    "to one": [{"id": n, "posts": {"title": t}} for n, t in ((3, "fat cats"), (1, "One"), (2, "One"))],
    "spread": [{"id": 3, "title": "fat cats"}],
    "aggregate": [{"comments": [{"count": 2}]}],
    "or": [{"id": 1}, {"id": 5}],
    "filters": [{"id": 3}, {"id": 4}],
    "like": [{"id": 2}],
    "like any": [{"id": 1}, {"id": 2}, {"id": 3}],
    "awkward value": [{"id": 2}],
    "awkward list": [{"id": 2}, {"id": 5}],
    "contains": [{"id": 1}],
    "json": [{"id": 1}],
    "overlaps": [{"id": 1}],
    "match": [{"id": 1}],
    "text search": [{"id": 4}],
    "web search": [{"id": 4}, {"id": 5}],
    "order": [{"id": 1}, {"id": 4}, {"id": 3}],
    "range": ([{"id": 3}, {"id": 4}], 7),
    "past the end": ([], 7),
    "head": (None, 7),
    "maybe none": None,
    "maybe one": {"id": 1},
    "csv": 'id,title\r\n1,One\r\n2,"Two, (too)"\r\n',
    "strip nulls": [{"id": 5}],
    "upsert": ([{"id": 3, "title": "Three!", "stars": 1}, {"id": 8, "title": "Eight", "stars": None}], 2),
    "upsert on": [{"label": "red", "weight": 1}],
    "upsert on again": [{"label": "red", "weight": 2}],
    "upsert ignore": [],
    "update select": [{"id": 8, "stars": 4}],
    "update none": [],
    "untouched": [],
    "delete select": [{"id": 6}],
    "function filtered": [{"id": 1, "comments": [{"id": 1}, {"id": 2}]}],
    "function counted": (None, 2),
    "function by get": 42,
    "function single": {"id": 1},
    "function none": None,
    "function that writes": None,
    "function for another": [{"id": 1}],
    "another sees": [{"id": 1, "comments": []}],
    "anyone sees": [{"id": 1}],
    "another writes": [],
    "public schema": [{"id": 1}],
}
# Writes without .select(): a client that does not say who it is gets what everybody gets, and may pass it over.
WRITTEN = {"insert": None, "insert bulk": 2, "comments": None, "update": None, "delete": 2}
# Where it fails: the status, and the code that programs compare.
FAILED = {
    "insert twice": (400, "23505"),
    "insert wrong column": (400, "42703"),
    "single none": (406, "PGRST116"),
    "single many": (406, "PGRST116"),
    "maybe many": (406, "PGRST116"),
    "update single": (406, "PGRST116"),
    "update all": (400, "PGRST100"),
    "too many": (400, "PGRST124"),
    "anyone writes": (403, "42501"),
    "no table": (404, "PGRST205"),
    "no column": (400, "42703"),
    "wrong value": (400, "22P02"),
    "no token": (401, "PGRST301"),
    "function not there": (404, "PGRST202"),
    "function not for anyone": (404, "PGRST202"),
    "function without value": (400, "PGRST100"),
    "function raises": (400, "P0001"),
    "other schema": (400, "PGRST100"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_gets_what_it_asks_for(told: dict[str, Any], name: str) -> None:
    data, count = EXPECTED[name] if isinstance(EXPECTED[name], tuple) else (EXPECTED[name], None)
    assert (told[name]["error"], told[name]["data"], told[name]["count"]) == (None, data, count)


@pytest.mark.parametrize("name", WRITTEN)
def test_it_writes(told: dict[str, Any], name: str) -> None:
    assert (told[name]["error"], told[name]["count"]) == (None, WRITTEN[name])


@pytest.mark.parametrize("name", FAILED)
def test_it_can_tell_what_went_wrong(told: dict[str, Any], name: str) -> None:
    error = told[name]["error"]
    assert (told[name]["status"], error["code"]) == FAILED[name]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert name == "maybe many" or error["hint"]  # that one is the client's own


def test_whole_rows_and_thrown_errors(told: dict[str, Any]) -> None:
    row = told["select"]["data"]
    assert (row["title"], row["tags"], row["doc"]) == ("One", ["a", "b c"], {"k": 1})
    assert [r["title"] for r in told["function"]["data"]] == ["Three!"]
    assert told["thrown"]["name"] == "PostgrestError"
    assert told["thrown"]["code"] == "23505"
    assert told["thrown"]["message"]
    assert set(told) == {*EXPECTED, *WRITTEN, *FAILED, "select", "thrown", "function"}
