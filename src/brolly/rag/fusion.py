"""The statement that searches a collection: by vectors and by words, fused by reciprocal rank.

What stands here as a number was measured by ``make bench ARGS=retrieval`` on questions about our own pages; the
decision file 0027 has the tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from brolly.pg.identifiers import literal
from brolly.rag.access import Collection
from brolly.rag.chunk_table import vector_type
from brolly.rag.filters import Values, condition

Way = Literal["hybrid", "vector", "text"]

RANK_OFFSET = 5
"""k of reciprocal rank fusion. The usual 60 flattens the first places, on which it depends here."""
VECTOR_SHARE = 1.5
"""What a place in the list by vectors counts, that in the list by words counting 1."""
CANDIDATES = 50
EXACT_UP_TO = 2_000
"""With so many chunks to see, all are compared; only with more the graph is walked, which may miss some."""
OWN_EXACT_UP_TO = 20_000
"""The same for a user's own chunks among others', which an index finds and the graph would have to pass over."""
RANK_ALL_UP_TO = 10_000
"""With so many chunks, all that have a word are ranked."""
COMMON = 1_000
"""A word that is in more chunks says little, and finding and ranking them all is what would take time."""
MOST_RANKED = 5_000
MOST_WORDS = 64
MOST_RARE_WORDS = 8

_NO_PLACE = "select null::uuid as id, null::bigint as near, null::bigint as found, null::real as words where false"
_DEMAND = re.compile(r'(?<![\w"])-"[^"]*"|"[^"]*"|(?<![^\s(])-[^\W\d_][\w-]+')


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked. ``demands`` are the parts in quotes and with a minus, which every result has to fulfil."""

    words: str
    demands: str

    @property
    def meaning(self) -> str:
        """What is embedded: all of it but what is not wanted."""
        wanted = " ".join(part for part in _DEMAND.findall(self.demands) if not part.startswith("-"))
        return f"{self.words} {wanted}".replace('"', " ").strip()


@dataclass(frozen=True, slots=True)
class Search:
    """One search of one collection.

    ``vector`` is as Postgres reads it, or None when the words say nothing to the model; ``visible`` is how many chunks
    the caller may see at most; ``exact`` has all of them compared; ``indexed`` tells whether words are found by the
    index (for callers of whom a policy asks something, Postgres asks the policy first).
    """

    collection: Collection
    asked: Asked
    vector: str | None
    filters: Mapping[str, Any] | None
    way: Way
    top_k: int
    threshold: float
    visible: int
    exact: bool
    indexed: bool


def read_query(text: str) -> Asked:
    """The query apart: free words rank, ``"in quotes"`` must occur, ``-word`` must not."""
    demands = " ".join(_DEMAND.findall(text))
    return Asked(" ".join(_DEMAND.sub(" ", text).split()), demands)


def statement(search: Search) -> tuple[str, list[Any]]:
    """The one statement of a search, and what it binds."""
    values = Values()
    chunks = search.collection.chunks
    kind = vector_type(search.collection.dimensions)
    config = f"{literal('pg_catalog.' + search.collection.language)}::regconfig"
    where = _conditions(search, values, config)
    parts: list[str] = []
    lists = [_NO_PLACE]
    distance = ""
    most = max(CANDIDATES, 2 * search.top_k)
    if search.vector is not None:
        distance = f"embedding <=> {values.add(search.vector, 'text')}::{kind}"
    if search.way != "text" and distance:
        # An expression around the distance leaves the index out.
        by = f"({distance}) + 0" if search.exact else distance
        parts.append(f"near as materialized (select id, {distance} as distance from {chunks} "
                     f"where {where} order by {by} limit {most})")  # fmt: skip
        lists.append("select id, row_number() over (order by distance, id), null, null from near where distance < 1")
    if search.way != "vector":
        parts += _words(search, values, config)
        bound = "" if _finds_all(search) else f" limit {MOST_RANKED}"
        parts.append(f"found as materialized (select id, ts_rank(words, (select words from asked)) as rank "
                     f"from (select id, words from {chunks} where words @@ (select found_by from asked) and {where}"
                     f"{bound}) few order by rank desc, id limit {most})")  # fmt: skip
        lists.append("select id, null, row_number() over (order by rank desc, id), rank from found")
    similarity = f"coalesce(nullif(1 - ({distance}), 'NaN'), 0)" if distance else "0::double precision"
    threshold = values.add(search.threshold, "double precision")
    fused = (
        f"fused as (select id, max(near) as near, max(found) as found, max(words) as words, "
        f"sum(coalesce({VECTOR_SHARE} / ({RANK_OFFSET} + near), 0) + coalesce(1.0 / ({RANK_OFFSET} + found), 0)) "
        f"as fused from ({' union all '.join(lists)}) places group by id)"
    )
    scored = (
        f"scored as (select c.id, c.document_id, c.content, c.heading, c.page, c.position, c.start_offset, "
        f"c.end_offset, c.metadata::text as metadata, {similarity} as similarity, fused.words, fused.near, "
        f"fused.found, fused.fused::double precision as fused from fused join {chunks} c using (id))"
    )
    text = (
        f"with {', '.join([*parts, fused, scored])} select * from scored where similarity > {threshold} "
        f"or (found is not null and {threshold} = 0) order by fused desc, similarity desc, id "
        f"limit {values.add(search.top_k, 'integer')}"
    )
    return text, values.bound


def _conditions(search: Search, values: Values, config: str) -> str:
    found = [condition(search.filters, values)] if search.filters else []
    if search.asked.demands:
        demanded = f"websearch_to_tsquery({config}, {values.add(search.asked.demands, 'text')})"
        # Words that the language passes over demand nothing.
        found.append(f"(numnode({demanded}) = 0 or words @@ {demanded})")
    return " and ".join(found) or "true"


def _finds_all(search: Search) -> bool:
    return not search.indexed or search.visible <= RANK_ALL_UP_TO


def _words(search: Search, values: Values, config: str) -> list[str]:
    """``asked``: the words by which chunks are ranked, and those by which they are found.

    Any of the words will do, since a question seldom stands in a page word for word. In a large collection only the
    rarer ones find; where all are common, a chunk has to have all of them.
    """
    escaped = r"'''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || ''''"
    lexemes = (
        f"lexemes as materialized (select {escaped} as word from unnest(to_tsvector({config}, "
        f"{values.add(search.asked.meaning, 'text')})) order by positions[1] limit {MOST_WORDS})"
    )
    every = "string_agg(word, ' | ')::tsquery"
    if _finds_all(search):
        return [lexemes, f"asked as materialized (select {every} as words, {every} as found_by from lexemes)"]
    chunks = search.collection.chunks
    counted = (
        "counted as materialized (select word, (select count(*) from (select from "
        f"{chunks} where words @@ word::tsquery limit {COMMON + 1}) few) as chunks from lexemes)"
    )
    rare = (
        f"rare as materialized (select word from counted where chunks between 1 and {COMMON} "
        f"order by chunks, word limit {MOST_RARE_WORDS})"
    )
    asked = (
        f"asked as materialized (select {every} as words, coalesce((select {every} from rare), "
        "string_agg(word, ' & ') filter (where chunks > 0)::tsquery) as found_by from counted)"
    )
    return [lexemes, counted, rare, asked]
