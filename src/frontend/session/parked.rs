//! The primary connection that a session keeps between its statements, though no transaction and
//! nothing on it holds the session there (`pool.mode: session`).
//!
//! Unlike a connection that holds the session ([`Session::link`]), a parked one takes no part in
//! routing: what may run on a replica goes there meanwhile, and whatever is routed to the primary
//! finds its way back here. It is never given back: it is closed when the session ends, and when it
//! is lost the session is lost with it, as with PostgreSQL itself.
//!
//! Must not be used for two statements at once: it is taken out for each.

use std::io;
use std::sync::Arc;

use super::attempt::Failure;
use super::link::Link;
use super::{Session, SessionEnd};
use crate::backend::pool::CheckoutError;
use crate::config::PoolMode;
use crate::core::router::Route;
use crate::core::snapshot::{Incarnation, NodeRole};
use crate::core::statement::PinReason;
use crate::frontend::buffers::BufferSize;
use crate::frontend::cluster::UnderWay;
use crate::frontend::error::ProxyError;
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
    pub(super) fn park(&mut self, mut link: Box<Link>) {
        if !link.was_parked() {
            let reason = PinReason::PoolMode;
            self.cluster.metrics.count_pin(reason);
            tracing::debug!(
                user = self.user.name,
                reason = reason.as_str(),
                "session keeps its connection"
            );
        }
        self.worker
            .buffers
            .take_back(BufferSize::Server, link.server_buffer());
        link.park();
        self.parked = Some(link);
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
