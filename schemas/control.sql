-- The control database after all migrations. Written by `make schemas`; not to be run.

create extension plpgsql;

create schema brolly authorization administrator;
create schema brolly_queue authorization administrator;
create schema public authorization pg_database_owner;

create type brolly_queue.pgqueuer_status as enum ('queued', 'picked', 'successful', 'exception', 'canceled', 'deleted', 'failed');

create table brolly.accounts (
    id uuid not null default gen_random_uuid(),
    name text not null,
    created_at timestamp with time zone not null default now(),
    constraint accounts_pkey PRIMARY KEY (id),
    constraint accounts_name_key UNIQUE (name)
);
alter table brolly.accounts owner to administrator;

create table brolly.ai_bodies (
    id bigint not null generated always as identity,
    app_id text not null,
    at timestamp with time zone not null default now(),
    model text not null,
    user_id text not null default ''::text,
    request text not null,
    answer text not null,
    ends_at timestamp with time zone not null,
    constraint ai_bodies_pkey PRIMARY KEY (id),
    constraint ai_bodies_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.ai_bodies owner to administrator;
CREATE INDEX ai_bodies_app ON brolly.ai_bodies USING btree (app_id, id DESC);
CREATE INDEX ai_bodies_end ON brolly.ai_bodies USING btree (ends_at);

create table brolly.ai_reservations (
    id uuid not null default gen_random_uuid(),
    app_id text not null,
    amount numeric not null,
    ends_at timestamp with time zone not null,
    constraint ai_reservations_pkey PRIMARY KEY (id),
    constraint ai_reservations_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.ai_reservations owner to administrator;
CREATE INDEX ai_reservations_app ON brolly.ai_reservations USING btree (app_id);

create table brolly.ai_spending (
    app_id text not null,
    month date not null,
    spent numeric not null default 0,
    constraint ai_spending_pkey PRIMARY KEY (app_id, month),
    constraint ai_spending_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.ai_spending owner to administrator;

create table brolly.ai_usage (
    account_id uuid not null,
    app_id text,
    day date not null,
    model text not null,
    user_id text not null default ''::text,
    requests bigint not null default 0,
    prompt_tokens bigint not null default 0,
    completion_tokens bigint not null default 0,
    cost_usd numeric not null default 0,
    estimated bigint not null default 0,
    unpriced bigint not null default 0,
    constraint ai_usage_account_id_app_id_day_model_user_id_key UNIQUE NULLS NOT DISTINCT (account_id, app_id, day, model, user_id),
    constraint ai_usage_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id) ON DELETE CASCADE,
    constraint ai_usage_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.ai_usage owner to administrator;
CREATE INDEX ai_usage_app ON brolly.ai_usage USING btree (app_id, day);

create table brolly.api_keys (
    id uuid not null default gen_random_uuid(),
    account_id uuid not null,
    name text not null,
    key_hash bytea not null,
    key_prefix text not null,
    scopes text[] not null,
    created_at timestamp with time zone not null default now(),
    last_used_at timestamp with time zone,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    client_id text,
    constraint api_keys_pkey PRIMARY KEY (id),
    constraint api_keys_key_hash_key UNIQUE (key_hash),
    constraint api_keys_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id)
);
alter table brolly.api_keys owner to administrator;
CREATE INDEX api_keys_account ON brolly.api_keys USING btree (account_id, created_at DESC);

create table brolly.applied_migrations (
    version integer not null,
    name text not null,
    checksum text not null,
    applied_at timestamp with time zone not null default now(),
    constraint applied_migrations_pkey PRIMARY KEY (version)
);
alter table brolly.applied_migrations owner to administrator;

create table brolly.apps (
    id text not null,
    account_id uuid not null,
    name text not null,
    subdomain text not null,
    db_name text not null,
    region text not null,
    status text not null,
    app_version integer not null default 0,
    access_mode text not null default 'public'::text,
    allowed_origins text[] not null default '{http://localhost:3000}'::text[],
    storage_config jsonb not null default '{"maxFileSizeMb": 10, "publicReadEnabled": false, "allowedContentTypes": ["*/*"]}'::jsonb,
    jwt_config jsonb not null default '{"accessTokenTtl": "15m", "refreshTokenTtlDays": 7}'::jsonb,
    auth_hook_function text,
    visibility text not null default 'private'::text,
    listed boolean not null default false,
    paused_at timestamp with time zone,
    paused_reason text,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    ai_config jsonb not null default '{}'::jsonb,
    ai_key bytea,
    constraint apps_pkey PRIMARY KEY (id),
    constraint apps_account_id_name_key UNIQUE (account_id, name),
    constraint apps_db_name_key UNIQUE (db_name),
    constraint apps_subdomain_key UNIQUE (subdomain),
    constraint apps_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id),
    constraint apps_access_mode_check CHECK ((access_mode = ANY (ARRAY['public'::text, 'authenticated'::text]))),
    constraint apps_status_check CHECK ((status = ANY (ARRAY['provisioning'::text, 'ready'::text, 'deleting'::text]))),
    constraint apps_visibility_check CHECK ((visibility = ANY (ARRAY['private'::text, 'public'::text])))
);
alter table brolly.apps owner to administrator;

create table brolly.audit_log (
    id bigint not null generated always as identity,
    account_id uuid,
    app_id text not null,
    category text not null,
    event_type text not null,
    action text not null,
    resource_type text not null,
    resource_id text,
    actor_type text not null,
    actor_id text,
    event_data jsonb not null default '{}'::jsonb,
    ip_address text,
    user_agent text,
    success boolean not null,
    error_message text,
    correlation_id text,
    created_at timestamp with time zone not null default now(),
    constraint audit_log_pkey PRIMARY KEY (id)
);
alter table brolly.audit_log owner to administrator;
CREATE INDEX audit_log_age ON brolly.audit_log USING brin (created_at);
CREATE INDEX audit_log_app ON brolly.audit_log USING btree (account_id, app_id, created_at DESC, id DESC);

create table brolly.authorization_limits (
    subject bytea not null,
    hits integer not null,
    until timestamp with time zone not null,
    constraint authorization_limits_pkey PRIMARY KEY (subject)
);
alter table brolly.authorization_limits owner to administrator;
CREATE INDEX authorization_limits_end ON brolly.authorization_limits USING btree (until);

create table brolly.build_lines (
    build_id uuid not null,
    number integer not null,
    text text not null,
    constraint build_lines_pkey PRIMARY KEY (build_id, number),
    constraint build_lines_build_id_fkey FOREIGN KEY (build_id) REFERENCES brolly.builds(id) ON DELETE CASCADE
);
alter table brolly.build_lines owner to administrator;

create table brolly.builds (
    id uuid not null default gen_random_uuid(),
    deployment_id uuid not null,
    app_id text not null,
    state text not null default 'WAITING'::text,
    options jsonb not null default '{}'::jsonb,
    environment bytea,
    attempts integer not null default 0,
    cached boolean,
    created_at timestamp with time zone not null default now(),
    queued_at timestamp with time zone,
    started_at timestamp with time zone,
    ended_at timestamp with time zone,
    constraint builds_pkey PRIMARY KEY (id),
    constraint builds_deployment_id_key UNIQUE (deployment_id),
    constraint builds_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE,
    constraint builds_deployment_id_fkey FOREIGN KEY (deployment_id) REFERENCES brolly.deployments(id) ON DELETE CASCADE,
    constraint builds_state_check CHECK ((state = ANY (ARRAY['WAITING'::text, 'QUEUED'::text, 'RUNNING'::text, 'DONE'::text])))
);
alter table brolly.builds owner to administrator;
CREATE INDEX builds_app ON brolly.builds USING btree (app_id);
CREATE INDEX builds_work ON brolly.builds USING btree (queued_at) WHERE (state = ANY (ARRAY['QUEUED'::text, 'RUNNING'::text]));

create table brolly.cron_runs (
    id bigint not null generated always as identity,
    app_id text not null,
    function_name text not null,
    due_at timestamp with time zone not null,
    started_at timestamp with time zone not null default now(),
    finished_at timestamp with time zone,
    status integer,
    error text,
    missed integer not null default 0,
    constraint cron_runs_pkey PRIMARY KEY (id),
    constraint cron_runs_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.cron_runs owner to administrator;
CREATE INDEX cron_runs_function ON brolly.cron_runs USING btree (app_id, function_name, id DESC);
CREATE INDEX cron_runs_time ON brolly.cron_runs USING btree (started_at);

create table brolly.cron_triggers (
    app_id text not null,
    function_name text not null,
    schedule text not null,
    timezone text not null,
    next_run_at timestamp with time zone not null,
    constraint cron_triggers_pkey PRIMARY KEY (app_id, function_name),
    constraint cron_triggers_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.cron_triggers owner to administrator;
CREATE INDEX cron_triggers_due ON brolly.cron_triggers USING btree (next_run_at);

create table brolly.custom_domains (
    id uuid not null default gen_random_uuid(),
    app_id text not null,
    hostname text not null,
    method text not null,
    token text not null,
    status text not null default 'pending'::text,
    error text,
    checked_at timestamp with time zone,
    verified_at timestamp with time zone,
    created_at timestamp with time zone not null default now(),
    constraint custom_domains_pkey PRIMARY KEY (id),
    constraint custom_domains_app_id_hostname_key UNIQUE (app_id, hostname),
    constraint custom_domains_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE,
    constraint custom_domains_method_check CHECK ((method = ANY (ARRAY['txt'::text, 'http'::text]))),
    constraint custom_domains_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text])))
);
alter table brolly.custom_domains owner to administrator;
CREATE UNIQUE INDEX custom_domains_active ON brolly.custom_domains USING btree (hostname) WHERE (status = 'active'::text);
CREATE INDEX custom_domains_pending ON brolly.custom_domains USING btree (hostname) WHERE (status = 'pending'::text);

