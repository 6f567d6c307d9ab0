"""Settings from the environment and the options of a command, with the tools' names in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from brolly.core.pages import tool_pages
from brolly.core.settings import Settings, load_settings


def settings_for(given: Mapping[str, Any], *, elsewhere: bool = False) -> Settings:
    """The settings; a name that is no tool is refused before anything starts.

    ``elsewhere`` when BROLLY_URL counts: a server there may have tools that are unknown here.
    """
    settings = load_settings(**given)
    known = list(tool_pages()) if settings.tools else []
    if not known or {*settings.tools} <= {*known}:
        return settings
    # Heavy, so only for names that are not in full.
    from brolly.app import full_name, tool_names

    if elsewhere and settings.url:
        tools = tuple(full_name(name, known) or name for name in settings.tools)
    else:
        tools = tool_names(settings.tools, known, "BROLLY_TOOLS" if given.get("tools") is None else "--tools")
    return replace(settings, tools=tools)
