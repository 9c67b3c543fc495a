//! The primary connection that a session keeps between its statements, though no transaction and
//! nothing on it holds the session there (`pool.mode: session`), or nothing that a read may mean: SQL
//! PREPARE, held cursors, advisory locks, numbers of sequences.
//!
//! Unlike a connection that holds the session ([`Session::link`]), a parked one takes no part in
//! routing: what may run on a replica goes there meanwhile, and whatever is routed to the primary
//! finds its way back here. It is never given back: it is closed when the session ends, and when it
//! is lost the session is lost with it, as with PostgreSQL itself.
//!
//! Must not be used for two statements at once: it is taken out for each.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::attempt::Failure;
use super::inspect::Pin;
use super::link::Link;
use super::names::Names;
use super::plan::{Needs, Plan};
use super::serve::Extent;
use super::{Session, SessionEnd};
use crate::backend::pool::CheckoutError;
use crate::config::PoolMode;
use crate::core::catalog::is_plain_type;
use crate::core::classify::Held;
use crate::core::residue::Reads;
use crate::core::router::{Route, Target};
use crate::core::segment::Begun;
use crate::core::snapshot::{Incarnation, NodeRole};
use crate::core::statement::{PinReason, SessionEffect, TransactionControl};
use crate::frontend::buffers::BufferSize;
use crate::frontend::cluster::UnderWay;
use crate::frontend::error::ProxyError;
use crate::protocol::frontend::{Bind, Parse, tag};
use crate::protocol::segment::{SegmentEnd, messages};
use crate::wire::socket::Socket;

/// Which side has something to say to an idle session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The client.
    Client,
    /// The node of the parked connection.
    Node,
}

/// Whether the session has kept the connection from an earlier statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// It has leased it for this one.
    Leased,
    /// It has: what it has done before is lost with the connection.
    Kept,
}

impl Session {
    /// Whether a connection that nothing holds the session to is kept all the same.
    pub(super) fn parks(&self, link: &Link) -> bool {
        match (self.cluster.config.pool.mode, link.route.role) {
            (PoolMode::Session, NodeRole::Primary) => true,
            (PoolMode::Session, NodeRole::Replica | NodeRole::Unknown)
            | (PoolMode::Transaction, _) => false,
        }
    }

    /// Keeps a quiet connection outside a transaction until the session needs it again.
    pub(super) fn park(&mut self, link: Box<Link>) {
        if !link.was_parked() {
            let reason = PinReason::PoolMode;
            self.cluster.metrics.count_pin(reason);
            tracing::debug!(
                user = self.user.name,
                reason = reason.as_str(),
                "session keeps its connection"
            );
        }
        self.set_aside(link);
    }

    /// Keeps a quiet connection outside a transaction for what must run there.
    pub(super) fn set_aside(&mut self, mut link: Box<Link>) {
        self.worker
            .buffers
            .take_back(BufferSize::Server, link.server_buffer());
        link.park();
        self.parked = Some(link);
    }

    /// Keeps the connection of a segment that has ended, or gives it back.
    pub(super) fn keep_or_return(&mut self, mut link: Box<Link>, at: Instant) {
        // A read beside the connection that is kept has run on another one.
        let pin = self.pin.filter(|_| self.parked.is_none());
        let on_primary = link.route.role == NodeRole::Primary;
        let holds = |pin: Pin| pin.reads == Reads::Here || !on_primary;
        let keeps = if link.has_ended() {
            // Whose state is lost with the connection is told of it.
            pin.is_some() || self.parks(&link)
        } else {
            pin.is_some_and(holds) || !link.is_quiet()
        };
        if self.block.is_some() || keeps {
            self.link = Some(link);
            return;
        }
        self.leave_target(&mut link);
        self.state.proxy_portals.clear();
        if pin.is_some() {
            self.set_aside(link);
        } else if self.parks(&link) {
            self.park(link);
        } else {
            if link.names == Names::Client {
                link.taint();
            }
            self.worker
                .buffers
                .take_back(BufferSize::Server, link.server_buffer());
            self.spare = link.give_back(at);
        }
    }

    /// Has the next segment run on the connection that was set aside for a pinned session, unless it
    /// is a read that has nothing to do with what pins it.
    pub(super) fn take_up(&mut self, plan: &Plan, extent: Extent) {
        if self.awaiting(plan, extent).is_none() {
            return;
        }
        let Some(mut link) = self.parked.take() else {
            return;
        };
        let under_way = self.cluster.shared.under_way(link.route.node, None);
        link.unpark(link.route, link.incarnation, under_way);
        link.told = Arc::clone(&self.told);
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        self.link = Some(link);
    }

    /// The connection that was set aside for a pinned session, if the segment is to run there.
    pub(super) fn awaiting(&self, plan: &Plan, extent: Extent) -> Option<&Link> {
        self.pin?;
        let link = self.parked.as_deref().filter(|_| self.link.is_none())?;
        // What the client prepares or closes by a name is to be known there by that name.
        let by_name = link.names == Names::Client && extent.end != SegmentEnd::Query;
        let leaves = plan.needs == Needs::Nothing || self.may_leave(plan, extent);
        (by_name || !leaves).then_some(link)
    }

