-- Fails the demo unless the statement before set :refused to true.
\if :refused
  \echo refused with SQLSTATE :LAST_ERROR_SQLSTATE
\else
  \set ON_ERROR_STOP on
  SELECT 'this should have been refused'::int;
\endif
