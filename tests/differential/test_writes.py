"""Generated writes to this server and to PostgREST, on the same rows: the same answers, the same rows after."""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from brolly.deps import Deps
from tests.differential.asking import OBJECT
from tests.differential.comparing import plain
from tests.differential.conftest import Pair
from tests.differential.differences import code

SEEDS = [int(seed) for seed in os.environ.get("DIFFERENTIAL_SEEDS", "1").split(",")]
REQUESTS = int(os.environ.get("DIFFERENTIAL_REQUESTS", "120"))
CLIENT = {"X-Client-Info": "postgrest-js/2.109.0"}
RESET = """
truncate items, parts restart identity;
insert into items (name, n, price, doc, tags) values ('a', 1, 1.50, '{"k": 1}', '{x}'), ('b', 2, null, null, null),
    ('c, d', 3, 99999999999999.99, '[]', '{"y z",null}');
insert into parts values (1, 1, 'p'), (2, 1, 'q');
"""
NAMES = ["a", "b", "new", 'quo"ted', "ünï ☂", "", None, "c, d"]
VALUES: dict[str, list[Any]] = {
    "id": [1, 2, 3, 50, "51", None],
    "name": NAMES,
    "n": [0, -7, "8", None, 5.0, "x"],
    "price": [1.25, "12345678901234.56", None, 3, "NaN"],
    "doc": [{"a": [1, None]}, [], None, "text", 5, True],
    "tags": [["a", "b c"], [], None, "{x,y}", [None]],
    "at": ["2026-03-04T05:06:07Z", "2026-03-04 05:06:07+02", None],
    "note": ["short", "this one is far too long for it", None],
    "maker": [1, 99, None],
}
FILTERS = [
    "id=eq.1",
    "id=in.(1,2)",
    "name=eq.a",
    "n=gte.2",
    "id=eq.77",
    "doc=is.null",
    "or=(id.eq.3,name.like.b*)",
    "id=gt.0",
]


@dataclass
class Written:
    """One write, as both servers get it."""

    method: str
    query: list[str]
    body: Any = None
    prefer: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        parts = [part.partition("=") for part in self.query]
        return "/items?" + "&".join(f"{name}={quote(value, safe='')}" for name, _, value in parts)

    def __str__(self) -> str:
        said = f"{self.method} /items?{'&'.join(self.query)} {', '.join(self.prefer)} {self.headers or ''}"
        return f"{said} {json.dumps(self.body, ensure_ascii=False)}"


class Maker(random.Random):
    """Writes, one after the other."""

    def maybe(self, chance: float) -> bool:
        return self.random() < chance

    def row(self, *names: str) -> dict[str, Any]:
        some = names or tuple(self.sample(list(VALUES), self.randint(1, 4)))
        return {name: self.choice(VALUES[name][: 99 if self.maybe(0.2) else 3]) for name in some}

    def write(self) -> Written:
        made = self.choice([self.insert, self.insert, self.update, self.delete])()
        if self.maybe(0.75):
            made.prefer.append(f"return={self.choice(['representation', 'representation', 'minimal', 'headers-only'])}")
        if self.maybe(0.4):
            made.prefer.append("count=exact")
        if self.maybe(0.4):
            made.query.append(
                f"select={self.choice(['id', '*', 'id,name,n', 'id,parts(label)', 'k:doc->>k,tags,price'])}"
            )
        if self.maybe(0.15):
            made.headers["Accept"] = OBJECT
        return made

    def insert(self) -> Written:
        resolved = self.maybe(0.5)
        if self.maybe(0.5):
            made = Written("POST", [], self.row("name", *self.sample([n for n in VALUES if n != "name"], 2)))
        else:
            names = tuple(self.sample(list(VALUES), 3)) if resolved or self.maybe(0.6) else ()
            rows = [self.row(*names) for _ in range(self.randint(1, 3))]
            made = Written("POST", [], rows, ["missing=default"])
            columns = sorted({name for row in rows for name in row})
            made.query.append("columns=" + ",".join(columns))
        if resolved:
            made.prefer.append(f"resolution={self.choice(['merge', 'ignore'])}-duplicates")
            if self.maybe(0.6):
                made.query.append(f"on_conflict={self.choice(['id', 'name'])}")
        return made

    def update(self) -> Written:
        return Written(
            "PATCH", [self.choice(FILTERS)], self.row(*self.sample(["n", "price", "doc", "tags", "note", "maker"], 2))
        )

    def delete(self) -> Written:
        return Written("DELETE", [self.choice([*FILTERS, "id=in.(2,3)"])])


async def answer(pair: Pair, connection: Any, asked: Written, *, ours: bool) -> tuple[httpx.Response, Any]:
    """What came back, and what is in the table then."""
    await connection.execute(RESET)
    headers = {**asked.headers, **CLIENT, "Prefer": ", ".join(asked.prefer), "Content-Type": "application/json"}
    headers["Authorization"] = f"Bearer {pair.tokens['service'][not ours]}"
    content = None if asked.body is None else json.dumps(asked.body)
    client, base = (pair.ours, pair.base) if ours else (pair.theirs, "")
    found = await client.request(asked.method, base + asked.target, headers=headers, content=content)
    rows = await connection.fetchval("select json_agg(t order by id)::text from (select * from items) t")
    return found, rows


# Statuses, ours and theirs, that are on the list.
STATUSES = {(400, 409), (400, 404), (201, 200), (200, 201)}


def verdict(asked: Written, ours: tuple[httpx.Response, Any], theirs: tuple[httpx.Response, Any]) -> str:
    """What differs that is on no list, or nothing."""
    (mine, left), (other, right) = ours, theirs
    if code(other) == "42703" and any(part.startswith("or=") for part in asked.query):
        return ""  # on the list: it filters what it answers a second time
    if mine.is_success != other.is_success:
        return "one of them refuses"
    if left != right:
        return "rows"
    if mine.status_code != other.status_code and (mine.status_code, other.status_code) not in STATUSES:
        return "status"
    if not mine.is_success:
        return ""
    ordered: frozenset[str] = frozenset()
    bodies = [
        plain(json.loads(a.content, parse_float=str, parse_int=str), ordered) if a.content else None
        for a in (mine, other)
    ]
    if bodies[0] != bodies[1]:
        return "body"
    counts = [a.headers.get("content-range", "").rpartition("/")[2] for a in (mine, other)]
    return "count" if "count=exact" in asked.prefer and counts[0] != counts[1] else ""


async def test_generated_writes(pair: Pair, deps: Deps) -> None:
    said: list[str] = []
    good = 0
    async with deps.pools.owner(pair.app) as connection:
        for seed in SEEDS:
            maker = Maker(seed)
            for _ in range(REQUESTS):
                asked = maker.write()
                theirs = await answer(pair, connection, asked, ours=False)
                ours = await answer(pair, connection, asked, ours=True)
                good += ours[0].is_success
                if found := verdict(asked, ours, theirs):
                    said.append(f"{found}: {asked}\n{_told(*ours)}\n{_told(*theirs)}")
    assert not said, f"{len(said)} of {REQUESTS * len(SEEDS)} differ\n" + "\n".join(said[:25])
    assert good > len(SEEDS) * REQUESTS / 3


def _told(found: httpx.Response, rows: Any) -> str:
    head = {
        name: found.headers[name]
        for name in ("content-range", "location", "preference-applied")
        if name in found.headers
    }
    return f"  {found.status_code} {head} {found.text[:300]}\n     {rows[:250] if rows else rows}"
