//! Keeps every node of a cluster measured: one probe loop per node.
//!
//! Invariants:
//! * One probe of a node is under way at most, whoever waits for it.
//! * Fast probing ends by itself when nobody asks any more.
//! * A failed probe is repeated at once, then with growing pauses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep, sleep_until};

use super::backoff::Backoff;
use super::crossing::{Questions, Standing, Unanswered};
use super::limits::{
    PROBE_EAGER_PERIOD, PROBE_INTERVAL, PROBE_INTERVAL_WITHOUT_PRIMARY, PROBE_PATIENT_INTERVAL,
    PROBE_WANTED_PERIOD,
};
use super::probe::{Answer, ProbeConnection, ProbeError, Sign, Waited};
use super::publisher::Publisher;
use crate::config::{ClusterConfig, NodeConfig};
use crate::core::causality::positions::PositionSample;
use crate::core::crossing::{Listing, Scope};
use crate::core::freshness::observer::ClusterObserver;
use crate::core::freshness::replay_wait::{self, Ability, Occasion, ReplayState, WaitOutcome};
use crate::core::freshness::service::STATEMENT_INTERVAL;
use crate::core::freshness::{PrimarySample, pace};
use crate::core::lsn::Lsn;
use crate::core::snapshot::NodeId;
use crate::metrics::ClusterMetrics;

/// Measures the nodes of `cluster` and tells `publisher` until the future is dropped.
/// Every answered question is counted in `metrics`.
pub async fn watch_cluster(
    cluster: Arc<ClusterConfig>,
    publisher: Arc<Publisher>,
    metrics: Arc<ClusterMetrics>,
) {
    let watch = Arc::new(Watch {
        publisher,
        wakes: cluster.nodes.iter().map(|_| Notify::new()).collect(),
        cluster: Arc::clone(&cluster),
        metrics,
    });
    let mut loops = JoinSet::new();
    for (id, node) in (0..).zip(&cluster.nodes) {
        let watcher = NodeWatcher {
            id: NodeId(id),
            node: node.clone(),
            watch: Arc::clone(&watch),
        };
        loops.spawn(watcher.run());
    }
    loops.spawn(Arc::clone(&watch).judge_regularly());
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(cluster = &*cluster.name, %error, "a probe loop ended");
        }
    }
}

/// What the loops of one cluster share.
#[derive(Debug)]
struct Watch {
    cluster: Arc<ClusterConfig>,
    metrics: Arc<ClusterMetrics>,
    publisher: Arc<Publisher>,
    /// By node id: probe this replica now.
    wakes: Vec<Notify>,
}

impl Watch {
    /// Staleness grows without any answer: somebody must notice.
    async fn judge_regularly(self: Arc<Self>) {
        loop {
            sleep(PROBE_INTERVAL).await;
            self.publisher.observe(|_| {});
        }
    }

    /// Whether somebody waits for `node` to be fresher than it is proved to be, and since when at
    /// most.
    fn wanted_for(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let newest = self.publisher.world().demand.newest_floor();
        let proved = self.publisher.look(|observer| observer.fresh_as_of(node));
        let since = now.saturating_duration_since(newest);
        (Some(newest) > proved && since < PROBE_WANTED_PERIOD).then_some(since)
    }

    /// Whether sessions will soon need `node` to be fresher than it is proved to be.
    fn is_wished_for(&self, node: NodeId, now: Instant) -> bool {
        let newest = self.publisher.world().demand.newest_wish();
        let proved = self.publisher.look(|observer| observer.fresh_as_of(node));
        Some(newest) > proved && now.saturating_duration_since(newest) < PROBE_WANTED_PERIOD
    }

    /// Wakes the loops of the replicas that somebody waits for, or soon will.
    fn wake_wanted(&self, now: Instant) {
        for (id, wake) in (0..).zip(&self.wakes) {
            let node = NodeId(id);
            if self.wanted_for(node, now).is_some() || self.is_wished_for(node, now) {
                wake.notify_one();
            }
        }
    }
}

