#!/usr/bin/env perl
# Puts the upgrade scripts together: for each released version A in tests/upgrade, sql/pg_tally--A--B.sql for the present
# version B. They are built, not kept: sql/*/*.sql have the present definition of every object, and what only an upgrade does
# is in sql/upgrade/A--B/:
#
#   NAME.sql  runs just before the statements of sql/NOUN/NAME.sql: ALTER TABLE of a table that A has already, DROP FUNCTION where
#             the result or the names of arguments changed, REVOKE of what A granted
#   end.sql   runs last
#
# Of sql/*/*.sql, in the order of src/lib.rs, the script takes each statement that A's own script doesn't have in the same
# words: a function, view, aggregate or trigger as CREATE OR REPLACE, a table, type, operator or cast where A has none of that name,
# comments, owners and privileges as they stand. Whatever is dropped by name in a piece is made anew. A table whose columns changed
# must be named in a piece. A function or view that A has in schema tally and sql/ in tally_internal is moved there first, and is
# the same one after that. A statement after a comment line "-- upgrade: skip" is for a fresh installation alone.
# tests/server/tests/extension/upgrade.rs compares what comes of it with a fresh installation.
use strict;
use warnings;
use File::Basename;

chdir dirname(__FILE__) . '/..' or die "no checkout: $!\n";
my $lib = read_file('src/lib.rs');
my @files = $lib =~ m{"\.\./(sql/[\w/]+\.sql)"}mg;
my ($to) = read_file('Cargo.toml') =~ /^\[workspace\.package\]\nversion = "([\d.]+)"/m or die "no version in Cargo.toml\n";
unlink glob 'sql/pg_tally--*--*.sql';
for my $frozen (glob 'tests/upgrade/pg_tally--*.sql') {
  my ($from) = $frozen =~ /--([\d.]+)\.sql$/;
  next if $from eq $to;
  my $script = assemble($from, read_file($frozen));
  my $name = "sql/pg_tally--$from--$to.sql";
  open my $out, '>', $name or die "$name: $!\n";
  print $out $script;
  close $out or die "$name: $!\n";
}

sub read_file {
  my ($name) = @_;
  open my $in, '<', $name or die "$name: $!\n";
  local $/;
  return scalar <$in>;
}

