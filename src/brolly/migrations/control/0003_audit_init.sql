-- What was done, by whom, with what outcome. Rows outlive the app they tell of.

create table brolly.audit_log (
    id              bigint generated always as identity primary key,
    account_id      uuid,
    app_id          text not null,
    category        text not null,
    event_type      text not null,
    action          text not null,
    resource_type   text not null,
    resource_id     text,
    actor_type      text not null,
    actor_id        text,
    event_data      jsonb not null default '{}',
    ip_address      text,
    user_agent      text,
    success         boolean not null,
    error_message   text,
    correlation_id  text,
    created_at      timestamptz not null default now()
);
create index audit_log_app on brolly.audit_log (account_id, app_id, created_at desc, id desc);
create index audit_log_age on brolly.audit_log using brin (created_at);
