"""The statement that reads an app's tables and types from the system catalogs."""

from __future__ import annotations

import re

from brolly.pg.routines import FUNCTIONS, VIEWS

# With its schema, lest a function of the app's own, for types that fit better, is taken for it.
_CALL = re.compile(
    r"(?<![.\w])(?=(?:json_\w+|bool_and|format_type|has_function_privilege|pg_get_\w+|pg_\w+_is_updatable"
    r"|pg_options_to_table)\()"
)

# The attribute numbers of keys are turned into
# names in order; what a record cannot say (deferrable, partial, …) clears its flag "plain", so that
# no one takes it for the simple form.
_TABLES = """
with t as (
    select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.reltuples
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and c.relname not like '\\_%'
      and not exists (
          select from pg_depend d
          where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
), cols as (
    select a.attrelid as oid, json_agg(json_build_object(
        'name', a.attname, 'number', a.attnum,
        'type', format_type(a.atttypid, a.atttypmod),
        'type_oid', a.atttypid::int8,
        'base_oid', b.oid::int8,
        'category', b.typcategory,
        'element_oid', case when b.typcategory = 'A' then b.typelem::int8 else 0 end,
        'nullable', not a.attnotnull,
        'default', case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
        'generated', case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end,
        'identity', a.attidentity,
        'serial', coalesce(s.owned, false)
    ) order by a.attnum) as list
    from t
    join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    join pg_type y on y.oid = a.atttypid
    join pg_type b on b.oid = coalesce(nullif(y.typbasetype, 0), y.oid)
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join lateral (
        select true as owned
        from pg_depend o
        join pg_class q on q.oid = o.objid and q.relkind = 'S'
        join pg_depend u on u.classid = 'pg_attrdef'::regclass and u.objid = d.oid and u.refobjid = q.oid
        where o.classid = 'pg_class'::regclass and o.refclassid = 'pg_class'::regclass
          and o.refobjid = a.attrelid and o.refobjsubid = a.attnum and o.deptype = 'a'
        limit 1) s on a.attidentity = ''
    group by a.attrelid
), cons as (
    select n.conrelid as oid,
        json_agg(json_build_object(
            'name', n.conname, 'kind', n.contype, 'columns', own.names,
            'plain', not n.condeferrable and not coalesce(x.indnullsnotdistinct, false)
        ) order by n.conname) filter (where n.contype in ('p', 'u')) as keys,
        json_agg(json_build_object(
            'name', n.conname, 'columns', own.names, 'table', f.relname, 'target', far.names,
            'on_delete', n.confdeltype, 'on_update', n.confupdtype,
            'plain', not n.condeferrable and n.confmatchtype = 's' and n.confdelsetcols is null
        ) order by n.conname) filter (where f.relnamespace = 'public'::regnamespace) as foreign_keys,
        json_agg(json_build_object(
            'name', n.conname, 'expression', pg_get_expr(n.conbin, n.conrelid), 'columns', coalesce(own.names, '[]')
        ) order by n.conname) filter (where n.contype = 'c') as checks
    from t
    join pg_constraint n on n.conrelid = t.oid and n.contype in ('p', 'u', 'f', 'c')
    left join pg_index x on x.indexrelid = n.conindid and n.contype in ('p', 'u')
    left join pg_class f on f.oid = n.confrelid
    left join lateral (
        select json_agg(a.attname order by k.place) as names
        from unnest(n.conkey) with ordinality k(number, place)
        join pg_attribute a on a.attrelid = n.conrelid and a.attnum = k.number) own on true
    left join lateral (
        select json_agg(a.attname order by k.place) as names
        from unnest(n.confkey) with ordinality k(number, place)
        join pg_attribute a on a.attrelid = n.confrelid and a.attnum = k.number) far on true
    group by n.conrelid
), idx as (
    select x.indrelid as oid, json_agg(json_build_object(
        'name', i.relname, 'columns', k.names, 'opclasses', k.opclasses,
        'default_opclass', k.default_opclass, 'method', m.amname,
        'unique', x.indisunique, 'definition', pg_get_indexdef(i.oid), 'valid', x.indisvalid,
        'constraint', n.conname,
        'plain', x.indpred is null and x.indexprs is null and x.indnatts = x.indnkeyatts
            and not x.indnullsnotdistinct and k.plain
    ) order by i.relname) as list
    from t
    join pg_index x on x.indrelid = t.oid
    join pg_class i on i.oid = x.indexrelid
    join pg_am m on m.oid = i.relam
    left join pg_constraint n on n.conindid = i.oid and n.conrelid = t.oid and n.contype in ('p', 'u', 'x')
    join lateral (
        select json_agg(a.attname order by p.place) as names,
            json_agg(o.opcname order by p.place) as opclasses,
            bool_and(o.opcdefault) as default_opclass,
            bool_and(x.indoption[p.place - 1] = 0
                and coalesce(x.indcollation[p.place - 1] in (0, a.attcollation), true)) as plain
        from unnest(x.indkey::int2[]) with ordinality p(number, place)
        left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = p.number and p.number > 0
        join pg_opclass o on o.oid = x.indclass[p.place - 1]
        where p.place <= x.indnkeyatts) k on true
    group by x.indrelid
), pol as (
    select p.polrelid as oid, json_agg(json_build_object(
        'name', p.polname, 'command', p.polcmd, 'permissive', p.polpermissive,
        'roles', (select coalesce(json_agg(r.rolname order by r.rolname), '[]')
                  from pg_roles r where r.oid = any (p.polroles)),
        'using', pg_get_expr(p.polqual, p.polrelid),
        'check', pg_get_expr(p.polwithcheck, p.polrelid)
    ) order by p.polname) as list
    from t
    join pg_policy p on p.polrelid = t.oid
    group by p.polrelid
)
select coalesce(json_agg(json_build_object(
    'name', t.relname, 'oid', t.oid::int8,
    'columns', coalesce(cols.list, '[]'),
    'keys', coalesce(cons.keys, '[]'),
    'foreign_keys', coalesce(cons.foreign_keys, '[]'),
    'checks', coalesce(cons.checks, '[]'),
    'indexes', coalesce(idx.list, '[]'),
    'policies', coalesce(pol.list, '[]'),
    'rls_enabled', t.relrowsecurity, 'rls_forced', t.relforcerowsecurity,
    'estimated_rows', case when t.reltuples >= 0 then t.reltuples::int8 end
) order by t.relname collate "C"), '[]')
from t
left join cols using (oid)
left join cons using (oid)
left join idx using (oid)
left join pol using (oid)
"""

_ENUMS = """
select coalesce(json_agg(json_build_object('oid', y.oid::int8, 'name', y.typname, 'values', v.list)
    order by y.typname collate "C"), '[]')
from pg_type y
join lateral (select json_agg(e.enumlabel order by e.enumsortorder) as list from pg_enum e where e.enumtypid = y.oid) v
    on true
where y.typtype = 'e' and y.typnamespace = 'public'::regnamespace and v.list is not null and not exists (
    select from pg_depend d where d.classid = 'pg_type'::regclass and d.objid = y.oid and d.deptype = 'e')
"""
SNAPSHOT = _CALL.sub(
    "pg_catalog.",
    f"select ({_TABLES}) as tables, ({_ENUMS}) as enums, ({VIEWS}) as views, ({FUNCTIONS}) as functions",
)
"""One statement is one moment and one round trip; each column of its row is a JSON array."""
