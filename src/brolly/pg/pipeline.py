"""Several statements in one message, in one transaction, over a connection of asyncpg's.

In Postgres's extended protocol everything up to ``Sync`` is one transaction, which commits there or, after an
error, rolls back as a whole. asyncpg waits for each statement's answer before it sends the next; here they
leave together, each still with bound values, and are planned and run one after the other. For that time a
protocol of ours stands in for asyncpg's on the same transport, so logins, TLS and limits stay asyncpg's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, cast

import asyncpg

Row = dict[str, Any]
"""A row's values by name."""

_KEPT_STATEMENTS = 100
"""Most prepared statements of one connection; each holds memory in Postgres, too."""

_HEAD = Struct("!ci")
_LENGTH = Struct("!i")
_COUNT = Struct("!h")
_FIELD = Struct("!ihihih")
_SYNC = b"S\0\0\0\4"
_EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"
_BINARY_RESULTS = _COUNT.pack(1) + _COUNT.pack(1)
_NULL = _LENGTH.pack(-1)


def _integer(value: bytes) -> int:
    return int.from_bytes(value, "big", signed=True)


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    16: lambda value: value != b"\0",
    17: bytes,
    20: _integer,
    21: _integer,
    23: _integer,
    25: lambda value: value.decode(),
    1043: lambda value: value.decode(),
}
"""By type oid: boolean, bytea, the integers, text and varchar. Statements here answer no others."""


@dataclass(frozen=True, slots=True)
class Step:
    """A statement with its values. ``scope`` tells apart what is planned differently, such as for each role.

    Values are texts, whole numbers, None, and lists of texts.
    """

    text: str
    args: Sequence[Any] = ()
    scope: str = ""


@dataclass(slots=True)
class _Prepared:
    name: bytes
    columns: tuple[tuple[str, Callable[[bytes], Any]], ...] = ()


@dataclass(slots=True)
class Result:
    """What a step gave: its rows, and how many rows it changed or returned."""

    rows: list[Row]
    count: int


