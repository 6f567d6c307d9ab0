"""Views and functions as the catalog's records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from brolly.pg.catalog import Argument, Column, Function, Key, Table, View

Read = Callable[[dict[str, Any]], Column]
Text = Callable[[str | None], str | None]
Source = tuple[str, str]
"""A table or view, and a column of it."""

_TYPE = """
        'type', {text}, 'type_oid', y.oid::int8, 'base_oid', b.oid::int8, 'category', b.typcategory,
        'element_oid', case when b.typcategory = 'A' then b.typelem::int8 else 0 end
"""
_TYPES = "join pg_type y on y.oid = {oid} join pg_type b on b.oid = coalesce(nullif(y.typbasetype, 0), y.oid)"
_NOT_OF_AN_EXTENSION = """not exists (
      select from pg_depend d where d.classid = '{catalog}'::regclass and d.objid = {oid} and d.deptype = 'e')"""

VIEWS = rf"""
select coalesce(json_agg(json_build_object(
    'name', c.relname, 'oid', c.oid::int8, 'query', pg_get_viewdef(c.oid, true), 'tree', r.ev_action::text,
    'options', coalesce((select json_object_agg(o.option_name, o.option_value)
                         from pg_options_to_table(c.reloptions) o), '{{}}'),
    'writes', pg_relation_is_updatable(c.oid, false),
    'columns', (
        select json_agg(json_build_object(
            'name', a.attname, 'number', a.attnum, 'writable', pg_column_is_updatable(c.oid, a.attnum, false),
            {_TYPE.format(text="format_type(a.atttypid, a.atttypmod)")}) order by a.attnum)
        from pg_attribute a {_TYPES.format(oid="a.atttypid")}
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
    'reads', (
        select coalesce(json_agg(json_build_object('name', f.relname, 'columns', f.names)), '[]')
        from (select k.relname, coalesce(json_agg(a.attname) filter (where a.attname is not null), '[]') as names
              from pg_depend d
              join pg_class k on k.oid = d.refobjid and k.relnamespace = c.relnamespace
              left join pg_attribute a on a.attrelid = k.oid and a.attnum = d.refobjsubid and d.refobjsubid > 0
              where d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
                and k.oid <> c.oid
              group by k.relname order by k.relname) f),
    'calls', (
        select coalesce(json_agg(distinct p.proname), '[]')
        from pg_depend d
        join pg_proc p on p.oid = d.refobjid and p.pronamespace = c.relnamespace and p.proowner = n.nspowner
        where d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_proc'::regclass)
) order by c.relname collate "C"), '[]')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'
join pg_rewrite r on r.ev_class = c.oid and r.rulename = '_RETURN'
where c.relkind = 'v' and c.relname not like '\_%' and {_NOT_OF_AN_EXTENSION.format(catalog="pg_class", oid="c.oid")}
"""

# What the platform put there, the triggers of row-level security among it, is not the app's own.
FUNCTIONS = rf"""
select coalesce(json_agg(json_build_object(
    'name', p.proname, 'oid', p.oid::int8, 'returns', pg_get_function_result(p.oid), 'language', l.lanname,
    'body', p.prosrc, 'volatility', p.provolatile, 'definer', p.prosecdef, 'settings', coalesce(p.proconfig, '{{}}'),
    'plain', p.prosqlbody is null and p.provariadic = 0 and not p.proisstrict and not p.proleakproof
        and p.prosupport = 0::oid and coalesce(p.proargmodes <@ '{{i,t}}'::"char"[], true),
    'many', p.proretset,
    'value', json_build_object('name', p.proname, {_TYPE.format(text="format_type(p.prorettype, null)")}),
    'relation', (select k.relname from pg_class k
                 where k.oid = y.typrelid and k.relnamespace = p.pronamespace and k.relkind in ('r', 'p', 'v')),
    'columns', (
        select json_agg(json_build_object(
            'name', e.name, {_TYPE.format(text="format_type(e.type, null)")}) order by e.n)
        from unnest(p.proallargtypes, p.proargmodes, p.proargnames) with ordinality e(type, mode, name, n)
        {_TYPES.format(oid="e.type")}
        where e.mode = 't'),
    'arguments', (
        select coalesce(json_agg(json_build_object(
            'name', coalesce(p.proargnames[e.n], ''), 'default', pg_get_function_arg_default(p.oid, e.n::int),
            {_TYPE.format(text="format_type(e.type, null)")}) order by e.n), '[]')
        from unnest(p.proargtypes::oid[]) with ordinality e(type, n) {_TYPES.format(oid="e.type")}),
    'roles', (
        select coalesce(json_agg(o.rolname), '[]')
        from (values ('butterbase_anon'), ('butterbase_user'), ('butterbase_service')) o(rolname)
        where has_function_privilege(o.rolname, p.oid, 'execute'))
) order by p.proname collate "C", p.oid), '[]')
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'public' and n.nspowner = p.proowner
join pg_language l on l.oid = p.prolang
{_TYPES.format(oid="p.prorettype")}
where p.prokind = 'f' and p.proname not like '\_%' and y.typname not in ('trigger', 'event_trigger')
  and {_NOT_OF_AN_EXTENSION.format(catalog="pg_proc", oid="p.oid")}
"""

_VOLATILITY = {"i": "immutable", "s": "stable", "v": "volatile"}
_INSERT, _UPDATE, _DELETE = 1 << 3, 1 << 2, 1 << 4
_VOID, _RECORD = 2278, 2249


def read_views(
    rows: list[dict[str, Any]], tables: Mapping[str, Table], column: Read, text: Text
) -> Mapping[str, Table]:
    """The views, with what the tables below give them: keys, and whether anonymous callers may hope to read."""
    views = {row["name"]: _view(row, column, text) for row in rows}
    relations = {r.oid: r for r in (*tables.values(), *views.values())}
    sources = {row["name"]: dict(_sources(row["tree"], tuple(views[row["name"]].columns), relations)) for row in rows}
    found: dict[str, Table] = {}
    for name, view in views.items():
        below = {column: _ground(source, sources) for column, source in sources[name].items()}
        found[name] = _keyed(_grounded(view, tables, views), {c: s for c, s in below.items() if s}, tables)
    return MappingProxyType(found)


def _ground(source: Source | None, sources: Mapping[str, Mapping[str, Source]]) -> Source | None:
    """The table's column that the source is, through views in between."""
    while source is not None and source[0] in sources:
        source = sources[source[0]].get(source[1])
    return source


def _view(row: dict[str, Any], column: Read, text: Text) -> Table:
    writes: int = row["writes"]
    columns: dict[str, Column] = {}
    for entry in row["columns"]:
        # A computed column takes no value, as a generated one.
        computed = None if entry.pop("writable") else ""
        entry |= {"nullable": True, "default": None, "generated": computed, "identity": "", "serial": False}
        columns[entry["name"]] = column(entry)
    options: dict[str, str] = row["options"]
    view = View(
        query=(text(row["query"]) or "").strip().removesuffix(";"),
        invoker=options.get("security_invoker", "") in ("true", "on", "yes", "1"),
        plain=not options.keys() - {"security_invoker"},
        insertable=bool(writes & _INSERT),
        updatable=bool(writes & _UPDATE),
        deletable=bool(writes & _DELETE),
        reads=MappingProxyType({r["name"]: tuple(r["columns"]) for r in row["reads"]}),
        calls=tuple(row["calls"]),
    )
    return Table(row["name"], MappingProxyType(columns), oid=row["oid"], view=view)


def _grounded(table: Table, tables: Mapping[str, Table], views: Mapping[str, Table]) -> Table:
    view = table.view
    assert view is not None  # noqa: S101 - these are views
    found: dict[str, Table] = {}
    left, seen, sealed = list(view.reads), set[str](), view.invoker
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        below = views.get(name)
        if name in tables:
            found[name] = tables[name]
        elif below is not None and below.view is not None:
            left += below.view.reads
            sealed = sealed and below.view.invoker
    bases = tuple(found[name] for name in sorted(found))
    return replace(
        table, view=replace(view, bases=bases, sealed=sealed), rls_enabled=all(base.rls_enabled for base in bases)
    )


# The tree is text: ({QUERY … :targetList ({TARGETENTRY …} …) …}). In names a backslash stands before what is special.
_TREE = re.compile(
    r":targetList |:resno (\d+) :resname (?:\\.|\S)+ :ressortgroupref \d+ :resorigtbl (\d+) :resorigcol (\d+)"
    r"|\\.|[{}()]",
    re.DOTALL,
)
_IN_QUERY, _IN_ENTRY = 2, 4


def _sources(tree: str, names: tuple[str, ...], relations: Mapping[int, Table]) -> Iterator[tuple[str, Source]]:
    """From each column that is one of a table's or view's to where it is from."""
    depth, listed = 0, False
    for part in _TREE.finditer(tree):
        sign = part.group()
        if sign in ("{", "("):
            depth += 1
        elif sign in ("}", ")"):
            depth -= 1
            listed = listed and depth > _IN_QUERY
        elif sign == ":targetList ":
            listed = listed or depth == _IN_QUERY
        elif listed and depth == _IN_ENTRY and part.group(1):
            number, owner, place = map(int, part.groups())
            table = relations.get(owner)
            column = next((c.name for c in table.columns.values() if c.number == place), None) if table else None
            if table is not None and column is not None and number <= len(names):
                yield names[number - 1], (table.name, column)


def _keyed(view: Table, sources: Mapping[str, Source], tables: Mapping[str, Table]) -> Table:
    """The view with the keys that hold for its rows. Where it can be written to, a row is a row of one table."""
    assert view.view is not None  # noqa: S101 - these are views
    view = replace(view, view=replace(view.view, sources=MappingProxyType(dict(sources))))
    names = {source: name for name, source in reversed(tuple(sources.items()))}
    for table in dict.fromkeys(table for table, _ in sources.values()):
        base = tables[table]
        alone = view.view is not None and view.view.updatable
        if alone and base.primary and all((table, c) in names for c in base.primary_key):
            view = replace(view, primary=Key(base.primary.name, tuple(names[table, c] for c in base.primary_key)))
        found = [
            replace(key, columns=tuple(names[table, c] for c in key.columns))
            for key in base.foreign_keys
            if all((table, c) in names for c in key.columns)
        ]
        view = replace(view, foreign_keys=(*view.foreign_keys, *found))
    return view


def read_functions(rows: list[dict[str, Any]], column: Read, text: Text) -> Mapping[str, tuple[Function, ...]]:
    """The functions by name."""
    found: dict[str, tuple[Function, ...]] = {}
    for row in rows:
        found[row["name"]] = (*found.get(row["name"], ()), _function(row, column, text))
    return MappingProxyType(found)


def _typed(entry: dict[str, Any], column: Read) -> Column:
    facts = {"nullable": True, "default": None, "generated": None, "identity": "", "serial": False}
    return column(entry | facts)


def _function(row: dict[str, Any], column: Read, text: Text) -> Function:
    arguments = tuple(Argument(a["name"], _typed(a, column), text(a["default"])) for a in row["arguments"])
    columns = {c["name"]: _typed(c, column) for c in row["columns"] or ()}
    kind: int = row["value"]["type_oid"]
    whole = row["relation"] is not None or bool(columns) or kind in (_VOID, _RECORD)
    return Function(
        name=row["name"],
        oid=row["oid"],
        arguments=arguments,
        returns=text(row["returns"]) or "",
        language=row["language"],
        body=row["body"],
        volatility=_VOLATILITY[row["volatility"]],
        definer=row["definer"],
        plain=row["plain"] and all(a.name for a in arguments) and (kind != _RECORD or bool(columns)),
        roles=frozenset(row["roles"]),
        settings=tuple(row["settings"]),
        many=row["many"],
        value=None if whole else _typed(row["value"], column),
        relation=row["relation"],
        columns=MappingProxyType(columns),
        void=kind == _VOID,
    )
