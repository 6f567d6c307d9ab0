-- The app database after all migrations. Written by `make schemas`; not to be run.

create extension plpgsql;
create extension vector;

create schema auth authorization administrator;
create schema brolly authorization administrator;
create schema functions authorization administrator;
create schema public authorization brolly_owner;
create schema rag authorization administrator;
create schema realtime authorization administrator;
create schema storage authorization administrator;

create table auth.codes (
    user_id uuid not null,
    kind text not null,
    code_hash bytea not null,
    token_hash bytea not null,
    tries integer not null default 0,
    expires_at timestamp with time zone not null,
    used_at timestamp with time zone,
    constraint codes_pkey PRIMARY KEY (user_id, kind),
    constraint codes_token_hash_key UNIQUE (token_hash),
    constraint codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE,
    constraint codes_kind_check CHECK ((kind = ANY (ARRAY['verify_email'::text, 'reset_password'::text, 'magic_link'::text, 'mfa'::text])))
);
alter table auth.codes owner to administrator;

create table auth.identities (
    provider text not null,
    provider_uid text not null,
    user_id uuid not null,
    email text,
    created_at timestamp with time zone not null default now(),
    last_sign_in_at timestamp with time zone not null default now(),
    constraint identities_pkey PRIMARY KEY (provider, provider_uid),
    constraint identities_user_id_provider_key UNIQUE (user_id, provider),
    constraint identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE
);
alter table auth.identities owner to administrator;

create table auth.limits (
    key bytea not null,
    hits integer not null,
    until timestamp with time zone not null,
    constraint limits_pkey PRIMARY KEY (key)
);
alter table auth.limits owner to administrator;
CREATE INDEX limits_until ON auth.limits USING btree (until);

create table auth.oauth_providers (
    id uuid not null default gen_random_uuid(),
    provider text not null,
    client_id text not null,
    secrets bytea not null,
    redirect_uris text[] not null,
    scopes text[] not null,
    authorization_url text,
    token_url text,
    userinfo_url text,
    provider_metadata jsonb not null default '{}'::jsonb,
    enabled boolean not null default true,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    constraint oauth_providers_pkey PRIMARY KEY (id),
    constraint oauth_providers_provider_key UNIQUE (provider)
);
alter table auth.oauth_providers owner to administrator;

create table auth.oauth_states (
    state_hash bytea not null,
    provider text not null,
    browser_hash bytea not null,
    sealed bytea not null,
    redirect_uri text not null,
    redirect_to text,
    expires_at timestamp with time zone not null,
    constraint oauth_states_pkey PRIMARY KEY (state_hash)
);
alter table auth.oauth_states owner to administrator;
CREATE INDEX oauth_states_expiry ON auth.oauth_states USING btree (expires_at);

create table auth.outbox (
    id bigint not null generated always as identity,
    kind text not null,
    recipient text not null,
    subject text not null,
    body text,
    created_at timestamp with time zone not null default now(),
    sent_at timestamp with time zone,
    error text,
    constraint outbox_pkey PRIMARY KEY (id)
);
alter table auth.outbox owner to administrator;
CREATE INDEX outbox_age ON auth.outbox USING btree (created_at);

create table auth.recovery_codes (
    user_id uuid not null,
    code_hash bytea not null,
    constraint recovery_codes_pkey PRIMARY KEY (user_id, code_hash),
    constraint recovery_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE
);
alter table auth.recovery_codes owner to administrator;

create table auth.refresh_tokens (
    token_hash bytea not null,
    session_id uuid not null,
    expires_at timestamp with time zone not null,
    used_at timestamp with time zone,
    constraint refresh_tokens_pkey PRIMARY KEY (token_hash),
    constraint refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES auth.sessions(id) ON DELETE CASCADE
);
alter table auth.refresh_tokens owner to administrator;
CREATE INDEX refresh_tokens_session ON auth.refresh_tokens USING btree (session_id);

create table auth.sessions (
    id uuid not null default gen_random_uuid(),
    user_id uuid not null,
    ip text,
    user_agent text,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    constraint sessions_pkey PRIMARY KEY (id),
    constraint sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE
);
alter table auth.sessions owner to administrator;
CREATE INDEX sessions_expiry ON auth.sessions USING btree (expires_at);
CREATE INDEX sessions_user ON auth.sessions USING btree (user_id);