class PipelineConnection(asyncpg.Connection):  # type: ignore[type-arg]
    """A connection that can also run several statements in one message."""

    __slots__ = ("_named", "_pipe", "_prepared", "_unwanted")

    def __init__(self, protocol: Any, transport: Any, loop: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, loop, *rest)
        self._pipe = _PipelineProtocol(protocol, transport)
        self._prepared: OrderedDict[tuple[str, str], _Prepared] = OrderedDict()
        self._unwanted: list[bytes] = []
        self._named = 0

    async def pipeline(self, steps: Sequence[Step]) -> list[Result]:
        """Run the steps as one transaction. Whatever is wrong in the end, nothing of it stays behind."""
        try:
            return await self._attempt(steps)
        except (asyncpg.InvalidCachedStatementError, asyncpg.InvalidSQLStatementNameError):
            # Valid when it was prepared, and not now. All of it was rolled back, so it may run again.
            if self.is_closed():
                raise
        self._forget(steps)
        return await self._attempt(steps)

    async def pipelines(self, groups: Sequence[Sequence[Step]]) -> list[list[Result] | Exception]:
        """Run each group as one transaction, all of them in one message. What Postgres refuses is its group's result.

        A group that fails leaves nothing behind and does not touch the others; raises when the connection does.
        """
        exchanges = await self._exchange(groups)
        return [exchange.error or exchange.results for exchange in exchanges]

    async def _attempt(self, steps: Sequence[Step]) -> list[Result]:
        (exchange,) = await self._exchange((steps,))
        if exchange.error is not None:
            raise exchange.error
        return exchange.results

    async def _exchange(self, groups: Sequence[Sequence[Step]]) -> list[_Exchange]:
        if self.is_closed():
            raise asyncpg.InterfaceError("the connection is closed")
        parts = [_close(name) for name in self._unwanted]
        self._unwanted.clear()
        fresh: dict[tuple[str, str], _Prepared] = {}
        exchanges: list[_Exchange] = []
        for steps in groups:
            statements: list[tuple[_Prepared, bool]] = []
            for step in steps:
                statements.append(self._statement(step, parts, fresh))
                parts.append(_bind(statements[-1][0].name, step.args))
            parts.append(_SYNC)
            exchanges.append(_Exchange(statements))
        try:
            await self._pipe.send(b"".join(parts), exchanges)
        finally:
            for steps, exchange in zip(groups, exchanges, strict=True):
                self._keep(steps, exchange)
            if not all(exchange.idle for exchange in exchanges):
                # A statement may still run, its transaction be open: never for the next borrower.
                self.terminate()
        return exchanges

    def _statement(
        self, step: Step, parts: list[bytes], fresh: dict[tuple[str, str], _Prepared]
    ) -> tuple[_Prepared, bool]:
        """The step's statement, prepared in this message if it is not yet, and whether it is."""
        key = (step.scope, step.text)
        found = self._prepared.get(key)
        if found is not None:
            self._prepared.move_to_end(key)
            return found, False
        if key in fresh:
            return fresh[key], False
        self._named += 1
        found = fresh[key] = _Prepared(b"brolly_%d" % self._named)
        parts.append(_parse(found.name, step.text))
        return found, True

    def _keep(self, steps: Sequence[Step], exchange: _Exchange) -> None:
        """Remember what Postgres has prepared, be it before an error."""
        if not exchange.parsed:
            return
        for step, (statement, new) in zip(steps, exchange.statements, strict=True):
            if new and statement.name in exchange.parsed:
                if statement.name in exchange.described:
                    self._prepared[(step.scope, step.text)] = statement
                else:
                    self._unwanted.append(statement.name)
        while len(self._prepared) > _KEPT_STATEMENTS:
            self._unwanted.append(self._prepared.popitem(last=False)[1].name)

    def _forget(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if (found := self._prepared.pop((step.scope, step.text), None)) is not None:
                self._unwanted.append(found.name)


def _message(kind: bytes, content: bytes) -> bytes:
    return _HEAD.pack(kind, len(content) + 4) + content


def _parse(name: bytes, text: str) -> bytes:
    """Prepare the statement, and tell what it answers."""
    parsed = _message(b"P", name + b"\0" + text.encode() + b"\0\0\0")
    return parsed + _message(b"D", b"S" + name + b"\0")


def _close(name: bytes) -> bytes:
    return _message(b"C", b"S" + name + b"\0")


def _bind(name: bytes, args: Sequence[Any]) -> bytes:
    """Give the statement its values, as text, and run it; its answer comes in binary."""
    parts = [b"\0", name, b"\0\0\0", _COUNT.pack(len(args))]
    for value in args:
        if value is None:
            parts.append(_NULL)
            continue
        text = value.encode() if isinstance(value, str) else _text(value)
        parts.append(_LENGTH.pack(len(text)))
        parts.append(text)
    parts.append(_BINARY_RESULTS)
    content = b"".join(parts)
    return _HEAD.pack(b"B", len(content) + 4) + content + _EXECUTE


def _text(value: Any) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return b"%d" % value
    if isinstance(value, (list, tuple)):
        return f"{{{','.join(map(_element, cast(Sequence[Any], value)))}}}".encode()
    raise asyncpg.DataError(f"invalid input for query argument: {type(value).__name__}")


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        raise asyncpg.DataError(f"invalid input for query argument: {type(value).__name__} in a list")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Exchange:
    """One pipeline's answer, as far as it has come."""

    __slots__ = ("at", "described", "ended", "error", "idle", "parsed", "results", "statements")

    def __init__(self, statements: list[tuple[_Prepared, bool]]) -> None:
        self.statements = statements
        self.at = 0
        self.results = [Result([], 0) for _ in statements]
        self.parsed: set[bytes] = set()
        self.described: set[bytes] = set()
        self.error: Exception | None = None
        self.ended = False
        self.idle = False
        """Whether Postgres has said that no transaction is open."""

    def take(self, kind: int, content: bytes) -> None:
        """One message of the server's."""
        if kind == 0x44:  # D, a row
            self.results[self.at].rows.append(_row(content, self.statements[self.at][0].columns))
        elif kind == 0x43:  # C, a statement's end
            word = content[:-1].rpartition(b" ")[2]
            self.results[self.at].count = int(word) if word.isdigit() else 0
            self.at += 1
        elif kind == 0x31:  # 1, prepared
            self.parsed.add(self.statements[self.at][0].name)
        elif kind == 0x54:  # T, what it answers
            statement = self.statements[self.at][0]
            statement.columns = _columns(content)
            self.described.add(statement.name)
        elif kind == 0x6E:  # n, that it answers nothing
            self.described.add(self.statements[self.at][0].name)
        elif kind == 0x45:  # E, an error
            self.error = self.error or _error(content)
        elif kind == 0x5A:  # Z, the end
            self.ended, self.idle = True, content == b"I"


def _row(content: bytes, columns: tuple[tuple[str, Callable[[bytes], Any]], ...]) -> Row:
    row: Row = {}
    at = 2
    for name, decode in columns:
        (length,) = _LENGTH.unpack_from(content, at)
        at += 4
        if length < 0:
            row[name] = None
        else:
            row[name] = decode(content[at : at + length])
            at += length
    return row


def _columns(content: bytes) -> tuple[tuple[str, Callable[[bytes], Any]], ...]:
    found: list[tuple[str, Callable[[bytes], Any]]] = []
    (count,) = _COUNT.unpack_from(content)
    at = 2
    for _ in range(count):
        end = content.index(0, at)
        oid = _FIELD.unpack_from(content, end + 1)[2]
        found.append((content[at:end].decode(), _DECODERS.get(oid, bytes)))
        at = end + 1 + _FIELD.size
    return tuple(found)


def _error(content: bytes) -> Exception:
    fields = {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in content.split(b"\0") if part}
    new = cast("Callable[[dict[str, str]], Exception]", asyncpg.PostgresError.new)  # type: ignore[attr-defined]
    return new(fields)


class _PipelineProtocol(asyncio.Protocol):
    """Stands in for asyncpg's protocol while a pipeline is under way."""

    def __init__(self, usual: Any, transport: Any) -> None:
        self._usual, self._transport = usual, transport
        self._buffer = bytearray()
        self._needed = 5
        self._exchanges: deque[_Exchange] = deque()
        self._answered: asyncio.Future[None] | None = None

    async def send(self, message: bytes, exchanges: Sequence[_Exchange]) -> None:
        """Send the message; return when its answers are whole. Raises when they do not come."""
        self._exchanges.extend(exchanges)
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.set_protocol(self)
        try:
            self._transport.write(message)
            await self._answered
        finally:
            self._exchanges.clear()
            self._answered = None
            self._transport.set_protocol(self._usual)

    def data_received(self, data: bytes) -> None:
        """Take what is whole. A long message is looked at again when it is all there."""
        buffer = self._buffer
        buffer += data
        size = len(buffer)
        if size < self._needed:
            return
        at = 0
        try:
            while size - at >= 5:
                kind, length = buffer[at], _LENGTH.unpack_from(buffer, at + 1)[0]
                end = at + 1 + length
                if end > size:
                    self._needed = end - at
                    break
                if self._exchanges:
                    self._take(kind, bytes(buffer[at + 5 : end]))
                at = end
            else:
                self._needed = 5
        except Exception as error:
            self._fail(error)
            self._transport.abort()
            return
        del buffer[:at]

    def _take(self, kind: int, content: bytes) -> None:
        exchange = self._exchanges[0]
        exchange.take(kind, content)
        if not exchange.ended:
            return
        if exchange.error is None and not exchange.idle:
            exchange.error = asyncpg.InterfaceError("a transaction was left open")
        self._exchanges.popleft()
        if not self._exchanges and self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone: its last words if it had any."""
        said = self._exchanges[0].error if self._exchanges else None
        self._fail(said or asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of an answer"))
        self._usual.connection_lost(exc)

    def eof_received(self) -> None:
        """Let the transport close."""

    def pause_writing(self) -> None:
        """Nothing more is written until the answer is there."""

    def resume_writing(self) -> None:
        """As above."""
