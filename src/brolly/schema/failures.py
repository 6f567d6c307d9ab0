"""Why a change was not made, in one error: a step that is blocked, or one that Postgres refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from brolly.core.errors import AppError
from brolly.pg.expression import Refusal
from brolly.schema.plan import Step
from brolly.schema.problems import sentence

_REMEDIES = {
    "0A000": "Call manage_rls list, delete what the message names, repeat apply, then create the policy again.",
    "2BP01": "Remove what depends on it first: for a policy call manage_rls delete, for a column leave out references.",
    "23502": "Give the column a value in every row, or give it a default, then repeat apply.",
    "23503": "Call select_rows to find the rows whose value is missing in the other table, correct them, repeat apply.",
    "23505": "Call select_rows to find the rows with equal values, correct them, then repeat apply.",
    "23514": "Call select_rows to find the rows that break the check, correct them or the check, then repeat apply.",
}
# As Postgres tells them, one in a line.
_POLICY = re.compile(r'^policy "?(.+?)"? on table "?(.+?)"? depends on ', re.MULTILINE)
_WITHOUT_POLICIES = (
    "Call manage_rls delete with each table_name and policy_name in details.policies. Then repeat apply, and create "
    "again what is still needed."
)
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
        # The message says why of the first three.
        facts = [{"statement": step.description, **block.details} for step, block in blocks]
        details = facts[0] | ({"blocked": [*facts[:3], *listed[3:]]} if len(blocks) > 1 else {})
    return AppError(
        first.code,
        sentence(f"Nothing was changed. {said}" + (f"; and {len(blocks) - 3} more, see details" * (len(blocks) > 3))),
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
    for key in ("table", "column", "constraint"):
        if value := getattr(refused, key):
            details[key] = value
    remedy = _CONVERT if refused.state.startswith("22") else _REMEDIES.get(refused.state)
    if policies := _policies(refused):
        details["policies"] = policies
        remedy = _WITHOUT_POLICIES
    depends = f" ({refused.depends})" if refused.depends else ""
    return AppError(
        "SCHEMA_MIGRATION_FAILED",
        sentence(f"Nothing was changed. {step.description}: {message}{depends}"),
        remediation=remedy,
        details=details,
    )


def _policies(refused: Refusal) -> list[dict[str, str]]:
    """The policies that stand in the way, as manage_rls delete takes them."""
    found = _POLICY.findall(refused.depends or "")
    return [{"table_name": table, "policy_name": policy} for policy, table in found]