    /// Whether the segment consists of nothing but reads outside a block, and none of them can mean
    /// anything that the connection has.
    fn may_leave(&self, plan: &Plan, extent: Extent) -> bool {
        let whole = matches!(extent.end, SegmentEnd::Query | SegmentEnd::Sync);
        let mut statements = plan.texts.iter().flat_map(|text| text.statements.iter());
        whole
            && self.doubt.is_none()
            && self.block.is_none()
            && plan.needs == Needs::Node
            && plan.target(self.consistency(), Begun::No) == Target::Read
            && statements.all(|one| {
                one.transaction == TransactionControl::None && one.session == SessionEffect::None
            })
            && match self.pin.map(|pin| pin.reads) {
                Some(Reads::Anywhere) => true,
                Some(Reads::Uncoded) => self.is_apart(Held::Unnamed, plan, extent),
                Some(Reads::Apart) => self.is_apart(Held::Temporary(&self.held), plan, extent),
                Some(Reads::Here) | None => false,
            }
    }

    /// Whether nothing in the segment can mean what is held.
    fn is_apart(&self, held: Held<'_>, plan: &Plan, extent: Extent) -> bool {
        let catalog = self.catalog.as_ref().and_then(|kept| kept.latest());
        match (&plan.only_text, catalog) {
            (Some(text), Some(catalog)) => {
                let typed = extent.end != SegmentEnd::Query;
                text.is_apart_from(held, &catalog) && !(typed && self.has_odd_parameters(extent))
            }
            (None, _) | (_, None) => false,
        }
    }

    /// Whether the client has declared a parameter of a type of users, or whose values are names.
    fn has_odd_parameters(&self, extent: Extent) -> bool {
        let bytes = self.inbound.filled().get(..extent.length);
        !messages(bytes.unwrap_or_default()).all(|(kind, body)| match kind {
            tag::PARSE => Parse::read(body).is_ok_and(|parse| are_plain(parse.types)),
            tag::BIND => Bind::read(body).is_ok_and(|bind| {
                let earlier = if bind.statement.is_empty() {
                    self.state.unnamed.latest()
                } else {
                    self.state.statements.find(bind.statement)
                };
                // Else it is one of this segment.
                earlier.is_none_or(|statement| are_plain(&statement.types))
            }),
            _ => true,
        })
    }

    /// A connection for `route`: the parked one if the route leads to its node, else a leased one.
    ///
    /// # Errors
    /// When the session cannot go on, since another node is the primary now.
    pub(super) async fn connection_for(
        &mut self,
        route: Route,
        incarnation: Option<Incarnation>,
    ) -> Result<Result<Box<Link>, CheckoutError>, Failure> {
        if route.role == NodeRole::Replica || self.parked.is_none() {
            return Ok(self.open_link(route, incarnation).await);
        }
        match self.parked.take() {
            Some(mut link) if link.route.node == route.node => {
                let under_way = self
                    .cluster
                    .shared
                    .under_way(route.node, self.spilled.take());
                link.unpark(route, incarnation, under_way);
                link.told = Arc::clone(&self.told);
                Ok(Ok(link))
            }
            Some(_) | None => Err(Failure::Session(ProxyError::PrimaryChanged.into())),
        }
    }

    /// Passes on what the node of the parked connection sends unasked, until the client sends
    /// something.
    pub(super) async fn read_parked(&mut self) -> Result<(), SessionEnd> {
        self.link = self.parked.take();
        self.read_linked().await?;
        // Half a message has gone to the client: its other half comes before anything else.
        if self.link.as_deref().is_some_and(Link::is_quiet) {
            self.parked = self.link.take();
        }
        Ok(())
    }
}

impl Link {
    /// The session keeps the connection, and runs nothing on it for now.
    pub(super) fn park(&mut self) {
        self.under_way = None;
        self.keeping = Keeping::Kept;
    }

    /// The next statement runs here.
    pub(super) fn unpark(
        &mut self,
        route: Route,
        incarnation: Option<Incarnation>,
        under_way: UnderWay,
    ) {
        self.route = route;
        self.incarnation = incarnation;
        self.under_way = Some(under_way);
    }

    /// Whether the session has kept the connection from an earlier statement: it cannot go on with
    /// another one.
    pub(super) fn was_parked(&self) -> bool {
        self.keeping == Keeping::Kept
    }
}

/// Whether these are types of the server's with values that are no names. `types` is as on the wire.
fn are_plain(types: &[u8]) -> bool {
    let oids = types.get(2..).unwrap_or_default();
    oids.as_chunks::<4>()
        .0
        .iter()
        .all(|oid| is_plain_type(u32::from_be_bytes(*oid)))
}

/// Waits until the client has sent something, or the node of the parked connection has.
///
/// # Cancel safety
/// Nothing is read.
pub(super) async fn hear(
    client: &mut Socket,
    parked: Option<&mut Link>,
) -> Result<Heard, SessionEnd> {
    let by_client = |readable: io::Result<()>| match readable {
        Ok(()) => Ok(Heard::Client),
        Err(_) => Err(SessionEnd::Closed),
    };
    let Some(parked) = parked else {
        return by_client(client.readable().await);
    };
    tokio::select! {
        // A failure shows when the connection is read.
        _ = parked.lease.stream.readable() => Ok(Heard::Node),
        readable = client.readable() => by_client(readable),
    }
}