create table auth.signing_keys (
    kid text not null,
    public_key jsonb not null,
    private_key bytea not null,
    signs_from timestamp with time zone not null,
    created_at timestamp with time zone not null default now(),
    constraint signing_keys_pkey PRIMARY KEY (kid)
);
alter table auth.signing_keys owner to administrator;

create table auth.users (
    id uuid not null default gen_random_uuid(),
    email text not null,
    email_verified boolean not null default false,
    display_name text,
    avatar_url text,
    metadata jsonb not null default '{}'::jsonb,
    password_hash text,
    provider text not null default 'email'::text,
    provider_uid text,
    mfa_secret bytea,
    mfa_enabled_at timestamp with time zone,
    mfa_last_step bigint,
    disabled_at timestamp with time zone,
    last_sign_in_at timestamp with time zone,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    constraint users_pkey PRIMARY KEY (id),
    constraint users_email_key UNIQUE (email)
);
alter table auth.users owner to administrator;
CREATE INDEX users_newest ON auth.users USING btree (created_at DESC, id DESC);

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

create table functions.claims (
    scope text not null,
    key text not null,
    expires_at timestamp with time zone not null,
    constraint claims_pkey PRIMARY KEY (scope, key)
);
alter table functions.claims owner to administrator;
CREATE INDEX claims_expiry ON functions.claims USING btree (expires_at);

create table functions.environment (
    single boolean not null default true,
    env bytea not null,
    updated_at timestamp with time zone not null default now(),
    constraint environment_pkey PRIMARY KEY (single),
    constraint environment_single_check CHECK (single)
);
alter table functions.environment owner to administrator;

create table functions.functions (
    id uuid not null default gen_random_uuid(),
    name text not null,
    description text,
    code text not null,
    timeout_ms integer not null,
    memory_limit_mb integer not null,
    env bytea,
    options jsonb not null default '{}'::jsonb,
    created_at timestamp with time zone not null default now(),
    deployed_at timestamp with time zone not null default now(),
    deleted_at timestamp with time zone,
    constraint functions_pkey PRIMARY KEY (id)
);
alter table functions.functions owner to administrator;
CREATE UNIQUE INDEX functions_name ON functions.functions USING btree (name) WHERE (deleted_at IS NULL);

create table functions.invocations (
    id bigint not null generated always as identity,
    token uuid not null,
    function_id uuid not null,
    started_at timestamp with time zone not null,
    trigger text not null,
    caller text not null,
    method text not null,
    path text not null,
    status integer not null,
    duration_ms real not null,
    error text,
    stack text,
    lines jsonb not null default '[]'::jsonb,
    constraint invocations_pkey PRIMARY KEY (id),
    constraint invocations_token_key UNIQUE (token),
    constraint invocations_function_id_fkey FOREIGN KEY (function_id) REFERENCES functions.functions(id) ON DELETE CASCADE
);
alter table functions.invocations owner to administrator;
CREATE INDEX invocations_function ON functions.invocations USING btree (function_id, id DESC);
CREATE INDEX invocations_time ON functions.invocations USING btree (started_at);

create table functions.triggers (
    function_id uuid not null,
    type text not null,
    config jsonb not null default '{}'::jsonb,
    secret bytea,
    enabled boolean not null default true,
    constraint triggers_pkey PRIMARY KEY (function_id, type),
    constraint triggers_function_id_fkey FOREIGN KEY (function_id) REFERENCES functions.functions(id) ON DELETE CASCADE,
    constraint triggers_type_check CHECK ((type = ANY (ARRAY['http'::text, 'cron'::text, 'webhook'::text, 'websocket'::text, 's3_upload'::text])))
);
alter table functions.triggers owner to administrator;

create table rag.collections (
    id uuid not null,
    name text not null,
    description text,
    access_mode text not null,
    chunk_size integer not null,
    chunk_overlap integer not null,
    language text not null,
    embedding_model text not null,
    dimensions integer not null,
    chunk_table text not null,
    created_by text,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    constraint collections_pkey PRIMARY KEY (id),
    constraint collections_chunk_table_key UNIQUE (chunk_table),
    constraint collections_name_key UNIQUE (name),
    constraint collections_access_mode_check CHECK ((access_mode = ANY (ARRAY['private'::text, 'shared'::text, 'custom'::text]))),
    constraint collections_chunk_overlap_check CHECK (((chunk_overlap >= 0) AND (chunk_overlap <= 500))),
    constraint collections_chunk_size_check CHECK (((chunk_size >= 100) AND (chunk_size <= 4000))),
    constraint collections_dimensions_check CHECK (((dimensions >= 1) AND (dimensions <= 4000)))
);
alter table rag.collections owner to administrator;

