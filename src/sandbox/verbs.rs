//! What a test can do to a running cluster.
//!
//! Each verb returns when its effect can be observed, so that a test needs no sleeps.

use std::fs;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::cluster::LocalCluster;
use super::error::SandboxError;
use super::limits;
use super::template::write;
use super::wait::eventually;
use super::workspace::release_memory;

/// Rows in text form; `None` is NULL.
pub type TextRows = Vec<Vec<Option<String>>>;

/// A port on which nothing listens (tcpmux, unused for decades).
const DEAD_PORT: u16 = 1;

impl LocalCluster {
    /// Stops applying WAL on a replica; it goes on receiving.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn pause_replay(&self, node: usize) -> Result<(), SandboxError> {
        self.superuser_sql(node, "SELECT pg_wal_replay_pause()")
            .await?;
        self.until(node, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
            .await
    }

    /// Goes on applying WAL.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`].
    pub async fn resume_replay(&self, node: usize) -> Result<(), SandboxError> {
        self.superuser_sql(node, "SELECT pg_wal_replay_resume()")
            .await
            .map(drop)
    }

    /// Makes a replica apply commits this much later than the primary made them
    /// (`recovery_min_apply_delay`); zero for at once. Whole milliseconds.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn set_apply_delay(&self, node: usize, delay: Duration) -> Result<(), SandboxError> {
        let value = delay.as_millis().to_string();
        self.set(node, "recovery_min_apply_delay", &value).await
    }

    /// Cuts a replica off from its primary: its WAL receiver ends and finds nobody to connect to.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn cut_receiver(&self, node: usize) -> Result<(), SandboxError> {
        self.set(node, "primary_conninfo", &self.conninfo(node, DEAD_PORT))
            .await?;
        self.until(node, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
            .await
    }

    /// Connects a replica to the primary again.
    ///
    /// # Errors
    ///
    /// As [`LocalCluster::follow`].
    pub async fn restore_receiver(&self, node: usize) -> Result<(), SandboxError> {
        self.follow(node, self.primary()).await
    }

    /// Makes a replica stream from another node.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`] if it does not stream in time.
    pub async fn follow(&self, node: usize, upstream: usize) -> Result<(), SandboxError> {
        self.ensure_slot(upstream, node).await?;
        let conninfo = self.conninfo(node, self.node(upstream)?.port);
        self.set(node, "primary_conninfo", &conninfo).await?;
        self.set(node, "primary_slot_name", &format!("node{node}"))
            .await?;
        self.wait_for_streaming(node).await
    }

    /// Starts a stopped node and waits until it serves.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotStarted`].
    pub async fn start_node(&self, node: usize) -> Result<(), SandboxError> {
        let node = self.node(node)?;
        node.spawn(&self.toolchain)?;
        node.ready().await
    }

    /// Stops a node in order (fast shutdown): sessions end with 57P01.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotRunning`], [`SandboxError::TimedOut`].
    pub async fn stop_node(&self, node: usize) -> Result<(), SandboxError> {
        let node = self.node(node)?;
        node.signal_postmaster("INT")?;
        node.ended(limits::STEP).await
    }

    /// Ends a node at once, as a crash would: no process of it says good-bye.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotRunning`], [`SandboxError::TimedOut`].
    pub async fn kill_node(&self, node: usize) -> Result<(), SandboxError> {
        let node = self.node(node)?;
        node.signal("KILL")?;
        node.ended(limits::STEP).await
    }

    /// Stops a node in order and starts it again.
    ///
    /// # Errors
    ///
    /// As [`LocalCluster::stop_node`] and [`LocalCluster::start_node`].
    pub async fn restart_node(&self, node: usize) -> Result<(), SandboxError> {
        self.stop_node(node).await?;
        self.start_node(node).await
    }

    /// Stops every process of a node without ending it: connections stay open, nothing answers.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotRunning`].
    pub fn freeze_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.signal("STOP")
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotRunning`].
    pub fn thaw_node(&self, node: usize) -> Result<(), SandboxError> {
        self.node(node)?.signal("CONT")
    }

    /// Makes a replica the primary. The old one is left as it is, and the other replicas go on
    /// following it: see [`LocalCluster::follow`] and [`LocalCluster::rebuild`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn promote(&self, node: usize) -> Result<(), SandboxError> {
        self.superuser_sql(node, "SELECT pg_promote(true, 30)")
            .await?;
        self.until(node, "SELECT NOT pg_is_in_recovery()").await?;
        self.set_primary(node);
        Ok(())
    }

    /// Makes a node, running or not, a new replica of the primary from a base backup. Its port
    /// stays.
    ///
    /// # Errors
    ///
    /// Any [`SandboxError`] of stopping, copying and starting.
    pub async fn rebuild(&self, node: usize) -> Result<(), SandboxError> {
        if self.process_id(node).is_some() {
            self.kill_node(node).await?;
        }
        let place = self.node(node)?;
        let data = place.data();
        release_memory(&data)?;
        fs::remove_dir_all(&data).map_err(SandboxError::path("removing", &data))?;
        let upstream = self.node(self.primary())?.port;
        let source = self.conninfo(node, upstream);
        // First, so that the primary keeps the WAL from the backup's start.
        self.ensure_slot(self.primary(), node).await?;
        let arguments = [
            "-D",
            "data",
            "-d",
            &source,
            "-c",
            "fast",
            "-X",
            "stream",
            "--no-sync",
        ];
        self.toolchain
            .run("pg_basebackup", &arguments, place.directory(), "")
            .await?;
        // What ALTER SYSTEM set on the primary is not for this node.
        write(&data.join("postgresql.auto.conf"), "")?;
        write(&data.join("standby.signal"), "")?;
        self.toolchain.account.own(&data.join("standby.signal"))?;
        self.write_settings(place, Some(upstream))?;
        self.start_node(node).await?;
        self.wait_for_streaming(node).await
    }

    /// Waits until a replica has applied all that the primary has flushed at this moment.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn wait_for_replay(&self, node: usize) -> Result<(), SandboxError> {
        let position = self
            .superuser_sql(self.primary(), "SELECT pg_current_wal_flush_lsn()")
            .await?
            .into_iter()
            .flatten()
            .flatten()
            .next()
            .unwrap_or_default();
        self.until(
            node,
            &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"),
        )
        .await
    }

    /// Waits until a replica receives WAL.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn wait_for_streaming(&self, node: usize) -> Result<(), SandboxError> {
        self.until(
            node,
            "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'",
        )
        .await
    }

    /// Runs statements on a node as the role `app` and returns the rows of all of them.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn sql(&self, node: usize, text: &str) -> Result<TextRows, SandboxError> {
        self.run_sql(node, &self.url(node), text).await
    }

    /// The same as the superuser, in the same database.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn superuser_sql(&self, node: usize, text: &str) -> Result<TextRows, SandboxError> {
        self.run_sql(node, &self.superuser_url(node), text).await
    }

    /// A connection to a node as the role `app`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Sql`], [`SandboxError::TimedOut`].
    pub async fn connect(&self, node: usize) -> Result<Client, SandboxError> {
        self.open(node, &self.url(node)).await
    }

    /// Makes sure that `upstream` has the slot of `node`.
    pub(super) async fn ensure_slot(
        &self,
        upstream: usize,
        node: usize,
    ) -> Result<(), SandboxError> {
        let text = format!(
            "SELECT pg_create_physical_replication_slot('node{node}', true) WHERE NOT EXISTS \
             (SELECT FROM pg_replication_slots WHERE slot_name = 'node{node}')"
        );
        self.superuser_sql(upstream, &text).await.map(drop)
    }

    /// Sets a parameter and waits until new sessions have it.
    async fn set(&self, node: usize, name: &str, value: &str) -> Result<(), SandboxError> {
        let quoted = value.replace('\'', "''");
        self.superuser_sql(node, &format!("ALTER SYSTEM SET {name} = '{quoted}'"))
            .await?;
        self.superuser_sql(node, "SELECT pg_reload_conf()").await?;
        let seen = format!("SELECT setting = '{quoted}' FROM pg_settings WHERE name = '{name}'");
        self.until(node, &seen).await
    }

    /// Asks a node a yes-or-no question until it says yes.
    async fn until(&self, node: usize, question: &str) -> Result<(), SandboxError> {
        let client = self.open(node, &self.superuser_url(node)).await?;
        // A session reads a changed configuration file between two statements.
        let asked = || async {
            client
                .query_one(question, &[])
                .await
                .is_ok_and(|row| row.try_get(0).unwrap_or(false))
        };
        eventually(limits::STEP, question, asked).await
    }

    async fn run_sql(&self, node: usize, url: &str, text: &str) -> Result<TextRows, SandboxError> {
        let client = self.open(node, url).await?;
        let messages = within(text, client.simple_query(text)).await?;
        let messages = messages.map_err(refused(node, text))?;
        Ok(messages.iter().filter_map(row_values).collect())
    }

    async fn open(&self, node: usize, url: &str) -> Result<Client, SandboxError> {
        let (client, connection) = within("a node accepts", tokio_postgres::connect(url, NoTls))
            .await?
            .map_err(refused(node, "connect"))?;
        tokio::spawn(async move {
            // Its end is seen by the client's next statement.
            drop(connection.await);
        });
        Ok(client)
    }
}

/// A step with its deadline.
async fn within<T>(doing: &str, step: impl Future<Output = T>) -> Result<T, SandboxError> {
    tokio::time::timeout(limits::STEP, step)
        .await
        .map_err(|_elapsed| SandboxError::TimedOut {
            condition: doing.to_owned(),
        })
}

fn refused(node: usize, statement: &str) -> impl FnOnce(tokio_postgres::Error) -> SandboxError {
    let statement = statement.to_owned();
    move |source| SandboxError::Sql {
        node,
        statement,
        source,
    }
}

/// The values of a row message.
fn row_values(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    Some(
        (0..row.len())
            .map(|column| row.get(column).map(str::to_owned))
            .collect(),
    )
}
