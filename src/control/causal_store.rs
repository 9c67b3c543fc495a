//! Keeps causal keys in Redis or Valkey, for all proxies that use the same one (`causality.store`).
//!
//! A key is a hash with up to three fields of each proxy: how many of its statements are under way
//! (`n`), the position that they have left behind at most (`p`), and when it was last heard of (`b`, on
//! the store's clock). Each proxy writes its own fields only, with scripts, which the store runs one at a
//! time.
//!
//! Invariants:
//! * What the store cannot vouch for binds reads: it holds all that was told since its epoch, and all
//!   of `key_ttl`. Whoever has lost the connection, or could not tell something, begins a new epoch; a
//!   store without an epoch has lost its data and begins one. It counts from [`STORE_GRACE`] later, when
//!   every proxy that is not cut off has noticed.
//! * Every step has a deadline. Without a connection, questions are given up at once.
//! * Positions are told only once a sample of the primary covers what they stand for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::config::{CausalityConfig, Secret};
use crate::core::causality::positions::SystemPosition;
use crate::core::lsn::Lsn;
use crate::limits::{STORE_BATCH, STORE_GRACE, STORE_LEAVES_WAITING, STORE_PAUSE, STORE_TIMEOUT};
use crate::world::{ClusterWorld, Others, SharedKey, StoreMessage};

/// Enters a key: counts the statement, forgets proxies that were not heard of for `key_ttl`, answers the
/// age of the epoch, the time, and all fields.
const ENTER: &str = "\
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local text = string.format('%.0f', now)
local epoch = redis.call('GET', KEYS[2])
if not epoch then redis.call('SET', KEYS[2], text) epoch = text end
redis.call('HINCRBY', KEYS[1], ARGV[1] .. 'n', 1)
redis.call('HSET', KEYS[1], ARGV[1] .. 'b', text)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local who, what = string.sub(all[i], 1, -2), string.sub(all[i], -1)
  if what == 'b' and now - tonumber(all[i + 1]) > tonumber(ARGV[2]) then
    redis.call('HDEL', KEYS[1], who .. 'n', who .. 'p', who .. 'b')
  end
end
return {string.format('%.0f', now - tonumber(epoch)), redis.call('HGETALL', KEYS[1])}";

/// Leaves a key: the position of this proxy never goes back on one system.
const LEAVE: &str = "\
local t = redis.call('TIME')
if redis.call('HINCRBY', KEYS[1], ARGV[1] .. 'n', -1) <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[1] .. 'n')
end
local old = redis.call('HGET', KEYS[1], ARGV[1] .. 'p')
if not old or string.sub(old, 1, 16) ~= string.sub(ARGV[3], 1, 16) or old < ARGV[3] then
  redis.call('HSET', KEYS[1], ARGV[1] .. 'p', ARGV[3])
end
redis.call('HSET', KEYS[1], ARGV[1] .. 'b',
  string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// Begins a new epoch.
const BEGIN: &str = "\
local t = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or the store refuses something.
    #[error("the store cannot be reached or refuses what it is asked")]
    Redis(#[from] RedisError),
    /// It took longer than [`STORE_TIMEOUT`].
    #[error("no answer in time")]
    Deadline,
    /// It answered something else than the scripts do.
    #[error("unexpected answer")]
    Answer,
}

/// Keeps the keys of the cluster named `cluster` in the store, if there is one. Ends only if not.
///
/// # Cancel safety
/// May be dropped at any time: who waits for an answer gets none, and others take what was not told for
/// under way.
pub async fn keep_store(cluster: Arc<str>, config: CausalityConfig, world: Arc<ClusterWorld>) {
    let Some(url) = &config.store else {
        return;
    };
    let mut inbox = world.store.inbox().await;
    let desk = Desk {
        cluster,
        proxy: format!("{:016x}", rand::random::<u64>()),
        ttl: config.key_ttl.as_millis().to_string(),
        world: &world,
    };
    loop {
        let error = match desk.connect(url, &mut inbox).await {
            Ok(mut connection) => {
                tracing::info!(cluster = &*desk.cluster, "causal keys are shared");
                let ended = desk.serve(&mut connection, &mut inbox).await;
                // What was on its way may not have arrived.
                world.store.note_gap();
                ended
            }
            Err(error) => error,
        };
        desk.report(&error);
        give_up(&mut inbox, sleep(STORE_PAUSE)).await;
    }
}

/// Leaves every question without an answer until `done`.
async fn give_up<T>(inbox: &mut mpsc::Receiver<StoreMessage>, done: impl Future<Output = T>) -> T {
    let mut done = std::pin::pin!(done);
    loop {
        tokio::select! {
            done = &mut done => return done,
            Some(message) = inbox.recv() => drop(message),
        }
    }
}

/// Who answers.
struct Desk<'a> {
    cluster: Arc<str>,
    /// Names this process in the store.
    proxy: String,
    /// `key_ttl` in milliseconds.
    ttl: String,
    world: &'a ClusterWorld,
}

