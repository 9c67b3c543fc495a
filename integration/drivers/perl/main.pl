# DBD::Pg: libpq with server-side prepared statements, placeholders and COPY by lines.
use strict;
use warnings;
use utf8;
use open qw(:std :encoding(UTF-8));

use DBI;
use DBD::Pg qw(:pg_types :async);
use Time::HiRes qw(sleep time);

$| = 1;
# Among them what happens when a statement's handle goes away.
$SIG{__WARN__} = sub { my ($text) = @_; $text =~ s/dbdpg_p\d+/dbdpg_p/; $text =~ s/ at \S+ line.*//s; print "warning $text\n" };

my $slow_read = 'SELECT count(*) FROM generate_series(1, 40000) a '
    . 'JOIN generate_series(1, 40000) b ON a + b < 0';

sub section { print "# $_[0]\n" }

sub show {
    my ($value) = @_;
    return 'undef' if !defined $value;
    return '[' . join(', ', map { show($_) } @$value) . ']' if ref $value eq 'ARRAY';
    return $value;
}

sub out { print join(' ', map { show($_) } @_), "\n" }

sub fails {
    my ($what, $dbh, $action) = @_;
    if (eval { $action->(); 1 }) { return out($what, 'did not fail') }
    out($what, $dbh->state, $dbh->errstr // $@);
    out('  detail', map { $dbh->pg_error_field($_) } qw(detail constraint column statement_position));
}

sub connection {
    my ($options) = @_;
    local $ENV{PGOPTIONS} = $options // '-c search_path=perl';
    my $dbh = DBI->connect('dbi:Pg:', undef, undef,
        { RaiseError => 1, PrintError => 0, AutoCommit => 1, PrintWarn => 0 });
    return $dbh;
}

sub rows {
    my ($dbh, $text, @values) = @_;
    return $dbh->selectall_arrayref($text, undef, @values);
}

sub prepared {
    my ($dbh) = @_;
    section('prepared');
    my $insert = $dbh->prepare('INSERT INTO item (name, price) VALUES (?, ?) RETURNING id');
    for my $i (0 .. 7) {
        out($insert->execute("item $i", $i / 4), $insert->fetchall_arrayref);
    }
    my $read = $dbh->prepare('SELECT name, price FROM item WHERE id = ?');
    for my $i (1 .. 8) {
        $read->execute($i);
        out($read->fetchall_arrayref, $read->{NAME}, $read->{pg_type});
    }
    my $update = $dbh->prepare('UPDATE item SET price = price + $1::numeric WHERE id <= $2',
        { pg_prepare_now => 1 });
    out($update->execute($_, 4)) for 0 .. 2;
    my $at_once = $dbh->prepare('SELECT count(*) FROM item WHERE id < ?', { pg_server_prepare => 0 });
    for (1 .. 3) { $at_once->execute(4); out($at_once->fetchall_arrayref) }
    out($dbh->do(q{INSERT INTO item (name) VALUES ('many'); UPDATE item SET price = 1 WHERE name = 'many'}));
    out($dbh->last_insert_id(undef, 'perl', 'item', undef));
    out(rows($dbh, 'SELECT price FROM item WHERE name = ?', 'many'));
    out([map { $_->{COLUMN_NAME} } @{ $dbh->column_info(undef, 'perl', 'item', '%')->fetchall_arrayref({}) }]);
    out([$dbh->primary_key(undef, 'perl', 'item')]);
}

sub transaction {
    my ($dbh) = @_;
    section('transaction');
    $dbh->begin_work;
    $dbh->do('DELETE FROM item');
    out(rows($dbh, 'SELECT count(*) FROM item'));
    $dbh->rollback;
    out(rows($dbh, 'SELECT count(*) FROM item'));
    $dbh->begin_work;
    $dbh->do(q{INSERT INTO item (name) VALUES ('lost')});
    fails('broken', $dbh, sub { $dbh->do('SELECT 1/0') });
    fails('failed block', $dbh, sub { $dbh->do('SELECT 1') });
    out($dbh->ping, $dbh->state);
    $dbh->rollback;
    out(rows($dbh, q{SELECT count(*) FROM item WHERE name = 'lost'}), $dbh->ping);
    $dbh->begin_work;
    $dbh->{ReadOnly} = 1;
    out(rows($dbh, 'SELECT count(*) FROM item'));
    fails('read only', $dbh, sub { $dbh->do(q{INSERT INTO item (name) VALUES ('no')}) });
    $dbh->{ReadOnly} = 0;
    $dbh->rollback;
    $dbh->{AutoCommit} = 0;
    $dbh->do(q{INSERT INTO item (name) VALUES ('kept')});
    $dbh->commit;
    $dbh->{AutoCommit} = 1;
    out(rows($dbh, q{SELECT count(*) FROM item WHERE name = 'kept'}));
}

sub savepoint {
    my ($dbh) = @_;
    section('savepoint');
    $dbh->begin_work;
    $dbh->do(q{INSERT INTO item (name) VALUES ('outer')});
    $dbh->pg_savepoint('inner_one');
    $dbh->do(q{INSERT INTO item (name) VALUES ('inner')});
    fails('twice', $dbh, sub { $dbh->do(q{INSERT INTO item (id, name) VALUES (1, 'twice')}) });
    $dbh->pg_rollback_to('inner_one');
    $dbh->pg_release('inner_one');
    out(rows($dbh, q{SELECT name FROM item WHERE name IN ('outer', 'inner')}));
    $dbh->commit;
    out(rows($dbh, q{SELECT name FROM item WHERE name IN ('outer', 'inner')}));
}

sub copy {
    my ($dbh) = @_;
    section('copy');
    $dbh->do('COPY copied FROM STDIN');
    $dbh->pg_putcopydata("$_\tnäme $_\n") for 0 .. 1999;
    out($dbh->pg_putcopyend);
    $dbh->do('COPY (SELECT * FROM copied ORDER BY id LIMIT 3) TO STDOUT');
    my ($line, $bytes) = ('', 0);
    print $line while $dbh->pg_getcopydata($line) >= 0;
    $dbh->do('COPY copied TO STDOUT (FORMAT binary)');
    while ((my $got = $dbh->pg_getcopydata($line)) >= 0) { $bytes += $got }
    out($bytes);
    $dbh->do('COPY copied FROM STDIN');
    $dbh->pg_putcopydata("1\tgood\n");
    $dbh->pg_putcopydata("bad\trow\n");
    fails('copy', $dbh, sub { $dbh->pg_putcopyend });
    fails('no table', $dbh, sub { $dbh->do('COPY missing FROM STDIN') });
    out(rows($dbh, 'SELECT count(*), sum(id) FROM copied'));
}

sub notify {
    my ($dbh) = @_;
    section('notify');
    my $other = connection();
    $other->do('LISTEN perl_channel');
    $dbh->do(q{NOTIFY perl_channel, 'first'});
    rows($dbh, 'SELECT pg_notify(?, ?)', 'perl_channel', 'second');
    $dbh->do(q{BEGIN; NOTIFY perl_channel, 'third'; NOTIFY perl_channel, 'third'; COMMIT});
    $other->do(q{NOTIFY perl_channel, 'own'});
    my ($until, @got) = (time + 20);
    while (@got < 4 && time < $until) {
        if (my $message = $other->pg_notifies) {
            push @got, [$message->[0], $message->[2], $message->[1] > 0 ? 'pid' : 'no pid'];
        }
        else { sleep 0.02 }
    }
    out(@got);
    $other->do('UNLISTEN *');
    $dbh->do(q{NOTIFY perl_channel, 'unheard'});
    out(rows($other, 'SELECT 1'), $other->pg_notifies);
    $other->disconnect;
}

sub cancel {
    my ($dbh) = @_;
    section('cancel');
    for my $text ('SELECT pg_sleep(30)', $slow_read) {
        my $start = time;
        $dbh->do($text, { pg_async => PG_ASYNC });
        sleep 0.5;
        out($dbh->pg_ready ? 'ready' : 'running');
        out($dbh->pg_cancel ? 'cancelled' : 'done', time - $start < 20 ? 'soon' : 'late', $dbh->state);
        out(rows($dbh, q{SELECT 'usable'}));
    }
    $dbh->do(q{SET statement_timeout = '200ms'});
    fails('timeout', $dbh, sub { $dbh->do('SELECT pg_sleep(30)') });
    fails('timeout of a read', $dbh, sub { $dbh->do($slow_read) });
}

sub binary {
    my ($dbh) = @_;
    section('binary');
    my $body = join('', map { chr } 0 .. 255) x 1000;
    my $insert = $dbh->prepare('INSERT INTO blob VALUES (1, ?)');
    $insert->bind_param(1, $body, { pg_type => PG_BYTEA });
    $insert->execute;
    out((rows($dbh, 'SELECT body FROM blob'))->[0][0] eq $body ? 'equal' : 'different');
    $dbh->begin_work;
    my $oid = $dbh->pg_lo_creat($dbh->{pg_INV_WRITE} | $dbh->{pg_INV_READ});
    my $fd = $dbh->pg_lo_open($oid, $dbh->{pg_INV_WRITE} | $dbh->{pg_INV_READ});
    out($dbh->pg_lo_write($fd, $body, length $body), $dbh->pg_lo_lseek($fd, 1000, 0), $dbh->pg_lo_tell($fd));
    my $piece = '';
    out($dbh->pg_lo_read($fd, $piece, 8), unpack('H*', $piece));
    $dbh->pg_lo_close($fd);
    $dbh->commit;
    out(rows($dbh, 'SELECT length(lo_get(?))', $oid));
    $dbh->begin_work;
    out($dbh->pg_lo_unlink($oid));
    $dbh->commit;
}

sub types {
    my ($dbh) = @_;
    section('types');
    my %values = (
        'int[]' => [1, undef, 3], 'text[]' => ['a', 'q"uote', 'näme'], 'jsonb' => '{"a": [1, 2.5]}',
        'timestamptz' => '2024-02-29 12:30:01.123456+00', 'date' => '2024-02-29', 'text' => undef,
        'interval' => '3 days 00:00:01', 'numeric' => '12345678901234567890.123456789', 'float8' => 0.1,
        'bool' => 1, 'int4range' => '[1,10)', 'int[][]' => [[1, 2], [3, 4]],
    );
    for my $name (sort keys %values) {
        my $read = $dbh->prepare("SELECT ?::$name");
        for (1 .. 2) {
            $read->execute($values{$name});
            out($name, $read->fetchall_arrayref, $read->{pg_type});
        }
    }
}

sub error {
    my ($dbh) = @_;
    section('error');
    fails('syntax', $dbh, sub { $dbh->do('SELEC 1') });
    fails('no table', $dbh, sub { rows($dbh, 'SELECT * FROM missing WHERE id = ?', 1) });
    fails('unique', $dbh, sub { $dbh->do(q{INSERT INTO item (id, name) VALUES (?, 'x')}, undef, 1) });
    fails('not null', $dbh, sub { $dbh->do('INSERT INTO item (id, name) VALUES (900, NULL)') });
    fails('division', $dbh, sub { $dbh->do('SELECT price / 0 FROM item') });
    fails('input', $dbh, sub { rows($dbh, 'SELECT ?::int', 'x') });
    fails('batch', $dbh, sub { $dbh->do(q{INSERT INTO item (name) VALUES ('undone'); SELECT 1/0}) });
    out(rows($dbh, q{SELECT count(*) FROM item WHERE name = 'undone'}));
    my @notices;
    local $SIG{__WARN__} = sub { push @notices, $_[0] };
    $dbh->{PrintWarn} = 1;
    $dbh->do(q{DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$});
    $dbh->{PrintWarn} = 0;
    out(map { my $line = $_; $line =~ s/\s+/ /g; $line =~ s/ at \S+ line \d+\.? ?//; $line } @notices);
}

sub parts {
    my ($dbh) = @_;
    section('parts');
    for my $block ('BEGIN', 'BEGIN READ ONLY') {
        $dbh->do($block);
        $dbh->do('DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n');
        my ($total, $fetched) = (0, 0);
        while (my @part = @{ rows($dbh, 'FETCH 100 FROM chosen') }) {
            $total += $_->[0] for @part;
            $fetched++;
        }
        out($block, $total, $fetched);
        $dbh->do('CLOSE chosen');
        $dbh->do('COMMIT');
    }
    $dbh->do('DECLARE held CURSOR WITH HOLD FOR SELECT n FROM number ORDER BY n');
    out(rows($dbh, 'FETCH 2 FROM held'), rows($dbh, 'SELECT 1'), rows($dbh, 'FETCH 2 FROM held'));
    $dbh->do('CLOSE held');
    my $read = $dbh->prepare('SELECT n FROM number WHERE n > ?');
    $read->execute(0);
    my $total = 0;
    while (my $part = $read->fetchall_arrayref(undef, 100)) {
        last if !@$part;
        $total += $_->[0] for @$part;
    }
    out($total);
}

sub readback {
    my ($dbh) = @_;
    section('readback');
    my $seen = 0;
    my $insert = $dbh->prepare('INSERT INTO own VALUES (?, ?)');
    my $read = $dbh->prepare('SELECT v FROM own WHERE id = ?');
    for my $i (0 .. 199) {
        $insert->execute($i, "v$i");
        my ($v) = $dbh->selectrow_array($read, undef, $i);
        $seen++ if ($v // '') eq "v$i";
    }
    out($seen);
}

sub temporary {
    my ($dbh) = @_;
    section('temporary');
    $dbh->do('CREATE TEMP TABLE scratch (id int)');
    $dbh->do('INSERT INTO scratch SELECT generate_series(1, 5)');
    out(rows($dbh, 'SELECT sum(id) FROM scratch')) for 1 .. 3;
    my $other = connection();
    fails('not of another', $other, sub { rows($other, 'SELECT * FROM scratch') });
    $other->disconnect;
    $dbh->do('DROP TABLE scratch');
}

sub settings {
    my ($dbh) = @_;
    section('settings');
    $dbh->do(q{SET work_mem = '5MB'});
    rows($dbh, q{SELECT set_config('perl.key', ?, false)}, 'value');
    for (1 .. 3) {
        out(rows($dbh, 'SHOW work_mem'), rows($dbh, q{SELECT current_setting('perl.key')}),
            rows($dbh, q{SELECT current_setting('search_path')}));
    }
    $dbh->do('RESET work_mem');
    out(rows($dbh, 'SHOW work_mem'), $dbh->{pg_server_version} > 0, $dbh->{pg_standard_conforming_strings});
    my $other = connection('-c statement_timeout=12345 -c search_path=perl -c application_name=named');
    for (1 .. 3) {
        out(rows($other, 'SHOW statement_timeout'), rows($other, q{SELECT current_setting('application_name')}),
            rows($other, 'SELECT max(n) FROM number'));
    }
    $other->disconnect;
}

sub locks {
    my ($dbh) = @_;
    section('locks');
    my $other = connection();
    my $lock = 'SELECT pg_try_advisory_lock(4711, 5)';
    out(rows($dbh, $lock), rows($other, $lock));
    out(rows($dbh, 'SELECT n FROM number WHERE n = 1'));
    out(rows($dbh, 'SELECT pg_advisory_unlock(4711, 5)'), rows($other, $lock));
    $other->do('SELECT pg_advisory_unlock_all()');
    $dbh->begin_work;
    $dbh->do('SELECT pg_advisory_xact_lock(4711, 5)');
    out(rows($other, $lock));
    $dbh->commit;
    out(rows($other, $lock));
    $other->disconnect;
}

for my $check (\&prepared, \&transaction, \&savepoint, \&copy, \&notify, \&cancel, \&readback, \&binary,
    \&types, \&error, \&parts, \&temporary, \&settings, \&locks) {
    my $dbh = connection();
    $check->($dbh);
    $dbh->disconnect;
}
section('end');
