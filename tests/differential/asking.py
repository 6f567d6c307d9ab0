"""Read requests made up from a seed: every operator, kind of column, relation and form that PostgREST documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

OBJECT = "application/vnd.pgrst.object+json"


@dataclass
class Asked:
    """One request, as both servers get it."""

    table: str
    pairs: list[tuple[str, str]]
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    who: str = "service"

    @property
    def target(self) -> str:
        """Path and query string."""
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.pairs)
        return f"/{quote(self.table, safe='')}" + (f"?{query}" if query else "")

    @property
    def has(self) -> frozenset[str]:
        """The names of the parameters."""
        return frozenset(name for name, _ in self.pairs)

    def __str__(self) -> str:
        said = "&".join(f"{name}={value}" for name, value in self.pairs)
        return f"{self.method} /{self.table}?{said} as {self.who} {self.headers or ''}"


# Values that may be compared with a column; the last few of some are no value of its type.
VALUES: dict[str, list[str]] = {
    "int": ["1", "2", "5", "10", "-1", "007", "+3", " 4 ", "2147483647", "99999999999", "x", "1.5", ""],
    "num": ["1.25", "10", "-0.5", "0", "NaN", "1e3", "12345678901234567890.123", "Infinity", "abc"],
    "text": ["Work 1", "Ann", "plain", "x_y", "100%", "a,b", 'a"quote\\back', "naïve ☂ 😀", "", "*star", "null", " ",
        "D'Arc", "(x)", "{a}", "a.b", "it''s", "%", "red", "nothing here", "1"],
    "like": ["*a*", "Work*", "%ork%", "_or*", "W_rk 1*", "*", "", "a\\_b", "*\\%*", "*☂*", "A*", '*"x"*', "N%",
        "*,*"],
    "regex": ["^W", "ork [0-9]+$", "a|b", "^.{5}$", "[", "(?i)WORK", "\\d", "x*", "☂", "", "(a)(b)?"],
    "bool": ["true", "false", "t", "0", "yes", "maybe"],
    "time": ["2026-01-01", "2026-01-01T10:00:00Z", "2026-01-03 12:00:00+02", "infinity", "now", "yesterday", "later"],
    "uuid": ["aaaaaaaa-0000-4000-8000-00000000000a", "BBBBBBBB00004000800000000000000B", "nope"],
    "array": ["{}", "{red}", "{blue,red}", '{"a,b"}', "{1,2}", "{1,2,3}", "{null}", "{x", "red", '{"c\\"d"}', "{3}"],
    "range": ["[1,5)", "(,)", "empty", "[3,]", "[5,1]", "4", "(0.5,1.5]", "[2026-01-01,2026-01-20)"],
    "jsonb": ['{"b":1}', "[]", '"text"', "null", "1", '{"a":[1]}', "{}", "{x", '{"deep":{"list":[1]}}',
        '{"name":"w1"}'],
    "words": ["cat", "fat cat", "fat & cat", "fat | rat", "!cat", "cat -fat", '"fat cat"', "'fat' & 'rat'", "fat<->cat",
        "ra:*", "the", "", "cats or rats", "(fat | lean) & rat"],
    "inet": ["10.0.0.1", "10.0.0.1/8", "::1", "192.168.0.0/16", "10.0.0", "x"],
    "mood": ["ok", "sad", "glad", ""],
    "bytea": ["\\xdeadbeef", "\\x", "a", "\\xzz"],
    "interval": ["1 day", "00:00:00.001", "P1D", "-1 mon", "soon"],
    "day": ["2026-02-28", "2026-01-05", "0001-01-01", "infinity", "2026-02-30"],
    "clock": ["12:00", "23:59:59.999", "25:00"],
    "bits": ["1010", "0000", "12"],
    "mac": ["08:00:2b:01:02:03", "08002b010203", "x"],
    "money": ["12.34", "$0.00", "x"],
}  # fmt: skip

KINDS = {
    "id": "int", "t": "text", "vc": "text", "ch": "text", "b": "bool", "i2": "int", "i4": "int", "i8": "int",
    "f4": "num",
    "f8": "num", "n": "num", "d": "day", "ts": "time", "tz": "time", "tm": "clock", "iv": "interval", "u": "uuid",
    "j": "jsonb", "jb": "jsonb", "ai": "array", "at": "array", "ab": "array", "m": "mood", "by": "bytea", "ip": "inet",
    "cd": "inet", "mac": "mac", "ir": "range", "nr": "range", "tr": "range", "tv": "words", "bits": "bits",
    "mon": "money",
}  # fmt: skip
TABLES: dict[str, dict[str, str]] = {
    "persons": {"id": "int", "name": "text", "boss_id": "int", "owner": "uuid", "email": "text"},
    "works": {
        "id": "int", "title": "text", "author_id": "int", "editor_id": "int", "published": "bool", "stars": "int",
        "price": "num", "made": "time", "day": "day", "words": "text", "doc": "jsonb", "tags": "array",
    },
    "notes": {"id": "int", "work_id": "int", "person_id": "int", "body": "text", "score": "num"},
    "labels": {"id": "int", "label": "text"},
    "works_labels": {"work_id": "int", "label_id": "int", "weight": "int"},
    "covers": {"work_id": "int", "color": "text", "pages": "int"},
    "kinds": KINDS,
    "odd Names": {
        "id": "int", "Mixed Case": "text", "with.dot": "int", "with,comma": "text", 'qu"ote': "text", "ünï": "text",
        "select": "int", "order": "int", "and": "bool", "a-b": "int", "a b": "text",
    },
    "empties": {"id": "int", "x": "text", "work_id": "int"},
}  # fmt: skip
KEYS = {"works_labels": ("work_id", "label_id"), "covers": ("work_id",)}
# What may be embedded: (how it is written, the table, whether there is at most one row).
RELATIONS: dict[str, list[tuple[str, str, bool]]] = {
    "persons": [("notes", "notes", False), ("works!works_editor", "works", False), ("boss_id", "persons", True)],
    "works": [
        ("notes", "notes", False), ("persons!author_id", "persons", True), ("persons!works_editor", "persons", True),
        ("labels", "labels", False), ("covers", "covers", True), ("works_labels", "works_labels", False),
        ("author_id", "persons", True), ("empties", "empties", False),
    ],
    "notes": [("works", "works", True), ("persons", "persons", True), ("person_id", "persons", True)],
    "labels": [("works", "works", False), ("works_labels", "works_labels", False)],
    "works_labels": [("works", "works", True), ("labels", "labels", True)],
    "covers": [("works", "works", True)],
    "empties": [("works", "works", True)],
}  # fmt: skip
PATHS = ["doc->n", "doc->>n", "doc->>name", "doc->deep->list->0", "doc->deep->list->>1", "doc->deep->>k-ey",
    "doc->deep", "doc->missing", "doc->>missing", "doc->deep->list->-1"]  # fmt: skip
KIND_PATHS = ["jb->a", "jb->>b", "jb->a->2->c", "jb->a->0", "j->a", "j->>b", "j->a->>0"]
COMPARISONS = ["eq", "neq", "gt", "gte", "lt", "lte", "isdistinct"]
QUANTIFIED = ["eq", "gt", "gte", "lt", "lte"]
CASTS = ["text", "int", "float8", "bool", "numeric", "jsonb", "date", "timestamptz", "bigint", "uuid"]


def quoted(name: str) -> str:
    """The name as the grammar wants it where it is not plain."""
    plain = name.replace("_", "").replace("-", "").isalnum() and name not in ("select", "order", "and")
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Maker(random.Random):
    """Requests, one after the other."""

    def maybe(self, chance: float) -> bool:
        return self.random() < chance

    def value(self, kind: str) -> str:
        good = VALUES[kind]
        return self.choice(good[: max(2, len(good) * 3 // 4)] if self.maybe(0.85) else good)

    def condition(self, table: str, grouped: bool) -> tuple[str, str]:
        """A field, and what it is compared with. ``grouped``: inside and=() or or=()."""
        column, kind = self.choice(list(TABLES[table].items()))
        name = quoted(column)
        if kind == "jsonb" and self.maybe(0.7):
            name = self.choice(PATHS if table == "works" else KIND_PATHS[:4])
            kind = self.choice(["text", "like", "int"]) if "->>" in name else "jsonb"
        operator, value = self.compared(kind, grouped)
        return name, ("not." if self.maybe(0.2) else "") + f"{operator}.{value}"

    def compared(self, kind: str, grouped: bool) -> tuple[str, str]:
        guard: Callable[[str], str] = _guarded if grouped else (lambda text: text)
        turn = self.random()
        if turn < 0.12:
            return "is", self.choice(["null", "null", "true", "false", "unknown"])
        if turn < 0.24:
            return "in", self.listed(kind)
        if kind in ("text", "like") and turn < 0.65:
            return self.textual(guard, grouped)
        if kind in ("array", "range", "jsonb") and turn < 0.75:
            return self.choice(
                ["cs", "cd", "ov", "cs", "cd"] + ["sl", "sr", "nxr", "nxl", "adj"] * (kind == "range")
            ), guard(self.value(kind))
        if kind == "words":
            return self.full_text(guard)
        if turn > 0.92 and not grouped and kind not in ("array", "jsonb", "range"):
            many = ",".join('"' + self.value(kind).replace("\\", "\\\\").replace('"', '\\"') + '"' for _ in range(2))
            return f"{self.choice(QUANTIFIED)}({self.choice(['any', 'all'])})", guard("{" + many + "}")
        return self.choice(COMPARISONS), guard(self.value("text" if kind == "like" else kind))

    def listed(self, kind: str) -> str:
        parts: list[str] = []
        for _ in range(self.randint(0, 4)):
            value = self.value("text" if kind == "like" else kind)
            if self.maybe(0.3) or set(value) & set(',()"\\{}') or value != value.strip() or not value:
                value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            parts.append(value)
        return "()" if parts == ['""'] else f"({','.join(parts)})"

    def textual(self, guard: Callable[[str], str], grouped: bool) -> tuple[str, str]:
        turn = self.random()
        if turn < 0.5:
            return self.choice(["like", "ilike"]), guard(self.value("like"))
        if turn < 0.6 and not grouped:
            some = self.choice(["{*a*,*o*}", "{W*}", "{%1,%2}"])
            return f"{self.choice(['like', 'ilike'])}({self.choice(['any', 'all'])})", guard(some)
        if turn < 0.85:
            return self.choice(["match", "imatch"]), guard(self.value("regex"))
        return self.full_text(guard)

    def full_text(self, guard: Callable[[str], str]) -> tuple[str, str]:
        operator = self.choice(["fts", "plfts", "phfts", "wfts"])
        language = self.choice(["", "", "(english)", "(simple)", "(german)", "(klingon)"])
        return operator + language, guard(self.value("words"))

    def group(self, table: str, depth: int = 1) -> str:
        parts: list[str] = []
        for _ in range(self.randint(1, 3)):
            if depth < 3 and self.maybe(0.25):
                parts.append(f"{'not.' * self.maybe(0.3)}{self.choice(['and', 'or'])}{self.group(table, depth + 1)}")
            else:
                parts.append(".".join(self.condition(table, True)))
        return f"({(', ' if self.maybe(0.1) else ',').join(parts)})"

    def filters(self, table: str, prefix: str = "") -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for _ in range(self.choice([0, 0, 1, 1, 2])):
            if self.maybe(0.25):
                found.append((f"{prefix}{'not.' * self.maybe(0.2)}{self.choice(['and', 'or'])}", self.group(table)))
            else:
                name, value = self.condition(table, False)
                found.append((prefix + name, value))
        return found

    def order(self, table: str) -> str:
        parts: list[str] = []
        for _ in range(self.randint(0, 2)):
            usable = [quoted(c) for c, kind in TABLES[table].items() if kind not in ("jsonb",) and c not in ("xy",)]
            name = self.choice(usable + ([p for p in PATHS if self.maybe(0.3)] if table == "works" else []))
            parts.append(name + self.choice(["", ".asc", ".desc"]) + self.choice(["", "", ".nullsfirst", ".nullslast"]))
        return ",".join([*parts, *KEYS.get(table, ("id",))])

    def columns(self, table: str) -> list[str]:
        """Columns to answer, no name twice."""
        found: dict[str, str] = {}
        for column in self.sample(list(TABLES[table]), self.randint(1, min(4, len(TABLES[table])))):
            name, key = quoted(column), column
            if TABLES[table][column] == "jsonb" and self.maybe(0.6):
                name = self.choice(PATHS if table == "works" else KIND_PATHS)
                key = [step for step in name.replace("->>", "->").split("->") if not step.lstrip("-").isdigit()][-1]
            if self.maybe(0.2):
                key = self.choice(["alias", "Al ias", "x1"])
                name = f"{quoted(key)}:{name}"
            if self.maybe(0.15) and "j->" not in name:
                name += f"::{self.choice(CASTS)}"
            found.setdefault(key, name)
        return list(found.values())

    def embedded(self, table: str, depth: int, pairs: list[tuple[str, str]], path: str = "") -> list[str]:
        """Related tables for select; their own parameters go into ``pairs``."""
        found: list[str] = []
        ways = [w for w in RELATIONS.get(table, []) if w[1] != "persons" or table != "persons" or depth == 1]
        for number in range(self.choice([0, 1, 1, 2]) if ways else 0):
            written, other, single = self.choice(ways)
            name = f"r{depth}{number}"
            inner = "!inner" if self.maybe(0.25) else "!left" if self.maybe(0.1) else ""
            spread = single and not path and not any(part.startswith("...") for part in found)
            if self.maybe(0.05):
                found.append(f"{name}:{written}{inner}()")
            elif spread and self.maybe(0.2):
                column = quoted(self.choice(list(TABLES[other])))
                found.append(f"...{written}{inner}({name}_x:{column})")
            else:
                inside = ["*"] if self.maybe(0.1) else self.columns(other)
                if depth < 3 and self.maybe(0.35):
                    inside += self.embedded(other, depth + 1, pairs, f"{path}{name}.")
                found.append(f"{name}:{written}{inner}({','.join(inside)})")
                pairs += self.inside(other, single, f"{path}{name}", inner)
                if single and not path and self.maybe(0.3) and (plain := [c for c in inside if c.isidentifier()]):
                    way = self.choice(["", ".desc", ".desc.nullslast"])
                    pairs.append(("order", f"{name}({self.choice(plain)}){way}"))
        return found

    def inside(self, table: str, single: bool, path: str, inner: str) -> list[tuple[str, str]]:
        """Filters, order and page of an embedded table, or whether there are rows."""
        found = self.filters(table, f"{path}.") if self.maybe(0.4) else []
        if "." not in path and self.maybe(0.15):
            found.append((path, self.choice(["is.null", "not.is.null"])))
        elif not single and self.maybe(0.5):
            found.append((f"{path}.order", self.order(table)))
            if self.maybe(0.6) and not inner:
                found.append((f"{path}.limit", str(self.randint(0, 4))))
            if self.maybe(0.3) and not inner:
                found.append((f"{path}.offset", str(self.randint(0, 3))))
        return found

    def aggregates(self, table: str) -> str:
        numbers = [c for c, kind in TABLES[table].items() if kind in ("int", "num")]
        parts = [
            self.choice([f"{quoted(self.choice(numbers))}.{fn}()" for fn in ("sum", "avg", "min", "max", "count")])
        ]
        if self.maybe(0.5):
            parts.append("number:count()")
        if self.maybe(0.3):
            parts[0] = f"made_up:{parts[0]}"
        if self.maybe(0.3):
            parts[0] += f"::{self.choice(['text', 'int', 'float8'])}"
        if self.maybe(0.6):
            parts.append(quoted(self.choice([c for c, kind in TABLES[table].items() if kind not in ("jsonb",)])))
        return ",".join(dict.fromkeys(parts))

    def request(self) -> Asked:
        table = self.choices(list(TABLES), [3, 8, 4, 2, 2, 2, 8, 3, 1])[0]
        pairs = self.filters(table)
        turn = self.random()
        if turn < 0.1:
            return Asked(table, [("select", self.aggregates(table)), *pairs])
        if turn < 0.8:
            chosen = self.columns(table) if self.maybe(0.7) else ["*"]
            if self.maybe(0.6):
                chosen += self.embedded(table, 1, pairs)
            pairs.append(("select", ",".join(chosen)))
        asked = Asked(table, pairs)
        self.page(asked)
        asked.who = self.choices(["service", "user"], [6, 2])[0]
        if table == "works" and not any(
            any(part in value for part in ("labels", "covers", "empties")) for _, value in pairs
        ):
            asked.who = self.choice(["service", "user", "anon"])
        return asked

    def tabular(self, asked: Asked) -> bool:
        """Whether both write the answer as the same CSV: several columns, whose names need no quotes."""
        chosen = dict(asked.pairs).get("select", "*")
        return "..." not in chosen and (chosen == "*" or "," in chosen)

    def page(self, asked: Asked) -> None:
        """Order, page, what is counted, the form of the answer."""
        related = [value for name, value in asked.pairs if name == "order"]
        asked.pairs = [pair for pair in asked.pairs if pair[0] != "order"]
        if related or self.maybe(0.7):
            asked.pairs.append(("order", ",".join([*related, self.order(asked.table)])))
            if self.maybe(0.4):
                asked.pairs.append(("limit", self.choice(["0", "1", "3", "10"])))
            if self.maybe(0.3):
                asked.pairs.append(("offset", self.choice(["0", "1", "4", "100"])))
            elif self.maybe(0.2) and "limit" not in asked.has:
                asked.headers |= {"Range-Unit": "items", "Range": self.choice(["0-1", "2-5", "3-", "0-0"])}
        if self.maybe(0.3):
            asked.headers["Prefer"] = "count=exact"
        turn = self.random()
        if turn < 0.07:
            asked.headers["Accept"] = OBJECT
        elif turn < 0.12 and asked.table not in ("kinds", "odd Names") and self.tabular(asked):
            asked.headers["Accept"] = "text/csv"
        elif turn < 0.17:
            asked.method = "HEAD"


def _guarded(value: str) -> str:
    """A value inside a group: in quotes where it holds what a group is made of."""
    if set(value) & set(',()"\\{}[] ') or not value:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value


# Table, query string, the status of both, and the other status of PostgREST where it has one.
WRONG: list[tuple[str, str, int, int]] = [
    ("nothere", "", 404, 0), ("works", "nocolumn=eq.1", 400, 0), ("works", "id=1", 400, 0),
    ("works", "id=xx.1", 400, 0),
    ("works", "id=eq.x", 400, 0), ("works", "select=nocolumn", 400, 0), ("works", "select=id,nothere(id)", 400, 0),
    ("works", "select=id,", 400, 0), ("works", "select=id(", 400, 0), ("works", "order=nocolumn", 400, 0),
    ("works", "order=id.up", 400, 0), ("works", "or=(id.eq.1", 400, 0), ("works", "or=()", 400, 0),
    ("works", "or=id.eq.1", 400, 0), ("works", "and=(id.eq.1,)", 400, 0), ("works", "limit=x", 400, 200),
    ("works", "id=in.1,2", 400, 0), ("works", "id=is.maybe", 400, 0), ("works", "doc->>n=gt", 400, 0),
    ("works", "notes.id=eq.1", 400, 0), ("works", "notes.order=id", 400, 0), ("works", "select=persons(id)", 400, 300),
    ("works", "select=id::nothing", 400, 0), ("works", "select=title.sum()", 400, 404), ("works", "id=fts.x", 400, 404),
    ("works", "title=fts(klingon).x", 400, 0), ("works", "made=gt.never", 400, 0), ("works", "title=match.[", 400, 0),
    ("kinds", "u=eq.1", 400, 0), ("kinds", "m=eq.angry", 400, 0), ("kinds", "ai=cs.1", 400, 0),
    ("kinds", "jb=cs.{", 400, 0), ("kinds", "ir=ov.x", 400, 0), ("kinds", "j=eq.1", 400, 404),
    ("kinds", "xy=eq.(1,2)", 400, 404), ("works", "id=eq(some).{1}", 400, 0), ("works", "select=title->x", 400, 200),
    ("works", "title->x=eq.1", 400, 200), ("works", "id=like.1*", 400, 404), ("works", "offset=-1", 400, 200),
    ("works", "limit=-1", 400, 416), ("works", "select=*,notes!nohint(id)", 400, 0), ("works", "id=not.1", 400, 0),
    ("works", "id=", 200, 400), ("works", "id=in.(1,,2)", 400, 0), ("works", "select=id&select=title", 400, 200),
    ("works", "order=id,", 400, 0), ("works", "select=id:title:x", 400, 0), ("kinds", "i4=adj.(1,2)", 400, 404),
]  # fmt: skip


def wrong() -> list[tuple[Asked, int, int]]:
    """Requests that cannot be answered, the status that we give them, and PostgREST's."""
    found: list[tuple[Asked, int, int]] = []
    for table, query, ours, theirs in WRONG:
        pairs: list[Any] = [tuple(part.split("=", 1)) for part in query.split("&") if part]
        found.append((Asked(table, pairs), ours, theirs or ours))
    return found