/// A connection and the names of its scripts.
struct Connected {
    connection: MultiplexedConnection,
    enter: String,
    leave: String,
}

type Leaving = VecDeque<(Arc<str>, Instant)>;

impl Desk<'_> {
    fn report(&self, error: &StoreError) {
        let error = error as &dyn std::error::Error;
        tracing::warn!(
            cluster = &*self.cluster,
            error,
            "causal keys are not shared"
        );
    }

    async fn connect(
        &self,
        url: &Secret,
        inbox: &mut mpsc::Receiver<StoreMessage>,
    ) -> Result<Connected, StoreError> {
        let client = Client::open(url.expose())?;
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(STORE_TIMEOUT))
            .set_response_timeout(Some(STORE_TIMEOUT));
        let connecting = async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&limits)
                .await?;
            let mut names: Vec<String> = Vec::new();
            for script in [ENTER, LEAVE] {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script);
                names.push(load.query_async(&mut connection).await?);
            }
            Ok::<_, StoreError>((connection, names))
        };
        let connected = timeout(2 * STORE_TIMEOUT, give_up(inbox, connecting)).await;
        let (connection, names) = connected.map_err(|_| StoreError::Deadline)??;
        let [enter, leave] = <[String; 2]>::try_from(names).map_err(|_| StoreError::Answer)?;
        Ok(Connected {
            connection,
            enter,
            leave,
        })
    }

    async fn serve(
        &self,
        to: &mut Connected,
        inbox: &mut mpsc::Receiver<StoreMessage>,
    ) -> StoreError {
        let mut leaving = Leaving::new();
        let mut messages = Vec::with_capacity(STORE_BATCH);
        loop {
            // At first for what could not be told before there was a connection.
            if let Err(error) = self.exchange(to, &mut messages, &mut leaving).await {
                return error;
            }
            let covered = async {
                match leaving.front() {
                    Some((_, covers)) => self.covered(*covers).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = inbox.recv_many(&mut messages, STORE_BATCH) => {}
                () = covered => {}
            }
        }
    }

    /// Resolves when a position is known that covers everything acknowledged before `instant`.
    async fn covered(&self, instant: Instant) {
        self.world.demand.ask(instant);
        let positions = &self.world.positions;
        positions.wait_for(|log| log.covering(instant)).await;
    }

    /// Sends what can be sent, and passes the answers on.
    async fn exchange(
        &self,
        to: &mut Connected,
        messages: &mut Vec<StoreMessage>,
        leaving: &mut Leaving,
    ) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        if self.world.store.take_gap() {
            let mut begin = redis::cmd("EVAL");
            begin.arg(BEGIN).arg(1).arg(self.epoch());
            pipeline.add_command(begin).ignore();
        }
        let mut asking = Vec::new();
        for message in messages.drain(..) {
            match message {
                StoreMessage::Enter { key, answer } => {
                    pipeline.add_command(self.enter(&to.enter, &key));
                    asking.push(answer);
                }
                StoreMessage::Leave { key, covers } => leaving.push_back((key, covers)),
            }
        }
        if leaving.len() > STORE_LEAVES_WAITING {
            // No sample comes: others take these for under way.
            leaving.clear();
            self.world.store.note_gap();
        }
        self.add_leaves(&to.leave, &mut pipeline, leaving);
        if pipeline.is_empty() {
            return Ok(());
        }
        let answers = pipeline.query_async::<Vec<Value>>(&mut to.connection);
        let answers = timeout(STORE_TIMEOUT, answers).await;
        let answers = answers.map_err(|_| StoreError::Deadline)??;
        self.pass_on(asking, &answers)
    }

    fn add_leaves(&self, script: &str, pipeline: &mut Pipeline, leaving: &mut Leaving) {
        for _ in 0..STORE_BATCH {
            let position = |(_, covers): &(Arc<str>, Instant)| {
                let positions = &self.world.positions;
                positions.look(|log| log.covering(*covers))
            };
            let Some(position) = leaving.front().and_then(position) else {
                return;
            };
            if let Some((key, _)) = leaving.pop_front() {
                pipeline
                    .add_command(self.leave(script, &key, position))
                    .ignore();
            }
        }
    }

    fn pass_on(
        &self,
        asking: Vec<oneshot::Sender<SharedKey>>,
        answers: &[Value],
    ) -> Result<(), StoreError> {
        if asking.len() != answers.len() {
            return Err(StoreError::Answer);
        }
        for (answer, value) in asking.into_iter().zip(answers) {
            let shared = read(value, &self.proxy).ok_or(StoreError::Answer)?;
            // Who has asked may have gone.
            let _ = answer.send(shared);
        }
        Ok(())
    }

    fn epoch(&self) -> String {
        format!("pgweir:{}:epoch", self.cluster)
    }

    fn hash(&self, key: &str) -> String {
        format!("pgweir:{}:key:{key}", self.cluster)
    }

    fn enter(&self, script: &str, key: &str) -> Cmd {
        let mut enter = redis::cmd("EVALSHA");
        enter.arg(script).arg(2).arg(self.hash(key));
        enter.arg(self.epoch()).arg(&self.proxy).arg(&self.ttl);
        enter
    }

    fn leave(&self, script: &str, key: &str, position: SystemPosition) -> Cmd {
        let mut leave = redis::cmd("EVALSHA");
        leave.arg(script).arg(1).arg(self.hash(key));
        leave.arg(&self.proxy).arg(&self.ttl).arg(write(position));
        leave
    }
}