create table brolly.deployment_files (
    deployment_id uuid not null,
    path text not null,
    blob_id bigint not null,
    content_type text not null,
    constraint deployment_files_pkey PRIMARY KEY (deployment_id, path),
    constraint deployment_files_blob_id_fkey FOREIGN KEY (blob_id) REFERENCES brolly.site_blobs(id),
    constraint deployment_files_deployment_id_fkey FOREIGN KEY (deployment_id) REFERENCES brolly.deployments(id) ON DELETE CASCADE
);
alter table brolly.deployment_files owner to administrator;
CREATE INDEX deployment_files_blob ON brolly.deployment_files USING btree (blob_id);

create table brolly.deployments (
    id uuid not null default gen_random_uuid(),
    app_id text not null,
    slug text not null,
    kind text not null,
    framework text,
    status text not null default 'WAITING'::text,
    error text,
    upload_key text,
    upload_bytes bigint,
    upload_expires_at timestamp with time zone not null,
    turn bigint,
    lease_until timestamp with time zone,
    attempts integer not null default 0,
    root text not null default ''::text,
    rules jsonb not null default '{}'::jsonb,
    warnings text[] not null default '{}'::text[],
    file_count integer,
    total_bytes bigint,
    created_at timestamp with time zone not null default now(),
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    updated_at timestamp with time zone not null default now(),
    constraint deployments_pkey PRIMARY KEY (id),
    constraint deployments_slug_key UNIQUE (slug),
    constraint deployments_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE,
    constraint deployments_kind_check CHECK ((kind = ANY (ARRAY['files'::text, 'source'::text]))),
    constraint deployments_status_check CHECK ((status = ANY (ARRAY['WAITING'::text, 'UPLOADING'::text, 'BUILDING'::text, 'READY'::text, 'ERROR'::text, 'CANCELED'::text])))
);
alter table brolly.deployments owner to administrator;
CREATE INDEX deployments_app ON brolly.deployments USING btree (app_id, created_at DESC);
CREATE INDEX deployments_waiting ON brolly.deployments USING btree (upload_expires_at) WHERE (status = 'WAITING'::text);
CREATE INDEX deployments_work ON brolly.deployments USING btree (lease_until) WHERE (status = ANY (ARRAY['UPLOADING'::text, 'BUILDING'::text]));

