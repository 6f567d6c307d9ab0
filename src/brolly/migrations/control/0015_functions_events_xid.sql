-- A sign-in's event is written before the sign-in commits, so that no end of a server comes between the two. This is
-- the sign-in's transaction in the app's database, where Postgres tells whether it was committed.

alter table brolly.function_events add column xid text;
