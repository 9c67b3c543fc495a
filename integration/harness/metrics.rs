//! Reading `/metrics`.

use std::collections::BTreeMap;

/// The samples of one scrape: name with labels as written, and value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
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
