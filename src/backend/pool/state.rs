//! The state of one pool: who may have what. Opens and closes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::lease::{Lease, Place, PlaceUse};
use super::{PoolCounts, Preference};
use crate::backend::connection::{BackendConnection, ReportedParameters, WorkerId};
use crate::backend::custom::Suit;
use crate::backend::home::{Home, Residence};
use crate::backend::startup::StartupParameters;
use crate::config::PoolConfig;
use crate::limits::{GREETINGS_PER_POOL, OPENS_PER_POOL};
use crate::metrics::EvictionCause;

/// How many of those who wait are looked at for a connection that will not do for the first.
const WAITERS_LOOKED_AT: usize = 16;

/// An idle connection; boxed, because it goes from hand to hand.
type Idle = Box<BackendConnection>;

/// What the lock of a pool protects.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Least recently used first.
    pub(super) idle: Vec<Idle>,
    /// Places in use: idle, handed out and being opened.
    open: usize,
    /// Of these, being opened.
    opening: usize,
    /// Longest waiting first, so tickets ascend.
    pub(super) waiters: VecDeque<Waiter>,
    next_ticket: u64,
    /// What connections have reported, newest first, one entry for each start-up parameter set.
    greetings: VecDeque<Greeting>,
    /// What may be a session's home, newest last; some may have been closed.
    residences: Vec<Arc<Residence>>,
    /// Sessions that wait to open their home: each may take one of the free places.
    expecting: usize,
}

#[derive(Debug)]
struct Greeting {
    startup: Arc<StartupParameters>,
    at: Instant,
    parameters: ReportedParameters,
}

/// A checkout that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    ticket: u64,
    startup: Arc<StartupParameters>,
    preference: Preference,
    turn: oneshot::Sender<Turn>,
    /// How many connections have gone to others behind it because they would not do for it.
    passed: usize,
}

/// Whether a connection may be closed for the sake of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Only what is free already counts.
    Free,
    /// An idle connection that will not do makes room.
    Made,
}

/// What a checkout gets from the pool. Holds a place, so never dropped under the lock.
#[derive(Debug)]
pub(super) enum Turn {
    /// An idle connection, not yet looked at.
    Idle(Lease),
    /// The right to open one.
    Open(Place),
}

/// What the state offers, before anything is done about it outside the lock.
#[derive(Debug)]
pub(super) enum Offer {
    /// An idle connection.
    Idle(Box<BackendConnection>),
    /// A free place, made by closing this connection if there is one.
    Open(Option<Evicted>),
}

/// An idle connection that makes room.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) connection: Box<BackendConnection>,
    pub(super) cause: EvictionCause,
}

/// The pool's answer to a session that needs a home.
#[derive(Debug)]
pub(super) enum Claim {
    /// A connection that is there.
    Taken(Home),
    /// A free place.
    Open(Offer),
    /// A place when others have opened theirs; counted as expected.
    Later,
    /// Perhaps what others are opening; nothing is counted.
    Shared,
    /// There is neither a connection nor a place.
    Nothing,
}

/// How much an idle connection is liked by who asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Liking {
    /// Another living session may come back for it.
    OthersHome,
    OwnWorkersOthersHome,
    Nobodys,
    OwnWorkers,
    UsedLast,
    Home,
}

/// The pool's answer to a checkout.
#[derive(Debug)]
pub(super) enum Taken {
    /// At once.
    Now(Offer),
    /// The checkout waits under this ticket.
    Later(u64, oneshot::Receiver<Turn>),
}

impl State {
    /// What somebody whose turn it is can have now.
    pub(super) fn offer(
        &mut self,
        startup: &StartupParameters,
        preference: &Preference,
        config: &PoolConfig,
        room: Room,
    ) -> Option<Offer> {
        let best = self.best_idle(startup, preference);
        if let Some((at, liking)) = best
            && liking >= Liking::Nobodys
        {
            return Some(Offer::Idle(self.idle.remove(at)));
        }
        if let Some(place) = self.open_place(startup, config, room) {
            return Some(place);
        }
        if let Some((at, _)) = best {
            return Some(Offer::Idle(self.idle.remove(at)));
        }
        // None that is idle will do, for its start-up parameters or the names that exist there: the least
        // recently used one makes room.
        if self.opening >= OPENS_PER_POOL || self.idle.is_empty() || room == Room::Free {
            return None;
        }
        self.opening += 1;
        Some(Offer::Open(Some(self.evict(0, startup))))
    }

