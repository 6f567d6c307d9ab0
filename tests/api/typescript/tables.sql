create type mood as enum ('sad', 'it''s "fine"', 'happy');
create type "Odd type" as enum ('a b', 'ü');
create domain short as varchar(5);
create type pair as (a int, b text);
create table authors (id uuid primary key default gen_random_uuid(), name text not null, boss uuid references authors);
create table every (
 c_text text, c_varchar varchar(10), c_char char(3), c_uuid uuid, c_boolean boolean, c_smallint smallint, c_integer integer not null,
 c_bigint bigint, c_smallserial smallserial, c_serial serial, id bigserial primary key, c_real real, c_double double precision,
 c_numeric numeric(10,2) not null, c_timestamptz timestamptz default now(), c_timestamp timestamp, c_date date, c_time time, c_timetz timetz,
 c_interval interval, c_jsonb jsonb, c_json json, c_bytea bytea, c_vector vector(3), c_texts text[], c_ints int[] not null default '{}', c_bigs bigint[],
 c_numerics numeric[], c_uuids uuid[], c_jsons jsonb[], c_vectors vector(3)[], c_stamps timestamptz[],
 c_mood mood not null default 'happy', c_moods mood[], c_odd "Odd type", c_short short, c_pair pair, c_range int4range, c_inet inet, c_money money, c_bits bit(3), c_ts tsvector,
 c_generated int generated always as (c_integer * 2) stored, c_identity int generated always as identity, author uuid unique references authors(id),
 parent bigint references every(id));
create table "select" ("class" int primary key, "default" text, "with space" text, "quo""te" text, "ünï" text, "1st" int, "a-b" text, "a.b" text, "a,b" text, "select" text, "order" text, "back\slash" text, "*/" text, "__proto__" text, "and" int, "or(" text, "x{y}" text);
create table "1digits" (id int primary key, sel int references "select"("class"));
create table pairs (a int, b int, note text, primary key (a,b));
create table memberships (author uuid references authors, sel int references "select"("class"), primary key (author, sel));
create table empty ();
create view names with (security_invoker = true) as select id, name, upper(name) as loud from authors;
create view "counted" with (security_invoker = true) as select boss, count(*) as n from authors group by boss;
create function doubled(a int, "b c" text default 'x') returns bigint language sql as 'select a * 2';
create function everyone() returns setof authors language sql as 'select * from authors';
create function pairs_of(n numeric) returns table (a int, m mood) language sql as 'select 1, ''sad''::mood';
create function nothing() returns void language sql as '';
