"""Rows over HTTP: requests per second and latencies, beside the bare statement, PostgREST and bknd."""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import anyio
import httpx
import psutil

from bench.bare import Bare, open_bare
from bench.clients import HttpClient, http_client
from bench.database import administrator
from bench.figures import MEBIBYTE, held, mebibytes, milliseconds, times
from bench.load import Burst, Requests, burst, http_request, require_wrk
from bench.posts import (
    KINDS,
    TITLES,
    USERS,
    Ask,
    asks,
    clean,
    comments_name,
    fill,
    new_post,
    owner_of,
    schema,
    size_name,
)
from bench.program import Program, data_folder, serving
from bench.rivals import (
    BKND_DATABASE,
    DATABASE,
    PACKAGES,
    POOL,
    bknd,
    bknd_ask,
    fill_bknd,
    install,
    make_database,
    postgrest,
    postgrest_ask,
    rival_tokens,
    version,
)
from bench.runner import Run
from bench.tables import Table

SIZES = (1_000, 100_000)
CONNECTIONS = (1, 32)
NAMES = BARE, BROLLY, POSTGREST, BKND = "bare statement", "Brolly", "PostgREST", "bknd"
MEMORY_GOAL = 120 * MEBIBYTE
NOISE = 1.1
# Requests are counted as usual; a few users send what is many users' share.
_UNLIMITED = {"BROLLY_AUTH_LIMIT_FACTOR": "100000"} | {
    f"BROLLY_RATE_LIMIT_{what}": "2000000000" for what in ("KEY", "USER", "ADDRESS")
}
_PASSWORD = "Correct-horse-7-staple"


@dataclass(frozen=True)
class Users:
    """The end users, and each one's access token."""

    ids: tuple[str, ...]
    tokens: tuple[str, ...]


async def sign_up(program: Program, app_id: str) -> Users:
    """Users of the app, signed in."""
    ids, tokens = list[str](), list[str]()
    async with httpx.AsyncClient(base_url=f"{program.url}/auth/{app_id}", trust_env=False, timeout=30) as client:
        for number in range(USERS):
            account = {"email": f"user{number}@example.com", "password": _PASSWORD}
            (await client.post("/signup", json=account)).raise_for_status()
            session = (await client.post("/login", json=account)).raise_for_status().json()
            ids.append(session["user"]["id"])
            tokens.append(session["access_token"])
    return Users(tuple(ids), tuple(tokens))


async def make_app(client: HttpClient, program: Program, sizes: Sequence[int]) -> tuple[str, Users]:
    """An app with the posts of all sizes, each row its user's."""
    app_id = (await client.call("init_app", name="posts"))["app_id"]
    await client.call("manage_auth_config", action="update_jwt", app_id=app_id, accessTokenTtl="1d")
    await client.call("manage_schema", action="apply", app_id=app_id, schema=schema(sizes))
    for rows in sizes:
        for table in (size_name(rows), comments_name(rows)):
            await client.call(
                "manage_rls", action="create_user_isolation", app_id=app_id, table_name=table, user_column="user_id"
            )
    users = await sign_up(program, app_id)
    async with administrator(program.home, app_id) as connection:
        for rows in sizes:
            await connection.execute(fill(rows, users.ids))
    return app_id, users


def brolly_ask(app_id: str, users: Users) -> Callable[[str, int, int], Ask]:
    """The requests as Brolly takes them."""

    def make(kind: str, rows: int, post: int) -> Ask:
        posts, user = f"/v1/{app_id}/{size_name(rows)}", owner_of(post)
        if kind == "key":
            return Ask(user, "GET", f"{posts}/{post}")
        if kind == "list":
            return Ask(user, "GET", f"{posts}?status=eq.open&order=id.desc&limit=20")
        if kind == "insert":
            return Ask(user, "POST", posts, new_post(users.ids[user]))
        select = f"id,title,{comments_name(rows)}(id,body)"
        return Ask(user, "GET", f"{posts}?select={select}&status=eq.open&order=id.desc&limit=10")

    return make


def prepared(folder: Path, found: Sequence[Ask], tokens: Sequence[str]) -> Requests:
    """The requests with their users' tokens, where there are any, for ``wrk``."""
    texts: list[str] = []
    for one in found:
        bearer = {"Authorization": f"Bearer {tokens[one.user]}"} if tokens else {}
        texts.append(http_request(one.method, one.path, {**bearer, **(one.headers or {})}, one.body))
    return Requests(folder, texts)


