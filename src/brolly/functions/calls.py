"""What a running function may ask of us, with the rights of the one for whom it runs."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from pydantic import AliasChoices, Field, ValidationError

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.tool import Params
from brolly.deps import Deps
from brolly.functions.logs import Entry
from brolly.functions.models import Ask, Models, Part, ask_documents
from brolly.functions.store import Function, functions_of
from brolly.pg import free_statement
from brolly.pg.pool import Connection
from brolly.registry import App

DEEPEST = 4
"""How many functions may call one another."""
MOST_TRANSACTIONS = 4
_CLAIM = (
    "insert into functions.claims as c (scope, key, expires_at) values ($1, $2, now() + make_interval(secs => $3)) "
    "on conflict (scope, key) do update set expires_at = excluded.expires_at where c.expires_at <= now() returning 1"
)

Invoke = Callable[..., Awaitable[dict[str, Any]]]


class As(Params):
    """Another role than the function's own, named by its author."""

    role: str
    id: str | None = Field(None, min_length=1, max_length=200)


class Query(Params):
    """db.query."""

    sql: str
    params: list[Any] = Field(default_factory=list[Any], max_length=10_000)
    as_: As | None = Field(None, alias="as")
    transaction: str | None = None


class Begin(Params):
    """db.begin."""

    as_: As | None = Field(None, alias="as")


class End(Params):
    """db.commit and db.rollback."""

    transaction: str


class Claim(Params):
    """idempotency.claim."""

    key: str = Field(min_length=1, max_length=255)
    scope: str = Field("default", min_length=1, max_length=255)
    ttlSeconds: int = Field(86_400, ge=1, le=31_536_000)  # noqa: N815 the function's own spelling


class InvokeOther(Params):
    """invoke."""

    name: str
    body: Any = None
    options: dict[str, Any] = Field(default_factory=dict[str, Any])


class UploadLink(Params):
    """storage.upload_url."""

    filename: str = Field(min_length=1, max_length=1000)
    content_type: str = Field(validation_alias=AliasChoices("content_type", "contentType"))
    size_bytes: int = Field(validation_alias=AliasChoices("size_bytes", "sizeBytes"), gt=0, le=2**60)
    folder: str = ""
    public: bool = False


class DownloadLink(Params):
    """storage.download_url."""

    object_id: str = Field(validation_alias=AliasChoices("object_id", "objectId"), max_length=200)


class Log(Params):
    """Lines that were printed after the answer."""

    lines: list[dict[str, Any]] = Field(max_length=100)
    cut: int = 0


@dataclass(slots=True)
class _Open:
    """A transaction that a function has open."""

    stack: AsyncExitStack
    connection: Connection
    caller: Caller
    turn: anyio.Lock = field(default_factory=anyio.Lock)