# Statements of a script, each with the comments before it.
sub statements {
  my ($text) = @_;
  my ($current, @found) = ('');
  while ($text =~ /\G(
      --[^\n]*\n? | \/\*.*?\*\/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | (\$\w*\$).*?\2
      | \bBEGIN\s+ATOMIC\b.*?\n\ \ END(?=;) | ; | [^;'"\$\/B-]+ | . )/gsx) {
    $current .= $1;
    if ($1 eq ';') { push @found, $current; $current = '' }
  }
  return @found;
}

# A statement without its comments, all white space alike.
sub plain {
  my ($statement) = @_;
  $statement =~ s/\A(?:\s+|--[^\n]*\n|\/\*.*?\*\/)+//s;
  $statement =~ s/\s+/ /g;
  return $statement;
}

# What a statement makes, as a kind and a name; a function's arguments belong to the statement, not to the name.
sub made {
  my ($plain) = @_;
  return ("$1", "$2") if $plain =~ /^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?(TABLE|TYPE|DOMAIN|VIEW|FUNCTION|PROCEDURE|AGGREGATE|TRIGGER|EVENT TRIGGER|SEQUENCE|(?:UNIQUE )?INDEX) ([\w."]+)/;
  return ('OPERATOR', "$1") if $plain =~ /^CREATE (OPERATOR .*?\(.*?(?:LEFTARG|RIGHTARG) = [\w.]+.*?)(?:,|\))/ ;
  return ('OTHER', "$1") if $plain =~ /^CREATE ((?:OPERATOR|CAST|POLICY).*?)(?: AS | WITH |;)/;
  return;
}

# Whether a statement names one of these objects, "KIND schema.name": a function by its name and a parenthesis.
sub mentions {
  my ($plain, @objects) = @_;
  for my $object (@objects) {
    my ($kind, $name) = split ' ', $object;
    my $after = $kind =~ /^(?:FUNCTION|AGGREGATE|PROCEDURE)$/ ? qr/\s*\(/ : qr/\b/;
    return 1 if $plain =~ /\b\Q$name\E$after/;
  }
  return 0;
}

# Names, without their schema, of the functions and views that a script makes in a schema.
sub made_in {
  my ($schema, $text) = @_;
  my %found;
  for my $statement (statements($text)) {
    my ($kind, $name) = made(plain($statement));
    next unless defined $kind && $kind =~ /^(?:FUNCTION|PROCEDURE|AGGREGATE|VIEW)$/;
    $found{$1} = 1 if $name =~ /^\Q$schema\E\.(\w+)$/;
  }
  return %found;
}

# The statement that moves these functions and views of the extension to the inner schema.
sub moving {
  my $names = join ', ', map { "'$_'" } @_;
  $names =~ s/(.{1,120})(?:, |$)/      $1,\n/g;
  $names =~ s/,\n\z/\n/;
  return <<"MOVING";
-- What only pg_tally itself calls is in a schema of its own.
DO \$upgrade\$
DECLARE
  names CONSTANT pg_catalog.name[] := ARRAY[
$names    ]::pg_catalog.name[];
  moved record;
  tied pg_catalog.oid;
  bodies pg_catalog.text[] := '{}';
  body pg_catalog.text;
BEGIN
  -- From 17 on a body that names the schema ties a function to it once more, and Postgres moves only what one tie holds. Such a body
  -- is put back afterwards. (An updating script's bodies aren't checked: Postgres sees to that.)
  FOR tied IN
    SELECT p.oid FROM pg_catalog.pg_proc AS p
     WHERE p.pronamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace AND p.proname OPERATOR(pg_catalog.=) ANY (names)
       AND p.prosqlbody IS NOT NULL
       AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_depend AS d
             WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) p.oid
               AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass::pg_catalog.oid
               AND d.refobjid OPERATOR(pg_catalog.=) p.pronamespace) OPERATOR(pg_catalog.>) 1
       AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                     JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'pg_tally'
                    WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) p.oid
                      AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
  LOOP
    body := pg_catalog.pg_get_functiondef(tied);
    bodies := pg_catalog.array_append(bodies, pg_catalog.regexp_replace(body, \$re\$^(CREATE OR REPLACE \\w+ )tally[.]\$re\$, \$re\$\\1tally_internal.\$re\$));
    EXECUTE pg_catalog.regexp_replace(body, 'BEGIN ATOMIC.*', 'AS ''''');
  END LOOP;
  FOR moved IN
    SELECT o.kind, o.name
      FROM (SELECT 'ROUTINE', p.oid::pg_catalog.regprocedure::pg_catalog.text, 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid
              FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace AND p.proname OPERATOR(pg_catalog.=) ANY (names)
            UNION ALL
            SELECT 'VIEW', c.oid::pg_catalog.regclass::pg_catalog.text, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid
              FROM pg_catalog.pg_class AS c
             WHERE c.relnamespace OPERATOR(pg_catalog.=) 'tally'::pg_catalog.regnamespace AND c.relkind OPERATOR(pg_catalog.=) 'v'
               AND c.relname OPERATOR(pg_catalog.=) ANY (names)) AS o (kind, name, class, id)
      JOIN pg_catalog.pg_depend AS d ON d.classid OPERATOR(pg_catalog.=) o.class::pg_catalog.oid AND d.objid OPERATOR(pg_catalog.=) o.id
       AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'
      JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid AND e.extname OPERATOR(pg_catalog.=) 'pg_tally'
  LOOP
    EXECUTE pg_catalog.format('ALTER %s %s SET SCHEMA tally_internal', moved.kind, moved.name);
  END LOOP;
  FOREACH body IN ARRAY bodies LOOP
    FOR moved IN SELECT pg_catalog.unnest(names) AS name LOOP
      body := pg_catalog.replace(body, 'tally.' OPERATOR(pg_catalog.||) moved.name OPERATOR(pg_catalog.||) '(',
        'tally_internal.' OPERATOR(pg_catalog.||) moved.name OPERATOR(pg_catalog.||) '(');
    END LOOP;
    EXECUTE body;
  END LOOP;
END
\$upgrade\$;
MOVING
}

sub assemble {
  my ($from, $frozen) = @_;
  my (%same, %has);
  my $present = join "\n", map { read_file($_) } @files;
  my %inner = made_in('tally_internal', $present);
  my %outer = made_in('tally', $present);
  my %before = made_in('tally', $frozen);
  my @moved = sort grep { $inner{$_} && !$outer{$_} } keys %before;
  my $moved = join '|', map { quotemeta } @moved;
  $moved = qr/\btally\.($moved)\b/;
  for my $statement (statements($frozen)) {
    my $plain = plain($statement);
    # Postgres keeps what a statement means, but the words of a body, a comment and any other literal.
    my $says = 0;
    while ($plain =~ /'(?:[^']|'')*'|(\$\w*\$).*?\1/g) { $says ||= @moved && $& =~ $moved }
    $plain =~ s/$moved/tally_internal.$1/g if @moved;
    $same{$plain} = 1 unless $says;
    my ($kind, $name) = made($plain);
    $has{"$kind $name"} = 1 if defined $kind;
  }
  my $folder = "sql/upgrade/$from--$to";
  my (%piece, %dropped, %used);
  for my $path (glob "$folder/*.sql") {
    my $name = basename($path);
    $piece{$name} = read_file($path);
  }
  for my $text (values %piece) {
    for my $statement (statements($text)) {
      next unless plain($statement) =~ /^DROP (FUNCTION|VIEW|AGGREGATE|PROCEDURE|TYPE|TABLE) (.*)/;
      my ($kind, $names) = ($1, $2);
      $names =~ s/\([^)]*\)//g;
      while ($names =~ /(\w+\.\w+)/g) { $dropped{"$kind $1"} = 1 }
    }
  }
  my $whole = join "\n", values %piece;
  my $script = "-- From $from to $to. Made by packaging/upgrade-script.pl; edit sql/ and $folder instead.\n\n"
    . "SET LOCAL search_path = pg_catalog, pg_temp;\n";
  for my $file (@files) {
    my $name = basename($file);
    my $added = '';
    for my $statement (statements(read_file($file))) {
      my $plain = plain($statement);
      my ($comments) = $statement =~ /\A((?:\s*--[^\n]*\n)*)/;
      next if $comments =~ /^-- upgrade: skip$/m || $plain =~ /^SET LOCAL search_path/;
      next if $same{$plain} && !mentions($plain, keys %dropped);
      my ($kind, $object) = made($plain);
      if (defined $kind && $has{"$kind $object"}) {
        if ($kind =~ /^(?:FUNCTION|PROCEDURE|VIEW|AGGREGATE|TRIGGER)$/) {
          $statement =~ s/^CREATE (?=(?:CONSTRAINT )?$kind)/CREATE OR REPLACE /m;
        } elsif (!$dropped{"$kind $object"}) {
          die "$file: $kind $object differs from that of $from, and no piece in $folder changes it\n"
            unless $whole =~ /\b\Q$object\E\b/;
          next;
        }
      }
      $added .= $statement;
    }
    $script .= "\n" . $piece{$name} if $piece{$name};
    $used{$name} = 1;
    $script .= $added . "\n" if $added =~ /\S/;
    # The first file makes the schemas.
    $script .= "\n" . moving(splice @moved) if @moved;
  }
  $script .= "\n" . $piece{'end.sql'} if $piece{'end.sql'};
  for my $name (grep { $_ ne 'end.sql' && !$used{$_} } keys %piece) {
    die "$folder/$name: there is no sql/*/$name that it could run before\n";
  }
  return $script;
}
