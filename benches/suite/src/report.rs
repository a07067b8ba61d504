//! The report for people: Markdown tables, and what does not win.

use crate::results::{Better, Figure, Group, Peer, Results, Summary, thousands};
use std::fmt::Write;

/// What a reader must know beside the figures.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) machine: String,
    /// Busy before the run, and stolen by the host since it booted, percent.
    pub(crate) noise: f64,
    pub(crate) stolen: f64,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) peers: Vec<Peer>,
    pub(crate) quick: bool,
    /// How long the run took, minutes.
    pub(crate) minutes: f64,
    /// Names of the plots beside the report.
    pub(crate) plots: Vec<String>,
}

/// Busier than this before the run, percent, and the figures say so.
const QUIET: f64 = 5.0;

/// `benches/RESULTS.md`.
pub(crate) fn markdown(results: &Results, setting: &Setting) -> String {
    let mut out = format!(
        "# Portolan beside its peers\n\nWritten by `make bench`; what the rows mean and how they are measured is in \
         [docs/benchmarks.md](../docs/benchmarks.md).\n\n- Machine: {}.\n",
        setting.machine
    );
    for version in &setting.versions {
        let _ = writeln!(out, "- {version}.");
    }
    let _ = writeln!(
        out,
        "- {} rounds in turn, {} s a load, {:.0} minutes in all. The machine was {:.0} % busy before; its host has \
         taken {:.1} % of its time since it booted.",
        setting.rounds, setting.seconds, setting.minutes, setting.noise, setting.stolen
    );
    if setting.quick {
        out.push_str("\n**A quick run: too short for figures to quote.**\n");
    }
    if setting.noise > QUIET {
        out.push_str("\n**The machine was not quiet: read ratios only, and them with care.**\n");
    }
    out.push_str(
        "\nA cell: **median**, (ratio to Envoy: the median of the ratios of each round), [smallest - largest].\n\n",
    );
    for remark in &results.remarks {
        let _ = writeln!(out, "- {remark}\n");
    }
    losses(&mut out, results, &setting.peers);
    for group in Group::ALL {
        if results.group(group).next().is_some() {
            table(&mut out, results, group, &setting.peers);
        }
    }
    if !setting.plots.is_empty() {
        out.push_str("\n## Plots\n\n");
        for plot in &setting.plots {
            let _ = writeln!(out, "![{plot}](plots/{plot}.svg)\n");
        }
    }
    out
}

/// Where a peer is better than portolan-proxy.
fn losses(out: &mut String, results: &Results, peers: &[Peer]) {
    out.push_str("## What portolan-proxy does not win\n\n");
    let mut lost = 0;
    for figure in &results.figures {
        let Some(ours) = figure.of(Peer::Portolan) else { continue };
        let better: Vec<String> = peers
            .iter()
            .filter(|peer| **peer != Peer::Portolan)
            .filter_map(|peer| Some((peer, figure.of(*peer)?)))
            .filter(|(_, theirs)| figure.beats(theirs.median, ours.median))
            .map(|(peer, theirs)| {
                // Where the samples overlap, another run may turn it round.
                let apart = figure.beats(worst(figure, &theirs), best(figure, &ours));
                let sure = if apart { "" } else { ", within the spread" };
                format!("{} {}{sure}", peer.name(), number(theirs.median))
            })
            .collect();
        if !better.is_empty() {
            lost += 1;
            let _ = writeln!(
                out,
                "- {}, {}: portolan-proxy {}; {}",
                figure.what,
                figure.unit,
                number(ours.median),
                better.join("; ")
            );
        }
    }
    let _ = writeln!(out, "\n{lost} of {} rows.", results.figures.len());
}

fn best(figure: &Figure, summary: &Summary) -> f64 {
    if figure.better == Better::Lower { summary.min } else { summary.max }
}

fn worst(figure: &Figure, summary: &Summary) -> f64 {
    if figure.better == Better::Lower { summary.max } else { summary.min }
}

