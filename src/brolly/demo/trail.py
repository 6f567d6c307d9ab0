"""What the owner can look up afterwards."""

from __future__ import annotations

from rich.table import Table

from brolly.demo.stage import Demo


async def play(demo: Demo) -> None:
    """The whole scene."""
    demo.step("What the owner can look up afterwards", "query_audit_logs")
    log = await demo.call("query_audit_logs", limit=5)
    table = Table("event", "outcome", "ms", box=None, padding=(0, 1))
    for row in log["logs"]:
        outcome = "[green]ok[/]" if row["success"] else f"[red]{row['event_data'].get('code')}[/]"
        table.add_row(row["event_type"], outcome, str(row["event_data"].get("duration_ms", "")))
    demo.screen.print(table)
    demo.expect(log["total"] >= demo.calls - 2, f"every call is in the log ({log['total']} rows)")
