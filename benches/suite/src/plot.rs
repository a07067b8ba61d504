//! Bar charts as SVG, by hand: groups of horizontal bars, one for each peer.

use crate::report::number;
use crate::results::{Figure, Group, Peer, Results};
use std::fmt::Write;

/// One chart.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Its file's name, without the ending.
    pub(crate) name: &'static str,
    title: String,
    /// Beneath the title: what a bar's length is.
    subtitle: &'static str,
    groups: Vec<Bars>,
    /// Lengths are of the logarithm, from this on.
    logarithm_from: Option<f64>,
}

#[derive(Clone, Debug)]
struct Bars {
    label: String,
    bars: Vec<(Peer, f64)>,
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 420.0;
const RIGHT: f64 = 80.0;
const TOP: f64 = 84.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;

fn colour(peer: Peer) -> &'static str {
    match peer {
        Peer::Portolan => "#0b6e99",
        Peer::Envoy => "#b0413e",
        Peer::Nginx => "#6a994e",
        Peer::Haproxy => "#a98467",
    }
}

/// Units of the latencies under updates that are drawn.
const LATE: [&str; 2] = ["us p99", "us at most"];

/// What there is to draw of a run.
pub(crate) fn charts(results: &Results) -> Vec<Chart> {
    let ratios = "ratio to Envoy in the same round, median; shorter is better";
    let all = [
        Chart {
            name: "cpu",
            title: "CPU time of the proxy for one request".into(),
            subtitle: ratios,
            groups: bars(results.group(Group::Work), Value::Ratio),
            logarithm_from: None,
        },
        Chart {
            name: "latency",
            title: "99th percentile at fixed rates, no coordinated omission".into(),
            subtitle: "microseconds, median, logarithmic; shorter is better",
            groups: bars(results.group(Group::Rates).filter(|f| f.unit == "us p99"), Value::Median),
            logarithm_from: Some(10.0),
        },
        Chart {
            name: "routes",
            title: "CPU time for one request, by routing table".into(),
            subtitle: "microseconds, median, logarithmic; shorter is better",
            groups: bars(results.group(Group::Routing).filter(|f| f.unit.contains("CPU")), Value::Median),
            logarithm_from: Some(1.0),
        },
        Chart {
            name: "memory",
            title: "Memory".into(),
            subtitle: ratios,
            groups: bars(
                results.figures.iter().filter(|f| f.what.contains("memory") && f.group != Group::Tables),
                Value::Ratio,
            ),
            logarithm_from: None,
        },
        Chart {
            name: "clusters",
            title: Group::Clusters.title().into(),
            subtitle: ratios,
            groups: bars(results.group(Group::Clusters), Value::Ratio),
            logarithm_from: None,
        },
        Chart {
            name: "table-memory",
            title: "Memory of one entry of a table".into(),
            subtitle: "KiB, logarithmic; shorter is better",
            groups: bars(results.group(Group::Tables).filter(|f| f.unit == "KiB"), Value::Median),
            logarithm_from: Some(0.1),
        },
        Chart {
            name: "tables",
            title: "Tables: start, and a file that replaces all".into(),
            subtitle: "milliseconds to the first answer, median, logarithmic; shorter is better",
            groups: bars(results.group(Group::Tables).filter(|f| f.unit == "ms"), Value::Median),
            logarithm_from: Some(1.0),
        },
        Chart {
            name: "updates",
            title: "Latency under load, 4,800 requests/s, while files change".into(),
            subtitle: "microseconds, median, logarithmic; shorter is better",
            groups: bars(results.group(Group::Updates).filter(|f| LATE.contains(&f.unit)), Value::Median),
            logarithm_from: Some(10.0),
        },
    ];
    all.into_iter().filter(|chart| !chart.groups.is_empty()).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Value {
    Ratio,
    Median,
}

fn bars<'a>(figures: impl Iterator<Item = &'a Figure>, value: Value) -> Vec<Bars> {
    let figures: Vec<&Figure> = figures.collect();
    // Told where it tells figures apart.
    let units = figures.windows(2).any(|pair| pair[0].unit != pair[1].unit);
    let one = |figure: &Figure| {
        let peers = [Peer::Portolan, Peer::Envoy, Peer::Nginx, Peer::Haproxy].into_iter();
        let bars: Vec<_> = peers
            .filter_map(|peer| {
                let summary = figure.of(peer)?;
                Some((peer, if value == Value::Ratio { summary.to_envoy? } else { summary.median }))
            })
            .collect();
        let unit = if units { format!(", {}", figure.unit) } else { String::new() };
        Bars { label: format!("{}{unit}", figure.what), bars }
    };
    figures.into_iter().map(one).filter(|group| !group.bars.is_empty()).collect()
}

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let rows: usize = self.groups.iter().map(|group| group.bars.len()).sum();
        let height = TOP + rows as f64 * BAR + self.groups.len() as f64 * GAP + 10.0;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
             <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"12\" y=\"24\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"12\" y=\"43\" fill=\"#555555\">{}</text>\n",
            escape(self.subtitle),
            title = escape(&self.title),
        );
        self.legend(&mut out);
        let most = self.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.1).fold(0.0, f64::max);
        let mut y = TOP;
        for group in &self.groups {
            let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 10.0,
                escape(&shorten(&group.label))
            );
            for (peer, value) in &group.bars {
                let length = self.length(*value, most);
                let _ = writeln!(
                    out,
                    "<rect x=\"{LEFT:.0}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                     <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{}</text>",
                    BAR - 2.0,
                    colour(*peer),
                    LEFT + length + 5.0,
                    y + BAR - 4.0,
                    number(*value)
                );
                y += BAR;
            }
            y += GAP;
        }
        out + "</svg>\n"
    }

    fn legend(&self, out: &mut String) {
        let mut x = 12.0;
        for peer in [Peer::Portolan, Peer::Envoy, Peer::Nginx, Peer::Haproxy] {
            if self.groups.iter().all(|group| group.bars.iter().all(|bar| bar.0 != peer)) {
                continue;
            }
            let _ = writeln!(
                out,
                "<rect x=\"{x:.0}\" y=\"56\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.0}\" y=\"66\">{}</text>",
                colour(peer),
                x + 17.0,
                peer.name()
            );
            x += 130.0;
        }
    }

    fn length(&self, value: f64, most: f64) -> f64 {
        let share = match self.logarithm_from {
            Some(from) => (value.max(from) / from).ln() / (most.max(from * 2.0) / from).ln(),
            None => value.max(0.0) / most.max(f64::MIN_POSITIVE),
        };
        (share * (WIDTH - LEFT - RIGHT)).max(1.0)
    }
}