    /// A place for a new connection that costs nobody its home: a free one, or that of an idle
    /// connection that is nobody's. For when none of these has the wanted start-up parameters.
    fn open_place(
        &mut self,
        startup: &StartupParameters,
        config: &PoolConfig,
        room: Room,
    ) -> Option<Offer> {
        if self.opening >= OPENS_PER_POOL {
            return None;
        }
        let evicted = if self.open < config.size {
            self.open += 1;
            None
        } else if room == Room::Free {
            return None;
        } else {
            let unowned = self.idle.iter().position(|idle| !idle.anchor.is_owned())?;
            Some(self.evict(unowned, startup))
        };
        self.opening += 1;
        Some(Offer::Open(evicted))
    }

    /// Takes out an idle connection that will not do for a session with these start-up parameters.
    fn evict(&mut self, at: usize, startup: &StartupParameters) -> Evicted {
        let connection = self.idle.remove(at);
        let cause = if *connection.startup == *startup {
            EvictionCause::Options
        } else {
            EvictionCause::Startup
        };
        Evicted { connection, cause }
    }

    /// A home for one more session.
    pub(super) fn claim(
        &mut self,
        startup: &StartupParameters,
        worker: WorkerId,
        config: &PoolConfig,
    ) -> Claim {
        let best = self.best_residence(startup, worker);
        let best = best.map(|best| (best.owners(), Home::claim(best)));
        let shared = match best {
            Some((0, home)) => return Claim::Taken(home),
            Some((_, home)) => Some(home),
            None => None,
        };
        if self.waiters.is_empty()
            && let Some(place) = self.open_place(startup, config, Room::Made)
        {
            return Claim::Open(place);
        }
        if self.open + self.expecting < config.size {
            self.expecting += 1;
            return Claim::Later;
        }
        if let Some(home) = shared {
            return Claim::Taken(home);
        }
        if self.opening > 0 {
            Claim::Shared
        } else {
            Claim::Nothing
        }
    }

    /// The home with the fewest owners, whatever room there is.
    pub(super) fn share(&mut self, startup: &StartupParameters, worker: WorkerId) -> Option<Home> {
        self.best_residence(startup, worker).map(Home::claim)
    }

    /// The one with the fewest owners, of the caller's worker if there are several, then the newest.
    fn best_residence(
        &mut self,
        startup: &StartupParameters,
        worker: WorkerId,
    ) -> Option<&Arc<Residence>> {
        self.residences.retain(|one| !one.is_closed());
        let fitting = self.residences.iter().rev();
        let fitting = fitting.filter(|one| one.is_for_all() && *one.startup == *startup);
        fitting.min_by_key(|one| (one.owners(), one.worker() != worker))
    }

    /// A session has ended its wait for a place.
    pub(super) fn expects_no_more(&mut self) {
        self.expecting -= 1;
    }

    /// The idle connection with these start-up parameters that is liked best: the caller's home, then
    /// of those that are nobody's home the one used last by the caller, the most recently used one of
    /// the caller's worker, and of any; then the homes of others.
    pub(super) fn take_idle(
        &mut self,
        startup: &StartupParameters,
        preference: &Preference,
    ) -> Option<Idle> {
        let (at, _) = self.best_idle(startup, preference)?;
        Some(self.idle.remove(at))
    }

    fn best_idle(
        &self,
        startup: &StartupParameters,
        preference: &Preference,
    ) -> Option<(usize, Liking)> {
        let best_possible = match (preference.home, preference.last) {
            (Some(_), _) => Liking::Home,
            (None, Some(_)) => Liking::UsedLast,
            (None, None) => Liking::OwnWorkers,
        };
        let mut best: Option<(usize, Liking, Suit)> = None;
        for (at, idle) in self.idle.iter().enumerate().rev() {
            let liking = Liking::of(idle, preference);
            // Parameters are compared only where it matters: most candidates are no improvement.
            let suit = preference.names.suit(&idle.custom.possible);
            let improves = best.is_none_or(|(_, best, suited)| (liking, suit) > (best, suited));
            let fits = improves && idle.anchor.is_for(preference.home);
            if fits && *idle.startup == *startup && preference.names.accept(&idle.custom.possible) {
                best = Some((at, liking, suit));
                // Of a worker's connections there are several, of the others one.
                let alone = best_possible > Liking::OwnWorkers;
                if liking >= best_possible && (alone || suit == Suit::Same) {
                    break;
                }
            }
        }
        best.map(|(at, liking, _)| (at, liking))
    }

    /// Every idle connection; what they reported is forgotten too.
    pub(super) fn take_all_idle(&mut self) -> Vec<Idle> {
        self.greetings.clear();
        self.residences.clear();
        self.take_idle_unless(|_| false)
    }

    /// The idle connections that `stays` does not hold for.
    pub(super) fn take_idle_unless(
        &mut self,
        mut stays: impl FnMut(&mut BackendConnection) -> bool,
    ) -> Vec<Idle> {
        let taken: Vec<_> = self.idle.extract_if(.., |idle| !stays(idle)).collect();
        self.open -= taken.len();
        taken
    }

