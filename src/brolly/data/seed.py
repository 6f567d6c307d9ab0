"""Storing many rows of which each stands by itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import AppParams
from brolly.data import response
from brolly.data.request import InsertRequest
from brolly.data.service import explain_insert, store
from brolly.data.tables import find_table, require_writable
from brolly.data.values import InsertPlan, merge, plan_insert
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot
from brolly.pg.errors import translate
from brolly.pg.session import as_caller
from brolly.registry import App

Failures = dict[int, AppError]


class SeedDatabase(AppParams):
    """Parameters of seed_database."""

    table: str
    rows: list[dict[str, Any]] = Field(min_length=1, max_length=100)


async def seed_database(deps: Deps, caller: Caller, params: SeedDatabase) -> str:
    """Store the rows as service. What is wrong with one row keeps none of the others out."""
    app = await deps.registry.serving(caller, params.app_id)
    snapshot = await deps.catalog.get(app)
    table = find_table(snapshot, params.table)
    plans, failures = _plan(snapshot, params)
    stored: list[str] = []
    if plans:
        try:
            async with as_caller(deps.pools.door(app), caller) as connection:
                stored = await store(connection, merge(plans.values()))
        except AppError as error:
            if not _is_about_values(error):
                raise
            stored, more = await _store_each(deps, app, caller, plans)
            failures |= more
    errors = [_entry(index, failures[index]) for index in sorted(failures)]
    if not stored:
        first = failures[min(failures)]
        raise AppError(
            first.code,
            f"None of the {len(params.rows)} rows was stored. {first.message}",
            remediation=first.remediation,
            details={"inserted": 0, "failed": len(errors), "errors": errors, "rows": []},
        )
    rows, warnings = response.stored_rows(table, stored)
    return response.seed_text(len(stored), errors, rows, warnings)


def _plan(snapshot: Snapshot, params: SeedDatabase) -> tuple[dict[int, InsertPlan], Failures]:
    plans: dict[int, InsertPlan] = {}
    failures: Failures = {}
    for index, row in enumerate(params.rows):
        try:
            (plans[index],) = plan_insert(InsertRequest(params.table, (row,)), snapshot)
            require_writable(plans[index].table, "INSERT")
        except AppError as error:
            failures[index] = error
    return plans, failures


def _is_about_values(error: AppError) -> bool:
    return error.code.startswith("VALIDATION_") or error.code == "AUTH_RLS_POLICY_VIOLATION"


async def _store_each(deps: Deps, app: App, caller: Caller, plans: dict[int, InsertPlan]) -> tuple[list[str], Failures]:
    """Row by row, each in a savepoint: the slow way, taken when a row among them is refused."""
    stored: list[str] = []
    failures: Failures = {}
    async with as_caller(deps.pools.door(app), caller) as connection:
        await connection.execute("set constraints all immediate")
        for index, plan in plans.items():
            try:
                async with connection.transaction():
                    stored += await store(connection, (plan,))
            except Exception as error:
                ours = translate(error)
                if ours is None or not _is_about_values(ours):
                    raise
                failures[index] = await explain_insert(connection, caller, plan, ours)
    return stored, failures


def _entry(index: int, error: AppError) -> dict[str, Any]:
    said: dict[str, Any] = {"code": error.code, "message": error.message, "remediation": error.remediation}
    if error.details is not None:
        said["details"] = error.details
    return {"row_index": index, "error": said}
