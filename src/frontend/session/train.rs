//! Several segments that arrived together and go to one node in one write.
//!
//! A client that pipelines with a Sync behind each statement would else wait a round trip for each.
//! Only segments that leave nothing behind are coupled, so that what one of them does is not needed to
//! judge the next. On a replica each answer is held back until it has a result, as for a segment alone:
//! what has been answered stays answered, what has not is served anew.

use std::task::Poll;

use super::link::Link;
use super::plan::Plan;
use super::serve::Extent;
use super::{Session, SessionTexts};
use crate::core::segment::may_be_coupled;
use crate::core::snapshot::NodeRole;
use crate::limits::SEGMENT_BYTES;
use crate::protocol::segment::{Segment, SegmentEnd, find_segment};

/// Most segments that are sent together.
const TRAIN_SEGMENTS: usize = 256;

/// How much of what a client has sent is looked at for that, in bytes.
const TRAIN_BYTES: usize = 64 * 1024;

impl Session {
    /// Adds the whole segments behind the first one that may go with it and have arrived.
    pub(super) async fn take_along(&mut self, plan: &mut Plan, extent: &mut Extent) {
        if self.inbound.is_full() {
            self.read_ahead().await;
        }
        self.couple(plan, extent);
        if !plan.ends.is_empty() {
            self.look_at_options(plan, extent.end);
        }
    }

    /// Reads what the client has sent already beyond a full buffer, so that it may go with the rest.
    async fn read_ahead(&mut self) {
        while self.inbound.is_full() && self.inbound.filled().len() < TRAIN_BYTES {
            self.inbound.grow(TRAIN_BYTES);
            let (inbound, client) = (&mut self.inbound, &mut self.client);
            let read =
                std::future::poll_fn(|context| Poll::Ready(inbound.poll_fill(client, context)));
            match read.await {
                Poll::Ready(Ok(1..)) => {}
                // The end of the stream shows when the client is waited for.
                Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => return,
            }
        }
    }

    /// Adds the whole segments behind the first one that may go with it.
    fn couple(&self, plan: &mut Plan, extent: &mut Extent) {
        let is_last = self.inbound.filled().len() <= extent.length;
        // A block on a replica may have to go on elsewhere.
        let is_still = match &self.link {
            Some(link) => link.route.role != NodeRole::Replica,
            // What follows a read that leaves a kept connection may belong there.
            None => self.block.is_none() && self.pin.is_none(),
        };
        if is_last || !is_still || extent.end != SegmentEnd::Sync || !may_couple(plan) {
            return;
        }
        while plan.ends.len() < TRAIN_SEGMENTS {
            let rest = self.inbound.filled().get(extent.length..);
            let rest = rest.unwrap_or_default();
            let found = find_segment(rest, &mut 0, self.max_message_bytes, SEGMENT_BYTES);
            let Ok(Segment::Whole(length, SegmentEnd::Sync)) = found else {
                return;
            };
            let bytes = rest.get(..length).unwrap_or_default();
            let mut texts = SessionTexts { session: self };
            let next = Plan::default().of(bytes, &self.state, &mut texts);
            let Some(next) = next.ok().filter(may_couple) else {
                return;
            };
            plan.append(next, extent.length);
            extent.length += length;
        }
    }

    /// Settles the segments of a train that have been answered; the others are served anew, the first
    /// of them alone.
    pub(super) fn settle_answered(&mut self, plan: &Plan, link: &Link, extent: Extent) {
        self.state.unnamed.settle(&link.scanner.unnamed);
        let answered = plan.ends.get(link.answered.saturating_sub(1));
        self.inbound
            .consume(answered.copied().unwrap_or(extent.length));
        let at = super::now();
        for _ in 0..link.answered {
            self.note_route(link, at.saturating_duration_since(extent.arrived));
        }
        let (node, role) = (link.route.node, link.route.role);
        if role == NodeRole::Primary {
            self.cluster.world.demand.wish(at);
        }
        let guarantee = &mut self.state.guarantee;
        guarantee.on_read_completed(node, role, link.incarnation, at);
    }
}

fn may_couple(plan: &Plan) -> bool {
    plan.is_plain() && plan.executed.iter().all(|text| may_be_coupled(text))
}
