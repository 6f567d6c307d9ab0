"""The packages for coding agents: valid by each client's validator, and working once a real client installed them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from brolly.core.skills import skills
from tests import npm
from tests.e2e.processes import COMMAND, Machine, environment
from tests.e2e.test_connect import PROGRAMS, linked

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"


@dataclass
class Shell:
    """Somebody's terminal, with the clients' programs and ``brolly`` on the PATH."""

    home: Path
    env: dict[str, str]

    def run(self, *command: str, typed: str = "") -> str:
        done = subprocess.run(
            command, env=self.env, cwd=self.home, input=typed, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shell(shared: Machine, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    home = tmp_path_factory.mktemp("person")
    modules = npm.packages(*PROGRAMS) / "node_modules"
    programs = linked(home, modules)
    starter = programs / "brolly"
    starter.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    starter.chmod(0o755)
    server = shared.serve(shared.home())
    path = f"{programs}{os.pathsep}{modules / '.bin'}{os.pathsep}{npm.environment()['PATH']}"
    env = environment(server.home) | {"HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "claude"), "PATH": path}
    return Shell(home, env)


def test_the_plugin_works_in_claude_code(shell: Shell) -> None:
    for folder in (PLUGINS / "claude-code", ROOT):
        shell.run("claude", "plugin", "validate", "--strict", str(folder))
    shell.run("claude", "plugin", "marketplace", "add", str(ROOT))
    shell.run("claude", "plugin", "install", "brolly@brolly")
    listed = shell.run("claude", "mcp", "list")
    assert any("brolly" in line and "Connected" in line for line in listed.splitlines()), listed


def test_the_extension_works_in_gemini(shell: Shell) -> None:
    folder = str(PLUGINS / "gemini-cli")
    assert "success" in shell.run("gemini", "extensions", "validate", folder)
    # It asks whether the folder is to be trusted.
    shell.run("gemini", "extensions", "install", "--consent", "--skip-settings", folder, typed="y\n")
    shell.env["GEMINI_CLI_TRUST_WORKSPACE"] = "true"
    listed = shell.run("gemini", "mcp", "list")
    assert any("brolly" in line and "Connected" in line for line in listed.splitlines()), listed


def test_the_bundle_and_the_registry_entry_are_valid(shell: Shell, tmp_path: Path) -> None:
    bundler = npm.packages("@anthropic-ai/mcpb@2.1.2") / "node_modules" / ".bin" / "mcpb"
    shell.run(str(bundler), "validate", str(PLUGINS / "claude-desktop" / "manifest.json"))
    shell.run(str(bundler), "pack", str(PLUGINS / "claude-desktop"), str(tmp_path / "brolly.mcpb"))
    assert (tmp_path / "brolly.mcpb").stat().st_size > 1000
    shutil.copy(ROOT / "server.json", tmp_path)
    linter = Path(sys.executable).with_name("skillsaw")
    shell.run(str(linter), "lint", str(tmp_path))
    name = json.loads((ROOT / "server.json").read_text())["name"]
    assert f"mcp-name: {name}" in (ROOT / "README.md").read_text(), "by which the registry knows whose package it is"


@pytest.mark.parametrize("name", sorted(skills()))
def test_each_client_gets_the_same_workflow(name: str) -> None:
    """``scripts/plugins.py`` wrote all of them; what a client reads back is the source's text, whole."""
    page = (PLUGINS / "claude-code" / "skills" / name / "SKILL.md").read_text()
    command = tomllib.loads((PLUGINS / "gemini-cli" / "commands" / "brolly" / f"{name}.toml").read_text())
    assert skills()[name].text in page
    assert skills()[name].text in command["prompt"]
    assert command["description"] == skills()[name].description
