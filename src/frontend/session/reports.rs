//! `ParameterStatus`: the client is told of its own endpoint, not of the connections behind it.
//!
//! A node reports a parameter when its value on that connection changes. The client has changed
//! connections since, or pgweir has given this one other settings; so what the client is told is the
//! difference between what the connection has and what the client knows, before `ReadyForQuery`, where
//! PostgreSQL reports too (`ReportChangedGUCOptions`, `src/backend/utils/misc/guc.c`).

use super::link::Link;
use crate::backend::connection::{parameter_status, with_parameter};
use crate::core::snapshot::NodeRole;
use crate::frontend::ends;
use crate::protocol::backend::TransactionStatus;
use crate::protocol::replies::{Compare, Outcome, Span};

/// One endpoint stands for the cluster, and it is never in recovery.
const ABOUT_THE_NODE: &str = "in_hot_standby";

impl Link {
    /// Whether the session's settings went with the transaction in which they were repeated: the
    /// connection is again as somebody else has left it.
    fn took_settings_back(&self, status: TransactionStatus) -> bool {
        let outcome = self.scanner.outcome;
        let undone = outcome.has(Outcome::ERROR) || outcome.has(Outcome::ROLLED_BACK);
        self.replayed.is_some() && status == TransactionStatus::Idle && undone
    }

    /// Takes in what the node has reported to a query of pgweir's own. The client is told when it gets
    /// `ReadyForQuery` from this connection, if it ever does; whoever uses the connection then must know.
    pub(super) fn note_own_reports(&mut self) {
        if !self.scanner.reports.is_empty() {
            self.take_in_reports();
            self.scanner.compare = Compare::Yes;
        }
    }

    /// Notes what the node has reported.
    pub(super) fn take_in_reports(&mut self) {
        for body in self.scanner.reports.drain(..) {
            if let Some((name, value)) = parameter_status(&body) {
                self.lease.parameters = with_parameter(&self.lease.parameters, name, value);
            }
        }
    }

    /// Takes in what the node has reported, and tells the client what is new to it. `status` is what
    /// the next `ReadyForQuery` says.
    pub(super) fn report(&mut self, status: TransactionStatus) {
        self.take_in_reports();
        // A replica's own defaults are none of the client's business, and no statement that sets
        // something runs there.
        if self.route.role == NodeRole::Replica || self.took_settings_back(status) {
            return;
        }
        let mut news = Vec::new();
        for (name, value) in &*self.lease.parameters {
            let known = self.told.iter().find(|(told, _)| told == name);
            if name != ABOUT_THE_NODE && known.is_none_or(|(_, told)| told != value) {
                news.push((name.clone(), value.clone()));
            }
        }
        if !news.is_empty() {
            // The node reports no parameter that code has set again as it was before pgweir set it.
            self.scanner.outcome.add(Outcome::REPORTED);
        }
        for (name, value) in news {
            let mut message = Vec::new();
            ends::write_parameter(&mut message, &name, &value);
            self.spans_for_client().push(Span::Own(message.into()));
            self.told = with_parameter(&self.told, name, value);
        }
    }
}
