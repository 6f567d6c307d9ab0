"""What MCP clients read beside the tools: resources, prompts, and completions of their arguments.

A resource is read through a tool's own action, so scope, read-only mode, audit and the other account's 404 hold
for it as they do for a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    Completion,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    Resource,
    ResourceTemplate,
    TextContent,
)

from brolly.core.caller import Caller
from brolly.core.errors import AppError
from brolly.core.pages import tool_pages
from brolly.core.skills import skills
from brolly.core.tool import Tool
from brolly.core.untrusted import result_text, visible
from brolly.deps import Deps

_MARKDOWN, _JSON = "text/markdown", "application/json"
_MOST_VALUES = 100
_ARGUMENTS = {"tool": "topic"}
"""What an action calls a variable of the templates; a tool's name is a topic of butterbase_docs."""


@dataclass(frozen=True, slots=True)
class Source:
    """A kind of resource: the template of its address, and the action that reads it."""

    template: str
    name: str
    title: str
    tool: str
    label: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mime: str = _JSON

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches its addresses; the groups are the action's arguments."""
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/?#]+)", re.escape(self.template)))

    @property
    def variables(self) -> list[str]:
        """The names in the template."""
        return re.findall(r"\{(\w+)\}", self.template)


SOURCES = (
    Source("brolly://docs/{topic}", "docs", "Documentation", "butterbase_docs", mime=_MARKDOWN),
    Source("brolly://tools/{tool}", "tools", "Tool page", "butterbase_docs", mime=_MARKDOWN),
    Source("brolly://apps", "apps", "Apps", "manage_app", "list", {"limit": 100}),
    Source("brolly://apps/{app_id}", "app", "App", "manage_app", "get_config"),
    Source("brolly://apps/{app_id}/schema", "schema", "Schema of an app", "manage_schema", "get"),
    Source("brolly://apps/{app_id}/logs", "logs", "What was done in an app", "query_audit_logs"),
    Source(
        "brolly://apps/{app_id}/functions/{function_name}/logs", "function-logs", "Log of a function",
        "manage_function", "get_logs",
    ),
)  # fmt: skip


class Pages:
    """Resources, prompts and completions for a caller, who sees of them what the tools would show."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def _tool(self, caller: Caller, source: Source) -> Tool | None:
        if caller.tool_scopes and source.tool not in caller.tool_scopes and source.mime == _JSON:
            return None
        tool = self._deps.tools.get(source.tool)
        if tool is None or source.label not in tool.offered(caller.read_only, bool(caller.held_to)):
            return None
        return tool

    def resources(self, caller: Caller) -> list[Resource]:
        """What has an address of its own."""
        return [
            Resource(uri=source.template, name=source.name, title=source.title, mime_type=source.mime)
            for source in SOURCES
            if not source.variables and self._tool(caller, source) is not None
        ]

    def templates(self, caller: Caller) -> list[ResourceTemplate]:
        """What has an address to fill in."""
        return [
            ResourceTemplate(uri_template=source.template, name=source.name, title=source.title, mime_type=source.mime)
            for source in SOURCES
            if source.variables and self._tool(caller, source) is not None
        ]

    async def read(self, caller: Caller, uri: str) -> Iterable[ReadResourceContents]:
        """The resource's text; ``ResourceNotFoundError`` where there is none, or none for this caller."""
        for source in SOURCES:
            found = source.pattern.fullmatch(uri)
            tool = self._tool(caller, source) if found else None
            if found and tool is not None:
                named = {_ARGUMENTS.get(name, name): unquote(value) for name, value in found.groupdict().items()}
                arguments = {**source.fixed, **named}
                text = await self._run(caller, tool, source.label, arguments)
                return [ReadResourceContents(content=text, mime_type=source.mime)]
        known = ", ".join(source.template for source in SOURCES if self._tool(caller, source) is not None)
        raise ResourceNotFoundError(f"There is no resource {uri[:200]}. There are: {known}")

    async def _run(self, caller: Caller, tool: Tool, label: str, arguments: Mapping[str, Any]) -> str:
        try:
            result = await tool.run(self._deps, caller, label, arguments)
        except AppError as error:
            kind = ResourceNotFoundError if error.status in (400, 404) else ResourceError
            raise kind(visible(f"{error.message} {error.remediation}".strip())) from error
        return result_text(tool.told(label, result))

    def prompts(self) -> list[Prompt]:
        """The guided workflows."""
        return [
            Prompt(
                name=skill.name,
                title=skill.title,
                description=skill.description,
                arguments=[
                    PromptArgument(name=name, description=meaning, required=False)
                    for name, meaning in skill.arguments.items()
                ],
            )
            for skill in skills().values()
        ]

    def prompt(self, name: str, given: Mapping[str, Any]) -> GetPromptResult:
        """The workflow's text. ``MCPError`` names what there is instead."""
        skill = skills().get(name)
        if skill is None:
            raise _wrong(f"There is no prompt {name[:100]!r}. There are: {', '.join(skills())}")
        unknown = sorted(given.keys() - skill.arguments.keys())
        if unknown:
            raise _wrong(
                f"{name} takes no argument {unknown[0][:100]!r}; it takes: {', '.join(skill.arguments) or 'none'}"
            )
        text = skill.told({key: str(value) for key, value in given.items()})
        message = PromptMessage(role="user", content=TextContent(type="text", text=text))
        return GetPromptResult(description=skill.description, messages=[message])

    async def complete(self, caller: Caller, params: CompleteRequestParams) -> Completion:
        """What an argument could become, at most 100; nothing where the caller may not know."""
        name, begun = params.argument.name, params.argument.value
        given = dict(params.context.arguments or {}) if params.context else {}
        try:
            values = await self._values(caller, name, given)
        except AppError:
            values = dict[str, str]()
        low = begun.lower()
        fitting = [value for value, also in values.items() if low in value.lower() or low in also.lower()]
        fitting.sort(key=lambda value: not value.lower().startswith(low))
        return Completion(values=fitting[:_MOST_VALUES], total=len(fitting), has_more=len(fitting) > _MOST_VALUES)

    async def _values(self, caller: Caller, name: str, given: Mapping[str, str]) -> Mapping[str, str]:
        """Each value, and by what else it is found: an app by its name as well."""
        if name in ("tool", "topic"):
            return dict.fromkeys(tool_pages() if name == "tool" else self._topics(), "")
        app_id = given.get("app_id") or caller.held_to
        if name == "app_id":
            if caller.held_to:
                return {caller.held_to: ""}
            return {
                app["id"]: app["name"] for app in (await self._ask(caller, "manage_app", "list", limit=1000))["apps"]
            }
        if name == "table" and app_id:
            got = await self._ask(caller, "manage_schema", "get", app_id=app_id)
            return {str(table): "" for table in got["schema"]["tables"]}
        if name == "function_name" and app_id:
            listed = await self._ask(caller, "manage_function", "list", app_id=app_id)
            return {str(each["name"]): "" for each in listed["functions"]}
        return {}

    def _topics(self) -> list[str]:
        docs = self._deps.tools.get("butterbase_docs")
        return [str(topic) for topic in docs.properties["topic"]["enum"]] if docs is not None else []

    async def _ask(self, caller: Caller, name: str, label: str, **arguments: Any) -> Any:
        tool = self._deps.tools.get(name)
        if tool is None or (caller.tool_scopes and name not in caller.tool_scopes):
            raise AppError("AUTH_FORBIDDEN", f"{name} is not among the tools that this client may use.")
        return await tool.run(self._deps, caller, label, arguments)


def _wrong(message: str) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=message)
