"""What each identity may see of recorded changes, by the table's own policies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from brolly.deps import Deps
from brolly.realtime.changes import Change, Identity, Sight
from brolly.registry import App


async def visible(
    deps: Deps, app: App, table: str, changes: Sequence[Change], identities: Collection[Identity]
) -> Mapping[Identity, Sequence[Sight | None]]:
    """For each identity and each of the changes, all of that table, what may be sent; None for nothing.

    Where it cannot be told nothing is sent: a policy that fails is logged, and costs the others nothing. Raises
    only when the database does not answer: nothing was decided then, and the same may be asked again.
    """
    raise NotImplementedError