create table rag.documents (
    id uuid not null,
    collection_id uuid not null,
    user_id text,
    filename text not null,
    content_type text,
    source_type text not null,
    storage_object_id uuid,
    source_text text,
    size_bytes bigint not null,
    content_hash text not null,
    metadata jsonb not null default '{}'::jsonb,
    status text not null default 'pending'::text,
    error_code text,
    error_message text,
    revision integer not null default 1,
    attempts integer not null default 0,
    claim uuid,
    chunks_done integer not null default 0,
    chunks_total integer,
    chunk_count integer not null default 0,
    token_count bigint not null default 0,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    processed_at timestamp with time zone,
    constraint documents_pkey PRIMARY KEY (id),
    constraint documents_collection_id_fkey FOREIGN KEY (collection_id) REFERENCES rag.collections(id) ON DELETE CASCADE,
    constraint documents_source_type_check CHECK ((source_type = ANY (ARRAY['text'::text, 'storage'::text]))),
    constraint documents_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'processing'::text, 'ready'::text, 'failed'::text])))
);
alter table rag.documents owner to administrator;
CREATE INDEX documents_newest ON rag.documents USING btree (collection_id, created_at DESC, id DESC);
CREATE INDEX documents_same ON rag.documents USING btree (collection_id, content_hash);
CREATE INDEX documents_status ON rag.documents USING btree (collection_id, status);
CREATE INDEX documents_user ON rag.documents USING btree (collection_id, user_id, created_at DESC, id DESC);

create table rag.reembeds (
    collection_id uuid not null,
    model text not null,
    dimensions integer not null,
    token uuid not null,
    done bigint not null default 0,
    total bigint not null default 0,
    error_message text,
    started_at timestamp with time zone not null default now(),
    constraint reembeds_pkey PRIMARY KEY (collection_id),
    constraint reembeds_collection_id_fkey FOREIGN KEY (collection_id) REFERENCES rag.collections(id) ON DELETE CASCADE,
    constraint reembeds_dimensions_check CHECK (((dimensions >= 1) AND (dimensions <= 4000)))
);
alter table rag.reembeds owner to administrator;

create table rag.staged_chunks (
    document_id uuid not null,
    revision integer not null,
    "position" integer not null,
    content text not null,
    heading text not null,
    page integer,
    start_offset integer not null,
    end_offset integer not null,
    tokens integer not null,
    embedding real[],
    constraint staged_chunks_pkey PRIMARY KEY (document_id, revision, "position"),
    constraint staged_chunks_document_id_fkey FOREIGN KEY (document_id) REFERENCES rag.documents(id) ON DELETE CASCADE
);
alter table rag.staged_chunks owner to administrator;
CREATE INDEX staged_chunks_waiting ON rag.staged_chunks USING btree (document_id, revision, "position") WHERE (embedding IS NULL);

create table realtime.attention (
    single boolean not null default true,
    watched_until timestamp with time zone not null default '-infinity'::timestamp with time zone,
    polled_until timestamp with time zone not null default '-infinity'::timestamp with time zone,
    constraint attention_pkey PRIMARY KEY (single),
    constraint attention_single_check CHECK (single)
);
alter table realtime.attention owner to administrator;

create table realtime.changes (
    id bigint not null generated always as identity,
    transaction xid8 not null default pg_current_xact_id(),
    table_name text not null,
    operation text not null,
    image json,
    old_image json,
    at timestamp with time zone not null default clock_timestamp(),
    constraint changes_pkey PRIMARY KEY (transaction, id)
);
alter table realtime.changes owner to administrator;

create table realtime.marks (
    taken_at timestamp with time zone not null default clock_timestamp(),
    snapshot pg_snapshot not null default pg_current_snapshot(),
    trimmed boolean not null default false,
    constraint marks_pkey PRIMARY KEY (taken_at)
);
alter table realtime.marks owner to administrator;