create table brolly.function_events (
    id uuid not null,
    app_id text not null,
    function_name text not null,
    trigger text not null,
    payload jsonb not null,
    attempts integer not null default 1,
    created_at timestamp with time zone not null default now(),
    due_at timestamp with time zone not null,
    xid text,
    constraint function_events_pkey PRIMARY KEY (id),
    constraint function_events_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE,
    constraint function_events_trigger_check CHECK ((trigger = ANY (ARRAY['auth_hook'::text, 's3_upload'::text])))
);
alter table brolly.function_events owner to administrator;
CREATE INDEX function_events_due ON brolly.function_events USING btree (due_at);

create table brolly.installation (
    only_row boolean not null default true,
    secret_check text not null,
    created_at timestamp with time zone not null default now(),
    constraint installation_pkey PRIMARY KEY (only_row),
    constraint installation_only_row_check CHECK (only_row)
);
alter table brolly.installation owner to administrator;

create table brolly.oauth_clients (
    client_id text not null,
    name text not null,
    redirect_uris text[] not null,
    used boolean not null default false,
    created_at timestamp with time zone not null default now(),
    expires_at timestamp with time zone not null,
    constraint oauth_clients_pkey PRIMARY KEY (client_id)
);
alter table brolly.oauth_clients owner to administrator;
CREATE INDEX oauth_clients_end ON brolly.oauth_clients USING btree (expires_at);

