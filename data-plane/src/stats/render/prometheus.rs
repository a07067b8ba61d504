//! `/stats/prometheus`: samples grouped under one `# TYPE` line a family, tags taken out of names.
//!
//! Blocks of one shape (same tagless prefix and names) are listed once, so that what is held is a list of blocks
//! and one entry a family, not one a sample.

use super::{Kinds, PIECE_BYTES, Query};
use crate::stats::Registry;
use crate::stats::block::Block;
use crate::stats::histogram::HistogramSnapshot;
use crate::stats::registry::Scope;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Upper bounds of Envoy's default buckets.
pub const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric of all blocks of a shape.
struct Member {
    shape: usize,
    index: usize,
    /// A response code or class taken out of the name.
    tag: Option<(&'static str, String)>,
}

pub(super) struct Prometheus {
    blocks: Vec<(Scope, Arc<Block>)>,
    shapes: Vec<Vec<usize>>,
    families: std::vec::IntoIter<((Kind, String), Vec<Member>)>,
    current: Option<Family>,
    readouts: Vec<(String, String)>,
    fixed: String,
    query: Query,
}

/// A family being written.
struct Family {
    kind: Kind,
    name: String,
    /// Positions of blocks with their member, last first.
    left: Vec<(usize, usize)>,
    members: Vec<Member>,
    announced: bool,
}

impl Prometheus {
    pub(super) fn new(registry: &Registry, query: Query) -> Self {
        let blocks = registry.blocks();
        let mut shapes: Vec<Vec<usize>> = Vec::new();
        let mut by_shape = hashbrown::HashMap::new();
        let mut families: BTreeMap<(Kind, String), Vec<Member>> = BTreeMap::new();
        for (i, (scope, block)) in blocks.iter().enumerate() {
            let key = (&scope.tagless, &block.counter_names, &block.gauge_names, &block.histogram_names);
            let shape = *by_shape.entry(key).or_insert_with(|| {
                let shape = shapes.len();
                shapes.push(Vec::new());
                let kinds = [
                    (Kind::Counter, Kinds::Counters, &block.counter_names),
                    (Kind::Gauge, Kinds::Gauges, &block.gauge_names),
                    (Kind::Histogram, Kinds::Histograms, &block.histogram_names),
                ];
                for (kind, wanted, names) in kinds.into_iter().filter(|(_, wanted, _)| query.wants(*wanted)) {
                    let _ = wanted;
                    for (index, name) in names.iter().enumerate() {
                        let (name, tag) = without_code(name);
                        let family = family_name(&scope.tagless, &name);
                        families.entry((kind, family)).or_default().push(Member { shape, index, tag });
                    }
                }
                shape
            });
            shapes[shape].push(i);
        }
        drop(by_shape);
        let mut fixed = String::new();
        registry.fixed_tags().iter().for_each(|(name, value)| push_label(&mut fixed, name, value));
        let readouts = if query.text_readouts { registry.readouts() } else { Vec::new() };
        let families = families.into_iter().collect::<Vec<_>>().into_iter();
        Self { blocks, shapes, families, current: None, readouts, fixed, query }
    }

    fn open(&self, kind: Kind, name: String, members: Vec<Member>) -> Family {
        let mut left: Vec<(usize, usize)> = members
            .iter()
            .enumerate()
            .flat_map(|(m, member)| self.shapes[member.shape].iter().map(move |block| (*block, m)))
            .collect();
        // By prefix, as the blocks are, then by code; reversed, since pieces are popped.
        left.sort_by(|a, b| {
            let prefix = |i: usize| &self.blocks[i].0.prefix;
            prefix(b.0).cmp(prefix(a.0)).then_with(|| members[b.1].tag.cmp(&members[a.1].tag))
        });
        Family { kind, name, left, members, announced: false }
    }

