//! `SHOW pgweir.token`, `SET pgweir.after` and `EXPLAIN ROUTE`: what needs a position of the primary, or
//! the whole session, is found out before the statement is answered.

use std::time::Instant;

use tokio::time::timeout;

use super::explain::Fact;
use super::plan::{Needs, Plan};
use super::{Session, now};
use crate::core::causality::positions::{PositionLog, Reached, SystemPosition};
use crate::core::causality::token::Token;
use crate::core::lsn::Lsn;
use crate::core::statement::{ProxyStatement, SessionEffect};
use crate::frontend::error::ProxyError;
use crate::limits::{POSITION_TIMEOUT, TOKENS_PER_SEGMENT};

/// What has been found out for the segment under way.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    /// The answer to `SHOW pgweir.token`.
    token: Option<Result<String, ProxyError>>,
    /// Tokens to be taken, and the instants that they stand for.
    after: Vec<(String, Result<Instant, ProxyError>)>,
    /// Statements that are to be explained, and the facts.
    explained: Vec<(String, Vec<Fact>)>,
}

impl Prepared {
    /// The session's token.
    ///
    /// # Errors
    /// When the statement was not sent alone, or no position was to be had.
    pub(super) fn token(&self) -> Result<String, ProxyError> {
        self.token.clone().unwrap_or(Err(ProxyError::Unsupported(
            "SHOW pgweir.token must be sent alone, not in a pipeline with other statements",
        )))
    }

    /// The instant as of which a replica must be fresh to have all that `token` covers.
    ///
    /// # Errors
    /// When the token is refused, or cannot be judged.
    pub(super) fn after(&self, token: &str) -> Result<Instant, ProxyError> {
        let found = self.after.iter().find(|(known, _)| known == token);
        found.map_or(Err(refused(token)), |(_, result)| result.clone())
    }

    /// The names and values of what decides about a statement.
    ///
    /// # Errors
    /// When more statements were sent together than are explained.
    pub(super) fn facts(&self, sql: &str) -> Result<Vec<(&str, &str)>, ProxyError> {
        let found = self.explained.iter().find(|(known, _)| known == sql);
        let (_, facts) = found.ok_or(ProxyError::Unsupported(
            "too many EXPLAIN ROUTE were sent together",
        ))?;
        Ok(facts
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect())
    }
}

impl Session {
    /// Finds out what the segment's statements about tokens need.
    pub(super) async fn prepare_tokens(&mut self, plan: &Plan) {
        let mut prepared = Prepared::default();
        let statements = plan.executed.iter().flat_map(|text| text.statements.iter());
        for statement in statements {
            let SessionEffect::Proxy(own) = &statement.session else {
                continue;
            };
            match own {
                ProxyStatement::Show { name } if name == "token" => {
                    if plan.needs == Needs::Nothing && prepared.token.is_none() {
                        prepared.token = Some(self.make_token().await);
                    }
                }
                ProxyStatement::Set { name, value } | ProxyStatement::SetLocal { name, value }
                    if name == "after" && prepared.after.len() < TOKENS_PER_SEGMENT =>
                {
                    let instant = self.take_token(value).await;
                    prepared.after.push((value.clone(), instant));
                }
                ProxyStatement::ExplainRoute { sql, .. } => {
                    let is_known = prepared.explained.iter().any(|(known, _)| known == sql);
                    if !is_known && prepared.explained.len() < TOKENS_PER_SEGMENT {
                        let facts = self.explain(sql);
                        prepared.explained.push((sql.clone(), facts));
                    }
                }
                ProxyStatement::Show { .. }
                | ProxyStatement::Set { .. }
                | ProxyStatement::SetLocal { .. }
                | ProxyStatement::Reset { .. } => {}
            }
        }
        self.state.tokens = prepared;
    }