create table brolly.oauth_codes (
    code_hash bytea not null,
    account_id uuid not null,
    client_id text not null,
    client_name text not null,
    redirect_uri text not null,
    code_challenge text not null,
    resource text not null,
    scope text not null,
    key_scopes text[] not null,
    expires_at timestamp with time zone not null,
    used_at timestamp with time zone,
    key_id uuid,
    constraint oauth_codes_pkey PRIMARY KEY (code_hash),
    constraint oauth_codes_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id) ON DELETE CASCADE,
    constraint oauth_codes_key_id_fkey FOREIGN KEY (key_id) REFERENCES brolly.api_keys(id) ON DELETE CASCADE
);
alter table brolly.oauth_codes owner to administrator;
CREATE INDEX oauth_codes_end ON brolly.oauth_codes USING btree (expires_at);

create table brolly.oauth_tokens (
    token_hash bytea not null,
    kind text not null,
    key_id uuid not null,
    resource text not null,
    scope text not null,
    key_scopes text[] not null,
    expires_at timestamp with time zone not null,
    used_at timestamp with time zone,
    constraint oauth_tokens_pkey PRIMARY KEY (token_hash),
    constraint oauth_tokens_key_id_fkey FOREIGN KEY (key_id) REFERENCES brolly.api_keys(id) ON DELETE CASCADE,
    constraint oauth_tokens_kind_check CHECK ((kind = ANY (ARRAY['access'::text, 'refresh'::text])))
);
alter table brolly.oauth_tokens owner to administrator;
CREATE INDEX oauth_tokens_end ON brolly.oauth_tokens USING btree (expires_at);
CREATE INDEX oauth_tokens_key ON brolly.oauth_tokens USING btree (key_id);

create table brolly.owner_logins (
    account_id uuid not null,
    password_hash text not null,
    password_set_at timestamp with time zone not null default now(),
    totp_secret bytea,
    totp_last_step bigint,
    constraint owner_logins_pkey PRIMARY KEY (account_id),
    constraint owner_logins_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id) ON DELETE CASCADE
);
alter table brolly.owner_logins owner to administrator;

