//! What `pgweir check --connect` says of a service that hides its WAL positions.

use super::Outcome;
use crate::config::{ClusterConfig, MOVING_ENDPOINT};
use crate::control::probe::{Answer, ProbeReport};
use crate::core::freshness::service::{ReaderSample, Stated, WriterSample};

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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::{ProcessEnvironment, parse};
    use crate::core::freshness::observer::ServerIdentity;
    use crate::core::freshness::service::{InstanceNote, InstanceRole};

    fn report(answer: Answer) -> ProbeReport {
        ProbeReport {
            server_version: "15.4".to_owned(),
            identity: ServerIdentity::Hidden {
                started_at_unix_micros: 1,
            },
            answer,
            missing_privileges: Vec::new(),
        }
    }

    /// What is said of a writer and a reader at `host`.
    fn said_of(host: &str) -> Option<String> {
        let text = format!(
            "clusters: {{ main: {{ nodes: [{{ host: a, port: 1 }}, {{ host: {host}, port: 1 }}] }} }}\n\
             consistency: {{ read_after_write: window }}\n\
             users: [{{ name: pgweir, password: p }}]\n"
        );
        let config = parse(&text, "test.yaml", &ProcessEnvironment).unwrap();
        let sent = Instant::now();
        let note = |server: &str, role, measured: Option<f64>| InstanceNote {
            server: server.into(),
            role,
            lag_millis: measured,
            age_millis: measured,
        };
        let writer = Answer::Writer(WriterSample {
            sent,
            server: "a".into(),
            notes: vec![
                note("a", InstanceRole::Writer, None),
                note("b", InstanceRole::Reader, Some(20.0)),
            ],
        });
        let reader = Answer::Reader(ReaderSample {
            sent,
            server: "b".into(),
        });
        fault(
            &config.clusters[0],
            &[Ok(report(writer)), Ok(report(reader))],
        )
    }

    #[test]
    fn an_endpoint_of_changing_instances_is_refused_whatever_its_domain() {
        assert_eq!(said_of("shop-2.abc.example"), None);
        let refused = said_of("shop.cluster-ro-abc.example").unwrap();
        assert!(refused.contains("leads to changing instances"), "{refused}");
    }
}
