"""The packages for coding agents: plugins/, server.json and the marketplace are written from tools/skills/.

Usage: plugins.py [--check]. Without --check it writes the files anew. With it, it prints what differs and exits
with 1. Only plugins/*/README.md and the icons are written by hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

from brolly import __version__
from brolly.core.skills import Skill, skills
from brolly.mcp_server import INSTRUCTIONS

ROOT = Path(__file__).resolve().parents[1]
CLAUDE, GEMINI, DESKTOP = "plugins/claude-code", "plugins/gemini-cli", "plugins/claude-desktop"
DESCRIPTION = "A self-hosted backend that coding agents operate: Postgres, sign-in, files, functions, live sites."
REGISTRY_NAME = "io.github.brolly-dev/brolly"
REGISTRY_SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
SERVERS = {"mcpServers": {"brolly": {"command": "brolly", "args": ["mcp"]}}}
AUTHOR = {"name": "The Brolly authors"}
REMOTE = {
    "BROLLY_URL": "Address of a Brolly server elsewhere; empty: the one on this machine, started when needed.",
    "BROLLY_API_KEY": "Service key for that server; the one on this machine needs none.",
}


def as_json(value: Any) -> str:
    """As it stands in a file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def skill_page(skill: Skill) -> str:
    """``SKILL.md``, as Claude Code reads it."""
    asked = "\n".join(f"- {name}: {meaning}" for name, meaning in skill.arguments.items())
    head = f"---\nname: {skill.name}\ndescription: {json.dumps(skill.description, ensure_ascii=False)}\n---\n"
    said = f"\n\n## What the person said\n\n$ARGUMENTS\n\nUseful to know; ask only where it is not plain:\n\n{asked}\n"
    return f"{head}\n{skill.text}{said if asked else ''}"


def gemini_command(skill: Skill) -> str:
    """A custom command of Gemini CLI; ``{{args}}`` is what the person wrote behind it."""
    # A literal string of TOML, in which nothing is special but its own end; a test reads each back.
    text = f"{skill.text}\n\n## What the person said\n\n{{{{args}}}}"
    return f"description = {json.dumps(skill.description, ensure_ascii=False)}\nprompt = '''\n{text}\n'''\n"


def claude_files() -> dict[str, str]:
    """The plugin of Claude Code, and the marketplace that this repository is."""
    plugin = {
        "name": "brolly",
        "version": __version__,
        "description": DESCRIPTION,
        "author": AUTHOR,
        "license": "Apache-2.0",
        "keywords": ["backend", "postgres", "mcp", "row-level-security"],
    }
    entry = {"name": "brolly", "source": f"./{CLAUDE}", "description": DESCRIPTION, "version": __version__}
    market = {
        "name": "brolly",
        "owner": AUTHOR,
        "metadata": {"description": "The plugin of Brolly.", "version": __version__},
        "plugins": [entry],
    }
    pages = {f"{CLAUDE}/skills/{name}/SKILL.md": skill_page(skill) for name, skill in skills().items()}
    return {
        ".claude-plugin/marketplace.json": as_json(market),
        f"{CLAUDE}/.claude-plugin/plugin.json": as_json(plugin),
        f"{CLAUDE}/.mcp.json": as_json(SERVERS),
        **pages,
    }


def gemini_files() -> dict[str, str]:
    """The extension of Gemini CLI."""
    # Gemini keeps variables whose names look like secrets from servers, unless they are declared here.
    settings = [
        {"name": name, "description": meaning, "envVar": name, "sensitive": True}
        for name, meaning in REMOTE.items()
        if name.endswith("KEY")
    ]
    extension = {
        "name": "brolly",
        "version": __version__,
        "description": DESCRIPTION,
        **SERVERS,
        "contextFileName": "GEMINI.md",
        "settings": settings,
    }
    commands = {f"{GEMINI}/commands/brolly/{name}.toml": gemini_command(skill) for name, skill in skills().items()}
    workflows = "\n".join(f"- `/brolly:{name}`: {skill.description}" for name, skill in skills().items())
    context = f"# Brolly\n\n{INSTRUCTIONS}\n\n## Workflows\n\n{workflows}\n"
    return {f"{GEMINI}/gemini-extension.json": as_json(extension), f"{GEMINI}/GEMINI.md": context, **commands}


def desktop_files() -> dict[str, str]:
    """The bundle of Claude Desktop, which uv installs: ``npx @anthropic-ai/mcpb pack plugins/claude-desktop``."""
    asked = {
        name.removeprefix("BROLLY_").lower(): {
            "type": "string",
            "title": name,
            "description": meaning,
            "required": False,
            "sensitive": name.endswith("KEY"),
        }
        for name, meaning in REMOTE.items()
    }
    manifest = {
        "manifest_version": "0.4",
        "name": "brolly",
        "display_name": "Brolly",
        "version": __version__,
        "description": DESCRIPTION,
        "author": AUTHOR,
        "license": "Apache-2.0",
        "icon": "icon.png",
        "server": {
            "type": "uv",
            "entry_point": "main.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", "main.py", "mcp"],
                "env": {name: f"${{user_config.{name.removeprefix('BROLLY_').lower()}}}" for name in REMOTE},
            },
        },
        "prompts_generated": True,
        "tools_generated": True,
        "user_config": asked,
        "compatibility": {"platforms": ["darwin", "linux"], "runtimes": {"python": ">=3.11"}},
    }
    project = (
        f'[project]\nname = "brolly-desktop"\nversion = "{__version__}"\nrequires-python = ">=3.11"\n'
        f'dependencies = ["brolly=={__version__}"]\n'
    )
    main = '"""Starts brolly as installed."""\n\nfrom brolly.cli import main\n\nmain()\n'
    return {
        f"{DESKTOP}/manifest.json": as_json(manifest),
        f"{DESKTOP}/pyproject.toml": project,
        f"{DESKTOP}/main.py": main,
    }


def registry_file() -> dict[str, str]:
    """What the MCP registry wants to know."""
    package = {
        "registryType": "pypi",
        "identifier": "brolly",
        "version": __version__,
        "runtimeHint": "uvx",
        "packageArguments": [{"type": "positional", "value": "mcp"}],
        "transport": {"type": "stdio"},
        "environmentVariables": [
            {"name": name, "description": meaning, "isSecret": name.endswith("KEY"), "isRequired": False}
            for name, meaning in REMOTE.items()
        ],
    }
    server = {
        "$schema": REGISTRY_SCHEMA,
        "name": REGISTRY_NAME,
        "title": "Brolly",
        "description": DESCRIPTION,
        "version": __version__,
        "packages": [package],
    }
    return {"server.json": as_json(server)}


def main(check: bool) -> int:
    """Write or compare; the exit code."""
    wanted = {**claude_files(), **gemini_files(), **desktop_files(), **registry_file()}
    generated = {*ROOT.glob(f"{CLAUDE}/skills/**/*.md"), *ROOT.glob(f"{GEMINI}/commands/**/*.toml")}
    stale = [path for path in generated if str(path.relative_to(ROOT)) not in wanted]
    differing = [
        name for name, text in wanted.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text
    ]
    names = [*differing, *(str(path.relative_to(ROOT)) for path in stale)]
    if check:
        for name in names:
            sys.stderr.write(f"{name} is not what scripts/plugins.py writes; run make schemas\n")
        return 1 if names else 0
    for path in stale:
        path.unlink()
    for name in differing:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name])
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