@dataclass(slots=True)
class FunctionCalls:
    """The questions of one invocation. ``caller`` is who it acts for, ``depth`` how many functions led to it."""

    deps: Deps
    app: App
    function: Function
    caller: Caller
    entry: Entry
    invoke: Invoke
    depth: int = 0
    _open: dict[str, _Open] = field(default_factory=dict[str, _Open])
    models: Models = field(default_factory=Models)

    async def ask(self, op: str, args: Mapping[str, Any]) -> Any:
        """Answer one question of the function."""
        found = _OPERATIONS.get(op)
        if found is None:
            raise AppError("VALIDATION_INVALID_SCHEMA", f"ctx has no operation {op[:60]!r}.")
        model, run = found
        try:
            params = model.model_validate({k: v for k, v in args.items() if v is not None})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise AppError("VALIDATION_INVALID_SCHEMA", f"ctx {op}: {where}: {first['msg']}") from None
        return await run(self, params)

    async def close(self) -> None:
        """Undo what is still open."""
        for name in list(self._open):
            await self._end(name, commit=False)
        await self.models.close_all()

    def _acting(self, as_: As | None) -> Caller:
        if as_ is None:
            return self.caller
        if as_.role == "anon":
            return replace(self.caller, kind="anonymous", user_id=None, claims={})
        if as_.role != "user" or as_.id is None:
            raise AppError("VALIDATION_INVALID_SCHEMA", "ctx.db.asUser needs the id of a user.")
        return replace(self.caller, kind="user", user_id=as_.id, claims={"sub": as_.id, "role": "authenticated"})

    def _pool(self, caller: Caller) -> Any:
        return self.deps.pools.function(self.app, caller.kind, free_statement.prepare_connection)

    async def query(self, params: Query) -> Any:
        """Rows of one statement, in a transaction of its own unless one is named."""
        try:
            if params.transaction is not None:
                opened = self._opened(params.transaction)
                async with opened.turn:
                    rows = await free_statement.run(opened.connection, opened.caller, params.sql, params.params)
            else:
                caller = self._acting(params.as_)
                async with free_statement.transaction(self._pool(caller), caller) as connection:
                    rows = await free_statement.run(connection, caller, params.sql, params.params)
        except AppError as error:
            raise self._explained(error) from error
        return {"rows": rows.rows, "rowCount": rows.count}

    def _explained(self, error: AppError) -> AppError:
        if error.code != "AUTH_RLS_POLICY_VIOLATION" or self.caller.kind != "anonymous":
            return error
        return AppError(
            error.code,
            error.message,
            remediation='Nobody is signed in here; set run_as: "service" in the config of the http trigger with '
            "deploy_function if the function may act for everybody.",
            details=error.details,
        )

    async def begin(self, params: Begin) -> Any:
        """Open a transaction."""
        if len(self._open) >= MOST_TRANSACTIONS:
            raise AppError("VALIDATION_INVALID_SCHEMA", f"{MOST_TRANSACTIONS} transactions at once are the most.")
        caller = self._acting(params.as_)
        stack = AsyncExitStack()
        connection = await stack.enter_async_context(free_statement.transaction(self._pool(caller), caller))
        name = secrets.token_hex(8)
        self._open[name] = _Open(stack, connection, caller)
        return {"transaction": name}

    def _opened(self, name: str) -> _Open:
        if (found := self._open.get(name)) is None:
            raise AppError("RESOURCE_CONFLICT", "The transaction has ended.")
        return found

    async def _end(self, name: str, *, commit: bool) -> None:
        opened = self._opened(name)
        async with opened.turn:
            self._open.pop(name, None)
            if commit:
                await opened.stack.aclose()
                return
            undone = _Undone()
            try:
                await opened.stack.__aexit__(_Undone, undone, None)
            except _Undone:
                return
            except AppError:
                # The connection is gone, and the transaction with it.
                return

    async def commit(self, params: End) -> Any:
        """Make a transaction last; raises when it cannot."""
        await self._end(params.transaction, commit=True)

    async def rollback(self, params: End) -> Any:
        """Undo a transaction."""
        await self._end(params.transaction, commit=False)

    async def claim(self, params: Claim) -> Any:
        """Whether this is the first time that the key is seen."""
        async with functions_of(self.deps, self.app) as connection:
            first = await connection.fetchval(_CLAIM, f"user:{params.scope}", params.key, params.ttlSeconds)
        return first is not None

    async def invoke_other(self, params: InvokeOther) -> Any:
        """Call another function of the app, for the same caller."""
        if self.depth + 1 >= DEEPEST:
            raise AppError(
                "VALIDATION_INVALID_SCHEMA",
                f"Functions called each other {DEEPEST} deep.",
                remediation="End the circle in the code; manage_function get shows it.",
            )
        return await self.invoke(self.deps, self.app, self.caller, params, self.depth + 1)

    async def storage(self, capability: str, params: UploadLink | DownloadLink) -> Any:
        """A link from the storage slice, if the caller may have it."""
        make = self.deps.capabilities.get(capability)
        if make is None:
            raise AppError(
                "STATE_PREREQUISITE_MISSING",
                "This server keeps no files.",
                remediation="Update Brolly; manage_app get_config shows what the app has.",
            )
        return await make(self.deps, self.app, self.caller, **params.model_dump())

    async def model(self, what: str, params: Ask) -> Any:
        """A model's whole answer, through the gateway."""
        return await self.models.ask(self.deps, self.app, self.caller, what, params)

    async def documents(self, what: str, params: Ask) -> Any:
        """What the app's collections say, or take in."""
        return await ask_documents(self.deps, self.app, self.caller, what, params)

    async def log(self, params: Log) -> Any:
        """Lines printed after the answer."""
        self.entry.append(params.lines, params.cut)


class _Undone(Exception):  # noqa: N818 - not a failure
    """Ends a transaction that is to be undone."""


Operation = tuple[type[Params], Callable[[FunctionCalls, Any], Awaitable[Any]]]
_OPERATIONS: dict[str, Operation] = {
    "db.query": (Query, FunctionCalls.query),
    "db.begin": (Begin, FunctionCalls.begin),
    "db.commit": (End, FunctionCalls.commit),
    "db.rollback": (End, FunctionCalls.rollback),
    "idempotency.claim": (Claim, FunctionCalls.claim),
    "invoke": (InvokeOther, FunctionCalls.invoke_other),
    "log": (Log, FunctionCalls.log),
    "ai.chat": (Ask, lambda calls, params: calls.model("app_chat", params)),
    "ai.embed": (Ask, lambda calls, params: calls.model("app_embed", params)),
    "ai.open": (Ask, lambda calls, params: calls.models.open(calls.deps, calls.app, calls.caller, params)),
    "ai.next": (Part, lambda calls, params: calls.models.next(params)),
    "ai.close": (Part, lambda calls, params: calls.models.close(params)),
    "rag.query": (Ask, lambda calls, params: calls.documents("app_query", params)),
    "rag.ingest": (Ask, lambda calls, params: calls.documents("app_ingest", params)),
    "storage.upload_url": (UploadLink, lambda calls, params: calls.storage("upload_link", params)),
    "storage.download_url": (DownloadLink, lambda calls, params: calls.storage("download_link", params)),
}
