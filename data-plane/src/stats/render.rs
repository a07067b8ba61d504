//! Metrics as text, a piece at a time: what a large registry costs is one piece and its list of blocks.

mod json;
mod prometheus;
mod text;

pub use prometheus::BUCKETS;

use super::block::Block;
use super::histogram::HistogramSnapshot;
use super::registry::{Registry, Scope};
use bytes::Bytes;
use regex::Regex;
use std::ops::Range;
use std::sync::Arc;

/// A piece is handed out once it is this long.
const PIECE_BYTES: usize = 32 * 1024;

/// The quantiles that Envoy shows.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// Which form metrics are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `name: value` lines.
    #[default]
    Text,
    /// Envoy's JSON.
    Json,
    /// Prometheus' text format.
    Prometheus,
}

/// Which kinds are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kinds {
    /// Every kind.
    #[default]
    All,
    /// Counters.
    Counters,
    /// Gauges.
    Gauges,
    /// Histograms.
    Histograms,
    /// Text readouts.
    TextReadouts,
}

/// Which metrics are written.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Found anywhere in the name.
    pub filter: Option<Regex>,
    /// Leave out counters and gauges at zero and histograms without values.
    pub used_only: bool,
    /// Kinds.
    pub kinds: Kinds,
    /// Show text readouts to Prometheus as gauges with a `text_value` label.
    pub text_readouts: bool,
}

impl Query {
    fn wants(&self, kind: Kinds) -> bool {
        self.kinds == Kinds::All || self.kinds == kind
    }

    fn passes(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.is_match(name))
    }
}

impl Registry {
    /// Metrics in text form, as pieces of about 32 KiB, each made when asked for.
    pub fn render(&self, format: Format, query: Query) -> Box<dyn Iterator<Item = Bytes>> {
        match format {
            Format::Text => Box::new(text::Text::new(self, query)),
            Format::Json => Box::new(json::Json::new(self, query)),
            Format::Prometheus => Box::new(prometheus::Prometheus::new(self, query)),
        }
    }
}

/// Blocks by prefix, and the runs of blocks whose names can interleave when sorted: a prefix and those below it.
struct Groups {
    blocks: Vec<(Scope, Arc<Block>)>,
    runs: Vec<Range<usize>>,
}

/// A histogram since the start and in its last interval.
struct Sample {
    name: String,
    total: HistogramSnapshot,
    interval: HistogramSnapshot,
}

impl Groups {
    fn new(registry: &Registry) -> Self {
        let blocks = registry.blocks();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (i, (scope, _)) in blocks.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if scope.prefix.starts_with(&*blocks[run.start].0.prefix) => run.end = i + 1,
                _ => runs.push(i..i + 1),
            }
        }
        Self { blocks, runs }
    }

    /// Counters and gauges of a run, by full name; equal names are summed.
    fn numbers(&self, run: usize, query: &Query) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        for (scope, block) in &self.blocks[self.runs[run].clone()] {
            let mut take = |name: &str, value: u64| {
                let name = format!("{}{name}", scope.prefix);
                if query.passes(&name) {
                    out.push((name, value));
                }
            };
            if query.wants(Kinds::Counters) {
                block.counter_names.iter().enumerate().for_each(|(i, n)| take(n, block.counter_value(i)));
            }
            if query.wants(Kinds::Gauges) {
                block.gauge_names.iter().enumerate().for_each(|(i, n)| take(n, block.gauge_value(i)));
            }
        }
        out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        out.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
        out.retain(|(_, value)| !query.used_only || *value > 0);
        out
    }

    /// Histograms of a run, by full name; equal names are merged.
    fn histograms(&self, run: usize, query: &Query) -> Vec<Sample> {
        let mut out: Vec<Sample> = Vec::new();
        if !query.wants(Kinds::Histograms) {
            return out;
        }
        for (scope, block) in &self.blocks[self.runs[run].clone()] {
            for (cell, name) in block.histograms.iter().zip(block.histogram_names.iter()) {
                let name = format!("{}{name}", scope.prefix);
                if query.passes(&name) {
                    out.push(Sample { name, total: cell.snapshot(), interval: cell.interval() });
                }
            }
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.dedup_by(|next, kept| {
            let same = next.name == kept.name;
            if same {
                kept.total.merge(&next.total);
                kept.interval.merge(&next.interval);
            }
            same
        });
        out.retain(|sample| !query.used_only || sample.total.count > 0);
        out
    }
}

/// A float as C's `%g` writes it: six significant digits, no trailing zeros, `nan` for not a number.
fn general(value: f64) -> String {
    const DIGITS: i32 = 6;
    if value.is_nan() {
        return "nan".into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-4..DIGITS).contains(&exponent) {
        let fixed = format!("{value:.*}", (DIGITS - 1 - exponent) as usize);
        let trimmed =
            if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.') } else { &fixed };
        return trimmed.into();
    }
    let mantissa = format!("{:.*}", DIGITS as usize - 1, value / 10_f64.powi(exponent));
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", mantissa.trim_end_matches('0').trim_end_matches('.'), exponent.abs())
}

#[cfg(test)]
mod tests;
