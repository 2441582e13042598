-- Fails the demo unless the statement before set :refused to true.
\if :refused
  \echo refused: :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
\else
  \set ON_ERROR_STOP on
  SELECT 'this should have been refused'::int;
\endif
