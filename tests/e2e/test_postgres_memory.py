"""One statement may fail for want of memory; the database and the machine go on."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest

from brolly.pg.embedded import cluster, embedded_postgres, remove_data_folder


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to an address space")
async def test_one_statement_cannot_take_the_machines_memory() -> None:
    home = Path(tempfile.mkdtemp(prefix="brolly-test-"))
    try:
        async with embedded_postgres(home, "password") as postgres:
            server = cluster.find_postmaster((home / "postgres").resolve())
            assert server is not None
            limits = Path(f"/proc/{server.pid}/limits").read_text()
            line = next(x for x in limits.splitlines() if x.startswith("Max address space"))
            assert line.split()[3] == str(3 * 1024**3)
            connection = await asyncpg.connect(**postgres.server.connect_args())
            # Five texts of 0.9 GB at once.
            greedy = "select array_length(array[" + ", ".join(f"repeat('{x}', 900000000)" for x in "abcde") + "], 1)"
            with pytest.raises(asyncpg.PostgresError) as refused:
                await connection.execute(greedy)
            assert refused.value.sqlstate in ("53200", "54000")
            assert await connection.fetchval("select 1") == 1
            await connection.close()
    finally:
        remove_data_folder(home)
