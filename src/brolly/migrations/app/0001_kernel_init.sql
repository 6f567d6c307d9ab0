-- What every app's database starts with. Run by the administrator in the template that apps are cloned from.

-- Named outright: for an administrator called like our schema, that schema leads the search path.
create extension if not exists vector schema public;

-- Tables belong to one owner role that cannot log in. Each app has a login that may take it on,
-- and that may connect to its own database alone.
alter schema public owner to brolly_owner;
revoke all on schema public from public;
-- Every login that may connect sees the names in it, so that the catalog's texts need no prefix; what it
-- may do with them is granted role by role.
grant usage on schema public to public;

-- A table that is not under row-level security is closed to anonymous callers:
-- they get their privileges when it comes under it.
alter default privileges for role brolly_owner in schema public
    grant select, insert, update, delete on tables to butterbase_user, butterbase_service;
alter default privileges for role brolly_owner in schema public
    grant usage, select on sequences to butterbase_anon, butterbase_user, butterbase_service;
alter default privileges for role brolly_owner in schema public
    grant execute on functions to butterbase_anon, butterbase_user, butterbase_service;

-- A setting made for one transaction reads as '' afterwards, not as null.
create function public.current_user_id() returns text
    language sql stable parallel safe
    return nullif(current_setting('request.jwt.claim.sub', true), '');
comment on function public.current_user_id() is 'The id of the signed-in user as text; null for others.';

-- The embedded Postgres has no uuid-ossp; documents written for it use this name.
create function public.uuid_generate_v4() returns uuid
    language sql volatile parallel safe
    return gen_random_uuid();

-- The platform's own tables. The owner role may record what it did, and change nothing else.
revoke all on schema brolly from public;
grant usage on schema brolly to brolly_owner;
grant select on brolly.applied_migrations to brolly_owner;

-- Changes that the app's owner made, each with the way back.
create table brolly.migrations (
    id          bigint generated always as identity primary key,
    name        text not null,
    applied_by  text not null,
    sql_up      text not null,
    sql_down    text not null,
    checksum    text not null,
    applied_at  timestamptz not null default now()
);
grant select, insert on brolly.migrations to brolly_owner;