create table brolly.owner_sessions (
    token_hash bytea not null,
    account_id uuid not null,
    expires_at timestamp with time zone not null,
    constraint owner_sessions_pkey PRIMARY KEY (token_hash),
    constraint owner_sessions_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.owner_logins(account_id) ON DELETE CASCADE
);
alter table brolly.owner_sessions owner to administrator;
CREATE INDEX owner_sessions_end ON brolly.owner_sessions USING btree (expires_at);

create table brolly.rate_windows (
    subject bytea not null,
    number bigint not null,
    taken bigint not null,
    granted bigint not null,
    ends_at timestamp with time zone not null,
    constraint rate_windows_pkey PRIMARY KEY (subject, number)
);
alter table brolly.rate_windows owner to administrator;
CREATE INDEX rate_windows_end ON brolly.rate_windows USING btree (ends_at);

create table brolly.realtime_messages (
    id bigint not null generated always as identity,
    body text not null,
    created_at timestamp with time zone not null default now(),
    constraint realtime_messages_pkey PRIMARY KEY (id)
);
alter table brolly.realtime_messages owner to administrator;
CREATE INDEX realtime_messages_created_at_idx ON brolly.realtime_messages USING btree (created_at);

create table brolly.realtime_presence (
    app_id text not null,
    channel text not null,
    client_id text not null,
    server_id text not null,
    user_id text,
    metadata text not null,
    constraint realtime_presence_pkey PRIMARY KEY (app_id, channel, client_id),
    constraint realtime_presence_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.realtime_presence owner to administrator;
CREATE INDEX realtime_presence_server_id_idx ON brolly.realtime_presence USING btree (server_id);

create table brolly.realtime_servers (
    id text not null,
    seen_at timestamp with time zone not null default now(),
    constraint realtime_servers_pkey PRIMARY KEY (id)
);
alter table brolly.realtime_servers owner to administrator;

create table brolly.realtime_work (
    app_id text not null,
    due_at timestamp with time zone not null default now(),
    constraint realtime_work_pkey PRIMARY KEY (app_id),
    constraint realtime_work_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.realtime_work owner to administrator;
CREATE INDEX realtime_work_due ON brolly.realtime_work USING btree (due_at);

create table brolly.site_blobs (
    id bigint not null generated always as identity,
    app_id text not null,
    sha256 bytea not null,
    key text not null,
    size bigint not null,
    br_size bigint,
    gzip_size bigint,
    zstd_size bigint,
    stored_at timestamp with time zone,
    touched_at timestamp with time zone not null default now(),
    constraint site_blobs_pkey PRIMARY KEY (id),
    constraint site_blobs_app_id_sha256_key UNIQUE (app_id, sha256),
    constraint site_blobs_key_key UNIQUE (key),
    constraint site_blobs_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.site_blobs owner to administrator;
CREATE INDEX site_blobs_touched ON brolly.site_blobs USING btree (touched_at);

create table brolly.site_env (
    app_id text not null,
    name text not null,
    value bytea not null,
    created_at timestamp with time zone not null default now(),
    updated_at timestamp with time zone not null default now(),
    constraint site_env_pkey PRIMARY KEY (app_id, name),
    constraint site_env_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE
);
alter table brolly.site_env owner to administrator;

create table brolly.sites (
    app_id text not null,
    deployment_id uuid not null,
    former_id uuid,
    turn bigint not null,
    switched_at timestamp with time zone not null default now(),
    constraint sites_pkey PRIMARY KEY (app_id),
    constraint sites_app_id_fkey FOREIGN KEY (app_id) REFERENCES brolly.apps(id) ON DELETE CASCADE,
    constraint sites_deployment_id_fkey FOREIGN KEY (deployment_id) REFERENCES brolly.deployments(id),
    constraint sites_former_id_fkey FOREIGN KEY (former_id) REFERENCES brolly.deployments(id) ON DELETE SET NULL
);
alter table brolly.sites owner to administrator;
CREATE INDEX sites_deployment ON brolly.sites USING btree (deployment_id);
CREATE INDEX sites_former ON brolly.sites USING btree (former_id);

create table brolly.storage_work (
    app_id text not null,
    due_at timestamp with time zone not null,
    swept_at timestamp with time zone,
    constraint storage_work_pkey PRIMARY KEY (app_id)
);
alter table brolly.storage_work owner to administrator;
CREATE INDEX storage_work_due ON brolly.storage_work USING btree (due_at);

create table brolly.suggestions (
    id uuid not null default gen_random_uuid(),
    account_id uuid not null,
    app_id text,
    category text not null,
    description text not null,
    severity text,
    affected_tool text,
    proposed_solution text,
    source text not null,
    agent_context jsonb,
    recent_calls jsonb not null,
    status text not null default 'new'::text,
    created_at timestamp with time zone not null default now(),
    constraint suggestions_pkey PRIMARY KEY (id),
    constraint suggestions_account_id_fkey FOREIGN KEY (account_id) REFERENCES brolly.accounts(id)
);
alter table brolly.suggestions owner to administrator;

create table brolly_queue.pgqueuer (
    id bigint not null default nextval('brolly_queue.pgqueuer_id_seq'::regclass),
    priority integer not null,
    queue_manager_id uuid,
    created timestamp with time zone not null default now(),
    updated timestamp with time zone not null default now(),
    heartbeat timestamp with time zone not null default now(),
    execute_after timestamp with time zone not null default now(),
    status brolly_queue.pgqueuer_status not null,
    entrypoint text not null,
    dedupe_key text,
    payload bytea,
    headers jsonb,
    attempts integer not null default 0,
    slot bigint,
    constraint pgqueuer_pkey PRIMARY KEY (id)
);
alter table brolly_queue.pgqueuer owner to administrator;
CREATE INDEX pgqueuer_ep_ea_idx ON brolly_queue.pgqueuer USING btree (entrypoint, execute_after) WHERE (status = 'queued'::brolly_queue.pgqueuer_status);
CREATE INDEX pgqueuer_ep_prio_id_idx ON brolly_queue.pgqueuer USING btree (entrypoint, priority DESC, id) WHERE (status = 'queued'::brolly_queue.pgqueuer_status);
CREATE INDEX pgqueuer_picked_heartbeat_idx ON brolly_queue.pgqueuer USING btree (heartbeat) WHERE (status = 'picked'::brolly_queue.pgqueuer_status);
CREATE UNIQUE INDEX pgqueuer_picked_slot_idx ON brolly_queue.pgqueuer USING btree (entrypoint, slot) WHERE ((status = 'picked'::brolly_queue.pgqueuer_status) AND (slot IS NOT NULL));
CREATE INDEX pgqueuer_priority_id_id1_idx ON brolly_queue.pgqueuer USING btree (priority, id DESC) INCLUDE (id) WHERE (status = 'queued'::brolly_queue.pgqueuer_status);
CREATE INDEX pgqueuer_queue_manager_id_idx ON brolly_queue.pgqueuer USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL);
CREATE UNIQUE INDEX pgqueuer_unique_dedupe_key ON brolly_queue.pgqueuer USING btree (dedupe_key) WHERE ((status = ANY (ARRAY['queued'::brolly_queue.pgqueuer_status, 'picked'::brolly_queue.pgqueuer_status])) AND (dedupe_key IS NOT NULL));
CREATE INDEX pgqueuer_updated_id_id1_idx ON brolly_queue.pgqueuer USING btree (updated, id DESC) INCLUDE (id) WHERE (status = 'picked'::brolly_queue.pgqueuer_status);
CREATE TRIGGER tg_pgqueuer_changed AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON brolly_queue.pgqueuer FOR EACH STATEMENT EXECUTE FUNCTION brolly_queue.fn_pgqueuer_changed();

create table brolly_queue.pgqueuer_log (
    id bigint not null generated by default as identity,
    created timestamp with time zone not null default now(),
    job_id bigint not null,
    status brolly_queue.pgqueuer_status not null,
    priority integer not null,
    entrypoint text not null,
    traceback jsonb,
    aggregated boolean default false,
    constraint pgqueuer_log_pkey PRIMARY KEY (id)
);
alter table brolly_queue.pgqueuer_log owner to administrator;
CREATE INDEX pgqueuer_log_created ON brolly_queue.pgqueuer_log USING btree (created);
CREATE INDEX pgqueuer_log_job_id_status ON brolly_queue.pgqueuer_log USING btree (job_id, created DESC);
CREATE INDEX pgqueuer_log_not_aggregated ON brolly_queue.pgqueuer_log USING btree ((1)) WHERE (NOT aggregated);
CREATE INDEX pgqueuer_log_status ON brolly_queue.pgqueuer_log USING btree (status);

create table brolly_queue.pgqueuer_schedules (
    id bigint not null default nextval('brolly_queue.pgqueuer_schedules_id_seq'::regclass),
    expression text not null,
    entrypoint text not null,
    heartbeat timestamp with time zone not null default now(),
    created timestamp with time zone not null default now(),
    updated timestamp with time zone not null default now(),
    next_run timestamp with time zone not null default now(),
    last_run timestamp with time zone,
    status brolly_queue.pgqueuer_status default 'queued'::brolly_queue.pgqueuer_status,
    constraint pgqueuer_schedules_pkey PRIMARY KEY (id),
    constraint pgqueuer_schedules_expression_entrypoint_key UNIQUE (expression, entrypoint)
);
alter table brolly_queue.pgqueuer_schedules owner to administrator;

create table brolly_queue.pgqueuer_statistics (
    id bigint not null default nextval('brolly_queue.pgqueuer_statistics_id_seq'::regclass),
    created timestamp with time zone not null default date_trunc('sec'::text, now()),
    count bigint not null,
    priority integer not null,
    status brolly_queue.pgqueuer_status not null,
    entrypoint text not null,
    constraint pgqueuer_statistics_pkey PRIMARY KEY (id)
);
alter table brolly_queue.pgqueuer_statistics owner to administrator;
CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON brolly_queue.pgqueuer_statistics USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)), status, entrypoint);