/// The loop of one node.
struct NodeWatcher {
    id: NodeId,
    node: NodeConfig,
    watch: Arc<Watch>,
}

/// What the last answer said, as far as the pace of probing depends on it.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Primary {
        asked_at: Instant,
        round_trip: Duration,
    },
    Replica {
        asked_at: Instant,
        round_trip: Duration,
        replay: ReplayState,
        ability: Ability,
    },
    /// Nothing that a session waits for makes a service renew what it states.
    Steady { asked_at: Instant },
}

/// What a node is to be asked next.
#[derive(Debug)]
enum Due {
    /// What it is and how far it has come.
    Probe,
    /// Something for sessions that go from a replica to the primary.
    Crossing(Wanted),
}

/// What such sessions want to know.
#[derive(Debug)]
enum Wanted {
    /// What runs on this primary.
    Listing(Scope),
    /// What of this listing is committed on this replica.
    Shown(Listing),
}

impl NodeWatcher {
    async fn run(self) {
        let mut pauses = Backoff::default();
        loop {
            let error = match ProbeConnection::open(&self.node, &self.watch.cluster).await {
                Ok(mut connection) => {
                    let error = self
                        .probe_while_answering(&mut connection, &mut pauses)
                        .await;
                    let error = connection.explain(error).await;
                    tracing::debug!(node = &*self.node.name, %error, "monitor connection lost");
                    error
                }
                Err(error) => {
                    tracing::debug!(node = &*self.node.name, %error, "monitor cannot connect");
                    error
                }
            };
            self.tell(&error, &pauses);
            self.watch.publisher.observe(|observer| match error.sign() {
                Sign::None => observer.on_failed(self.id),
                Sign::Ended => observer.on_ended(self.id),
                Sign::Busy => observer.on_busy(self.id),
            });
            sleep(pauses.next_pause()).await;
        }
    }

    /// Warns of the first failure since the last answer; the others are the same once more.
    fn tell(&self, error: &ProbeError, pauses: &Backoff) {
        if pauses.is_first() {
            let cluster = &*self.watch.cluster.name;
            tracing::warn!(cluster, node = &*self.node.name, %error, "the monitor gets no answer");
        }
    }

    /// Probes until a probe fails.
    async fn probe_while_answering(
        &self,
        connection: &mut ProbeConnection,
        pauses: &mut Backoff,
    ) -> ProbeError {
        let identity = connection.identity();
        self.watch
            .publisher
            .observe(|observer| observer.on_connected(self.id, identity));
        let mut questions = Questions::default();
        let mut target = None;
        loop {
            let answer = match self.ask(connection, target).await {
                Ok(answer) => answer,
                Err(error) => return error,
            };
            pauses.reset();
            self.watch.metrics.count_position_sample(self.id);
            let pace = self.take(answer, connection.replay_wait());
            while let Due::Crossing(crossing) = self.pause(connection, pace, &questions).await {
                let answered = self.answer(connection, &mut questions, crossing).await;
                if let Err(error) = answered {
                    return error;
                }
            }
            target = self.target(pace, Instant::now());
        }
    }

    /// Asks the node what it is and how far it has come: behind `target`, if there is one.
    async fn ask(
        &self,
        connection: &mut ProbeConnection,
        target: Option<Lsn>,
    ) -> Result<Answer, ProbeError> {
        let Some(target) = target else {
            return connection.ask().await;
        };
        let (answer, waited) = connection.ask_behind(target).await?;
        self.note_wait(&waited);
        Ok(answer)
    }

    /// Which position the node's server is to wait for before it is asked.
    fn target(&self, pace: Pace, now: Instant) -> Option<Lsn> {
        let (replay, ability) = match pace {
            Pace::Replica {
                replay, ability, ..
            } => (replay, ability),
            Pace::Primary { .. } | Pace::Steady { .. } => return None,
        };
        let publisher = &self.watch.publisher;
        let crossed = publisher.world().crossings.replica_asked_at(self.id);
        replay_wait::target(&Occasion {
            ability,
            replay,
            wanted: self.watch.wanted_for(self.id, now),
            missing: publisher.look(|observer| observer.missing(self.id)),
            crossed: crossed.map(|at| now.saturating_duration_since(at)),
        })
    }

