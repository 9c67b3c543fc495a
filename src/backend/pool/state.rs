//! The state of one pool: who may have what. Opens and closes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::lease::{Lease, Place, PlaceUse};
use super::{PoolCounts, Preference};
use crate::backend::connection::{BackendConnection, ReportedParameters};
use crate::backend::startup::StartupParameters;
use crate::config::PoolConfig;
use crate::limits::{GREETINGS_PER_POOL, OPENS_PER_POOL};

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
    Open(Option<Box<BackendConnection>>),
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
        preference: Preference,
        config: &PoolConfig,
    ) -> Option<Offer> {
        if let Some(idle) = self.take_idle(startup, preference) {
            return Some(Offer::Idle(idle));
        }
        if self.opening >= OPENS_PER_POOL {
            return None;
        }
        if self.open < config.size {
            self.open += 1;
            self.opening += 1;
            return Some(Offer::Open(None));
        }
        // All that are idle have other start-up parameters: the least recently used one makes room.
        if self.idle.is_empty() {
            return None;
        }
        self.opening += 1;
        Some(Offer::Open(Some(self.idle.remove(0))))
    }

    /// The idle connection with these start-up parameters that is liked best: the one used last by
    /// the caller, then the most recently used one of the caller's worker, then of any.
    pub(super) fn take_idle(
        &mut self,
        startup: &StartupParameters,
        preference: Preference,
    ) -> Option<Box<BackendConnection>> {
        let (mut own, mut any) = (None, None);
        for (at, idle) in self.idle.iter().enumerate().rev() {
            let is_last = Some(idle.id) == preference.last;
            let is_own = idle.worker == preference.worker;
            // Parameters are compared only where it matters: most candidates are no improvement.
            let improves = is_last || any.is_none() || (is_own && own.is_none());
            if !improves || *idle.startup != *startup {
                continue;
            }
            if is_last {
                return Some(self.idle.remove(at));
            }
            any = any.or(Some(at));
            if is_own {
                own = own.or(Some(at));
                if preference.last.is_none() {
                    break;
                }
            }
        }
        own.or(any).map(|at| self.idle.remove(at))
    }

    /// Every idle connection; what they reported is forgotten too.
    pub(super) fn take_all_idle(&mut self) -> Vec<Idle> {
        self.greetings.clear();
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
        preference: Preference,
    ) -> Taken {
        let (turn, receiver) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.push_back(Waiter {
            ticket,
            startup: Arc::clone(startup),
            preference,
            turn,
        });
        Taken::Later(ticket, receiver)
    }

    /// Takes a checkout out of the queue, if it is still there.
    pub(super) fn leave(&mut self, ticket: u64) -> Option<Waiter> {
        let at = self.waiters.binary_search_by_key(&ticket, |w| w.ticket);
        self.waiters.remove(at.ok()?)
    }

    /// Who has waited longest, with what there is; `None` when there is nobody or nothing.
    pub(super) fn next_turn(
        &mut self,
        config: &PoolConfig,
    ) -> Option<(oneshot::Sender<Turn>, Offer)> {
        let next = self.waiters.pop_front()?;
        let offer = self.offer(&next.startup, next.preference, config);
        let Some(offer) = offer else {
            self.waiters.push_front(next);
            return None;
        };
        Some((next.turn, offer))
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

    /// Notes what a new connection has reported.
    pub(super) fn remember(&mut self, connection: &BackendConnection) {
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
