"""Policy expressions: tried as a narrow role before they are stored, explained when they are wrong."""

from __future__ import annotations

import difflib
import itertools
import re
from dataclasses import dataclass

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.deps import Deps
from brolly.pg.catalog import Snapshot, Table
from brolly.pg.expression import Refusal, check_one_expression, refusal_of
from brolly.pg.identifiers import quote
from brolly.pg.session import as_caller
from brolly.registry import App

INVALID, MISMATCH, UNSAFE = "RLS_INVALID_EXPRESSION", "RLS_TYPE_MISMATCH", "RLS_UNSAFE_EXPRESSION"

# 22P02 and its like: a literal that is not of the type it is compared with.
_TYPE_STATES = frozenset({"42883", "42804", "42846", "42725", "42P18", "22P02", "22007", "22008", "22P03"})
# Named by the contract, but absent from a database without their extension: refused all the same.
_NAMED_UNSAFE = frozenset((
    "set_config", "pg_read_file", "pg_read_binary_file", "pg_write_file", "lo_import", "lo_export", "dblink",
    "dblink_connect", "dblink_exec", "pg_execute_server_program", "pg_reload_conf", "pg_terminate_backend",
    "pg_cancel_backend",
))  # fmt: skip
_MISSING_FUNCTION = re.compile(r'function "?(?:[\w$]+"?\."?)?([\w$]+)"?\(')
_NAMED = re.compile(r'(column|relation|schema|type) "?([^" ]+?)"? does not exist')
# Supabase's name for the caller is the commonest thing that models write here.
_USER_ID = re.compile(r"\b(?:current_user_id|auth\s*\.\s*uid)\s*\(\s*\)(?:\s*::\s*(?:uuid|text)\b)?", re.IGNORECASE)
_MAX_GUESSES = 3
_SETTINGS = "select set_config('search_path', 'public, pg_temp', true), set_config('statement_timeout', '3s', true)"


class _RollBack(Exception):  # noqa: N818 - not a failure
    pass


@dataclass(frozen=True, slots=True)
class Trial:
    """Where expressions about one table are tried."""

    deps: Deps
    app: App
    caller: Caller
    snapshot: Snapshot
    table: Table

    async def check(self, text: str, what: str) -> str:
        """The expression, if Postgres accepts it from a signed-in caller; raises what is wrong with it."""
        text = check_one_expression(text, code=INVALID, what=what)
        refused = await self._refusal(text)
        if refused is not None:
            raise await self.explain(refused, text, what)
        return text

    async def _refusal(self, text: str) -> Refusal | None:
        """Plan, but do not run, a query with the expression: as the narrow role, read-only, undone."""
        user = self.caller.simulate("user", "00000000-0000-0000-0000-000000000000")
        refused: Refusal | None = None
        try:
            async with as_caller(self.deps.pools.door(self.app), user, read_only=True) as conn:
                await conn.execute(_SETTINGS)
                refused = await refusal_of(conn, f"explain select from public.{quote(self.table.name)} where ({text})")
                raise _RollBack
        except _RollBack:
            return refused

    async def explain(self, refused: Refusal, text: str, what: str) -> AppError:
        """The error for what Postgres said, with the expression that would do where there is one."""
        code, remediation = self._meaning(refused, what)
        details: dict[str, str] = {"expression": what, "pg_code": refused.state}
        if code != UNSAFE and (better := await self._better(text)) is not None:
            details["suggested_expression"] = better
            remediation = f"Repeat the manage_rls call with {what}: {better}"
        said = (
            refused.message.rstrip(".")
            .replace(" in WHERE", " in a policy")
            .replace("argument of WHERE", "the expression")
        )
        return AppError(code, f"{what}: {said}.", remediation=remediation, details=details)

    async def _better(self, text: str) -> str | None:
        """The same with the caller's id as uuid or text in each place, whichever Postgres accepts."""
        places = list(_USER_ID.finditer(text))
        if not 0 < len(places) <= _MAX_GUESSES:
            return None
        for forms in itertools.product(("current_user_id()::uuid", "current_user_id()"), repeat=len(places)):
            fresh = iter(forms)
            guess = _USER_ID.sub(lambda _match, fresh=fresh: next(fresh), text)
            if guess != text and await self._refusal(guess) is None:
                return guess
        return None

    def _meaning(self, refused: Refusal, what: str) -> tuple[str, str | None]:
        """The code, and what to do about it (None: what the code's table says)."""
        state, message = refused.state, refused.message
        missing = _MISSING_FUNCTION.search(message) if state == "42883" else None
        if (missing and missing.group(1).lower() in _NAMED_UNSAFE) or (
            state == "42501" and "permission denied for function" in message
        ):
            return UNSAFE, None
        if state == "42501":
            return INVALID, "A policy may read the app's own tables alone; manage_schema get lists them."
        if missing:
            return MISMATCH, (
                f"Use current_user_id() for the caller's id, and in {what} only functions that Postgres has for "
                "these types; cast arguments where needed, then repeat the manage_rls call."
            )
        if state == "42804":
            return MISMATCH, f"Write {what} as a condition that is true or false, such as {self._example()}."
        if state in _TYPE_STATES:
            return MISMATCH, (
                "Cast one side to the other's type; manage_schema get shows the columns' types. "
                "current_user_id() is text: write current_user_id()::uuid beside a uuid column."
            )
        return INVALID, self._nearest(message)

    def _example(self) -> str:
        uuid = next((c.name for c in self.table.columns.values() if c.type == "uuid"), None)
        return f"{uuid} = current_user_id()::uuid" if uuid else "published = true"

    def _nearest(self, message: str) -> str | None:
        named = _NAMED.search(message)
        if named is None:
            return None
        kind, name = named.groups()
        if kind == "column":
            known = [*self.table.columns, *(c for t in self.snapshot.tables.values() for c in t.columns)]
            listed = f"; {self.table.name} has {', '.join(self.table.columns)}"
        elif kind == "relation":
            known, listed = list(self.snapshot.tables), f"; the tables are {', '.join(self.snapshot.tables)}"
        else:
            return None
        near = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, 1, 0.5)
        guess = f"Did you mean {near[0]}? " if near else ""
        return f"{guess}Correct the name in the manage_rls call{listed}."
