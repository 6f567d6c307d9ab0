-- The app's files: what is known of each. The bytes are in the object store, under app id and object id: moving
-- a file changes its row alone. In the app's own database, so that they move with it. No caller's role reaches this schema; brolly_storage is taken on by the
-- storage slice alone.

create schema storage;
revoke all on schema storage from public;
grant usage on schema storage to brolly_storage;

-- What the rows of storage.objects hold together, reservations included. One row: changed in the same statement
-- as they are, its lock is what keeps uploads at the same moment within the quota.
create table storage.usage (
    only_row  boolean primary key default true check (only_row),
    bytes     bigint not null default 0 check (bytes >= 0),
    files     bigint not null default 0 check (files >= 0)
);
insert into storage.usage default values;

create table storage.objects (
    id            uuid primary key default gen_random_uuid(),
    -- Whose it is; null for what a service key uploaded. As the token says it, so not tied to auth.users.
    user_id       text,
    -- Empty, or names that each end with a slash.
    folder        text collate "C" not null default '',
    filename      text not null,
    content_type  text not null,
    -- Declared while pending, then what the store has.
    size_bytes    bigint not null check (size_bytes > 0),
    etag          text,
    sha256        text,
    public        boolean not null default false,
    -- pending: reserved, the bytes may come until expires_at. deleting: nobody sees it any more; a removal that
    -- was interrupted is taken up again.
    status        text not null default 'pending' check (status in ('pending', 'ready', 'deleting')),
    created_at    timestamptz not null default now(),
    expires_at    timestamptz,
    uploaded_at   timestamptz,
    updated_at    timestamptz not null default now(),
    -- When other features were told that the file is there; null until then.
    announced_at  timestamptz,
    -- Since when a sweep has found no bytes for it.
    missing_since timestamptz
);
create index objects_newest on storage.objects (created_at desc, id desc);
create index objects_user on storage.objects (user_id, created_at desc, id desc);
create index objects_folder on storage.objects (folder, created_at desc, id desc);
create index objects_unfinished on storage.objects (status, expires_at) where status <> 'ready';
create index objects_unannounced on storage.objects (uploaded_at) where status = 'ready' and announced_at is null;

-- Bytes that a sweep found and no row names, with when it first did. A later sweep removes them.
create table storage.orphans (
    key         text primary key,
    size_bytes  bigint not null,
    found_at    timestamptz not null default now()
);

grant select, insert, update, delete on storage.objects, storage.orphans to brolly_storage;
grant select, update on storage.usage to brolly_storage;
