"""What a server that was killed leaves behind, and the next one clears away."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import psutil

from brolly.engines.deno.scratch import sweep


def _lives(pid: int) -> bool:
    """Whether it runs; one that has ended may stay in the list until whoever inherited it looks."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


LEFT = """
import anyio, os, pathlib, sys
from brolly.engines.deno import Bounds, Engine, Program
async def main():
    async with anyio.create_task_group() as group:
        engine = Engine(Bounds(pathlib.Path(sys.argv[1])))
        await group.start(engine.run)
        await engine.load(Program("a", "f", "export const handler = () => new Response()"))
        print(engine.folder, next(iter(engine._apps.values())).process._process.pid, flush=True)
        os.kill(os.getpid(), 9)
anyio.run(main)
"""


async def test_a_killed_server_leaves_no_process_and_the_next_one_removes_its_folder(tmp_path: Path) -> None:
    done = await anyio.run_process([sys.executable, "-c", LEFT, str(tmp_path)], check=False)
    folder, pid = done.stdout.split()
    with anyio.fail_after(10):
        while _lives(int(pid)):  # noqa: ASYNC110 nobody tells us
            await anyio.sleep(0.02)
    sweep()
    assert not Path(folder.decode()).exists()