    /// Writes the next sample of `family`, with all blocks that share its labels; false at the end.
    fn sample(&self, family: &mut Family, out: &mut String) -> bool {
        let Some((block, member)) = family.left.pop() else { return false };
        let (mut number, mut histogram) = (0, HistogramSnapshot::default());
        let mut add = |block: usize, member: &Member| {
            let block = &self.blocks[block].1;
            match family.kind {
                Kind::Counter => number += block.counter_value(member.index),
                Kind::Gauge => number += block.gauge_value(member.index),
                Kind::Histogram => histogram.merge(&block.histograms[member.index].snapshot()),
            }
        };
        let scope = &self.blocks[block].0;
        add(block, &family.members[member]);
        while let Some((other, m)) = family.left.last().copied() {
            let same = self.blocks[other].0.prefix == scope.prefix
                && family.members[m].tag == family.members[member].tag;
            if !same {
                break;
            }
            add(other, &family.members[m]);
            family.left.pop();
        }
        let unused = number == 0 && histogram.count == 0;
        if (self.query.used_only && unused) || !self.passes(scope, family, member) {
            return true;
        }
        if !family.announced {
            family.announced = true;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let _ = writeln!(out, "# TYPE {} {kind}", family.name);
        }
        let mut labels = self.fixed.clone();
        if let Some((name, value)) = &family.members[member].tag {
            push_label(&mut labels, name, value);
        }
        scope.tags.iter().for_each(|(name, value)| push_label(&mut labels, name, value));
        if family.kind == Kind::Histogram {
            write_histogram(out, &family.name, &labels, &histogram);
        } else {
            let _ = writeln!(out, "{}{{{labels}}} {number}", family.name);
        }
        true
    }

    /// Filters look at the name as `/stats` shows it.
    fn passes(&self, scope: &Scope, family: &Family, member: usize) -> bool {
        let Some(filter) = &self.query.filter else { return true };
        let member = &family.members[member];
        let (_, block) = &self.blocks[self.shapes[member.shape][0]];
        let names = match family.kind {
            Kind::Counter => &block.counter_names,
            Kind::Gauge => &block.gauge_names,
            Kind::Histogram => &block.histogram_names,
        };
        filter.is_match(&format!("{}{}", scope.prefix, names.get(member.index)))
    }

    fn text_readouts(&mut self, out: &mut String) {
        for (name, text) in std::mem::take(&mut self.readouts) {
            let family = family_name("", &name);
            let mut labels = self.fixed.clone();
            push_label(&mut labels, "text_value", &text);
            let _ = writeln!(out, "# TYPE {family} gauge\n{family}{{{labels}}} 0");
        }
    }
}

impl Iterator for Prometheus {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = String::new();
        while out.len() < PIECE_BYTES {
            let mut family = match self.current.take() {
                Some(family) => family,
                None => match self.families.next() {
                    Some(((kind, name), members)) => self.open(kind, name, members),
                    None => {
                        self.text_readouts(&mut out);
                        break;
                    }
                },
            };
            if self.sample(&mut family, &mut out) {
                self.current = Some(family);
            }
        }
        (!out.is_empty()).then(|| out.into())
    }
}

fn write_histogram(out: &mut String, family: &str, labels: &str, seen: &HistogramSnapshot) {
    let comma = if labels.is_empty() { "" } else { "," };
    for limit in BUCKETS {
        let count = seen.count_below(limit);
        let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"{limit}\"}} {count}");
    }
    let _ = writeln!(out, "{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", seen.count);
    let _ = writeln!(out, "{family}_sum{{{labels}}} {}", seen.sum);
    let _ = writeln!(out, "{family}_count{{{labels}}} {}", seen.count);
}

/// `upstream_rq_503` is `upstream_rq` with a code, `upstream_rq_5xx` is `upstream_rq_xx` with a class.
fn without_code(name: &str) -> (String, Option<(&'static str, String)>) {
    let Some((stem, code)) = name.rsplit_once("_rq_") else { return (name.into(), None) };
    match code.as_bytes() {
        [a, b, c] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => {
            (format!("{stem}_rq"), Some(("envoy_response_code", code.into())))
        }
        [class, b'x', b'x'] if class.is_ascii_digit() => {
            (format!("{stem}_rq_xx"), Some(("envoy_response_code_class", code[..1].into())))
        }
        _ => (name.into(), None),
    }
}

fn family_name(tagless: &str, name: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == ':' { c } else { '_' };
    "envoy_".chars().chain(tagless.chars().chain(name.chars()).map(clean)).collect()
}

fn push_label(labels: &mut String, name: &str, value: &str) {
    if !labels.is_empty() {
        labels.push(',');
    }
    labels.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    labels.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            c => labels.push(c),
        }
    }
    labels.push('"');
}