    /// Takes a token of the startup packet.
    pub(super) async fn start_after(&mut self, value: &str) -> Result<(), ProxyError> {
        if !value.is_empty() {
            let instant = self.take_token(value).await?;
            self.state.guarantee.on_seen(instant);
        }
        Ok(())
    }

    /// A token of all that the session wrote or has seen.
    async fn make_token(&self) -> Result<String, ProxyError> {
        // What an open block has shown is not noted yet.
        let covers = match self.block {
            None => self.state.guarantee.covered_by(),
            Some(_) => Some(now()),
        };
        let world = &self.cluster.world;
        if let Some(covers) = covers {
            world.demand.ask(covers);
        }
        let hi = world.positions.wait_for(|log| match covers {
            Some(covers) => log.covering(covers),
            None => log.oldest(),
        });
        let hi = timeout(POSITION_TIMEOUT, hi).await;
        let hi = hi.map_err(|_| ProxyError::NoNodeAvailable)?;
        let token = Token {
            hi,
            lo: self.last_write_behind(hi),
        };
        Ok(self.cluster.shared.keys.tokens().sign(token))
    }

    /// A position of the same timeline that the session's last write ends behind; 0 if none is known.
    fn last_write_behind(&self, hi: SystemPosition) -> Lsn {
        let Some(arrived) = self.state.wrote_last else {
            return Lsn(0);
        };
        let before = |log: &PositionLog| log.before(arrived);
        match self.cluster.world.positions.look(before) {
            Some(lo) if (lo.system, lo.timeline) == (hi.system, hi.timeline) => lo.lsn,
            Some(_) | None => Lsn(0),
        }
    }

    /// The instant as of which a replica must be fresh to have all that the token covers.
    async fn take_token(&self, text: &str) -> Result<Instant, ProxyError> {
        let arrived = now();
        if text.is_empty() {
            return Ok(arrived);
        }
        let token = self.cluster.shared.keys.tokens().verify(text);
        let hi = token.ok_or_else(|| refused(text))?.hi;
        let world = &self.cluster.world;
        let judge = |log: &PositionLog| judge(log, hi, arrived);
        if let Some(judged) = world.positions.look(judge) {
            return judged.instant(text);
        }
        world.demand.ask(arrived);
        let judged = timeout(POSITION_TIMEOUT, world.positions.wait_for(judge)).await;
        match judged {
            Ok(judged) => judged.instant(text),
            // The primary was asked, and is still not on such a timeline.
            Err(_) if world.positions.look(PositionLog::newest_sent) >= Some(arrived) => {
                Err(refused(text))
            }
            Err(_) => Err(ProxyError::NoNodeAvailable),
        }
    }
}

/// What becomes of a token.
enum Judged {
    /// It is taken: a replica must be fresh as of this instant.
    Taken(Instant),
    Refused,
}

impl Judged {
    fn instant(self, text: &str) -> Result<Instant, ProxyError> {
        match self {
            Self::Taken(instant) => Ok(instant),
            Self::Refused => Err(refused(text)),
        }
    }
}

/// What becomes of a position that came at `arrived`; `None` if that cannot be said before another
/// sample.
fn judge(log: &PositionLog, position: SystemPosition, arrived: Instant) -> Option<Judged> {
    match log.reached(position) {
        Reached::By(instant) => Some(Judged::Taken(instant)),
        // What has survived is on the primary: whoever has what it has now has all of it.
        Reached::EarlierTimeline => Some(Judged::Taken(arrived)),
        Reached::OtherSystem => Some(Judged::Refused),
        Reached::NotYet if log.newest_sent() >= Some(arrived) => Some(Judged::Refused),
        // This process may be the last to learn of a promotion.
        Reached::NotYet | Reached::LaterTimeline | Reached::Unknown => None,
    }
}

fn refused(text: &str) -> ProxyError {
    ProxyError::InvalidSetting {
        name: "pgweir.after".to_owned(),
        value: text.chars().take(100).collect(),
        allowed: "a token of this cluster, as SHOW pgweir.token gives it".into(),
    }
}
