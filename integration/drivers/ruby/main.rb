# ruby-pg: simple and extended queries, type maps with text and binary, COPY, asynchronous calls.
require 'pg'
require 'json'

SLOW_READ = 'SELECT count(*) FROM generate_series(1, 40000) a ' \
            'JOIN generate_series(1, 40000) b ON a + b < 0'.freeze
$stdout.sync = true

def section(name)
  puts "# #{name}"
end

def fails(what)
  yield
  puts "#{what} did not fail"
rescue PG::Error => e
  result = e.result
  p [what, e.class, result&.error_field(PG::PG_DIAG_SQLSTATE), e.message]
  p [result&.error_field(PG::PG_DIAG_MESSAGE_DETAIL), result&.error_field(PG::PG_DIAG_CONSTRAINT_NAME)]
end

def connect(**settings)
  conn = PG.connect(options: '-c search_path=ruby', **settings)
  conn.set_notice_processor { |message| puts "notice #{message.strip}" }
  conn
end

def rows(conn, text, values = [])
  conn.exec_params(text, values).values
end

def prepared(conn)
  section 'prepared'
  conn.prepare('insert', 'INSERT INTO item (name, price) VALUES ($1, $2) RETURNING id')
  8.times { |i| p conn.exec_prepared('insert', ["item #{i}", i / 4.0]).values }
  conn.prepare('read', 'SELECT name, price FROM item WHERE id = $1')
  8.times do |i|
    result = conn.exec_prepared('read', [i + 1])
    p result.to_a, result.cmd_status, result.ftype(1)
  end
  described = conn.describe_prepared('read')
  p described.nparams, described.paramtype(0), described.fields
  conn.exec('DEALLOCATE read')
  fails('deallocated') { conn.exec_prepared('read', [1]) }
  fails('not there') { conn.exec('DEALLOCATE read') }
  conn.prepare('read', 'SELECT count(*) FROM item WHERE id < $1')
  p conn.exec_prepared('read', [4]).values
  conn.exec('PREPARE by_text(int) AS SELECT price FROM item WHERE id = $1')
  p conn.exec_prepared('by_text', [4]).values
  conn.exec('DEALLOCATE ALL')
  fails('all gone') { conn.exec_prepared('read', [1]) }
  p conn.exec("SELECT 1; INSERT INTO item (name) VALUES ('many'); SELECT count(*) FROM item").values
  conn.send_query('SELECT 1; SELECT 2')
  while (result = conn.get_result)
    p result.values
  end
end

def transaction(conn)
  section 'transaction'
  begin
    conn.transaction do
      conn.exec('DELETE FROM item')
      p rows(conn, 'SELECT count(*) FROM item')
      raise KeyError
    end
  rescue KeyError
    p rows(conn, 'SELECT count(*) FROM item')
  end
  conn.exec('BEGIN')
  conn.exec("INSERT INTO item (name) VALUES ('lost')")
  fails('broken') { conn.exec('SELECT 1/0') }
  fails('failed block') { conn.exec_params('SELECT $1::int', [1]) }
  p conn.transaction_status
  p conn.exec('COMMIT').cmd_status
  p rows(conn, "SELECT count(*) FROM item WHERE name = 'lost'")
  conn.exec('BEGIN READ ONLY')
  p rows(conn, 'SELECT count(*) FROM item WHERE id < $1', [4])
  fails('read only') { conn.exec("INSERT INTO item (name) VALUES ('no')") }
  conn.exec('ROLLBACK')
  p conn.transaction_status
end

def savepoint(conn)
  section 'savepoint'
  conn.transaction do
    conn.exec("INSERT INTO item (name) VALUES ('outer')")
    conn.exec('SAVEPOINT inner_one')
    conn.exec("INSERT INTO item (name) VALUES ('inner')")
    fails('twice') { conn.exec("INSERT INTO item (id, name) VALUES (1, 'twice')") }
    conn.exec('ROLLBACK TO SAVEPOINT inner_one')
    conn.exec('RELEASE SAVEPOINT inner_one')
    p rows(conn, "SELECT name FROM item WHERE name IN ('outer', 'inner')")
  end
  p rows(conn, "SELECT name FROM item WHERE name IN ('outer', 'inner')")
end

