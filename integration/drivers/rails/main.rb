# Rails' ActiveRecord: named prepared statements, every save in a transaction, a schema cache.
require 'active_record'
require 'pg'

SLOW_READ = 'SELECT count(*) FROM generate_series(1, 40000) a ' \
            'JOIN generate_series(1, 40000) b ON a + b < 0'.freeze
$stdout.sync = true
ActiveRecord.default_timezone = :utc if ActiveRecord.respond_to?(:default_timezone=)

class Item < ActiveRecord::Base
  self.table_name = 'item'
  has_many :parts
  validates :name, presence: true
end

class Part < ActiveRecord::Base
  belongs_to :item
end

class Kind < ActiveRecord::Base
end

class Own < ActiveRecord::Base
  self.table_name = 'own'
end

def section(name)
  puts "# #{name}"
end

def database
  ActiveRecord::Base.connection
end

def fails(what)
  yield
  puts "#{what} did not fail"
rescue ActiveRecord::StatementInvalid => e
  result = e.cause.respond_to?(:result) ? e.cause.result : nil
  p [what, e.class, result&.error_field(PG::PG_DIAG_SQLSTATE), e.message.lines.first.strip]
end

# Threads have connections of their own.
def elsewhere
  Thread.new { ActiveRecord::Base.connection_pool.with_connection { |other| yield other } }.value
end

def create
  ActiveRecord::Schema.verbose = false
  ActiveRecord::Schema.define do
    create_table(:parts) { |t| t.references :item, null: false; t.text :label }
    create_table(:kinds) do |t|
      t.integer :numbers, array: true
      t.text :words, array: true
      t.jsonb :document
      t.binary :body
      t.timestamptz :at rescue t.datetime :at
      t.date :day
      t.decimal :price
      t.int4range :span
      t.uuid :key
    end
  end
end

def prepared
  section 'prepared'
  8.times { |i| Item.create!(name: "item #{i}", price: i / 4.0).parts.create!(label: "part #{i}") }
  8.times { |i| p Item.find_by(name: "item #{i}").then { |item| [item.id, item.price.to_s, item.parts.pluck(:label)] } }
  8.times { |i| p Item.find(i + 1).name }
  p Item.where(id: 1..4).update_all('price = price + 1'), Item.sum(:price).to_s
  p Item.insert_all((0..99).map { |i| { name: "bulk #{i}" } }).length, Item.where('name LIKE ?', 'bulk%').count
  p Item.includes(:parts).order(:id).limit(3).map { |item| item.parts.map(&:label) }
  p database.tables.sort, database.primary_key('item'), Item.columns.map(&:sql_type)
  database.execute("ALTER TABLE item ADD COLUMN note text DEFAULT 'none'")
  Item.reset_column_information
  p Item.find(3).note
  database.execute('ALTER TABLE item DROP COLUMN note')
  Item.reset_column_information
  p Item.find(3).name
end

def transaction
  section 'transaction'
  Item.transaction do
    Item.where(id: 1).update_all(name: 'lost')
    p Item.where(name: 'lost').count
    raise ActiveRecord::Rollback
  end
  p Item.where(name: 'lost').count
  fails('broken') do
    Item.transaction do
      Item.create!(name: 'lost')
      database.execute('SELECT 1/0')
    end
  end
  fails('failed block') do
    Item.transaction do
      fails('inside') { database.select_value('SELECT 1/0') }
      Item.count
    end
  end
  p Item.where(name: 'lost').count
  %i[read_committed repeatable_read serializable].each do |level|
    Item.transaction(isolation: level) { p database.select_value('SHOW transaction_isolation'), Item.count }
  end
  Item.transaction { p Item.lock.find(2).name }
  item = Item.find(5)
  item.with_lock { item.update!(price: 50) }
  p Item.find(5).price.to_s
end

def savepoint
  section 'savepoint'
  Item.transaction do
    Item.create!(name: 'outer')
    fails('twice') do
      Item.transaction(requires_new: true) do
        Item.create!(name: 'inner')
        Item.create!(id: 1, name: 'twice')
      end
    end
    p Item.where(name: %w[outer inner]).pluck(:name)
  end
  p Item.where(name: %w[outer inner]).pluck(:name)
end

def copy
  section 'copy'
  raw = database.raw_connection
  p raw.copy_data('COPY own FROM STDIN') { 2000.times { |i| raw.put_copy_data("#{10_000 + i}\tcopied\n") } }.cmd_status
  p Own.where(v: 'copied').count
  raw.copy_data('COPY (SELECT * FROM own ORDER BY id LIMIT 3) TO STDOUT') do
    while (line = raw.get_copy_data)
      p line
    end
  end
