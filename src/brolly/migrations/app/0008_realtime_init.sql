-- Changes of rows, recorded for those who listen. No caller's role reaches this schema; brolly_realtime is taken on
-- by the realtime slice alone.

create schema realtime;
revoke all on schema realtime from public;
grant usage on schema realtime to brolly_realtime, brolly_owner;

create table realtime.changes (
    id           bigint generated always as identity,
    -- Who wrote it. Numbers are given out in another order than that of the commits; a snapshot and this tell
    -- exactly what came in between two looks.
    transaction  xid8 not null default pg_current_xact_id(),
    table_name   text not null,
    operation    text not null,
    -- The whole row, after and before.
    image        json,
    old_image    json,
    at           timestamptz not null default clock_timestamp(),
    primary key (transaction, id)
);

-- Snapshots by the clock, so that a change is kept for its time from when it was first to be seen. What the one that
-- is trimmed has seen may be gone.
create table realtime.marks (
    taken_at  timestamptz primary key default clock_timestamp(),
    snapshot  pg_snapshot not null default pg_current_snapshot(),
    trimmed   boolean not null default false
);

-- Which tables are recorded. By both name and oid, to tell one that was renamed from one that was made anew.
create table realtime.tables (
    table_name  text primary key,
    relation    oid not null,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now()
);

grant select, insert, delete on realtime.changes to brolly_realtime;
grant select, insert, update, delete on realtime.marks to brolly_realtime;
grant select on realtime.tables to brolly_realtime;
grant select, insert, update, delete on realtime.tables to brolly_owner;

-- Once for each statement, so that a thousand rows cost little more than one. The settings are those in which a
-- row's text can be read back exactly, whatever the session that writes has set.

create function realtime.record_insert() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, image)
    select tg_table_name, tg_op, row_to_json(n.*) from new_rows n;
    if found then
        perform pg_notify('realtime_changes', '');
    end if;
    return null;
end
$$;

-- Both hold the statement's rows in the order in which it changed them: a key would not do, as it may change too.
create function realtime.record_update() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, image, old_image)
    select tg_table_name, tg_op, n.image, o.image
    from (select row_number() over () as place, row_to_json(r.*) as image from new_rows r) n
    join (select row_number() over () as place, row_to_json(r.*) as image from old_rows r) o using (place)
    order by place;
    if found then
        perform pg_notify('realtime_changes', '');
    end if;
    return null;
end
$$;

create function realtime.record_delete() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, old_image)
    select tg_table_name, tg_op, row_to_json(o.*) from old_rows o;
    if found then
        perform pg_notify('realtime_changes', '');
    end if;
    return null;
end
$$;

revoke execute on all functions in schema realtime from public;
grant execute on all functions in schema realtime to brolly_owner;

-- They run with the rights of a role that may do nothing but this.
grant create on schema realtime to brolly_realtime;
alter function realtime.record_insert() owner to brolly_realtime;
alter function realtime.record_update() owner to brolly_realtime;
alter function realtime.record_delete() owner to brolly_realtime;
revoke create on schema realtime from brolly_realtime;
