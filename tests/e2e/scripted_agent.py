"""An agent that is a script: it knows what a server tells any client (tools, prompts, errors) and nothing else.

It comes with the habits of other products. What its first try gets wrong it mends by the error's own words alone.
"""

from __future__ import annotations

import difflib
import json
import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from mcp import Client

_RENAME = re.compile(r"(\w+) does not belong here\. Did you mean (\w+)\?")
_USE = re.compile(r"(\w+) is not a key of a \w+; use (\w+)")
_FILTER = re.compile(r'^(\w+): .* did you mean "([^"]+)"\?')
_SUCH_AS = re.compile(r"must be an object, such as (\{.*\})")
TRIES = 4


@dataclass
class Agent:
    """One session. ``calls`` counts what was called, ``spent`` the characters that went both ways."""

    session: Client
    known: dict[str, str] = field(default_factory=dict[str, str])
    tools: dict[str, Any] = field(default_factory=dict[str, Any])
    examples: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict[tuple[str, str], dict[str, Any]])
    calls: int = 0
    spent: int = 0
    mistakes: list[str] = field(default_factory=list[str])

    async def learn(self) -> None:
        """Read the list of tools and the prompts; their examples show how calls look."""
        listed = (await self.session.list_tools()).tools
        self.tools = {tool.name: tool for tool in listed}
        self.spent += sum(len(tool.model_dump_json(exclude_none=True)) for tool in listed)
        for prompt in (await self.session.list_prompts()).prompts:
            [message] = (await self.session.get_prompt(prompt.name, {})).messages
            for block in re.findall(r"```json\n(.*?)```", message.content.text, re.S):  # type: ignore[union-attr]
                shown = json.loads(block)
                if "tool" in shown:
                    key = (shown["tool"], shown["arguments"].get("action", ""))
                    self.examples.setdefault(key, shown["arguments"])

    async def want(self, tool: str, **arguments: Any) -> Any:
        """Call it; mend the call by what the answer says, a few times."""
        for _ in range(TRIES):
            arguments = {name: self.known.get(value, value) if isinstance(value, str) else value
                         for name, value in arguments.items()}  # fmt: skip
            result = await self.session.call_tool(tool, arguments)
            text: str = result.content[-1].text  # type: ignore[union-attr]
            self.calls += 1
            self.spent += len(json.dumps(arguments)) + len(text)
            answer = json.loads(text)
            if not result.is_error:
                return answer
            error = answer["error"]
            self.mistakes.append(error["message"])
            tool, arguments = self.mended(tool, arguments, error)
        raise AssertionError(f"{tool} {arguments}: {self.mistakes[-TRIES:]}")

    def mended(self, tool: str, arguments: dict[str, Any], error: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The call that the error's words ask for."""
        message, remedy = error["message"], error["remediation"]
        if message.startswith("There is no tool"):
            return self._other_tool(arguments, remedy)
        if "has no action" in message:
            offered = remedy.rpartition(": ")[2].rstrip(".").split(", ")
            nearest = difflib.get_close_matches(arguments["action"], offered, 1, 0.0)[0]
            return tool, {**arguments, "action": nearest}
        if error["code"] == "CONFIRMATION_REQUIRED":
            return tool, {**arguments, "confirm": True}
        changed = deepcopy(arguments)
        for wrong, right in _RENAME.findall(message):
            changed[right] = changed.pop(wrong)
        for told in error.get("details", {}).get("invalidFilters", []):
            if found := _FILTER.match(told):
                changed["filters"][found[1]] = found[2]
        for problem in error.get("details", {}).get("problems", []):
            _mend_document(changed, problem)
        for name, value in changed.items():
            # An expression in another product's words: the remedy says what to write here.
            if (
                isinstance(value, str)
                and "auth.uid()" in value
                and (found := re.search(r"current_user_id\(\)(?:::\w+)?", f"{message} {remedy}"))
            ):
                changed[name] = value.replace("auth.uid()", found[0])
        return tool, changed

    def _other_tool(self, arguments: dict[str, Any], remedy: str) -> tuple[str, dict[str, Any]]:
        tool = next(name for name in re.findall(r"[a-z_]+", remedy) if name in self.tools)
        actions = self.tools[tool].input_schema["properties"].get("action", {}).get("enum", [])
        after = remedy.partition(tool)[2]
        action = next((word for word in re.findall(r"[a-z_]+", after) if word in actions), "")
        taken = self.tools[tool].input_schema["properties"]
        kept = {name: value for name, value in arguments.items() if name in taken}
        return tool, {**kept, **({"action": action} if action else {})}


def _mend_document(arguments: dict[str, Any], problem: dict[str, str]) -> None:
    """One place of a schema document, as its problem says."""
    *above, last = problem["path"].split(".")
    place: Any = arguments["schema"]
    for step in above:
        place = place[step]
    if found := _USE.search(problem["message"]):
        place[found[2]] = place.pop(found[1])
    elif found := _SUCH_AS.search(problem["message"]):
        [key] = json.loads(found[1])
        place[last] = {key: place[last]}
