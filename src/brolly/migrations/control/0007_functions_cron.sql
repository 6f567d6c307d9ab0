-- When functions run by the clock. Here rather than in the apps' databases, so that one query finds what is due.

create table brolly.cron_triggers (
    app_id         text not null references brolly.apps (id) on delete cascade,
    function_name  text not null,
    schedule       text not null,
    timezone       text not null,
    next_run_at    timestamptz not null,
    primary key (app_id, function_name)
);
create index cron_triggers_due on brolly.cron_triggers (next_run_at);

create table brolly.cron_runs (
    id             bigint generated always as identity primary key,
    app_id         text not null references brolly.apps (id) on delete cascade,
    function_name  text not null,
    due_at         timestamptz not null,
    started_at     timestamptz not null default now(),
    finished_at    timestamptz,
    status         integer,
    error          text,
    -- Times that passed without a run since the one before, as while no server ran.
    missed         integer not null default 0
);
create index cron_runs_function on brolly.cron_runs (app_id, function_name, id desc);
create index cron_runs_time on brolly.cron_runs (started_at);