def copy(conn)
  section 'copy'
  result = conn.copy_data('COPY copied FROM STDIN', PG::TextEncoder::CopyRow.new) do
    2000.times { |i| conn.put_copy_data([i, "näme\t#{i}"]) }
  end
  p result.cmd_status
  binary = PG::BinaryEncoder::CopyRow.new rescue binary = nil
  conn.copy_data('COPY (SELECT * FROM copied ORDER BY id LIMIT 3) TO STDOUT', PG::TextDecoder::CopyRow.new) do
    while (row = conn.get_copy_data)
      p row
    end
  end
  all = +''
  conn.copy_data('COPY copied TO STDOUT (FORMAT binary)') do
    while (part = conn.get_copy_data)
      all << part
    end
  end
  p all.bytesize, binary.nil?
  p conn.copy_data('COPY copied FROM STDIN (FORMAT binary)') { conn.put_copy_data(all) }.cmd_status
  fails('copy') { conn.copy_data('COPY copied FROM STDIN') { conn.put_copy_data("1\tgood\nbad\trow\n") } }
  fails('no table') { conn.copy_data('COPY missing FROM STDIN') {} }
  begin
    conn.copy_data('COPY copied FROM STDIN') do
      conn.put_copy_data("1\tgood\n")
      raise KeyError, 'stopped'
    end
  rescue KeyError => e
    p e.message
  end
  p rows(conn, 'SELECT count(*), sum(id) FROM copied')
end

def notify(conn)
  section 'notify'
  other = connect
  other.exec('LISTEN ruby_channel')
  conn.exec("NOTIFY ruby_channel, 'first'")
  rows(conn, 'SELECT pg_notify($1, $2)', %w[ruby_channel second])
  conn.exec("BEGIN; NOTIFY ruby_channel, 'third'; NOTIFY ruby_channel, 'third'; COMMIT")
  other.exec("NOTIFY ruby_channel, 'own'")
  4.times { other.wait_for_notify(20) { |channel, pid, payload| p [channel, payload, pid.positive?] } }
  other.exec('UNLISTEN *')
  conn.exec("NOTIFY ruby_channel, 'unheard'")
  p rows(other, 'SELECT 1'), other.notifies
  other.close
end

def cancel(conn)
  section 'cancel'
  ['SELECT pg_sleep(30)', SLOW_READ].each do |text|
    timer = Thread.new do
      sleep 0.5
      conn.cancel
    end
    start = Time.now
    fails('cancelled') { conn.exec(text) }
    p timer.value, Time.now - start < 20, conn.exec("SELECT 'usable'").values
  end
  conn.exec("SET statement_timeout = '200ms'")
  fails('timeout') { conn.exec('SELECT pg_sleep(30)') }
  fails('timeout of a read') { conn.exec_params(SLOW_READ, []) }
end

def binary(conn)
  section 'binary'
  body = (0..255).to_a.pack('C*') * 1000
  conn.exec_params('INSERT INTO blob VALUES (1, $1)', [{ value: body, format: 1 }])
  p conn.exec_params('SELECT body FROM blob', [], 1).getvalue(0, 0) == body
  p conn.unescape_bytea(conn.exec('SELECT body FROM blob').getvalue(0, 0)) == body
  oid = nil
  conn.transaction do
    oid = conn.lo_creat
    object = conn.lo_open(oid, PG::INV_WRITE | PG::INV_READ)
    p conn.lo_write(object, body)
    p conn.lo_lseek(object, 1000, 0), conn.lo_read(object, 8), conn.lo_tell(object)
    conn.lo_close(object)
  end
  p rows(conn, 'SELECT length(lo_get($1))', [oid])
  p conn.lo_unlink(oid).class
end

def types(conn)
  section 'types'
  values = {
    'int[]' => '{1,NULL,3}', 'text[]' => '{a,"q\"uote",näme}', 'jsonb' => '{"a": [1, 2.5]}', 'bool' => true,
    'timestamptz' => '2024-02-29 12:30:01.123456+00', 'date' => '2024-02-29', 'interval' => '3 days 00:00:01',
    'numeric' => '12345678901234567890.123456789', 'float8' => 0.1, 'int4range' => '[1,10)', 'text' => nil,
    'int8' => 9_007_199_254_740_993
  }
  values.each do |name, value|
    [0, 1].each do |format|
      result = conn.exec_params("SELECT $1::#{name}", [value], format)
      p [name, format, result.values, result.fformat(0)]
    end
  end
  conn.type_map_for_results = PG::BasicTypeMapForResults.new(conn)
  conn.type_map_for_queries = PG::BasicTypeMapForQueries.new(conn)
  p rows(conn, 'SELECT $1::int[], $2::timestamptz, $3::bool', [[1, 2], '2024-02-29 12:30:01.5+00', true])
end

def error(conn)
  section 'error'
  fails('syntax') { conn.exec('SELEC 1') }
  fails('no table') { rows(conn, 'SELECT * FROM missing WHERE id = $1', [1]) }
  fails('unique') { rows(conn, "INSERT INTO item (id, name) VALUES ($1, 'x')", [1]) }
  fails('not null') { conn.exec('INSERT INTO item (id, name) VALUES (900, NULL)') }
  fails('division') { conn.exec('SELECT price / 0 FROM item') }
  fails('input') { rows(conn, 'SELECT $1::int', ['x']) }
  fails('batch') { conn.exec("INSERT INTO item (name) VALUES ('undone'); SELECT 1/0") }
  p rows(conn, "SELECT count(*) FROM item WHERE name = 'undone'")
  conn.exec("DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$")
