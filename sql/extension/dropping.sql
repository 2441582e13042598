-- DROP EXTENSION is refused while there are events (src/backend/dropping.rs).

CREATE FUNCTION tally_internal.before_drop() RETURNS event_trigger
  LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT AS 'MODULE_PATHNAME', 'tally_before_drop';
COMMENT ON FUNCTION tally_internal.before_drop() IS
  'event trigger: notes before a command that may drop the extension whether there are events';
REVOKE ALL ON FUNCTION tally_internal.before_drop() FROM PUBLIC;

CREATE EVENT TRIGGER tally_before_drop ON ddl_command_start
  WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED') EXECUTE FUNCTION tally_internal.before_drop();
ALTER EVENT TRIGGER tally_before_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER tally_before_drop IS
  'keeps DROP EXTENSION from taking every event along, unless the session sets tally.allow_drop';
