-- A user's folders are found by one probe each, however many files others have.
create index objects_user_folder on storage.objects (user_id, folder);
-- Every list tells the owner how many files have lost their bytes: mostly none.
create index objects_missing on storage.objects (missing_since) where missing_since is not null;
