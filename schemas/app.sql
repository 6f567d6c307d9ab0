-- The app database after all migrations. Written by `make schemas`; not to be run.

create extension plpgsql;
create extension vector;

create schema brolly authorization administrator;
create schema public authorization brolly_owner;

create table brolly.applied_migrations (
    version integer not null,
    name text not null,
    checksum text not null,
    applied_at timestamp with time zone not null default now(),
    constraint applied_migrations_pkey PRIMARY KEY (version)
);
alter table brolly.applied_migrations owner to administrator;

create table brolly.migrations (
    id bigint not null generated always as identity,
    name text not null,
    applied_by text not null,
    sql_up text not null,
    sql_down text not null,
    checksum text not null,
    applied_at timestamp with time zone not null default now(),
    constraint migrations_pkey PRIMARY KEY (id)
);
alter table brolly.migrations owner to administrator;

CREATE OR REPLACE FUNCTION public.current_user_id()
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN NULLIF(current_setting('request.jwt.claim.sub'::text, true), ''::text);
alter routine public.current_user_id() owner to administrator;
CREATE OR REPLACE FUNCTION public.uuid_generate_v4()
 RETURNS uuid
 LANGUAGE sql
 PARALLEL SAFE
RETURN gen_random_uuid();
alter routine public.uuid_generate_v4() owner to administrator;

grant usage on schema brolly to brolly_owner;
grant usage on schema public to public;
grant select on table brolly.applied_migrations to brolly_owner;
grant insert, select on table brolly.migrations to brolly_owner;
grant execute on routine public.current_user_id() to public;
grant execute on routine public.uuid_generate_v4() to public;

alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_anon;
alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_service;
alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_user;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_anon;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_service;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_user;
alter default privileges for role brolly_owner in schema public grant delete, insert, select, update on tables to butterbase_service;
alter default privileges for role brolly_owner in schema public grant delete, insert, select, update on tables to butterbase_user;
