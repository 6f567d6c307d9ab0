-- Events that are to run functions: sign-ins and uploads. A row goes once its function has taken it, or never will.
-- Here rather than in the apps' databases, so that one query finds what is due.

create table brolly.function_events (
    id             uuid primary key,
    app_id         text not null references brolly.apps (id) on delete cascade,
    function_name  text not null,
    trigger        text not null check (trigger in ('auth_hook', 's3_upload')),
    payload        jsonb not null,
    attempts       integer not null default 1,
    created_at     timestamptz not null default now(),
    -- While a server works on it: when another may take it, if that one has ended.
    due_at         timestamptz not null
);
create index function_events_due on brolly.function_events (due_at);
