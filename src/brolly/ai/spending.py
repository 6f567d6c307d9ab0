"""What calls use and cost, and the cap on it: room is taken before a call, and given back with what it really cost.

The row of the month is locked while room is taken, so that calls at the same moment are decided one after another.
What is spent can pass the cap by no more than the calls under way cost beyond what was estimated for them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import anyio
from pydantic.json_schema import SkipJsonSchema

from brolly.ai.config import config_of
from brolly.ai.prices import Usage
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.deps import Deps
from brolly.registry import App

log = logging.getLogger("brolly.ai")

HELD_SECONDS = 3600
MOST_USERS = 100
_MONTH = "date_trunc('month', now() at time zone 'utc')::date"
_SETTLE = f"""
with mode as (select set_config('synchronous_commit', $11, true)),
given_back as (delete from brolly.ai_reservations where id = $9::uuid),
spent as (
    insert into brolly.ai_spending as s (app_id, month, spent)
    select $2, {_MONTH}, $7::numeric from mode where $2::text is not null
    on conflict (app_id, month) do update set spent = s.spent + excluded.spent
)
insert into brolly.ai_usage as u
    (account_id, app_id, day, model, user_id, requests, prompt_tokens, completion_tokens, cost_usd, estimated, unpriced)
select $1::uuid, $2, (now() at time zone 'utc')::date, $3, $4, 1, $5, $6, $7::numeric, $8::int, $10::int from mode
on conflict (account_id, app_id, day, model, user_id) do update set
    requests = u.requests + 1,
    prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = u.completion_tokens + excluded.completion_tokens,
    cost_usd = u.cost_usd + excluded.cost_usd,
    estimated = u.estimated + excluded.estimated,
    unpriced = u.unpriced + excluded.unpriced
"""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose usage a call is: the account's, of an app or of none, by a user or by a key."""

    account_id: str
    app_id: str | None
    user_id: str = ""


async def reserve(deps: Deps, app: App, amount: Decimal, cap: Decimal) -> str:
    """Take room of the cap for a call; raises ``INSUFFICIENT_CREDITS``."""
    async with deps.control.acquire() as connection, connection.transaction():
        await connection.execute(
            f"insert into brolly.ai_spending (app_id, month) values ($1, {_MONTH}) on conflict do nothing", app.id
        )
        spent = await connection.fetchval(
            f"select spent from brolly.ai_spending where app_id = $1 and month = {_MONTH} for update", app.id
        )
        held = await connection.fetchval(
            "select coalesce(sum(amount), 0) from brolly.ai_reservations where app_id = $1 and ends_at > now()", app.id
        )
        left = cap - spent - held
        if amount > left or left <= 0:
            raise AppError(
                "INSUFFICIENT_CREDITS",
                f"The call may cost {amount:.6f} USD; {max(left, Decimal(0)):.6f} USD are left of this month's cap.",
                details={"balance_usd": float(left), "spent_usd": float(spent), "cap_usd": float(cap)},
            )
        return await connection.fetchval(
            "insert into brolly.ai_reservations (app_id, amount, ends_at) "
            "values ($1, $2, now() + make_interval(secs => $3)) returning id::text",
            app.id,
            amount,
            float(HELD_SECONDS),
        )


async def release(deps: Deps, reservation: str | None) -> None:
    """Give back the room of a call that cost nothing."""
    if reservation is not None:
        with anyio.move_on_after(5, shield=True):
            await deps.control.execute("delete from brolly.ai_reservations where id = $1::uuid", reservation)


