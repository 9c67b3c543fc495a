//! Reading `/metrics`.

use std::collections::BTreeMap;

/// The samples of one scrape: name with labels as written, and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

/// How many reads went where. What the primary got for any reason but being a write or part of a
/// read-write transaction counts as a read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadsServed {
    /// Reads served by replicas.
    pub by_replicas: f64,
    /// Reads served by the primary.
    pub by_primary: f64,
}

impl ReadsServed {
    /// All of them.
    pub fn total(&self) -> f64 {
        self.by_replicas + self.by_primary
    }

    /// The share of replicas, from 0 to 1.
    pub fn share_of_replicas(&self) -> f64 {
        self.by_replicas / self.total()
    }
}

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect();
        Self { samples }
    }

    /// The sum of all samples of a metric that carry these labels; 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// The largest of them; `None` if there are none.
    pub fn max(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.matching(name, labels).reduce(f64::max)
    }

    /// Who served the reads since an `earlier` scrape.
    pub fn reads_since(&self, earlier: &Self) -> ReadsServed {
        let gained = |labels: &[(&str, &str)]| {
            let name = "pgweir_queries_total";
            self.sum(name, labels) - earlier.sum(name, labels)
        };
        let not_reads = ["write", "transaction"]
            .map(|reason| gained(&[("role", "primary"), ("reason", reason)]))
            .iter()
            .sum::<f64>();
        ReadsServed {
            by_replicas: gained(&[("role", "replica")]),
            by_primary: gained(&[("role", "primary")]) - not_reads,
        }
    }

    /// Every sample, for a failing assertion's message.
    pub fn samples(&self) -> &BTreeMap<String, f64> {
        &self.samples
    }

    fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        self.samples.iter().filter_map(move |(sample, value)| {
            let (base, rest) = sample.split_once('{').unwrap_or((sample, ""));
            let carried: Vec<&str> = rest.trim_end_matches('}').split(',').collect();
            (base == name && wanted.iter().all(|label| carried.contains(&label.as_str())))
                .then_some(*value)
        })
    }
}
