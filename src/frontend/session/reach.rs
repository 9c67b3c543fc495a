//! A connection where a request is routed to.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use super::attempt::Failure;
use super::link::Link;
use super::{Recent, Session, SessionEnd, now};
use crate::backend::cancel::CancelTarget;
use crate::backend::custom::NamesScope;
use crate::backend::home::Home;
use crate::backend::pool::{CheckoutError, Lease, Preference};
use crate::core::router::{Route, RouteRequest};
use crate::core::snapshot::{Incarnation, NodeRole};
use crate::frontend::error::ProxyError;
use crate::protocol::replies::Alias;

impl Session {
    /// A connection where `request` is routed to, unless the client cancels meanwhile.
    pub(super) async fn reach(
        &mut self,
        request: &RouteRequest,
        arrived: Instant,
    ) -> Result<(Route, Result<Box<Link>, CheckoutError>), Failure> {
        let waiter = self.registration.waiter();
        let mut reached = std::pin::pin!(async {
            let (route, incarnation) = self.choose(request, arrived).await?;
            Ok((route, self.connection_for(route, incarnation).await?))
        });
        // Hardly ever is there anything to wait for.
        let at_once = std::future::poll_fn(|context| Poll::Ready(reached.as_mut().poll(context)));
        if let Poll::Ready(reached) = at_once.await {
            return reached;
        }
        tokio::select! {
            reached = reached => reached,
            () = waiter.cancelled() => Err(Failure::Refused(ProxyError::QueryCanceled)),
        }
    }

    /// A connection for `request`, with the session's settings.
    pub(super) async fn link_for(
        &mut self,
        request: &RouteRequest,
        arrived: Instant,
    ) -> Result<Box<Link>, SessionEnd> {
        let end = |failure| match failure {
            Failure::Refused(error) => SessionEnd::Fatal(error),
            Failure::Session(end) => end,
        };
        let (route, incarnation) = self.choose(request, arrived).await.map_err(end)?;
        let opened = self.connection_for(route, incarnation).await;
        let mut link = opened
            .map_err(end)?
            .map_err(|error| SessionEnd::from_checkout(&error))?;
        let prepared = match self.provide_options(&mut link).await {
            Ok(()) => self.adjust(&mut link).await,
            lost @ Err(_) => lost,
        };
        if prepared.is_err() || self.begin_now(&mut link).await.is_err() {
            return Err(ProxyError::ConnectionLost.into());
        }
        let target = self.cancel_target(&link.lease);
        self.registration.set_target(target);
        Ok(link)
    }

    /// A leased connection.
    pub(super) async fn open_link(
        &mut self,
        route: Route,
        incarnation: Option<Incarnation>,
    ) -> Result<Box<Link>, CheckoutError> {
        let at = now();
        self.key.node = route.node;
        let recent = self.recent.iter().find(|recent| recent.node == route.node);
        let home = self.home.as_ref().map(Home::key);
        if self.wanted_options.scope != NamesScope::Any {
            self.wanted_options.of_all = self.learned.options.of_all(&self.key);
        }
        let preference = Preference {
            // It is nowhere else, and would be looked for in vain.
            home: home.filter(|_| route.role == NodeRole::Primary),
            last: recent.map(|recent| recent.connection),
            worker: self.worker.id,
            names: self.wanted_options.clone(),
        };
        let login = &self.user.login;
        let lease = match recent {
            Some(recent) => {
                let startup = &self.key.startup;
                recent
                    .pool
                    .checkout(startup, login, &preference, at)
                    .await?
            }
            None => {
                self.cluster
                    .pools
                    .checkout(&self.key, login, &preference, at)
                    .await?
            }
        };
        let spilled = self.spilled.take();
        let under_way = self.cluster.shared.under_way(route.node, spilled);
        let memory = std::mem::take(&mut self.spare);
        let mut link = Box::new(Link::new(lease, route, incarnation, under_way, memory));
        link.told = Arc::clone(&self.told);
        link.scanner.alias = Alias::of(link.lease.process_id, self.registration.process_id());
        Ok(link)
    }

    /// How to cancel what runs on the leased connection; remembered, as the session comes back to it.
    pub(super) fn cancel_target(&mut self, lease: &Lease) -> Arc<CancelTarget> {
        let recent = self
            .recent
            .iter_mut()
            .find(|recent| recent.node == lease.node);
        if let Some(recent) = recent {
            if recent.connection != lease.id {
                recent.connection = lease.id;
                recent.target = Arc::new(CancelTarget::from(&**lease));
            }
            return Arc::clone(&recent.target);
        }
        let target = Arc::new(CancelTarget::from(&**lease));
        self.recent.push(Recent {
            pool: lease.pool(),
            node: lease.node,
            connection: lease.id,
            target: Arc::clone(&target),
        });
        target
    }
}
