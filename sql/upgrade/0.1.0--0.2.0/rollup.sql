ALTER TABLE tally.rollup ADD COLUMN whole_from timestamptz;