fn table(out: &mut String, results: &Results, group: Group, peers: &[Peer]) {
    let _ = write!(out, "\n## {}\n\n| | |", group.title());
    for peer in peers {
        let _ = write!(out, " {} |", peer.name());
    }
    let _ = writeln!(out, "\n|---|---|{}", "---|".repeat(peers.len()));
    for figure in results.group(group) {
        let _ = write!(out, "| {} | {} |", figure.what, figure.unit);
        for peer in peers {
            let cell = figure.of(*peer).map_or_else(|| "-".to_owned(), |summary| cell(*peer, &summary));
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
}

fn cell(peer: Peer, summary: &Summary) -> String {
    let ratio = match summary.to_envoy {
        Some(ratio) if peer != Peer::Envoy => format!(" ({ratio:.2})"),
        _ => String::new(),
    };
    let spread = if summary.min == summary.max {
        String::new()
    } else {
        format!(" [{} - {}]", number(summary.min), number(summary.max))
    };
    format!("**{}**{ratio}{spread}", number(summary.median))
}

/// With as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => signed(value.round() as i64),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn signed(value: i64) -> String {
    let digits = thousands(value.unsigned_abs() as usize);
    if value < 0 { format!("-{digits}") } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Row;

    fn setting() -> Setting {
        Setting {
            machine: "a machine".into(),
            noise: 0.0,
            stolen: 0.0,
            versions: vec!["Envoy 1".into()],
            rounds: 1,
            seconds: 1,
            peers: vec![Peer::Portolan, Peer::Envoy, Peer::Nginx],
            quick: false,
            minutes: 1.0,
            plots: vec!["cpu".into()],
        }
    }

    #[test]
    fn numbers_have_three_digits_that_mean_something() {
        let text = [0.126, 9.87, 45.67, 345.6, 1_234_567.8, -1234.0].map(number);
        assert_eq!(text, ["0.13", "9.87", "45.7", "346", "1,234,568", "-1,234"]);
    }

    #[test]
    fn the_report_names_every_peer_that_is_better_and_whether_that_is_sure() {
        let mut results = Results::default();
        let row = |what| Row { group: Group::Work, what, unit: "us" };
        for (round, (ours, nginx)) in [(12., 10.), (13., 10.5)].into_iter().enumerate() {
            results.add(row("lost"), Peer::Portolan, round, ours);
            results.add(row("lost"), Peer::Envoy, round, 30.);
            results.add(row("lost"), Peer::Nginx, round, nginx);
            results.add(row("won"), Peer::Portolan, round, 1.);
            results.add(row("won"), Peer::Envoy, round, 2.);
        }
        results.add(row("close"), Peer::Portolan, 0, 10.);
        results.add(row("close"), Peer::Portolan, 1, 12.);
        results.add(row("close"), Peer::Envoy, 0, 9.);
        results.add(row("close"), Peer::Envoy, 1, 12.5);
        let text = markdown(&results, &setting());
        assert!(text.contains("- lost, us: portolan-proxy 12.5; nginx 10.2\n"), "{text}");
        assert!(text.contains("- close, us: portolan-proxy 11.0; Envoy 10.8, within the spread\n"), "{text}");
        assert!(!text.contains("- won"), "{text}");
        assert!(
            text.contains("| lost | us | **12.5** (0.42) [12.0 - 13.0] | **30.0** | **10.2** (0.34)"),
            "{text}"
        );
        assert!(text.contains("| won | us | **1.00** (0.50) | **2.00** | - |"), "{text}");
        assert!(!text.contains("quick run") && !text.contains("not quiet"), "{text}");
    }

    #[test]
    fn a_run_that_proves_little_says_so() {
        let text = markdown(&Results::default(), &Setting { quick: true, noise: 30.0, ..setting() });
        assert!(text.contains("A quick run") && text.contains("was not quiet"), "{text}");
    }
}