    fn note_wait(&self, waited: &Waited) {
        self.watch
            .metrics
            .count_replay_wait(self.id, waited.outcome);
        match waited.outcome {
            WaitOutcome::Reached | WaitOutcome::TimedOut | WaitOutcome::NotInRecovery => {}
            WaitOutcome::Refused => tracing::warn!(
                cluster = &*self.watch.cluster.name,
                node = &*self.node.name,
                why = waited.refusal.as_deref().unwrap_or("an unknown answer"),
                "WAIT FOR LSN is refused: the replica is asked again and again instead"
            ),
        }
    }

    /// Answers sessions that go from a replica to the primary.
    async fn answer(
        &self,
        connection: &ProbeConnection,
        questions: &mut Questions,
        crossing: Wanted,
    ) -> Result<(), ProbeError> {
        let client = connection.client();
        let crossings = &self.watch.publisher.world().crossings;
        let answered = match crossing {
            Wanted::Listing(scope) => questions
                .list(client, self.id, scope)
                .await
                .map(|listing| crossings.note_listing(listing)),
            Wanted::Shown(listing) => {
                let standing = self.standing();
                let committed = questions.committed(client, &listing).await;
                committed.map(|ids| crossings.note_shown(standing.shows(&listing, ids)))
            }
        };
        match answered {
            Ok(()) => Ok(()),
            Err(Unanswered::Lost(error)) => Err(error),
            Err(Unanswered::Refused(why)) => {
                if questions.note_refusal(Instant::now()) {
                    tracing::error!(
                        cluster = &*self.watch.cluster.name,
                        node = &*self.node.name,
                        why,
                        "cannot be asked what it shows, as monotonic_reads: strict has it"
                    );
                }
                Ok(())
            }
        }
    }

    /// What the replica is when it is asked: what it is proved to have does not get less.
    fn standing(&self) -> Standing {
        let publisher = &self.watch.publisher;
        let snapshot = publisher.world().routing.load();
        Standing {
            node: self.id,
            incarnation: snapshot.node(self.id).and_then(|node| node.incarnation),
            fresh_as_of: publisher.look(|observer| observer.fresh_as_of(self.id)),
        }
    }

    fn take(&self, answer: Answer, ability: Ability) -> Pace {
        match answer {
            Answer::Primary(sample) => {
                self.watch
                    .publisher
                    .observe(|observer| observer.on_primary(self.id, sample));
                self.note_position(&sample);
                self.watch.wake_wanted(sample.received);
                Pace::Primary {
                    asked_at: sample.sent,
                    round_trip: sample.received.saturating_duration_since(sample.sent),
                }
            }
            Answer::Replica(sample, detail) => {
                self.watch
                    .publisher
                    .observe(|observer| observer.on_replica(self.id, sample));
                Pace::Replica {
                    asked_at: sample.sent,
                    round_trip: sample.received.saturating_duration_since(sample.sent),
                    replay: detail.replay,
                    ability,
                }
            }
            Answer::Writer(sample) => {
                let asked_at = sample.sent;
                self.watch
                    .publisher
                    .observe(|observer| observer.on_writer(self.id, sample));
                Pace::Steady { asked_at }
            }
            Answer::Reader(sample) => {
                let asked_at = sample.sent;
                self.watch
                    .publisher
                    .observe(|observer| observer.on_reader(self.id, sample));
                Pace::Steady { asked_at }
            }
        }
    }

    fn note_position(&self, sample: &PrimarySample) {
        let publisher = &self.watch.publisher;
        let position = publisher.look(|observer| observer.position(self.id, sample));
        if let Some(at) = position {
            publisher.world().positions.note(&PositionSample {
                at,
                sent: sample.sent,
                received: sample.received,
            });
        }
    }