/// Length of a written position.
const POSITION_DIGITS: usize = 40;

/// System, timeline and position in hexadecimal: of one system the greater text is the later position.
fn write(position: SystemPosition) -> String {
    let SystemPosition {
        system,
        timeline,
        lsn,
    } = position;
    format!("{system:016x}{timeline:08x}{:016x}", lsn.0)
}

fn read_position(text: &[u8]) -> Option<SystemPosition> {
    let text = std::str::from_utf8(text).ok()?;
    if text.len() != POSITION_DIGITS {
        return None;
    }
    let (system, rest) = text.split_at_checked(16)?;
    let (timeline, lsn) = rest.split_at_checked(8)?;
    let system = u64::from_str_radix(system, 16).ok()?;
    Some(SystemPosition {
        system: i64::from_ne_bytes(system.to_ne_bytes()),
        timeline: u32::from_str_radix(timeline, 16).ok()?,
        lsn: Lsn(u64::from_str_radix(lsn, 16).ok()?),
    })
}

/// The answer of [`ENTER`], as far as it is not of `proxy` itself.
fn read(answer: &Value, proxy: &str) -> Option<SharedKey> {
    let Value::Array(parts) = answer else {
        return None;
    };
    let [age, Value::Array(fields)] = parts.as_slice() else {
        return None;
    };
    let age: u64 = text(age)?.parse().ok()?;
    let mut shared = SharedKey {
        positions: Vec::new(),
        others: Others::Quiet,
        complete_for: Duration::from_millis(age).saturating_sub(STORE_GRACE),
    };
    for pair in fields.chunks(2) {
        let [field, value] = pair else { return None };
        let (field, value) = (text(field)?, text(value)?);
        let (who, what) = field.split_at_checked(field.len().checked_sub(1)?)?;
        match what {
            _ if who == proxy => {}
            "n" => shared.others = Others::UnderWay,
            "p" => shared.positions.push(read_position(value.as_bytes())?),
            _ => {}
        }
    }
    Some(shared)
}

fn text(value: &Value) -> Option<&str> {
    if let Value::BulkString(bytes) = value {
        std::str::from_utf8(bytes).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SystemPosition = SystemPosition {
        system: -7,
        timeline: 2,
        lsn: Lsn(0x16_B374_D848),
    };

    #[test]
    fn of_one_system_the_greater_text_is_the_later_position() {
        assert_eq!(read_position(write(AT).as_bytes()), Some(AT));
        let later = |timeline, lsn| {
            write(SystemPosition {
                timeline,
                lsn: Lsn(lsn),
                ..AT
            })
        };
        assert!(later(2, 0x17_0000_0000) > write(AT));
        assert!(later(3, 0) > write(AT));
        assert!(later(1, u64::MAX) < write(AT));
        for bad in ["", "0", &"g".repeat(40), &"0".repeat(41)] {
            assert_eq!(read_position(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_tells_what_others_have_done_and_nothing_else_is_one() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let own = ["men", "1", "meb", "5", "mep", "x"];
        let fields = |more: &[&str]| {
            let fields = own.iter().chain(more).map(|text| bulk(text));
            Value::Array(vec![bulk("2500"), Value::Array(fields.collect())])
        };
        let quiet = SharedKey {
            positions: Vec::new(),
            others: Others::Quiet,
            complete_for: Duration::from_millis(500),
        };
        assert_eq!(read(&fields(&[]), "me"), Some(quiet.clone()));
        let position = write(AT);
        let told = ["youp", &position, "youn", "2", "youb", "7"];
        let expected = SharedKey {
            positions: vec![AT],
            others: Others::UnderWay,
            ..quiet
        };
        assert_eq!(read(&fields(&told), "me"), Some(expected));
        assert_eq!(read(&fields(&["youp", "broken"]), "me"), None);
        assert_eq!(read(&fields(&["odd"]), "me"), None);
        for bad in [Value::Nil, Value::Array(Vec::new()), bulk("1500")] {
            assert_eq!(read(&bad, "me"), None);
        }
    }
}