async def settle(
    deps: Deps, account: Account, model: str, usage: Usage, cost: Decimal | None, reservation: str | None
) -> None:
    """Add what a call used, and give its room back. Never fails the call, which has been answered."""
    with anyio.move_on_after(10, shield=True):
        try:
            await deps.control.execute(
                _SETTLE,
                account.account_id,
                account.app_id,
                model[:200],
                account.user_id[:200],
                usage.prompt,
                usage.completion,
                cost or Decimal(0),
                int(usage.estimated),
                reservation,
                int(cost is None),
                # It is Postgres's from here on, whatever becomes of this process. The disk is waited for where a cap
                # holds: else the machine's own end may cost the count of its last half second, and no money.
                "on" if reservation else "off",
            )
        except AppError as error:
            # Also when the app was deleted meanwhile.
            log.error("usage of %s was not recorded: %s %s, %s", account.app_id, model, usage, error)


class GetUsage(AppParams):
    """Parameters of get_usage; the last 30 days unless said otherwise."""

    startDate: SkipJsonSchema[str | None] = None  # noqa: N815 - as the published clients call it
    endDate: SkipJsonSchema[str | None] = None  # noqa: N815


async def get_usage(deps: Deps, caller: Caller, params: GetUsage) -> dict[str, Any]:
    """Tokens, dollars and calls of an app, by model, day and user."""
    app = await deps.registry.get(caller, params.app_id)
    end = _day("endDate", params.endDate) or datetime.now(UTC).date()
    start = _day("startDate", params.startDate) or end - timedelta(days=30)
    if start > end:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            "startDate is after endDate.",
            remediation="Repeat manage_ai get_usage with startDate before endDate.",
        )
    rows = await deps.control.fetch(
        "select model, day, user_id, "
        "grouping(model) as by_model, grouping(day) as by_day, grouping(user_id) as by_user, "
        "coalesce(sum(requests), 0)::bigint as requests, sum(prompt_tokens + completion_tokens)::bigint as tokens, "
        "sum(prompt_tokens)::bigint as prompt, sum(completion_tokens)::bigint as completion, "
        "sum(cost_usd) as cost, sum(estimated)::bigint as estimated, sum(unpriced)::bigint as unpriced "
        "from brolly.ai_usage where app_id = $1 and day between $2 and $3 "
        "group by grouping sets ((model), (day), (user_id), ()) order by cost desc, requests desc, day",
        app.id,
        start,
        end,
    )
    total = next(
        (_counts(row) for row in rows if row["requests"] and row["by_model"] and row["by_day"] and row["by_user"]), None
    )
    users = [row for row in rows if not row["by_user"] and row["user_id"]]
    cap = config_of(app).cap
    spent = await deps.control.fetchval(
        f"select spent from brolly.ai_spending where app_id = $1 and month = {_MONTH}", app.id
    )
    return {
        "startDate": start.isoformat(),
        "endDate": end.isoformat(),
        "totalTokens": total["tokens"] if total else 0,
        "totalCost": total["cost"] if total else 0.0,
        "totalRequests": total["requests"] if total else 0,
        "byModel": {row["model"]: _counts(row) for row in rows if not row["by_model"]},
        "byDay": {
            row["day"].isoformat(): _counts(row)
            for row in sorted((row for row in rows if not row["by_day"]), key=lambda row: row["day"])
        },
        "byUser": {row["user_id"]: _counts(row) for row in users[:MOST_USERS]},
        "moreUsers": max(0, len(users) - MOST_USERS),
        "spentThisMonthUsd": float(spent or 0),
        "spendingCapUsd": None if cap is None else float(cap),
        "meetings": [],
    }


def _counts(row: Any) -> dict[str, Any]:
    counts = {
        "tokens": row["tokens"],
        "promptTokens": row["prompt"],
        "completionTokens": row["completion"],
        "cost": float(row["cost"]),
        "requests": row["requests"],
    }
    # Only where there were any: calls whose tokens were counted here, and calls that nobody knows a price for.
    return counts | {name: row[name] for name in ("estimated", "unpriced") if row[name]}


def _day(name: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).date()
    except ValueError:
        raise AppError(
            "VALIDATION_INVALID_SCHEMA",
            f"{name} is {text!r}, not a day such as 2026-01-31.",
            remediation="Repeat manage_ai get_usage with days such as 2026-01-31.",
        ) from None
