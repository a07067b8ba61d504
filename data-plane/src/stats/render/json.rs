//! `/stats?format=json`: Envoy's shape, histograms last and only those with values.

use super::{Groups, Kinds, PIECE_BYTES, QUANTILES, Query, Sample};
use crate::stats::{HistogramSnapshot, Registry};
use bytes::Bytes;
use serde_json::{Value, json};

pub(super) struct Json {
    readouts: Vec<(String, String)>,
    groups: Groups,
    query: Query,
    done: usize,
    state: State,
    comma: bool,
}

#[derive(PartialEq)]
enum State {
    Start,
    Numbers,
    Histograms,
    End,
}

impl Json {
    pub(super) fn new(registry: &Registry, query: Query) -> Self {
        let mut readouts = Vec::new();
        if query.wants(Kinds::TextReadouts) {
            readouts = registry.readouts();
            readouts.retain(|(name, text)| query.passes(name) && !(query.used_only && text.is_empty()));
        }
        let groups = Groups::new(registry);
        Self { readouts, groups, query, done: 0, state: State::Start, comma: false }
    }

    fn item(&mut self, out: &mut String, value: &Value) {
        if self.comma {
            out.push(',');
        }
        self.comma = true;
        out.push_str(&value.to_string());
    }

    fn start(&mut self, out: &mut String) {
        out.push_str("{\"stats\":[");
        for (name, value) in std::mem::take(&mut self.readouts) {
            self.item(out, &json!({ "name": name, "value": value }));
        }
        self.state = State::Numbers;
    }

    fn numbers(&mut self, out: &mut String) {
        if self.done == self.groups.runs.len() {
            self.done = 0;
            self.state = State::Histograms;
            let wanted = self.query.wants(Kinds::Histograms);
            if wanted {
                if self.comma {
                    out.push(',');
                }
                self.comma = false;
                let quantiles = QUANTILES.map(|q| q * 100.0);
                let quantiles = json!(quantiles);
                out.push_str("{\"histograms\":{\"supported_quantiles\":");
                out.push_str(&quantiles.to_string());
                out.push_str(",\"computed_quantiles\":[");
            }
            return;
        }
        for (name, value) in self.groups.numbers(self.done, &self.query) {
            self.item(out, &json!({ "name": name, "value": value }));
        }
        self.done += 1;
    }

    fn histograms(&mut self, out: &mut String) {
        if self.done == self.groups.runs.len() {
            out.push_str(if self.query.wants(Kinds::Histograms) { "]}}]}" } else { "]}" });
            self.state = State::End;
            return;
        }
        for Sample { name, total, interval } in self.groups.histograms(self.done, &self.query) {
            if total.count > 0 {
                let value = |s: &HistogramSnapshot, q: f64| Some(s.quantile(q)).filter(|v| !v.is_nan());
                let values: Vec<_> = QUANTILES
                    .iter()
                    .map(|q| json!({ "interval": value(&interval, *q), "cumulative": value(&total, *q) }))
                    .collect();
                self.item(out, &json!({ "name": name, "values": values }));
            }
        }
        self.done += 1;
    }
}

impl Iterator for Json {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.len() < PIECE_BYTES {
            match self.state {
                State::Start => self.start(&mut out),
                State::Numbers => self.numbers(&mut out),
                State::Histograms => self.histograms(&mut out),
                State::End => break,
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}
