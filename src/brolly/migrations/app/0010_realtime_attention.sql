-- A NOTIFY holds a lock of the whole cluster while its transaction is brought to disk: with one in every commit,
-- commits of all apps stand in line, and are no longer brought to disk together. So writers wake nobody while nobody
-- listens, and while whoever listens looks often by itself.

create table realtime.attention (
    single         boolean primary key default true check (single),
    -- Somebody listens until then,
    watched_until  timestamptz not null default '-infinity',
    -- and looks by itself until then.
    polled_until   timestamptz not null default '-infinity'
);
insert into realtime.attention default values;
grant select, update on realtime.attention to brolly_realtime;

-- To be called when the changes are written, and not before: whoever stops to look waits for transactions that were
-- under way, which it knows by their number, and a transaction gets that with what it writes.
create function realtime.wake() returns void language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from realtime.attention a
        where a.watched_until > clock_timestamp() and a.polled_until <= clock_timestamp()
    ) then
        perform pg_notify('realtime_changes', '');
    end if;
end
$$;
revoke execute on function realtime.wake() from public;

create or replace function realtime.record_insert() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, image)
    select tg_table_name, tg_op, row_to_json(n.*) from new_rows n;
    if found then
        perform realtime.wake();
    end if;
    return null;
end
$$;

create or replace function realtime.record_update() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, image, old_image)
    select tg_table_name, tg_op, n.image, o.image
    from (select row_number() over () as place, row_to_json(r.*) as image from new_rows r) n
    join (select row_number() over () as place, row_to_json(r.*) as image from old_rows r) o using (place)
    order by place;
    if found then
        perform realtime.wake();
    end if;
    return null;
end
$$;

create or replace function realtime.record_delete() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set datestyle = 'ISO, MDY' set extra_float_digits = 1 as $$
begin
    insert into realtime.changes (table_name, operation, old_image)
    select tg_table_name, tg_op, row_to_json(o.*) from old_rows o;
    if found then
        perform realtime.wake();
    end if;
    return null;
end
$$;

grant create on schema realtime to brolly_realtime;
alter function realtime.wake() owner to brolly_realtime;
revoke create on schema realtime from brolly_realtime;
