"""What decides who may read a table's rows, as Postgres has it: columns, privileges, policies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from brolly.core.caller import ROLES
from brolly.deps import Deps
from brolly.pg.catalog import Column, Snapshot
from brolly.pg.databases import REALTIME_ROLE
from brolly.pg.identifiers import quote
from brolly.pg.presentation import shown_value
from brolly.pg.session import run_as_platform
from brolly.registry import App, Registry

# Whatever is done to table, columns or privileges writes one of these rows anew; the policies' texts also tell when
# something that they name is called differently now. $1 is the table's name.
VERSION = (
    "select coalesce((select md5(concat_ws('/', c.oid, c.xmin, "
    "(select string_agg(a.attnum || ':' || a.xmin, ',' order by a.attnum) from pg_catalog.pg_attribute a "
    "where a.attrelid = c.oid and a.attnum > 0), "
    "(select string_agg(p.oid || ':' || p.xmin || pg_catalog.pg_get_expr(p.polqual, p.polrelid), ',' order by p.oid) "
    "from pg_catalog.pg_policy p where p.polrelid = c.oid))) from pg_catalog.pg_class c where c.relname = $1::text "
    "and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')), '') as version"
)

# Expressions are printed for a reader who has nothing on the search path but pg_catalog: every name that is not
# Postgres's own comes with its schema.
_FACTS = f"""
select coalesce(({VERSION}), '') as version, (
    select json_agg(json_build_object('name', a.attname, 'number', a.attnum,
        'type', format_type(a.atttypid, a.atttypmod), 'type_oid', a.atttypid::int8,
        'base_oid', b.oid::int8, 'category', b.typcategory,
        'element_oid', case when b.typcategory = 'A' then b.typelem::int8 else 0 end, 'nullable', true,
        'generated', case when a.attgenerated = 'v' then pg_get_expr(d.adbin, d.adrelid) end) order by a.attnum)
    from pg_attribute a
    join pg_type y on y.oid = a.atttypid
    join pg_type b on b.oid = coalesce(nullif(y.typbasetype, 0), y.oid)
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
)::text as columns, exists (
    select from pg_attribute a join pg_type y on y.oid = a.atttypid
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and y.typtype = 'd'
) as whole, (
    select json_object_agg(r.rolname, json_build_object(
        'columns', (select coalesce(json_agg(a.attname), '[]') from pg_attribute a where a.attrelid = c.oid
            and a.attnum > 0 and not a.attisdropped and has_column_privilege(r.oid, c.oid, a.attnum, 'select')),
        'bound', c.relrowsecurity and not r.rolsuper and not r.rolbypassrls
            and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage')),
        'policies', (select coalesce(json_agg(json_build_object('permissive', p.polpermissive,
                'using', coalesce(pg_get_expr(p.polqual, p.polrelid), 'true'),
                'row', p.polqual::text ~ ':varattno 0 ',
                'columns', array(select a.attname::text from pg_depend e join pg_attribute a
                    on a.attrelid = e.refobjid and a.attnum = e.refobjsubid where e.classid = 'pg_policy'::regclass
                    and e.objid = p.oid and e.refclassid = 'pg_class'::regclass and e.refobjid = c.oid
                    and e.refobjsubid > 0)) order by p.polname), '[]')
            from pg_policy p where p.polrelid = c.oid and p.polcmd in ('r', '*')
            and exists (
                select from unnest(p.polroles) m (role) where m.role = 0 or pg_has_role(r.oid, m.role, 'usage'))))
    ) from pg_roles r where r.rolname = any ($2::text[])
)::text as roles
from (select 1) one
left join pg_class c
    on c.relname = $1::text and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