/// Fits beside the bars.
fn shorten(label: &str) -> String {
    const MOST: usize = 64;
    if label.chars().count() <= MOST {
        return label.to_owned();
    }
    let kept: String = label.chars().take(MOST - 3).collect();
    kept + "..."
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Row;

    #[test]
    fn a_bar_is_as_long_as_its_value_and_text_is_escaped() {
        let mut results = Results::default();
        let row = Row { group: Group::Work, what: "a < b", unit: "us CPU/request" };
        results.add(row, Peer::Portolan, 0, 10.0);
        results.add(row, Peer::Envoy, 0, 20.0);
        let charts = charts(&results);
        assert_eq!(charts.len(), 1, "nothing else was measured");
        let svg = charts[0].svg();
        let full = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")), "{svg}");
        assert!(svg.contains(&format!("width=\"{:.1}\"", full / 2.0)), "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("0.50") && !svg.contains("nginx"), "{svg}");
    }

    #[test]
    fn logarithmic_bars_begin_at_their_origin() {
        let chart = Chart {
            name: "x",
            title: String::new(),
            subtitle: "",
            groups: Vec::new(),
            logarithm_from: Some(10.0),
        };
        let full = WIDTH - LEFT - RIGHT;
        let lengths = [1.0, 10.0, 100.0, 1000.0].map(|value| chart.length(value, 1000.0).round());
        assert_eq!(lengths, [1.0, 1.0, (full / 2.0).round(), full]);
    }
}