Load = Callable[[str, int, int, int], Awaitable[Burst]]
"""Kind, rows, connections, seconds."""


@dataclass
class Field:
    """Everything that is compared, over one Postgres, and what it gave."""

    program: Program
    app_id: str
    users: Users
    sizes: Sequence[int]
    loads: dict[str, Load] = field(default_factory=dict[str, Load])
    found: dict[tuple[int, str, int, str], list[Burst]] = field(
        default_factory=lambda: defaultdict[tuple[int, str, int, str], list[Burst]](list)
    )

    def add(self, name: str, port: int, make: Callable[[str, int, int], Ask], tokens: Sequence[str]) -> None:
        """A server to be loaded with these requests."""
        folder = self.program.home
        ready = {(k, n): prepared(folder, asks(k, make, n), tokens) for k in KINDS for n in self.sizes}

        async def load(kind: str, rows: int, connections: int, seconds: int) -> Burst:
            return await burst(port, ready[kind, rows], connections, seconds)

        self.loads[name] = load

    def add_bare(self, bare: Bare) -> None:
        """The statements alone."""
        make = brolly_ask(self.app_id, self.users)

        async def load(kind: str, rows: int, connections: int, seconds: int) -> Burst:
            return await bare.burst(asks(kind, make, rows), connections, seconds)

        self.loads[BARE] = load

    async def clean(self, rows: int) -> None:
        """Take away what was stored, so that all read the same number of rows."""
        for database in (self.app_id, DATABASE, BKND_DATABASE):
            async with administrator(self.program.home, database) as connection:
                for sql in clean(rows):
                    await connection.execute(sql)

    async def round(self, run: Run, seconds: int, dice: random.Random, *, keep: bool) -> None:
        """Every kind of request once at every server, in an order that changes."""
        for rows, kind, connections in itertools.product(self.sizes, KINDS, CONNECTIONS):
            names = list(self.loads)
            dice.shuffle(names)
            for name in names:
                one = await self.loads[name](kind, rows, connections, seconds)
                if one.failed:
                    raise RuntimeError(f"{name}, {TITLES[kind]}: {one.failed} of {one.requests} requests failed")
                if keep:
                    self.found[rows, kind, connections, name].append(one)
                run.step()
            if kind == "insert":
                await self.clean(rows)

    def middle(self, rows: int, kind: str, connections: int, name: str) -> tuple[float, float, float]:
        """Requests per second, p50 and p99: the middle of the rounds."""
        bursts = self.found[rows, kind, connections, name]
        return median(b.rate for b in bursts), median(b.p50 for b in bursts), median(b.p99 for b in bursts)


@asynccontextmanager
async def everything(stack: AsyncExitStack) -> AsyncGenerator[Field]:
    """All servers over one Postgres, filled alike."""
    require_wrk()
    install()
    home = stack.enter_context(data_folder())
    program = stack.enter_context(serving(home, settings=_UNLIMITED))
    client = await stack.enter_async_context(http_client(program, 1))
    app_id, users = await make_app(client, program, SIZES)
    await make_database(home, SIZES, users.ids)
    async with administrator(home) as connection:
        await connection.execute(f"create database {BKND_DATABASE} template template0")
    found = Field(program, app_id, users, SIZES)
    pool, bare = await open_bare(program, app_id, users.ids, POOL)
    stack.push_async_callback(pool.close)
    found.add_bare(bare)
    found.add(BROLLY, program.port, brolly_ask(app_id, users), users.tokens)
    port, _ = stack.enter_context(postgrest(home))
    found.add(POSTGREST, port, lambda k, n, p: postgrest_ask(k, n, p, users.ids), rival_tokens(users.ids))
    port, _ = stack.enter_context(bknd(home, SIZES))
    await fill_bknd(home, SIZES, users.ids)
    found.add(BKND, port, lambda k, n, p: bknd_ask(k, n, p, users.ids), ())
    yield found