create sequence brolly.deployment_turns as bigint;
create sequence brolly_queue.pgqueuer_id_seq as bigint;
create sequence brolly_queue.pgqueuer_schedules_id_seq as bigint;
create sequence brolly_queue.pgqueuer_statistics_id_seq as bigint;

CREATE OR REPLACE FUNCTION brolly_queue.fn_pgqueuer_changed()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
DECLARE
    to_emit BOOLEAN := false;  -- Flag to decide whether to emit a notification
BEGIN
    -- Check operation type and set the emit flag accordingly
    IF TG_OP = 'UPDATE' AND OLD IS DISTINCT FROM NEW THEN
        to_emit := true;
    ELSIF TG_OP = 'DELETE' THEN
        to_emit := true;
    ELSIF TG_OP = 'INSERT' THEN
        to_emit := true;
    ELSIF TG_OP = 'TRUNCATE' THEN
        to_emit := true;
    END IF;

    -- Perform notification if the emit flag is set
    IF to_emit THEN
        PERFORM pg_notify(
            'ch_pgqueuer',
            json_build_object(
                'channel', 'ch_pgqueuer',
                'operation', lower(TG_OP),
                'sent_at', NOW(),
                'table', TG_TABLE_NAME,
                'type', 'table_changed_event'
            )::text
        );
    END IF;

    -- Return appropriate value based on the operation
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        RETURN NEW;
    ELSIF TG_OP = 'DELETE' THEN
        RETURN OLD;
    ELSE
        RETURN NULL; -- For TRUNCATE and other non-row-specific contexts
    END IF;

END;
$function$;
alter routine brolly_queue.fn_pgqueuer_changed() owner to administrator;

grant usage on schema public to public;
grant execute on routine brolly_queue.fn_pgqueuer_changed() to public;
