-- Which apps record changes, and when they are next to be tended: old changes trimmed, lost triggers put back.
-- So that no loop has to open every app's database to find out.

create table brolly.realtime_work (
    app_id  text primary key references brolly.apps (id) on delete cascade,
    due_at  timestamptz not null default now()
);
create index realtime_work_due on brolly.realtime_work (due_at);