create table realtime.tables (
    table_name text not null,
    relation oid not null,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    constraint tables_pkey PRIMARY KEY (table_name)
);
alter table realtime.tables owner to administrator;

create table storage.objects (
    id uuid not null default gen_random_uuid(),
    user_id text,
    folder text not null default ''::text,
    filename text not null,
    content_type text not null,
    size_bytes bigint not null,
    etag text,
    sha256 text,
    public boolean not null default false,
    status text not null default 'pending'::text,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone,
    uploaded_at timestamp with time zone,
    updated_at timestamp with time zone not null default now(),
    announced_at timestamp with time zone,
    missing_since timestamp with time zone,
    constraint objects_pkey PRIMARY KEY (id),
    constraint objects_size_bytes_check CHECK ((size_bytes > 0)),
    constraint objects_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'ready'::text, 'deleting'::text])))
);
alter table storage.objects owner to administrator;
CREATE INDEX objects_folder ON storage.objects USING btree (folder, created_at DESC, id DESC);
CREATE INDEX objects_missing ON storage.objects USING btree (missing_since) WHERE (missing_since IS NOT NULL);
CREATE INDEX objects_newest ON storage.objects USING btree (created_at DESC, id DESC);
CREATE INDEX objects_unannounced ON storage.objects USING btree (uploaded_at) WHERE ((status = 'ready'::text) AND (announced_at IS NULL));
CREATE INDEX objects_unfinished ON storage.objects USING btree (status, expires_at) WHERE (status <> 'ready'::text);
CREATE INDEX objects_user ON storage.objects USING btree (user_id, created_at DESC, id DESC);
CREATE INDEX objects_user_folder ON storage.objects USING btree (user_id, folder);

create table storage.orphans (
    key text not null,
    size_bytes bigint not null,
    found_at timestamp with time zone not null default now(),
    constraint orphans_pkey PRIMARY KEY (key)
);
alter table storage.orphans owner to administrator;

create table storage.uploads (
    object_id uuid not null,
    upload_id text not null,
    parts jsonb not null default '[]'::jsonb,
    received bigint not null default 0,
    tail integer not null default 0,
    metadata text not null default ''::text,
    claim uuid,
    constraint uploads_pkey PRIMARY KEY (object_id),
    constraint uploads_object_id_fkey FOREIGN KEY (object_id) REFERENCES storage.objects(id) ON DELETE CASCADE,
    constraint uploads_check CHECK (((tail >= 0) AND (tail <= received))),
    constraint uploads_received_check CHECK ((received >= 0))
);
alter table storage.uploads owner to administrator;

create table storage.usage (
    only_row boolean not null default true,
    bytes bigint not null default 0,
    files bigint not null default 0,
    constraint usage_pkey PRIMARY KEY (only_row),
    constraint usage_bytes_check CHECK ((bytes >= 0)),
    constraint usage_files_check CHECK ((files >= 0)),
    constraint usage_only_row_check CHECK (only_row)
);
alter table storage.usage owner to administrator;

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
CREATE OR REPLACE FUNCTION realtime.record_delete()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "DateStyle" TO 'ISO, MDY'
 SET extra_float_digits TO '1'
AS $function$
begin
    insert into realtime.changes (table_name, operation, old_image)
    select tg_table_name, tg_op, row_to_json(o.*) from old_rows o;
    if found then
        perform realtime.wake();
    end if;
    return null;
end
$function$;
alter routine realtime.record_delete() owner to brolly_realtime;
CREATE OR REPLACE FUNCTION realtime.record_insert()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "DateStyle" TO 'ISO, MDY'
 SET extra_float_digits TO '1'
AS $function$
begin
    insert into realtime.changes (table_name, operation, image)
    select tg_table_name, tg_op, row_to_json(n.*) from new_rows n;
    if found then
        perform realtime.wake();
    end if;
    return null;
end
$function$;
alter routine realtime.record_insert() owner to brolly_realtime;
CREATE OR REPLACE FUNCTION realtime.record_update()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "DateStyle" TO 'ISO, MDY'
 SET extra_float_digits TO '1'
AS $function$
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
$function$;
alter routine realtime.record_update() owner to brolly_realtime;
CREATE OR REPLACE FUNCTION realtime.wake()
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
begin
    if exists (
        select from realtime.attention a
        where a.watched_until > clock_timestamp() and a.polled_until <= clock_timestamp()
    ) then
        perform pg_notify('realtime_changes', '');
    end if;
