-- What was taken counts under the quota that it was taken under; what is there keeps null, and counts under none.
ALTER TABLE tally.quota_state ADD COLUMN events_per_minute int8, ADD COLUMN burst int8;
ALTER TABLE tally.quota_take ADD COLUMN events_per_minute int8, ADD COLUMN burst int8;
