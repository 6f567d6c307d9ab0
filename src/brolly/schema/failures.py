"""Why a change was not made, in one error: a step that is blocked, or one that Postgres refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from brolly.core.errors import AppError
from brolly.pg.expression import Refusal
from brolly.schema.plan import Step

_REMEDIES = {
    "0A000": "Call manage_rls list, delete what the message names, repeat apply, then create the policy again.",
    "2BP01": "Remove what depends on it first: for a policy call manage_rls delete, for a column leave out references.",
    "23502": "Give the column a value in every row, or give it a default, then repeat apply.",
    "23503": "Call select_rows to find the rows whose value is missing in the other table, correct them, repeat apply.",
    "23505": "Call select_rows to find the rows with equal values, correct them, then repeat apply.",
    "23514": "Call select_rows to find the rows that break the check, correct them or the check, then repeat apply.",
}
_CONVERT = "Correct the _alterType expression so that it fits every value; select_rows shows the values."


def steps_blocked(steps: Sequence[Step]) -> AppError:
    """The error for a plan with blocked steps."""
    blocks = [(step, step.block) for step in steps if step.block is not None]
    listed: list[dict[str, Any]] = [
        {"description": step.description, "reason": block.reason, "unblock": block.unblock, **block.details}
        for step, block in blocks
    ]
    said = "; ".join(f"{step.description}: {block.reason}" for step, block in blocks[:3])
    first = next((block for _, block in blocks if block.code == "STATE_PREREQUISITE_MISSING"), blocks[0][1])
    details: Any = listed
    if first.code == "SCHEMA_MIGRATION_FAILED":
        details = {**first.details, "statement": blocks[0][0].description, "blocked": listed}
    return AppError(
        first.code,
        f"Nothing was changed. {said}" + ("." if len(blocks) <= 3 else f"; and {len(blocks) - 3} more, see details."),
        remediation=" ".join(block.unblock for _, block in blocks[:3]) + " Then repeat manage_schema apply.",
        details=details,
    )


def migration_failed(step: Step, refused: Refusal) -> AppError:
    """The error for a step that Postgres refused; the whole transaction is undone."""
    message = refused.message
    if refused.state.startswith("22"):
        # This message would quote a value from the table.
        message = "a value in the table does not fit"
    details: dict[str, Any] = {
        "pg_code": refused.state,
        "severity": refused.severity,
        "statement": step.description,
    }
    for key in ("table", "column", "constraint", "depends"):
        if value := getattr(refused, key):
            details[key] = value
    remedy = _CONVERT if refused.state.startswith("22") else _REMEDIES.get(refused.state)
    depends = f" ({refused.depends})" if refused.depends else ""
    return AppError(
        "SCHEMA_MIGRATION_FAILED",
        f"Nothing was changed. {step.description}: {message}{depends}.",
        remediation=remedy,
        details=details,
    )
