//! What happens to replicas, and to pgweir's monitor, while clients work.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pgweir::sandbox::LocalCluster;
use rand::random_range;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::harness::Proxy;

/// Does something while pgweir stands still now and then (F11, SIGSTOP).
pub(crate) async fn while_it_stops_now_and_then<T>(
    proxy: &Proxy,
    work: impl Future<Output = T>,
) -> T {
    let stopping = async {
        loop {
            sleep(anything_up_to(900)).await;
            proxy.signal("STOP");
            sleep(anything_up_to(400)).await;
            proxy.signal("CONT");
        }
    };
    let done = tokio::select! { done = work => done, never = stopping => never };
    proxy.signal("CONT");
    done
}

/// One kind of fault, with its number in the list of what must be survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// F1: `pg_wal_replay_pause()`.
    PausedReplay,
    /// F2: `recovery_min_apply_delay`, 50 or 500 ms.
    ApplyDelay,
    /// F3: the receiver ends and finds nobody to connect to.
    CutOff,
    /// F4: the server is killed and started again.
    Killed,
    /// F5: the WAL receiver stands still with its connection open (SIGSTOP), as behind a network that
    /// drops everything.
    ReceiverStopped,
    /// F5: the startup process, which replays, stands still wherever it is (SIGSTOP).
    StartupStopped,
    /// F14: much log of a transaction that is rolled back.
    Bulk,
    /// F15: what was deleted is removed, under the queries of replicas.
    Vacuum,
    /// F20: the monitor's connections to all nodes are terminated.
    SamplersEnded,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::PausedReplay,
        Self::ApplyDelay,
        Self::CutOff,
        Self::Killed,
        Self::ReceiverStopped,
        Self::StartupStopped,
        Self::Bulk,
        Self::Vacuum,
        Self::SamplersEnded,
    ];

    /// Lets it happen to a replica, for a while, and undoes it.
    async fn strike(self, servers: &LocalCluster, replica: usize) {
        match self {
            Self::PausedReplay => {
                servers.pause_replay(replica).await.unwrap();
                sleep(anything_up_to(500)).await;
                servers.resume_replay(replica).await.unwrap();
            }
            Self::ApplyDelay => {
                let delay = [50, 500][random_range(0..2)];
                let delay = Duration::from_millis(delay);
                servers.set_apply_delay(replica, delay).await.unwrap();
                sleep(delay + anything_up_to(1000)).await;
                servers
                    .set_apply_delay(replica, Duration::ZERO)
                    .await
                    .unwrap();
            }
            Self::CutOff => {
                servers.cut_receiver(replica).await.unwrap();
                sleep(anything_up_to(500)).await;
                servers.restore_receiver(replica).await.unwrap();
            }
            Self::Killed => {
                // Of the primary first: a replica's restart point is at one of those. Else it would have
                // to go through all the log of a long run at every start.
                for node in [0, replica] {
                    servers.superuser_sql(node, "CHECKPOINT").await.unwrap();
                }
                servers.kill_node(replica).await.unwrap();
                sleep(anything_up_to(100)).await;
                servers.start_node(replica).await.unwrap();
            }
            Self::ReceiverStopped => stand_still(servers, replica, "walreceiver").await,
            Self::StartupStopped => stand_still(servers, replica, "startup").await,
            Self::Bulk => {
                let bulk = "BEGIN; CREATE TABLE bulk AS SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; \
                            ROLLBACK";
                // Another replica's turn may have the name.
                drop(servers.sql(0, bulk).await);
            }
            Self::Vacuum => drop(servers.sql(0, "VACUUM").await.unwrap()),
            Self::SamplersEnded => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE application_name = 'pgweir-monitor'";
                servers.superuser_sql(replica, end).await.unwrap();
                servers.superuser_sql(0, end).await.unwrap();
            }
        }
    }
}

/// Undoes what a test that has failed may have left.
pub(crate) async fn heal(servers: &LocalCluster) {
    for replica in servers.replicas() {
        if servers.process_id(replica).is_none() {
            servers.start_node(replica).await.unwrap();
        }
        servers.thaw_node(replica).unwrap();
        servers.resume_replay(replica).await.unwrap();
        let none = Duration::ZERO;
        servers.set_apply_delay(replica, none).await.unwrap();
        servers.restore_receiver(replica).await.unwrap();
    }
}

fn anything_up_to(milliseconds: u64) -> Duration {
    random_range(Duration::from_millis(5)..=Duration::from_millis(milliseconds))
}

async fn stand_still(servers: &LocalCluster, replica: usize, which: &str) {
    let Some(process) = Stopped::stop(servers, replica, which).await else {
        // There is no receiver between two connections to the primary.
        return;
    };
    sleep(anything_up_to(500)).await;
    drop(process);
}

/// A process of a server that stands still until this is dropped.
pub(crate) struct Stopped {
    process: String,
}

impl Stopped {
    /// Stops the process of this type (`pg_stat_activity.backend_type`), if there is one.
    pub(crate) async fn stop(servers: &LocalCluster, node: usize, which: &str) -> Option<Self> {
        let find = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = '{which}'");
        let rows = servers.superuser_sql(node, &find).await.unwrap();
        let process = rows.into_iter().flatten().next()??;
        signal("STOP", &process).then_some(Self { process })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", &self.process);
    }
}

/// Whether there was such a process.
fn signal(name: &str, process: &str) -> bool {
    let mut kill = Command::new("sh");
    kill.args(["-c", &format!("kill -s {name} {process} 2>/dev/null")]);
    kill.status().unwrap().success()
}

/// Faults that go on until they are ended.
pub(crate) struct Faults {
    running: Vec<JoinHandle<()>>,
    ending: Arc<AtomicBool>,
    struck: Arc<AtomicUsize>,
}

impl Faults {
    /// Lets one of `menu` after the other happen to each replica, at random.
    pub(crate) fn begin(servers: &'static LocalCluster, menu: &[Fault]) -> Self {
        let (ending, struck) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let mut running = Vec::new();
        for replica in servers.replicas().filter(|_| !menu.is_empty()) {
            let (menu, ending, struck) = (menu.to_vec(), ending.clone(), struck.clone());
            running.push(tokio::spawn(async move {
                while !ending.load(Ordering::Relaxed) {
                    let fault = menu[random_range(0..menu.len())];
                    fault.strike(servers, replica).await;
                    struck.fetch_add(1, Ordering::Relaxed);
                    sleep(anything_up_to(300)).await;
                }
            }));
        }
        Self {
            running,
            ending,
            struck,
        }
    }

    /// Ends them once the last is undone; how many there were.
    pub(crate) async fn end(self) -> usize {
        self.ending.store(true, Ordering::Relaxed);
        for task in self.running {
            task.await.expect("a fault must be possible, and undone");
        }
        self.struck.load(Ordering::Relaxed)
    }
}
