//! Whether a promise was kept, from the truth alone: nothing here asks the product what it knows.

use std::time::Duration;

use super::monitor::Answer;
use super::proxy::{Reading, node_id};
use super::server::Kind;
use super::session::{Read, Sent};
use super::world::World;
use super::{Commits, Micros};
use crate::core::policy::OnNoReplica;
use crate::core::router::{Decision, Route, RouteReason};
use crate::core::snapshot::NodeRole;
use crate::core::statement::Consistency;
use crate::limits::SAMPLE_EXPIRY;

/// What a read that arrives now must see.
pub(super) fn promised(
    world: &World,
    client: usize,
    mode: Consistency,
    bound: Option<Duration>,
) -> Commits {
    let configured = world.proxy.consistency.max_staleness;
    let bound = match (configured, bound) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let bounded = match bound {
        Some(bound) => acknowledged_before(world, bound),
        None => 0,
    };
    match mode {
        Consistency::Eventual => bounded,
        Consistency::Session => bounded | world.clients[client].knows | world.known_to_key(client),
        Consistency::Latest | Consistency::Primary => {
            world.log.acknowledged_by(world.now) | world.clients[client].knows
        }
    }
}

fn acknowledged_before(world: &World, bound: Duration) -> Commits {
    let bound = u64::try_from(bound.as_micros()).unwrap();
    match world.now.checked_sub(bound) {
        Some(since) => world.log.acknowledged_by(since),
        None => 0,
    }
}

/// The node is one that may be chosen at all. Returns what the read must see there.
pub(super) fn decision(world: &mut World, client: usize, read: &Read, route: Route) -> Commits {
    let node = route.node.index();
    let policy = world.proxy.consistency.on_no_replica;
    if route.role == NodeRole::Primary {
        world.outcome.to_primary += 1;
        let allowed = match policy {
            OnNoReplica::Primary | OnNoReplica::Stale => true,
            OnNoReplica::Wait | OnNoReplica::Error => {
                matches!(route.reason, RouteReason::Window | RouteReason::Requested)
            }
        };
        if Decision::Go(route).is_displaced() && !has_room(world) {
            world.violates(|_| format!("s{client}: there is no room on n{node}"));
        }
        if !allowed {
            world.violates(|_| format!("s{client}: policy {policy:?} keeps reads off n{node}"));
        }
        return read.must_see & !world.unheard;
    }
    let stale = route.reason == RouteReason::Stale;
    if stale && policy != OnNoReplica::Stale {
        world.violates(|_| format!("s{client}: nobody allowed a stale read"));
    }
    if !is_known(world, node) {
        world.violates(|_| format!("s{client}: n{node} is not known to be fit to serve"));
    }
    // Whatever the mode, no replica is further behind than the rotation allows; and only there may
    // a read see less than it asked for, if the policy says so.
    let rotation = acknowledged_before(world, world.proxy.routing.max_staleness);
    let asked = if stale { 0 } else { read.must_see };
    (rotation | asked) & !world.unheard
}

/// Whether the node was found to be a replica of this system, not long ago, over a connection that
/// has not ended, and on a known timeline.
fn is_known(world: &World, node: usize) -> bool {
    let Some(answer) = world.monitors[node].answer else {
        return false;
    };
    let age = Duration::from_micros(world.now - answer.sent);
    let replica = matches!(
        answer.reading,
        Reading::Replica {
            timeline: Some(_),
            ..
        }
    );
    replica && age <= SAMPLE_EXPIRY && world.servers[node].system == 1
}

/// Places of the primary's pool.
const POOL: usize = 3;

/// Whether the primary has a place for one more read that lacks a replica.
pub(super) fn has_room(world: &World) -> bool {
    let reads = world.clients.iter().filter_map(|client| client.read?.sent);
    let displaced = reads.filter(|sent| Decision::Go(sent.route).is_displaced());
    let places = world.proxy.consistency.spill_places(POOL);
    places.is_none_or(|places| displaced.count() < places)
}

/// Nobody waits for longer than the policy says.
pub(super) fn patience(world: &mut World, read: &Read, until: Micros) {
    let policy = &world.proxy.consistency;
    let longest = match policy.on_no_replica {
        OnNoReplica::Error => policy.wait,
        OnNoReplica::Wait | OnNoReplica::Primary | OnNoReplica::Stale => {
            policy.wait.max(policy.max_wait)
        }
    };
    let latest = read.arrived + u64::try_from(longest.as_micros()).unwrap();
    if until > latest {
        world.violates(|_| format!("a read may wait until {until}, later than {latest}"));
    }
}

/// The read takes its snapshot on the node where it was sent.
pub(super) fn read(world: &mut World, client: usize, read: &Read, sent: Sent) {
    let node = sent.route.node.index();
    let server = world.server_of(sent);
    let (kind, shown) = (server.kind, server.shown);
    let mut missing = sent.must_see & !shown & !world.log.lost;
    let on_primary = sent.route.role == NodeRole::Primary;
    if on_primary && missing & world.log.in_flight != 0 {
        // A replica has shown it while its commit waits on the primary (V3): not promised.
        world.outcome.shown_early += 1;
        missing &= !world.log.in_flight;
    }
    world.tell(|world| {
        format!(
            "s{client} reads on n{node}, sees all but {}",
            world.name(missing)
        )
    });
    if missing != 0 {
        world.violates(|world| {
            let (missing, mode) = (world.name(missing), read.mode.as_str());
            format!("s{client} ({mode}) does not see {missing} on n{node} ({kind:?})")
        });
    }
    if read.delivered {
        world.violates(|_| format!("s{client} gets rows of two snapshots"));
    }
    world.outcome.reads += 1;
    if !on_primary {
        world.outcome.replica_reads += 1;
        world.outcome.replica_reads_after_promotion += u64::from(world.heard > 1);
    }
}

/// The elected primary said so itself, and no node has told of a higher timeline.
pub(super) fn election(world: &mut World) {
    let Some(elected) = world.proxy.snapshot.primary else {
        return;
    };
    let answer = world.monitors[elected.index()].answer;
    let Some(Answer {
        reading: Reading::Primary { timeline, .. },
        ..
    }) = answer
    else {
        // Its connection has ended, or another answer is not there yet: one failure is forgiven.
        let server = &world.servers[elected.index()];
        if answer.is_some() && server.kind == Kind::Replica {
            world.violates(|_| format!("n{} says that it is a replica", elected.0));
        }
        return;
    };
    let heard = world.heard;
    if timeline < heard {
        world.violates(|_| format!("n{} is on {timeline}, not {heard}", elected.0));
    }
}

/// What can be proved is proved: a replica that has replayed everything which the primary had
/// written when it was asked is fresh as of that question.
pub(super) fn progress(world: &mut World) {
    let Some(elected) = world.proxy.elected() else {
        return;
    };
    let Some(primary) = world.monitors[elected.index()].answer else {
        return;
    };
    let Reading::Primary { timeline, end, .. } = primary.reading else {
        return;
    };
    if !primary.of_primary {
        return;
    }
    for node in 0..world.servers.len() {
        let Some(answer) = world.monitors[node].answer else {
            continue;
        };
        let Reading::Replica {
            timeline: Some(own),
            replay,
            ..
        } = answer.reading
        else {
            continue;
        };
        let has_all = own == timeline && replay >= end && world.servers[node].system == 1;
        let proved = world.proxy.fresh_as_of(node);
        if has_all && proved < Some(world.proxy.instant(primary.sent)) {
            debug_assert_ne!(node_id(node), elected);
            world.violates(|_| format!("n{node} has all up to {end}, which is not proved"));
        }
    }
}