end

def notify
  section 'notify'
  listening, sending = Queue.new, Queue.new
  waiter = Thread.new do
    ActiveRecord::Base.connection_pool.with_connection do |other|
      other.execute('LISTEN rails_channel')
      listening << true
      2.times { other.raw_connection.wait_for_notify(20) { |channel, _, payload| sending << [channel, payload] } }
      other.execute('UNLISTEN *')
    end
  end
  listening.pop
  database.execute("NOTIFY rails_channel, 'first'")
  Item.transaction { database.execute("SELECT pg_notify('rails_channel', 'second')") }
  waiter.join
  p sending.pop, sending.pop
end

def cancel
  section 'cancel'
  ['SELECT pg_sleep(30)', SLOW_READ].each do |text|
    raw = database.raw_connection
    timer = Thread.new { sleep 0.5; raw.cancel }
    fails('cancelled') { database.execute(text) }
    p timer.value, database.select_value("SELECT 'usable'")
  end
end

def readback
  section 'readback'
  p(200.times.count { |i| Own.create!(id: i, v: "v#{i}") && Own.find_by(id: i)&.v == "v#{i}" })
  p(100.times.count { |i| Own.insert({ id: 500 + i, v: 'alone' }) && Own.where(id: 500 + i).exists? })
end

def types
  section 'binary'
  body = (0..255).to_a.pack('C*') * 1000
  Kind.create!(numbers: [1, nil, 3], words: ['a', 'q"uote', 'näme'], document: { a: [1, 2.5] }, body: body,
               at: Time.utc(2024, 2, 29, 12, 30, 1.5r), day: Date.new(2024, 2, 29), span: 1...10,
               price: BigDecimal('12345678901234567890.123456789'), key: '6f1d5b4a-1111-4222-8333-444455556666')
  kind = Kind.first
  p kind.body == body
  section 'types'
  p kind.attributes.except('body').transform_values(&:to_s)
  p Kind.where("document @> ? AND 'a' = ANY (words)", '{"a": [1]}').count
end

def error
  section 'error'
  fails('syntax') { database.execute('SELEC 1') }
  fails('no table') { database.select_all('SELECT * FROM missing') }
  fails('unique') { Item.create!(id: 1, name: 'x') }
  fails('not null') { Item.new.save!(validate: false) }
  fails('division') { Item.pluck(Arel.sql('price / 0')) }
  fails('foreign') { database.execute("SELECT 'x'::int") }
end

def parts
  section 'parts'
  p Own.where(v: 'copied').limit(1000).find_each(batch_size: 100).sum(&:id)
  p Own.where(v: 'copied').in_batches(of: 250).map(&:count)
  Item.transaction do
    database.execute('DECLARE chosen CURSOR FOR SELECT id FROM own ORDER BY id')
    p database.select_values('FETCH 3 FROM chosen'), database.select_values('FETCH 2 FROM chosen')
  end
end

def temporary
  section 'temporary'
  database.execute('CREATE TEMP TABLE scratch (id int)')
  database.execute('INSERT INTO scratch SELECT generate_series(1, 5)')
  3.times { p database.select_value('SELECT sum(id) FROM scratch') }
  elsewhere { |other| fails('not of another') { other.execute('SELECT * FROM scratch') } }
  database.execute('DROP TABLE scratch')
end

def settings
  section 'settings'
  database.execute("SET work_mem = '5MB'")
  3.times do
    p database.select_value('SHOW work_mem'), database.schema_search_path, database.select_value('SHOW statement_timeout'),
      database.select_value('SHOW TimeZone')
  end
  database.reset!
  p database.select_value('SHOW work_mem'), database.select_value('SHOW statement_timeout')
  database.reconnect!
  p database.select_value('SHOW work_mem'), database.active?
end

def locks
  section 'locks'
  p database.get_advisory_lock(47_110_012), elsewhere { |other| other.get_advisory_lock(47_110_012) }, Item.where(id: 1).count
  p database.release_advisory_lock(47_110_012)
  p elsewhere { |other| [other.get_advisory_lock(47_110_012), other.release_advisory_lock(47_110_012)] }
end

ActiveRecord::Base.establish_connection(
  adapter: 'postgresql', database: ENV.fetch('PGDATABASE'), schema_search_path: 'rails', pool: 3,
  variables: { statement_timeout: 60_000 }
)
create
%i[prepared transaction savepoint copy notify cancel readback types error parts temporary settings locks].each { |check| send(check) }
ActiveRecord::Base.connection_pool.disconnect!
section 'end'