    /// Puts a checkout at the end of the queue.
    pub(super) fn enqueue(
        &mut self,
        startup: &Arc<StartupParameters>,
        preference: &Preference,
    ) -> Taken {
        let (turn, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.push_back(Waiter {
            ticket,
            startup: Arc::clone(startup),
            preference: preference.clone(),
            turn,
            passed: 0,
        });
        Taken::Later(ticket, receiver)
    }

    /// Takes a checkout out of the queue, if it is still there.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let at = self.waiters.binary_search_by_key(&ticket, |w| w.ticket);
        self.waiters.remove(at.ok()?)
    }

    /// Who has waited longest, with what there is; `None` when there is nobody or nothing.
    ///
    /// What is idle and will not do for it makes room only if it does for none behind it, or if so many have
    /// passed already that each connection in use has come back once, as a rule: one of those may do. Else
    /// two kinds of sessions that share a busy pool would close each other's connections at every turn.
    pub(super) fn next_turn(
        &mut self,
        config: &PoolConfig,
    ) -> Option<(oneshot::Sender<Turn>, Offer)> {
        let mut next = self.waiters.pop_front()?;
        let free = self.offer(&next.startup, &next.preference, config, Room::Free);
        if let Some(offer) = free {
            return Some((next.turn, offer));
        }
        if next.passed < config.size
            && let Some(later) = self.later_turn()
        {
            next.passed += 1;
            self.waiters.push_front(next);
            return Some(later);
        }
        let made = self.offer(&next.startup, &next.preference, config, Room::Made);
        if let Some(offer) = made {
            return Some((next.turn, offer));
        }
        let later = self.later_turn();
        self.waiters.push_front(next);
        later
    }

    /// Somebody behind the first of those who wait, for whom there is an idle connection that will not do for
    /// the first, who has been taken out of the queue.
    fn later_turn(&mut self) -> Option<(oneshot::Sender<Turn>, Offer)> {
        if self.idle.is_empty() {
            return None;
        }
        let mut later = self.waiters.iter().enumerate().take(WAITERS_LOOKED_AT);
        let (at, idle) = later.find_map(|(at, waiter)| {
            let best = self.best_idle(&waiter.startup, &waiter.preference);
            best.map(|(idle, _)| (at, idle))
        })?;
        let waiter = self.waiters.remove(at)?;
        Some((waiter.turn, Offer::Idle(self.idle.remove(idle))))
    }

    /// A place is not used any more.
    pub(super) fn free(&mut self, used_for: PlaceUse) {
        match used_for {
            PlaceUse::Opening => {
                self.open -= 1;
                self.opening -= 1;
            }
            PlaceUse::Leased => self.open -= 1,
            PlaceUse::Returned => {}
        }
    }

    /// A connection has been opened.
    pub(super) fn opened(&mut self) {
        self.opening -= 1;
    }

    /// Notes a new connection and what it has reported.
    pub(super) fn remember(&mut self, connection: &BackendConnection) {
        self.residences.retain(|one| !one.is_closed());
        let residence = connection.anchor.residence();
        self.residences.push(Arc::clone(residence));
        let greetings = &mut self.greetings;
        greetings.retain(|known| known.startup != connection.startup);
        greetings.truncate(GREETINGS_PER_POOL - 1);
        greetings.push_front(Greeting {
            startup: Arc::clone(&connection.startup),
            at: connection.opened_at,
            parameters: Arc::clone(&connection.parameters),
        });
    }

    /// What the newest connection with these start-up parameters has reported, and when.
    pub(super) fn reported(
        &self,
        startup: &StartupParameters,
    ) -> Option<(Instant, ReportedParameters)> {
        let mut greetings = self.greetings.iter();
        let known = greetings.find(|known| *known.startup == *startup)?;
        Some((known.at, Arc::clone(&known.parameters)))
    }

    pub(super) fn counts(&self) -> PoolCounts {
        PoolCounts {
            idle: self.idle.len(),
            active: self.open - self.opening - self.idle.len(),
            connecting: self.opening,
            waiting: self.waiters.len(),
        }
    }
}

impl Liking {
    fn of(idle: &BackendConnection, preference: &Preference) -> Self {
        let is_own = idle.worker == preference.worker;
        if preference
            .home
            .is_some_and(|home| home.connection == idle.id)
        {
            Self::Home
        } else if idle.anchor.is_owned() {
            if is_own {
                Self::OwnWorkersOthersHome
            } else {
                Self::OthersHome
            }
        } else if Some(idle.id) == preference.last {
            Self::UsedLast
        } else if is_own {
            Self::OwnWorkers
        } else {
            Self::Nobodys
        }
    }
}
