"""The database that both servers read: every kind of column, every kind of relation, awkward rows."""

from __future__ import annotations

ANN, BEN = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"

SQL = f"""
create type mood as enum ('sad', 'ok', 'happy');
create table persons (
    id int primary key, name text not null, boss_id int references persons (id), owner uuid, email text unique
);
create table works (
    id int primary key, title text, author_id int references persons (id),
    editor_id int constraint works_editor references persons (id), published boolean, stars int, price numeric(10, 2),
    made timestamptz, day date, words text, doc jsonb, tags text[]
);
create table notes (
    id int primary key, work_id int not null references works (id), person_id int references persons (id), body text,
    score real
);
create table labels (id int primary key, label text unique);
create table works_labels (
    work_id int references works (id), label_id int references labels (id), weight int, primary key (work_id, label_id)
);
create table covers (work_id int primary key references works (id), color text, pages smallint);
create table kinds (
    id int primary key, t text, vc varchar(20), ch char(5), b boolean, i2 smallint, i4 int, i8 bigint, f4 real,
    f8 double precision, n numeric, d date, ts timestamp, tz timestamptz, tm time, iv interval, u uuid, j json,
    jb jsonb, ai int[], at text[], ab bigint[], m mood, by bytea, ip inet, cd cidr, mac macaddr, ir int4range,
    nr numrange, tr tstzrange, tv tsvector, bits bit(4), mon money, xy point
);
create table "odd Names" (
    id int primary key, "Mixed Case" text, "with.dot" int, "with,comma" text, "qu""ote" text, "ünï" text, "select" int,
    "order" int, "and" boolean, "a-b" int, "a b" text
);
create table empties (id int primary key, x text, work_id int references works (id));

insert into persons select n, (array['Ann', 'Ben', 'Zoë', 'D''Arc', 'Ann', '*star', '50%', 'a_b'])[n],
    nullif((n - 1) / 2, 0), case when n % 2 = 1 then '{ANN}'::uuid when n < 8 then '{BEN}'::uuid end,
    'p' || n || '@x.test' from generate_series(1, 8) n;
insert into works select n, 'Work ' || n || case n % 5 when 0 then ', (second)' when 1 then ' "x"' else '' end,
    case when n % 7 = 0 then null else 1 + n % 8 end, case when n % 3 = 0 then 1 + n % 4 end,
    case n % 4 when 0 then null when 1 then false else true end, nullif(n % 6, 5), n * 1.25,
    timestamptz '2026-01-01 10:00:00.123456+02' + n * interval '13 hours', date '2026-01-01' + n % 9,
    (array['the fat cat sat', 'a lean rat ran', 'fat rats and cats', null, 'nothing here'])[1 + n % 5],
    case when n % 6 = 0 then null else jsonb_build_object('n', n, 'name', 'w' || n % 4, 'deep',
        jsonb_build_object('list', jsonb_build_array(n, n % 2 = 0, null), 'k-ey', 'v' || n % 3), 'a b', 'x, y') end,
    case n % 4 when 0 then null when 1 then '{{}}' when 2 then array['red', 'a,b'] else array['blue', 'red', null] end
    from generate_series(1, 30) n;
insert into notes select n, 1 + n * 7 % 30, case when n % 5 > 0 then 1 + n % 8 end,
    case when n % 11 = 0 then null else 'note ' || n || repeat('!', n % 3) end, n / 4.0 from generate_series(1, 60) n;
insert into labels values (1, 'red'), (2, 'green'), (3, 'ünïcode ☂'), (4, null), (5, 'never used');
insert into works_labels select n, 1 + n % 4, n % 3 from generate_series(1, 30) n where n % 3 > 0;
insert into works_labels select n, 1 + (n + 1) % 4, null from generate_series(1, 12, 4) n where n % 3 > 0;
insert into covers select n, (array['red', 'blue', null])[1 + n % 3], n * 10 from generate_series(1, 30, 2) n;
insert into kinds values
    (1, 'plain', 'vc', 'ab', true, 1, 10, 9007199254740993, 1.5, 0.1, 12345678901234567890.123, '2026-02-28',
     '2026-02-28 12:00:00.5', '2026-02-28 12:00:00.5+00', '23:59:59.999', '1 day 02:03:04', '{ANN}',
     '{{"b": 1, "a": [1, 2]}}', '{{"b": 1, "a": [1, 2, {{"c": null}}]}}', '{{1,2,3}}', '{{x,"y z"}}',
     '{{9007199254740993}}', 'ok', '\\xdeadbeef', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '[1,10)',
     '[0.5,2.5]', '[2026-01-01 00:00+00,2026-02-01 00:00+00)', 'a:1 fat:2 cat:3', B'1010', 12.34, '(1,2)'),
    (2, '', '', '', false, -1, 0, 0, 0, -0.0, 0, '0001-01-01', '1999-12-31 23:59:59', '1999-12-31 23:59:59+00',
     '00:00', '-1 mons', '{BEN}', '[]', '[]', '{{}}', '{{}}', '{{}}', 'sad', '\\x', '::1', '::/0', '08:00:2b:01:02:04',
     'empty', '(,)', '(,)', '', B'0000', 0, '(0,0)'),
    (3, 'naïve ☂ 😀', 'a,b', 'abcde', null, 32767, 2147483647, -9223372036854775808, 'NaN', 'Infinity', 'NaN',
     '9999-12-31', '2026-06-01 00:00:00', '2026-06-01 00:00:00.123456+05', '12:00', '3 years 2 mons',
     null, '"text"', '"text"', '{{1,null}}', '{{null,NULL,"null"}}', null, 'happy', '\\x00ff', '192.168.1.1',
     '192.168.0.0/16', null, '[5,)', '(,3)', null, 'fat rats', B'1111', -5, '(-1.5,2)'),
    (4, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
     null, null, null, null, null, null, null, null, null, null, null, null, null, null, null),
    (5, 'a"quote\\back', '100%', 'x_y', true, 7, -10, 10, -1.25, 1e300, -0.5, '2026-03-01', '2026-03-01 01:02:03',
     '2026-03-01 01:02:03-08', '01:02:03', '00:00:00.001', '{ANN}', 'null', 'null', '{{3,4}}', '{{"a,b","c\\"d"}}',
     '{{1,2}}', 'ok', '\\x61', '10.1.2.3', '10.1.0.0/16', '08:00:2b:01:02:03', '[3,4]', '[1,1]',
     '["2026-01-15 12:00+00",)', 'cat dog', B'0101', 1000000, '(1e10,0)');
insert into "odd Names" values (1, 'One', 1, 'a,b', 'q"q', 'ü', 1, 2, true, -1, 'x'),
    (2, 'two (2)', 2, null, '"', null, 2, 1, false, 5, ' y '),
    (3, null, null, 'c', null, 'ï', null, null, null, null, null);

create function brolly_door() returns void language sql as
    $$ select set_config('request.jwt.claim.sub',
        coalesce(current_setting('request.jwt.claims', true)::json->>'sub', ''), true) $$;
"""
"""``brolly_door`` is what PostgREST runs before each request, so that ``current_user_id()`` knows its caller too."""

SECURED = {"persons": "owner", "works": None, "notes": None}
