# The README's middleware for Rails: two threads serve a user's requests, each on its own connection.
require 'active_record'

ActiveRecord::Base.establish_connection(adapter: 'postgresql', pool: 2)

# README
# config.middleware.use CausalKey, behind what finds out whose request it is
class CausalKey
  def initialize(app)
    @app = app
  end

  def call(env)
    ActiveRecord::Base.connection.execute("SET pgweir.key = 'user:#{Integer(env['user_id'])}'")
    @app.call(env)
  ensure
    ActiveRecord::Base.connection.execute('RESET pgweir.key')
  end
end
# README

class Family < ActiveRecord::Base
  self.table_name = 'family'
end

view = lambda do |env|
  env['wanted'] ? Family.where(id: 1).update_all(v: env['wanted']) : Family.where(id: 1).pluck(:v).first
end
serve = ENV['CAUSAL_KEY'] == 'off' ? view : CausalKey.new(view)
servers = Array.new(2) do
  requests = Queue.new
  Thread.new { loop { requests.pop.then { |env, answer| answer << serve.call(env) } } }
  requests
end
ask = lambda do |server, env|
  answer = Queue.new
  servers[server] << [env.merge('user_id' => 42), answer]
  answer.pop
end
Thread.abort_on_exception = true
rounds = 25
stale = (1..rounds).count do |wanted|
  ask.call(0, 'wanted' => wanted)
  found = ask.call(1, {})
  sleep 0.12
  found < wanted
end
puts "stale #{stale} of #{rounds}"