    /// Waits until the next probe is due, a session asks, or the connection is lost.
    async fn pause(
        &self,
        connection: &mut ProbeConnection,
        pace: Pace,
        questions: &Questions,
    ) -> Due {
        tokio::select! {
            () = self.probe_due(pace) => Due::Probe,
            () = connection.lost() => Due::Probe,
            wanted = self.crossing_due(pace, questions) => Due::Crossing(wanted),
        }
    }

    async fn crossing_due(&self, pace: Pace, questions: &Questions) -> Wanted {
        if let Some(until) = questions.rests_until() {
            sleep_until(until.into()).await;
        }
        let crossings = &self.watch.publisher.world().crossings;
        match pace {
            Pace::Primary { .. } => {
                let elected = self.watch.publisher.look(ClusterObserver::primary);
                if elected != Some(self.id) {
                    // The next probe may tell otherwise.
                    return std::future::pending().await;
                }
                let last = questions.listed_at();
                if let Some(last) = last {
                    sleep_after(last, pace::LEAST).await;
                }
                Wanted::Listing(crossings.listing_due(last).await)
            }
            Pace::Replica { .. } => Wanted::Shown(crossings.replica_due(self.id).await),
            // What such a service shows where is not known: nobody crosses.
            Pace::Steady { .. } => std::future::pending().await,
        }
    }

    async fn probe_due(&self, pace: Pace) {
        match pace {
            Pace::Primary {
                asked_at,
                round_trip,
            } => self.primary_due(asked_at, round_trip).await,
            Pace::Replica {
                asked_at,
                round_trip,
                ..
            } => self.replica_due((asked_at, round_trip), pace).await,
            Pace::Steady { asked_at } => sleep_after(asked_at, STATEMENT_INTERVAL).await,
        }
    }

    /// A primary is asked again when somebody wants to see something later than the last question, or
    /// will by the time when replicas have it.
    async fn primary_due(&self, asked_at: Instant, round_trip: Duration) {
        let elected = self.watch.publisher.look(ClusterObserver::primary);
        if elected != Some(self.id) {
            return sleep_after(asked_at, PROBE_INTERVAL_WITHOUT_PRIMARY).await;
        }
        let demand = &self.watch.publisher.world().demand;
        tokio::select! {
            () = sleep_after(asked_at, PROBE_INTERVAL) => {}
            _ = demand.asked_beyond(asked_at) => {
                sleep_after(asked_at, pace::waited_for(round_trip)).await;
            }
            _ = demand.wished_beyond(asked_at) => {
                sleep_after(asked_at, pace::ahead(demand.distance())).await;
            }
        }
    }

    /// A replica is asked again quickly while somebody waits for it, and at once when a new
    /// position of the primary has come that it did not have yet.
    async fn replica_due(&self, (asked_at, round_trip): (Instant, Duration), pace: Pace) {
        let (Some(wake), elected) = (
            self.watch.wakes.get(self.id.index()),
            self.watch.publisher.look(ClusterObserver::primary),
        ) else {
            return sleep_after(asked_at, PROBE_INTERVAL).await;
        };
        let slow = if elected.is_some() {
            PROBE_INTERVAL
        } else {
            PROBE_INTERVAL_WITHOUT_PRIMARY
        };
        let now = Instant::now();
        let interval = match self.watch.wanted_for(self.id, now) {
            // Its server waits, so it is not asked more often by that.
            Some(_) if self.target(pace, now).is_some() => pace::LEAST,
            Some(since) if since < PROBE_EAGER_PERIOD => pace::waited_for(round_trip),
            Some(_) => PROBE_PATIENT_INTERVAL,
            // The positions of the primary, which come as often, wake it before.
            None if self.watch.is_wished_for(self.id, now) => {
                pace::ahead(self.watch.publisher.world().demand.distance()).saturating_mul(2)
            }
            None => slow,
        };
        tokio::select! {
            () = sleep_after(asked_at, interval) => {}
            () = wake.notified() => {}
        }
    }
}

/// Sleeps until `interval` after `from`; not at all if that has passed.
async fn sleep_after(from: Instant, interval: Duration) {
    let due = TokioInstant::from_std(from) + interval;
    if due > TokioInstant::now() {
        sleep_until(due).await;
    }
}
