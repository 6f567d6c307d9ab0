"""The tool table: one row per action is the switch, the schema, the checks and the documentation.

A ``Tool`` maps each action to the service function that does it, the model of its
parameters and its effect. MCP and the HTTP management routes both run actions
through ``Tool.run``, so scope, read-only mode, validation and audit hold alike.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from pydantic import ValidationError

from brolly.core.action import (
    DESTROY,
    READ,
    READ_BY_CLIENT,
    WRITE,
    Action,
    AppParams,
    Confirm,
    Effect,
    Host,
    Params,
    Pending,
    Run,
)
from brolly.core.audit_event import PLATFORM, AuditEvent, acted_as, app_named, kept, refusal, said
from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.flat_schema import Schema, flat_object, properties_of
from brolly.core.untrusted import flagged
from brolly.core.wording import in_json, sentence

# What a slice needs to declare a tool, from one place.
__all__ = [
    "DESTROY",
    "READ",
    "READ_BY_CLIENT",
    "WRITE",
    "Action",
    "AppParams",
    "AuditEvent",
    "Confirm",
    "Effect",
    "Host",
    "Params",
    "Pending",
    "Run",
    "Tool",
    "refused",
]

_ABOUT_APP_ID = re.compile(r" [^.]*\bapp_id\b[^.]*\.")
_TAKEN_BACK = "It was ended before it was done: the caller took it back, or the server stopped."
_VERBS = {READ: "read", WRITE: "update", DESTROY: "delete"}


def _nearest(name: str, names: Sequence[str]) -> str:
    # camelCase is the commonest slip: compare in snake_case.
    snake = "".join("_" + c.lower() if c.isupper() else c for c in name)
    near = difflib.get_close_matches(snake, names, 1, 0.6)
    return f" Did you mean {near[0]}?" if near else ""


@dataclass(frozen=True, eq=False)
class Tool:
    """A named table of actions; a standalone tool has one action, named ``""``.

    ``resource`` names what it manages, in the audit log. ``aliases`` maps retired action
    names to today's.
    """

    name: str
    title: str
    summary: str
    actions: Mapping[str, Action]
    resource: str
    category: str = "admin"
    open_world: bool = True
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        properties: dict[str, Schema] = {}
        for label, action in self.actions.items():
            found, _ = properties_of(action.params)
            for name, schema in found.items():
                kept = properties.setdefault(name, schema)
                if {**kept, "description": ""} != {**schema, "description": ""}:
                    raise TypeError(f"{self.name} {label}: {name} means something else in another action")
                if "description" in schema:
                    properties[name] = schema
        object.__setattr__(self, "properties", properties)

    properties: dict[str, Schema] = field(init=False)

    @property
    def standalone(self) -> bool:
        """Whether the tool has a single action that is not named."""
        return "" in self.actions

    def offered(self, read_only: bool, one_app: bool = False) -> dict[str, Action]:
        """The actions that a caller may use, in the table's order.

        ``one_app``: the client is held to an app, so what is not about an app is left out, but for what is
        about nothing of the account's (the documentation).
        """
        return {
            k: a
            for k, a in self.actions.items()
            if (not read_only or a.effect is READ)
            and (not one_app or not self.open_world or "app_id" in properties_of(a.params)[1])
        }

    def signature(self, label: str, one_app: bool = False) -> str:
        """``apply(schema, name?)``: what an action takes, app_id left out where all actions need it."""
        found, required = properties_of(self.actions[label].params)
        common = {"app_id"} if one_app else self._common_required()
        names = [n if n in required else n + "?" for n in found if n not in common]
        if self.actions[label].loses is not None and "confirm" not in found:
            names.append("confirm?")
        return f"{label}({', '.join(names)})"

    def _common_required(self) -> set[str]:
        everywhere = all("app_id" in properties_of(a.params)[1] for a in self.actions.values())
        return {"app_id"} if everywhere else set()

    def describe(self, read_only: bool = False, one_app: bool = False) -> str:
        """The description for models: one sentence and one signature line per action."""
        # What a summary says about app_id is about a parameter that such a client does not have.
        summary = _ABOUT_APP_ID.sub("", self.summary) if one_app else self.summary
        if self.standalone:
            return summary
        lines = [
            f"- {self.signature(k, one_app)}" + (f" {a.hint}" if a.hint else "")
            for k, a in self.offered(read_only, one_app).items()
        ]
        return "\n".join([summary, *lines])

    def input_schema(self, read_only: bool = False, one_app: bool = False) -> Schema:
        """One flat object: the action enum and the union of the offered actions' parameters."""
        offered = self.offered(read_only, one_app)
        used: set[str] = set()
        for action in offered.values():
            used |= set(properties_of(action.params)[0])
        without = {"app_id"} if one_app else set[str]()
        props = {name: schema for name, schema in self.properties.items() if name in used - without}
        if any(a.loses is not None for a in offered.values()):
            props.setdefault("confirm", {"type": "boolean"})
        if self.standalone:
            needed = properties_of(self.actions[""].params)[1] - without
            return flat_object(props, sorted(needed, key=list(props).index))
        required = ["action", *sorted(self._common_required() - without)]
        return flat_object({"action": {"type": "string", "enum": list(offered)}, **props}, required)

    def annotations(self, read_only: bool = False, one_app: bool = False) -> dict[str, Any]:
        """Honest hints, computed: read-only if every action is, destructive if any is.

        Left out to save tokens: what the protocol takes for granted (open world), and whether repeating does no
        harm, which no client acts on; ``schemas/`` has it per action.
        """
        effects = [a.effect for a in self.offered(read_only, one_app).values()]
        reads = all(e is READ for e in effects)
        hints: dict[str, Any] = {"title": self.title, "readOnlyHint": reads}
        if not reads:
            hints["destructiveHint"] = DESTROY in effects
        if not self.open_world:
            hints["openWorldHint"] = False
        return hints

    async def call(self, host: Host, caller: Caller, arguments: Mapping[str, Any], confirm: Confirm) -> Any:
        """Run what a tool call asks for: pick the action, then as ``run``, asking before anything is lost."""
        args = {k: v for k, v in arguments.items() if v is not None}
        label = ""
        if not self.standalone:
            try:
                label = self._pick(args.get("action"), host.settings.read_only or caller.read_only, caller.held_to)
            except AppError as error:
                await refused(host, caller, self.name, args, error, self.category)
                raise
            del args["action"]
        args = {k: v for k, v in args.items() if not self._blank(label, k, v)}
        given = args.pop("confirm", False) if self._confirms(label) else False
        if caller.held_to and "app_id" in properties_of(self.actions[label].params)[0]:
            args.setdefault("app_id", caller.held_to)

        async def ask(question: str) -> None:
            await confirm(question, given is True, self._name(label))

        return self.told(label, await self.run(host, caller, label, args, ask))

    def told(self, label: str, result: Any) -> Any:
        """The result as a model gets it: flagged where users wrote some of it."""
        return flagged(result) if self.actions[label].untrusted else result

    async def run(
        self,
        host: Host,
        caller: Caller,
        label: str,
        arguments: Mapping[str, Any],
        ask: Callable[[str], Awaitable[None]] | None = None,
    ) -> Any:
        """Run one action: scope, read-only mode, validation, confirmation (if ``ask``), effect, audit.

        Raises ``AppError``; what an action refused is audited as well.
        """
        action = self.actions[label]
        started = time.perf_counter()
        error: AppError | None = None
        asked = False
        params: Params | None = None
        result: Any = None
        app_id = PLATFORM if action.platform else app_named(arguments)
        try:
            self._permit(host, caller, label, action)
            params = self.parse(label, arguments, bool(caller.held_to))
            if not action.platform:
                app_id = getattr(params, "app_id", None) or PLATFORM
            if ask is not None and action.loses is not None:
                question = await action.loses(host, caller, params)
                if question is not None:
                    await ask(question)
                caller = replace(caller, agreed=question or "")
            result = await action.run(host, caller, params)
            if app_id == PLATFORM and not action.platform:
                app_id = app_named(result)  # init_app: the id is known only now.
            return result
        except Pending:
            asked = True
            raise
        except AppError as e:
            error = e
            raise
        except anyio.get_cancelled_exc_class():
            error = AppError("INTERNAL_ERROR", _TAKEN_BACK)
            raise
        except Exception:
            error = AppError("INTERNAL_ERROR", "internal error")
            raise
        finally:
            if not asked:
                # Recorded even when the client has gone in the meantime.
                with anyio.move_on_after(10, shield=True):
                    await host.record(self._event(label, action, caller, app_id, (params, result), started, error))

    def parse(self, label: str, arguments: Mapping[str, Any], one_app: bool = False) -> Params:
        """The arguments as the action's parameters model; raises one error that names all that is wrong."""
        model = self.actions[label].params
        args = dict(arguments)
        for key, value in args.items():
            # Some clients send arrays and objects as JSON text.
            if isinstance(value, str) and self.properties.get(key, {}).get("type") in ("array", "object"):
                args[key] = _from_json(value)
        try:
            return model.model_validate(args)
        except ValidationError as e:
            raise self._invalid(label, e, one_app) from None

    def _permit(self, host: Host, caller: Caller, label: str, action: Action) -> None:
        if caller.kind != "service":
            raise AppError("AUTH_REQUIRED", f"{self.name} needs a service key.")
        if caller.held_to and label not in self.offered(False, one_app=True):
            raise AppError(
                "AUTH_FORBIDDEN",
                f"This client is held to {caller.held_to}, by BROLLY_APP or --app of brolly mcp; {self._name(label)} "
                "is about the whole account.",
                remediation="Ask the user to take that out of the client's MCP configuration; manage_app get_config "
                "and manage_schema get work as they are.",
            )
        if action.effect is READ or not (host.settings.read_only or caller.read_only):
            return
        why, remedy = "This key has the scope read", "Use a key without the scope read"
        if host.settings.read_only:
            why, remedy = "This server is in read-only mode", "Use a server that is not read-only"
        elif READ_BY_CLIENT in caller.scopes:
            why = "This client asked for read-only mode, by BROLLY_READ_ONLY or --read-only of brolly mcp"
            remedy = "Ask the user to take that out of the client's MCP configuration"
        raise AppError(
            "AUTH_FORBIDDEN",
            f"{why}; {self._name(label)} changes data.",
            remediation=f"{remedy}; select_rows and manage_schema get work as they are.",
        )

    def _name(self, label: str) -> str:
        return f"{self.name} {label}".strip()

    def _pick(self, label: Any, read_only: bool, held_to: str) -> str:
        label = self.aliases.get(label, label) if isinstance(label, str) else label
        if isinstance(label, str) and label in self.actions:
            return label
        offered = list(self.offered(read_only, bool(held_to)))
        what = "The parameter action is missing." if label is None else f"{self.name} has no action {label!r}."
        raise AppError(
            "VALIDATION_INVALID_SCHEMA" if label is not None else "VALIDATION_MISSING_FIELD",
            what + (_nearest(label, offered) if isinstance(label, str) else ""),
            remediation=f"Call {self.name} with action set to one of: {', '.join(offered)}.",
        )

    def _confirms(self, label: str) -> bool:
        asks = any(action.loses is not None for action in self.actions.values())
        return asks and "confirm" not in properties_of(self.actions[label].params)[0]

    def _blank(self, label: str, key: str, value: Any) -> bool:
        # Cursor sends "" for an optional that it leaves out; for what is needed, empty text is an answer.
        return value == "" and key in self.properties and key not in properties_of(self.actions[label].params)[1]

    def _invalid(self, label: str, e: ValidationError, one_app: bool) -> AppError:
        fields = list(properties_of(self.actions[label].params)[0])
        said: list[str] = []
        missing = False
        for err in e.errors(include_url=False):
            where = ".".join(map(str, err["loc"])) or "arguments"
            if err["type"] == "missing":
                missing = missing or len(err["loc"]) == 1
                said.append(f"{where} is missing")
            elif err["type"] == "extra_forbidden" and len(err["loc"]) == 1:
                said.append(f"{where} does not belong here.{_nearest(where, fields)}")
            elif err["type"] == "extra_forbidden":
                said.append(f"{where} is not a known key")
            else:
                said.append(f"{where}: {in_json(err)}")
        return AppError(
            "VALIDATION_MISSING_FIELD" if missing else "VALIDATION_INVALID_SCHEMA",
            f"{self._name(label)}: {' '.join(map(sentence, said))}",
            remediation=f"Call {self._form(label, one_app)}.",
        )

    def _form(self, label: str, one_app: bool) -> str:
        found, required = properties_of(self.actions[label].params)
        names = [n if n in required else n + "?" for n in found if not (one_app and n == "app_id")]
        if self.actions[label].loses is not None and "confirm" not in found:
            names.append("confirm?")
        listed = ", ".join(names)
        if not label:
            return f"{self.name} with {listed or 'no parameters'}"
        return f"{self.name} with action {label}" + (f" and {listed}" if listed else "")

    def _event(
        self,
        label: str,
        action: Action,
        caller: Caller,
        app_id: str,
        of: tuple[Params | None, Any],
        started: float,
        error: AppError | None,
    ) -> AuditEvent:
        data: dict[str, Any] = {"tool": self.name, "duration_ms": round((time.perf_counter() - started) * 1000, 2)}
        if label:
            data["action"] = label
        data |= acted_as(of[0])
        if error is not None:
            data["code"] = error.code
        verb, target = said(action.verb, *of) or _VERBS[action.effect], action.target
        on = getattr(of[0], target, None) if isinstance(target, str) else target(*of)
        return AuditEvent(
            account_id=caller.account_id,
            app_id=app_id,
            category=self.category,
            event_type=said(action.event, *of) or f"{self.resource}.{label or verb}",
            action=verb,
            resource_type=self.resource,
            resource_id=kept(on),
            caller=caller,
            event_data=data,
            success=error is None,
            error_message=error.message if error else None,
            durable=action.effect is not READ,
        )


async def refused(
    host: Host, caller: Caller, name: str, arguments: Mapping[str, Any], error: AppError, category: str = "admin"
) -> None:
    """Leave the audit row of a call that reached no action."""
    with anyio.move_on_after(10, shield=True):
        await host.record(refusal(caller, name, arguments, error, category))


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