end
$function$;
alter routine realtime.wake() owner to brolly_realtime;

grant usage on schema auth to brolly_auth;
grant usage on schema brolly to brolly_owner;
grant usage on schema functions to brolly_functions;
grant usage on schema public to public;
grant usage on schema rag to brolly_owner;
grant usage on schema rag to brolly_rag;
grant usage on schema realtime to brolly_owner;
grant usage on schema realtime to brolly_realtime;
grant usage on schema storage to brolly_storage;
grant delete, insert, select, update on table auth.codes to brolly_auth;
grant delete, insert, select, update on table auth.identities to brolly_auth;
grant delete, insert, select, update on table auth.limits to brolly_auth;
grant delete, insert, select, update on table auth.oauth_providers to brolly_auth;
grant delete, insert, select, update on table auth.oauth_states to brolly_auth;
grant delete, insert, select, update on table auth.outbox to brolly_auth;
grant delete, insert, select, update on table auth.recovery_codes to brolly_auth;
grant delete, insert, select, update on table auth.refresh_tokens to brolly_auth;
grant delete, insert, select, update on table auth.sessions to brolly_auth;
grant delete, insert, select, update on table auth.signing_keys to brolly_auth;
grant delete, insert, select, update on table auth.users to brolly_auth;
grant select on table brolly.applied_migrations to brolly_owner;
grant insert, select on table brolly.migrations to brolly_owner;
grant delete, insert, select, update on table functions.claims to brolly_functions;
grant delete, insert, select, update on table functions.environment to brolly_functions;
grant delete, insert, select, update on table functions.functions to brolly_functions;
grant delete, insert, select, update on table functions.invocations to brolly_functions;
grant delete, insert, select, update on table functions.triggers to brolly_functions;
grant delete, insert on table rag.collections to brolly_owner;
grant delete, insert, select, update on table rag.collections to brolly_rag;
grant update on table rag.collections (chunk_table) to brolly_owner;
grant update on table rag.collections (dimensions) to brolly_owner;
grant update on table rag.collections (embedding_model) to brolly_owner;
grant select on table rag.collections (id) to brolly_owner;
grant update on table rag.collections (updated_at) to brolly_owner;
grant delete, insert, select, update on table rag.documents to brolly_rag;
grant select on table rag.documents (collection_id) to brolly_owner;
grant references, select on table rag.documents (id) to brolly_owner;
grant delete on table rag.reembeds to brolly_owner;
grant delete, insert, select, update on table rag.reembeds to brolly_rag;
grant select on table rag.reembeds (collection_id) to brolly_owner;
grant select on table rag.reembeds (token) to brolly_owner;
grant delete, insert, select, update on table rag.staged_chunks to brolly_rag;
grant select on table rag.staged_chunks (document_id) to brolly_owner;
grant update on table rag.staged_chunks (embedding) to brolly_owner;
grant select, update on table realtime.attention to brolly_realtime;
grant delete, insert, select on table realtime.changes to brolly_realtime;
grant delete, insert, select, update on table realtime.marks to brolly_realtime;
grant delete, insert, select, update on table realtime.tables to brolly_owner;
grant select on table realtime.tables to brolly_realtime;
grant delete, insert, select, update on table storage.objects to brolly_storage;
grant delete, insert, select, update on table storage.orphans to brolly_storage;
grant delete, insert, select, update on table storage.uploads to brolly_storage;
grant select, update on table storage.usage to brolly_storage;
grant execute on routine public.current_user_id() to public;
grant execute on routine public.uuid_generate_v4() to public;
grant execute on routine realtime.record_delete() to brolly_owner;
grant execute on routine realtime.record_insert() to brolly_owner;
grant execute on routine realtime.record_update() to brolly_owner;

alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_anon;
alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_service;
alter default privileges for role brolly_owner in schema public grant select, usage on sequences to butterbase_user;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_anon;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_service;
alter default privileges for role brolly_owner in schema public grant execute on routines to butterbase_user;
alter default privileges for role brolly_owner in schema public grant delete, insert, select, update on tables to butterbase_service;
alter default privileges for role brolly_owner in schema public grant delete, insert, select, update on tables to butterbase_user;
