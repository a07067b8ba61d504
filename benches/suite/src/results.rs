//! Figures: samples by round and peer, their medians, and ratios to Envoy in the same round.

use clap::ValueEnum;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    Portolan,
    Envoy,
    Nginx,
    Haproxy,
}

impl Peer {
    /// As its makers write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portolan => "portolan-proxy",
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }

    /// What its files are called.
    pub(crate) fn file_name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// What belongs together, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    Work,
    Rates,
    Throughput,
    Connections,
    Routing,
    Features,
    Collectors,
    Clusters,
    Tables,
    Updates,
    Workers,
    Process,
}

impl Group {
    pub(crate) const ALL: [Self; 12] = [
        Self::Work,
        Self::Rates,
        Self::Throughput,
        Self::Connections,
        Self::Routing,
        Self::Features,
        Self::Collectors,
        Self::Clusters,
        Self::Tables,
        Self::Updates,
        Self::Workers,
        Self::Process,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Work => "CPU time of the proxy for one request",
            Self::Rates => "Fixed rates, without coordinated omission",
            Self::Throughput => "Throughput, capped by the core that load and backend share",
            Self::Connections => "Connections",
            Self::Routing => "Routing tables",
            Self::Features => "What a feature adds",
            Self::Collectors => "Spans of 1 % for a collector that fails",
            Self::Clusters => "Clusters of 4 endpoints",
            Self::Tables => "What tables cost",
            Self::Updates => "Updates under load",
            Self::Workers => "Two workers, on two cores that load and backend share",
            Self::Process => "The process",
        }
    }
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// A measurement of one peer.
#[derive(Clone, Copy, Debug)]
struct Sample {
    peer: Peer,
    round: usize,
    value: f64,
}

/// One row of the report.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) group: Group,
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    samples: Vec<Sample>,
}

/// A peer's samples in short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Median over the rounds of the ratio to Envoy in the same round.
    pub(crate) to_envoy: Option<f64>,
}

impl Figure {
    fn value(&self, peer: Peer, round: usize) -> Option<f64> {
        self.samples.iter().find(|s| s.peer == peer && s.round == round).map(|s| s.value)
    }

    /// `None` when the peer was not measured.
    pub(crate) fn of(&self, peer: Peer) -> Option<Summary> {
        let own: Vec<&Sample> = self.samples.iter().filter(|s| s.peer == peer).collect();
        let values: Vec<f64> = own.iter().map(|s| s.value).collect();
        let ratios = own.iter().filter_map(|s| {
            let envoy = self.value(Peer::Envoy, s.round)?;
            (envoy > 0.0 && s.value >= 0.0).then(|| s.value / envoy)
        });
        Some(Summary {
            median: median(values.iter().copied())?,
            min: values.iter().copied().reduce(f64::min)?,
            max: values.iter().copied().reduce(f64::max)?,
            to_envoy: median(ratios),
        })
    }

    /// Whether `a` is better than `b`.
    pub(crate) fn beats(&self, a: f64, b: f64) -> bool {
        match self.better {
            Better::Lower => a < b,
            Better::Higher => a > b,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len().checked_sub(1)? / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { (values[middle] + values[middle + 1]) / 2.0 })
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(value: usize) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// All figures, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) figures: Vec<Figure>,
    /// What went wrong on the way and must be known to whoever reads the figures.
    pub(crate) remarks: Vec<String>,
}

/// What a value is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) group: Group,
    pub(crate) what: &'a str,
    pub(crate) unit: &'static str,
}

impl Results {
    /// Adds a value of which less is better.
    pub(crate) fn add(&mut self, row: Row<'_>, peer: Peer, round: usize, value: f64) {
        self.insert(row, Better::Lower, Sample { peer, round, value });
    }

    /// Adds a value of which more is better.
    pub(crate) fn add_higher(&mut self, row: Row<'_>, peer: Peer, round: usize, value: f64) {
        self.insert(row, Better::Higher, Sample { peer, round, value });
    }

    fn insert(&mut self, row: Row<'_>, better: Better, sample: Sample) {
        let Row { group, what, unit } = row;
        let same = |f: &&mut Figure| f.group == group && f.what == what && f.unit == unit;
        if let Some(figure) = self.figures.iter_mut().find(same) {
            figure.samples.push(sample);
        } else {
            self.figures.push(Figure { group, what: what.to_owned(), unit, better, samples: vec![sample] });
        }
    }

    /// The figures of a group.
    pub(crate) fn group(&self, group: Group) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| figure.group == group)
    }

    /// One figure.
    pub(crate) fn find(&self, group: Group, what: &str, unit: &str) -> Option<&Figure> {
        self.group(group).find(|figure| figure.what == what && figure.unit == unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row<'static> = Row { group: Group::Work, what: "w", unit: "us" };

    #[test]
    fn ratios_are_taken_within_a_round_before_their_median() {
        let mut results = Results::default();
        for (round, (ours, envoy)) in [(10., 20.), (30., 40.), (9., 30.)].into_iter().enumerate() {
            results.add(ROW, Peer::Portolan, round, ours);
            results.add(ROW, Peer::Envoy, round, envoy);
        }
        let ours = results.figures[0].of(Peer::Portolan);
        let expected = Summary { median: 10., min: 9., max: 30., to_envoy: Some(0.5) };
        assert_eq!(ours, Some(expected), "and not 10 / 30, the ratio of the medians");
        assert_eq!(results.figures[0].of(Peer::Nginx), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median([4., 1., 3., 2.].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
