//! `/stats`: text readouts, then counters and gauges, then histograms, each by name.

use super::{Groups, Kinds, PIECE_BYTES, QUANTILES, Query, Sample, general};
use crate::stats::Registry;
use bytes::Bytes;
use std::fmt::Write;

pub(super) struct Text {
    readouts: Vec<(String, String)>,
    groups: Groups,
    query: Query,
    /// Runs of counters and gauges done, then runs of histograms.
    done: usize,
}

impl Text {
    pub(super) fn new(registry: &Registry, query: Query) -> Self {
        let mut readouts = Vec::new();
        if query.wants(Kinds::TextReadouts) {
            readouts = registry.readouts();
            readouts.retain(|(name, text)| query.passes(name) && !(query.used_only && text.is_empty()));
        }
        Self { readouts, groups: Groups::new(registry), query, done: 0 }
    }

    fn write(&mut self, out: &mut String) {
        let runs = self.groups.runs.len();
        if self.done < runs {
            for (name, value) in self.groups.numbers(self.done, &self.query) {
                let _ = writeln!(out, "{name}: {value}");
            }
        } else {
            for Sample { name, total, interval } in self.groups.histograms(self.done - runs, &self.query) {
                let _ = write!(out, "{name}: ");
                if total.count == 0 {
                    out.push_str("No recorded values");
                }
                for (i, q) in QUANTILES.iter().enumerate().filter(|_| total.count > 0) {
                    let gap = if i > 0 { " " } else { "" };
                    let (interval, total) = (general(interval.quantile(*q)), general(total.quantile(*q)));
                    let _ = write!(out, "{gap}P{}({interval},{total})", general(q * 100.0));
                }
                out.push('\n');
            }
        }
        self.done += 1;
    }
}

impl Iterator for Text {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        for (name, text) in std::mem::take(&mut self.readouts) {
            let _ = writeln!(out, "{name}: \"{text}\"");
        }
        while out.len() < PIECE_BYTES && self.done < 2 * self.groups.runs.len() {
            self.write(&mut out);
        }
        (!out.is_empty()).then(|| out.into())
    }
}