async def measure(run: Run) -> Sequence[Table]:
    """All servers in turn, then reads while many sign in."""
    rounds, seconds = run.size(5, 3), run.size(3, 1)
    dice = random.Random(1)
    async with AsyncExitStack() as stack, everything(stack) as field:
        cells = len(SIZES) * len(KINDS) * len(CONNECTIONS) * len(field.loads)
        run.begin("rows over HTTP", cells * (rounds + 1))
        await field.round(run, 1, dice, keep=False)
        for _ in range(rounds):
            await field.round(run, seconds, dice, keep=True)
        storm = await signing_in(field, run.size(8, 3))
        await anyio.sleep(3)  # each sign-in that still waits takes 19 MiB for its hash, and gives them back
        resident = psutil.Process(field.program.process.pid).memory_info().rss
    worse, slower = judge(field)
    notes = [
        f"Requests per second, each the middle of {rounds} rounds of {seconds} s, in which all take turns; wrk, "
        f"servers and Postgres share the machine. {BARE}: begin, role, statement and commit by asyncpg, the limit of a "
        f"server that sends them one after the other. {POSTGREST} {version(PACKAGES[0])}: tokens (verified once), "
        f"roles and the same policies. {BKND} {version(PACKAGES[1])}: neither tokens nor policies; the user is a "
        "filter.",
        f"Goal: at least PostgREST for (a), (b) and (c): {held(not worse)}"
        + (f" ({'; '.join(worse)})" if worse else "")
        + f"; p99 no worse: {held(not slower)}"
        + (f" ({'; '.join(slower)})" if slower else "")
        + f"; at most {mebibytes(MEMORY_GOAL)} resident: {held(resident <= MEMORY_GOAL)} ({mebibytes(resident)}).",
    ]
    return [rates(field), latencies(field, notes), storm]


def judge(field: Field) -> tuple[list[str], list[str]]:
    """Where PostgREST does more, and where its p99 is shorter by more than the measurement's own noise."""
    worse, slower = list[str](), list[str]()
    for rows, kind, connections in itertools.product(field.sizes, KINDS[:3], CONNECTIONS):
        ours = field.middle(rows, kind, connections, BROLLY)
        theirs = field.middle(rows, kind, connections, POSTGREST)
        where = f"{TITLES[kind][:3]} {rows:,} rows, {connections}"
        if ours[0] < theirs[0]:
            worse.append(f"{where}: {ours[0] / theirs[0]:.0%}")
        if ours[2] > theirs[2] * NOISE:
            slower.append(f"{where}: {times(ours[2] / theirs[2])}")
    return worse, slower


def rates(field: Field) -> Table:
    """Requests per second."""
    rows: list[list[str]] = []
    for size, kind, connections in itertools.product(field.sizes, KINDS, CONNECTIONS):
        found = {name: field.middle(size, kind, connections, name)[0] for name in NAMES}
        rows.append(
            [
                f"{TITLES[kind]}, {size:,} rows, {connections} connection{'s' if connections > 1 else ''}",
                *(f"{found[name]:,.0f}" for name in NAMES),
                times(found[BROLLY] / found[POSTGREST]),
            ]
        )
    return Table(["requests per second", *NAMES, f"against {POSTGREST}"], rows)


def latencies(field: Field, notes: Sequence[str]) -> Table:
    """How long single requests take."""
    rows: list[list[str]] = []
    for size, kind, connections in itertools.product(field.sizes, KINDS, CONNECTIONS):
        cells: list[str] = []
        for name in NAMES:
            _, p50, p99 = field.middle(size, kind, connections, name)
            cells.append(f"{milliseconds(p50)} / {milliseconds(p99)}")
        rows.append([f"{TITLES[kind]}, {size:,} rows, {connections}", *cells])
    return Table(["p50 / p99", *NAMES], rows, notes)


async def signing_in(field: Field, seconds: int) -> Table:
    """Reads while passwords are hashed as fast as the server lets them be."""
    port, home = field.program.port, field.program.home
    reads = prepared(home, asks("key", brolly_ask(field.app_id, field.users), SIZES[0]), field.users.tokens)
    logins = [
        Ask(
            n,
            "POST",
            f"/auth/{field.app_id}/login",
            json.dumps({"email": f"user{n}@example.com", "password": _PASSWORD}),
        )
        for n in range(USERS)
    ]
    storm = prepared(home, logins, ())
    alone = await burst(port, reads, 4, seconds)
    during: list[Burst] = []

    async def read() -> None:
        await anyio.sleep(0.3)
        during.append(await burst(port, reads, 4, seconds))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        signed = await burst(port, storm, 16, seconds + 1)
    if alone.failed or during[0].failed or signed.failed:
        raise RuntimeError("requests failed while many signed in")
    rows = [
        [name, f"{one.rate:,.0f}", milliseconds(one.p50), milliseconds(one.p99), milliseconds(one.largest)]
        for name, one in (("reads by key, 4 connections", alone), ("the same while 16 sign in", during[0]))
    ]
    note = f"Meanwhile {signed.rate:.0f} sign-ins per second (argon2id), which leave the processors to nobody."
    return Table(["", "per second", "p50", "p99", "largest"], rows, [note])
