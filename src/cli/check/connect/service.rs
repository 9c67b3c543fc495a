//! What `pgweir check --connect` says of a service that hides its WAL positions.

use super::Outcome;
use crate::config::ClusterConfig;
use crate::control::probe::{Answer, ProbeReport};
use crate::core::freshness::service::{ReaderSample, Stated, WriterSample};

/// Part of the name of every endpoint of Amazon Aurora that is not one instance's own.
const MOVING_ENDPOINT: &str = ".cluster-";

/// What the writers tell.
pub(super) fn writers(outcomes: &[Outcome]) -> impl Iterator<Item = &WriterSample> {
    let answers = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
    answers.filter_map(|report| match &report.answer {
        Answer::Writer(sample) => Some(sample),
        Answer::Primary(_) | Answer::Replica(..) | Answer::Reader(_) => None,
    })
}

/// What the table has for the lag of a reader; `None` for anything else.
pub(super) fn cell(outcome: &Outcome, outcomes: &[Outcome]) -> Option<String> {
    let reader = reader(outcome)?;
    Some(match stated(reader, outcomes) {
        Some(Stated { lag, age }) => format!("{} ms", (lag + age).as_millis()),
        None => "unknown".to_owned(),
    })
}

fn reader(outcome: &Outcome) -> Option<&ReaderSample> {
    match &outcome.as_ref().ok()?.answer {
        Answer::Reader(reader) => Some(reader),
        Answer::Primary(_) | Answer::Replica(..) | Answer::Writer(_) => None,
    }
}

/// What the one writer says of the reader.
fn stated(reader: &ReaderSample, outcomes: &[Outcome]) -> Option<Stated> {
    let mut writers = writers(outcomes);
    let writer = writers.next().filter(|_| writers.next().is_none())?;
    writer.stated_of(&reader.server)
}

/// Why readers of the service cannot serve.
pub(super) fn fault(cluster: &ClusterConfig, outcomes: &[Outcome]) -> Option<String> {
    let answers = || outcomes.iter().filter_map(|outcome| outcome.as_ref().ok());
    if !answers().any(is_of_service) {
        return None;
    }
    if !cluster.policies.consistency.relies_on_statements() {
        return Some(
            "it hides its WAL positions, so no replica can be proved to have a write: every read goes to \
             the primary. `consistency.read_after_write: window`, without `consistency.max_staleness`, \
             works with what aurora_replica_status() states"
                .to_owned(),
        );
    }
    let nodes = cluster.nodes.iter().zip(outcomes);
    let mut of_service = nodes.filter(|(_, outcome)| outcome.as_ref().is_ok_and(is_of_service));
    if let Some((node, _)) = of_service.find(|(node, _)| node.host.contains(MOVING_ENDPOINT)) {
        return Some(format!(
            "node {} is an endpoint that leads to changing instances: what is measured on one would be \
             taken for another. Name the endpoint of each instance",
            node.name
        ));
    }
    let readers = outcomes.iter().filter_map(reader);
    let unknown = readers.filter(|reader| stated(reader, outcomes).is_none());
    match unknown.count() {
        0 => None,
        count => Some(format!(
            "aurora_replica_status() on its primary states no lag of {count} of its replicas, which serve \
             no reads"
        )),
    }
}

fn is_of_service(report: &ProbeReport) -> bool {
    match &report.answer {
        Answer::Writer(_) | Answer::Reader(_) => true,
        Answer::Primary(_) | Answer::Replica(..) => false,
    }
}