"""
_PLAIN = re.compile(r"current_setting\('(?:request\.jwt\.claim\.sub|app\.role)'")


@dataclass(frozen=True, slots=True)
class Rights:
    """What one role may read: these columns, of the rows for which ``condition`` holds. None: of all rows."""

    columns: tuple[str, ...]
    condition: str | None

    @property
    def nothing(self) -> bool:
        """Whether no row can be seen at all."""
        return not self.columns or self.condition == "false"


@dataclass(frozen=True, slots=True)
class Facts:
    """A table at one ``version``. ``judged`` are the columns that conditions look at."""

    version: str
    columns: Mapping[str, Column]
    rights: Mapping[str, Rights]
    judged: tuple[str, ...]

    def value(self, name: str, alias: str) -> str:
        """The column of a recorded row. What is computed when it is read was not recorded, so it is computed now."""
        generated = self.columns[name].generated
        if generated is None:
            return f"{alias}.{quote(name)}"
        return f"(select ({generated}) from (select {alias}.*) brolly_v)"

    def shown(self, names: tuple[str, ...], alias: str) -> str:
        """These columns of the row, in the form of answers."""
        found = [(shown_value(self.columns[name], self.value(name, alias)), quote(name)) for name in names]
        return ", ".join(f"{value} as {name}" for value, name in found)


_KNOWN: WeakKeyDictionary[Registry, dict[tuple[str, str], Facts]] = WeakKeyDictionary()
_MOST_KNOWN = 2_000


async def facts_of(deps: Deps, app: App, table: str, *, stale: str | None = None) -> Facts | None:
    """What is known of the table, unless that is of the ``stale`` version; None when there is none."""
    known = _KNOWN.setdefault(deps.registry, {})
    found = known.get((app.id, table))
    if found is not None and found.version != stale:
        return found
    roles = list(ROLES.values())
    row = (await run_as_platform(deps.pools.door(app), REALTIME_ROLE, _FACTS, (table, roles))).rows[0]
    if not row["version"]:
        known.pop((app.id, table), None)
        return None
    if len(known) >= _MOST_KNOWN:
        known.clear()
    facts = known[app.id, table] = _facts(row)
    return facts


def _facts(row: Any) -> Facts:
    found: list[dict[str, Any]] = json.loads(row["columns"] or "[]")
    columns = {str(each["name"]): Column(**each) for each in found}
    roles: dict[str, Any] = json.loads(row["roles"])
    judged: set[str] = set()
    whole: bool = row["whole"]
    for role in roles.values():
        policies: list[dict[str, Any]] = role["policies"] if role["bound"] else []
        for policy in policies:
            judged |= set(policy["columns"])
            whole |= bool(policy["row"])
    rights = {name: Rights(tuple(role["columns"]), _condition(name, role)) for name, role in roles.items()}
    return Facts(row["version"], columns, rights, tuple(columns) if whole else tuple(sorted(judged & columns.keys())))


def _condition(name: str, role: Any) -> str | None:
    """As Postgres puts policies together: one of the permissive, and all of the restrictive."""
    if not role["bound"]:
        # Without row-level security the public gets nothing, whatever was granted: as everywhere in the product.
        return "false" if name == ROLES["anonymous"] else None
    permissive = [p["using"] for p in role["policies"] if p["permissive"]]
    restrictive = [p["using"] for p in role["policies"] if not p["permissive"] and p["using"] != "true"]
    if not permissive:
        return "false"
    parts = [] if "true" in permissive else [" or ".join(f"({text})" for text in permissive)]
    parts += restrictive
    return " and ".join(f"({text})" for text in parts) or None


_CLAIMS: WeakKeyDictionary[Snapshot, bool] = WeakKeyDictionary()


async def claims_matter(deps: Deps, app: App) -> bool:
    """Whether a policy of the app may look at more of a caller than role and id.

    Where none does, all connections of a user are one identity, though each has a token of its own.
    """
    snapshot = await deps.catalog.get(app)
    return _claims_matter(snapshot)


def _claims_matter(snapshot: Snapshot) -> bool:
    texts = [text for table in snapshot.tables.values() for p in table.policies for text in (p.using, p.check) if text]
    texts += [function.body for many in snapshot.functions.values() for function in many]
    texts += [view.view.query for view in snapshot.views.values() if view.view is not None]
    return any(re.search(r"current_setting|pg_settings|jwt\.claims", _PLAIN.sub("", text)) for text in texts)