end

def parts(conn)
  section 'parts'
  ['BEGIN', 'BEGIN READ ONLY'].each do |block|
    conn.exec(block)
    conn.exec('DECLARE chosen CURSOR FOR SELECT n FROM number ORDER BY n')
    total = 0
    until (part = rows(conn, 'FETCH 100 FROM chosen')).empty?
      total += part.sum { |row| row[0].to_i }
    end
    p [block, total]
    conn.exec('COMMIT')
  end
  conn.send_query('SELECT n FROM number ORDER BY n')
  conn.set_single_row_mode
  p(conn.get_result.stream_each.sum { |row| row['n'].to_i })
  conn.get_result
  p rows(conn, 'SELECT 1')
end

def readback(conn)
  section 'readback'
  conn.prepare('own_insert', 'INSERT INTO own VALUES ($1, $2)')
  conn.prepare('own_read', 'SELECT v FROM own WHERE id = $1')
  seen = 200.times.count do |i|
    conn.exec_prepared('own_insert', [i, "v#{i}"])
    conn.exec_prepared('own_read', [i]).values == [["v#{i}"]]
  end
  p seen
end

def temporary(conn)
  section 'temporary'
  conn.exec('CREATE TEMP TABLE scratch (id int)')
  conn.exec('INSERT INTO scratch SELECT generate_series(1, 5)')
  3.times { p rows(conn, 'SELECT sum(id) FROM scratch') }
  other = connect
  fails('not of another') { rows(other, 'SELECT * FROM scratch') }
  other.close
  conn.exec('DROP TABLE scratch')
end

def settings(conn)
  section 'settings'
  conn.exec("SET work_mem = '5MB'")
  rows(conn, "SELECT set_config('ruby.key', $1, false)", ['value'])
  3.times do
    p [rows(conn, 'SHOW work_mem'), rows(conn, "SELECT current_setting('ruby.key')"),
       rows(conn, "SELECT current_setting('search_path')")]
  end
  conn.exec("SET TIME ZONE 'Asia/Tokyo'")
  p conn.parameter_status('TimeZone'), rows(conn, "SELECT '2024-01-01 00:00:00Z'::timestamptz::text")
  conn.set_client_encoding('LATIN1')
  p conn.internal_encoding, rows(conn, 'SELECT chr(228)')
  conn.set_client_encoding('UTF8')
  conn.exec('RESET ALL')
  p rows(conn, 'SHOW work_mem'), conn.parameter_status('TimeZone'), rows(conn, 'SHOW search_path')
  conn.reset
  p rows(conn, 'SHOW search_path'), conn.status
  other = connect(options: '-c statement_timeout=12345 -c search_path=ruby', application_name: 'named')
  3.times do
    p [rows(other, 'SHOW statement_timeout'), rows(other, "SELECT current_setting('application_name')"),
       rows(other, 'SELECT max(n) FROM number')]
  end
  other.close
end

def locks(conn)
  section 'locks'
  other = connect
  lock = 'SELECT pg_try_advisory_lock(4711, 7)'
  p rows(conn, lock), rows(other, lock)
  p rows(conn, 'SELECT n FROM number WHERE n = 1')
  p rows(conn, 'SELECT pg_advisory_unlock(4711, 7)'), rows(other, lock)
  other.exec('SELECT pg_advisory_unlock_all()')
  conn.transaction do
    conn.exec('SELECT pg_advisory_xact_lock(4711, 7)')
    p rows(other, lock)
  end
  p rows(other, lock)
  other.close
end

def pipeline(conn)
  section 'pipeline'
  conn.enter_pipeline_mode
  20.times do |i|
    conn.send_query_params('INSERT INTO own VALUES ($1, $2)', [1000 + i, 'piped'])
    conn.send_query_params('SELECT v FROM own WHERE id = $1', [1000 + i])
  end
  conn.pipeline_sync
  conn.send_query_params('SELECT 1/0', [])
  conn.send_query_params('SELECT 2', [])
  conn.pipeline_sync
  seen = Hash.new(0)
  until seen['PGRES_PIPELINE_SYNC'] == 2
    result = conn.get_result or next
    seen[result.res_status(result.result_status)] += 1
    result.check if result.result_status == PG::PGRES_FATAL_ERROR rescue p $!.class
  end
  conn.exit_pipeline_mode
  p seen.sort, rows(conn, "SELECT count(*) FROM own WHERE v = 'piped'")
end

%i[prepared transaction savepoint copy notify cancel readback binary types error parts temporary settings locks
   pipeline].each do |check|
  conn = connect
  send(check, conn)
  conn.close
end
section 'end'
