//! Tells a client what its session is like: the node's parameters, its cancel key, "ready".

use super::state::Backslashes;
use super::{Session, SessionEnd, now, own};
use crate::core::guarantee::{Floor, SessionGuarantee};
use crate::core::router::{Decision, NodeSet, Patience, RouteReason, RouteRequest, Spill, Target};
use crate::core::snapshot::Evidence;
use crate::frontend::ends;
use crate::frontend::error::ProxyError;
use crate::limits::HOME_TIMEOUT;
use crate::protocol::backend::TransactionStatus;
use crate::world::DatabaseCatalog;

impl Session {
    /// Sends everything between `AuthenticationOk` and the first `ReadyForQuery`.
    pub(super) async fn greet(&mut self) -> Result<(), SessionEnd> {
        for (name, value) in std::mem::take(&mut self.startup_settings) {
            let name = name.strip_prefix("pgweir.").unwrap_or(&name);
            if name == "after" {
                Box::pin(self.start_after(&value)).await?;
            }
            self.state.set_at_start(name, &value)?;
        }
        let parameters = self.parameters().await?;
        // Not before a node has shown that the database exists: there is room for a number of them.
        self.catalog = self.cluster.world.catalogs.of(&self.key.database);
        self.state.occupant = self
            .catalog
            .as_ref()
            .map(|catalog| catalog.occupancy.enter());
        // Its client may have written that in an earlier session.
        let last_write = self
            .catalog
            .as_deref()
            .and_then(DatabaseCatalog::last_write);
        self.state.guarantee = SessionGuarantee::after(last_write);
        self.told = std::sync::Arc::clone(&parameters);
        self.state.backslashes = Backslashes::under(&self.told);
        // Boxed: every idle session would keep room for it.
        Box::pin(self.settle_in()).await;
        let mut out = Vec::new();
        for (name, value) in parameters.iter() {
            // One endpoint stands for the cluster, and it takes writes.
            let value = if name == "in_hot_standby" {
                "off"
            } else {
                value.as_str()
            };
            ends::write_parameter(&mut out, name, value);
        }
        ends::write_cancel_key(&mut out, &self.registration);
        out.extend_from_slice(&own::ready(TransactionStatus::Idle));
        self.write_client(&out).await
    }

    /// What a connection with the session's startup parameters reports: the newest one's, or that of
    /// one opened now, to the primary if there is one.
    async fn parameters(
        &mut self,
    ) -> Result<crate::backend::connection::ReportedParameters, SessionEnd> {
        let pools = &self.cluster.pools;
        let key = &self.key;
        let known = pools.startup_parameters(&key.database, &key.user, &key.startup);
        if let Some(known) = known {
            self.note_string_syntax(&known);
            return Ok(known);
        }
        let primary = request(Target::Primary(RouteReason::Write));
        let mut link = match self.link_for(&primary, now()).await {
            Err(SessionEnd::Fatal(ProxyError::NoNodeAvailable)) => {
                self.link_for(&request(Target::Read), now()).await?
            }
            opened => opened?,
        };
        let parameters = link.lease.parameters.clone();
        self.leave_target(&mut link);
        self.spare = link.give_back(now());
        self.note_string_syntax(&parameters);
        Ok(parameters)
    }

    /// Makes a connection to the primary the session's home, whose process id the client is told:
    /// that is what `pg_backend_pid()` shows as long as the session need not move. Without one the id
    /// is invented; the login does not fail for it.
    async fn settle_in(&mut self) {
        let primary = request(Target::Primary(RouteReason::Write));
        let Decision::Go(route) = self.decide(&primary, now(), Patience::Exhausted) else {
            return;
        };
        self.key.node = route.node;
        let (pools, deadline) = (&self.cluster.pools, now() + HOME_TIMEOUT);
        let (login, worker) = (&self.user.login, self.worker.id);
        self.home = pools.home(&self.key, login, worker, deadline).await;
        if let Some(home) = &self.home {
            self.registration.take_process_id(home.process_id());
        }
    }

    /// The role or database may default to the old string syntax, which the parser does not read.
    fn note_string_syntax(&mut self, parameters: &[(String, String)]) {
        let old = parameters
            .iter()
            .any(|(name, value)| name == "standard_conforming_strings" && value != "on");
        if old {
            self.state.old_strings = super::state::OldStrings::ByDefault;
        }
    }
}

/// For a connection as such: nothing must have been seen on it.
fn request(target: Target) -> RouteRequest {
    RouteRequest {
        target,
        floor: Floor {
            evidence: Evidence::Stated,
            ..Floor::default()
        },
        excluded: NodeSet::default(),
        spill: Spill::default(),
    }
}
