-- tally.event_key keeps the account from now on; what is there keeps null.
ALTER TABLE tally.event_key ADD COLUMN account text COLLATE "C";

-- What waits there came as plain events: 0.1.0 took no payloads of other systems.
ALTER TABLE tally.quarantine ADD COLUMN format text COLLATE "C";
