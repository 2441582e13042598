-- tally.event_key keeps the account from now on; what is there keeps null.
ALTER TABLE tally.event_key ADD COLUMN account text COLLATE "C";
