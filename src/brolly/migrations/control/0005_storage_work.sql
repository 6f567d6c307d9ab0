-- Which app's files need tending, and when: reservations run out, removals were interrupted, a sweep is due.
-- So that no loop has to open every app's database to find out. An app that is gone stays listed until its
-- last upload link has run out.

create table brolly.storage_work (
    app_id    text primary key,
    due_at    timestamptz not null,
    swept_at  timestamptz
);
create index storage_work_due on brolly.storage_work (due_at);
