"""How many related rows one answer may hold: arrays inside arrays multiply, and each row is built whole in Postgres."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

from brolly.core.errors import AppError
from brolly.data.plan import Embedding, Output, ReadPlan
from brolly.data.request import shown

MAX_INSIDE = 100_000
"""Most related rows along one path inside one row of the page."""
MAX_REACHED = 10_000_000
"""Most rows along one path in a whole page."""
MAX_ARRAYS = 10
_DEFAULTS = (1000, 100, 10)
_LEAST = 10


def fit(plan: ReadPlan) -> ReadPlan:
    """The plan with limits for the arrays in it that fit together; a limit that was asked for is kept or refused."""
    if _arrays(plan) > MAX_ARRAYS:
        raise _refused(f"select embeds more than {MAX_ARRAYS} arrays of related rows.")
    return _inside(plan, min(MAX_INSIDE, MAX_REACHED // max(plan.limit, 1)), 0, ())


def _answered(plan: ReadPlan) -> list[Embedding]:
    return [o for o in plan.outputs if isinstance(o, Embedding) and not o.silent]


def _arrays(plan: ReadPlan) -> int:
    return sum(e.relation.many + _arrays(e.plan) for e in _answered(plan))


def _inside(plan: ReadPlan, left: int, level: int, path: tuple[str, ...]) -> ReadPlan:
    """``left`` rows may stand in each row of the plan, which is ``level`` arrays deep."""
    outputs: list[Output | Embedding] = []
    for o in plan.outputs:
        if isinstance(o, Output) or o.silent:
            outputs.append(o)
            continue
        inner, here, rest, deeper = o.plan, (*path, o.name), left, level
        if o.relation.many:
            inner = replace(inner, limit=_limit(inner, left, level, here))
            rest, deeper = left // max(inner.limit, 1), level + 1
        outputs.append(replace(o, plan=_inside(inner, rest, deeper, here)))
    return replace(plan, outputs=tuple(outputs))


def _limit(plan: ReadPlan, left: int, level: int, path: tuple[str, ...]) -> int:
    if not plan.limited:
        usual = _DEFAULTS[min(level, len(_DEFAULTS) - 1)]
        return max(1, min(usual, left // _least(plan)))
    if plan.limit > left:
        name = ".".join(shown(part, 63) for part in path)
        raise _refused(
            f"{name}.limit is at most {left} here: the limits of arrays inside each other multiply, up to "
            f"{MAX_INSIDE} rows inside one row and {MAX_REACHED} in a page."
        )
    return plan.limit


def _least(plan: ReadPlan) -> int:
    """What the arrays inside want to be left with: the limits that are asked for, or a few rows each."""
    found = 1
    for e in _answered(plan):
        own = (max(e.plan.limit, 1) if e.plan.limited else _LEAST) if e.relation.many else 1
        found = max(found, own * _least(e.plan))
    return found


def lowered(plan: ReadPlan, path: tuple[str, ...] = ()) -> str:
    """The limits below the usual one that nobody asked for, as ``posts.comments=100``: what they cut is not seen."""
    found: list[str] = []
    for e in _answered(plan):
        here = (*path, quote(e.name, safe=""))
        if e.relation.many and not e.plan.limited and e.plan.limit < _DEFAULTS[0]:
            found.append(f"{'.'.join(here)}={e.plan.limit}")
        if inside := lowered(e.plan, here):
            found.append(inside)
    return ", ".join(found)


def _refused(message: str) -> AppError:
    return AppError(
        "VALIDATION_INVALID_SCHEMA",
        message,
        remediation="Lower the limits (limit of the page, table.limit of what it embeds), or read in several requests; "
        "butterbase_docs, topic rest, has the numbers.",
    )
