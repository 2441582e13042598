ALTER TABLE tally.rollup ADD COLUMN whole_from timestamptz;
DROP FUNCTION tally.alter_rollup(text, text[], text[]);
DROP FUNCTION tally.drop_rollup(text);
