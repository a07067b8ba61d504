//! Every bootstrap written in the user documentation is one that the proxy takes as it is.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use data_plane_core::path::{Diagnostics, Path};
use data_plane_core::translate::{self, NoData, Options};
use xds_types::envoy::config::bootstrap::v3::Bootstrap;

/// Blocks of YAML that are whole bootstraps: text and line.
fn bootstraps(page: &str) -> Vec<(usize, String)> {
    let (mut found, mut block): (_, Option<(usize, String)>) = (Vec::new(), None);
    for (number, line) in page.lines().enumerate() {
        match &mut block {
            None if line == "```yaml" => block = Some((number + 2, String::new())),
            None => {}
            Some(_) if line == "```" => found.extend(block.take()),
            Some((_, text)) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    found.retain(|(_, text)| text.starts_with("static_resources:"));
    found
}

#[test]
fn examples_of_rate_limits_are_accepted() {
    accepted("rate-limits.md", 3);
}

#[test]
fn examples_of_balancing_are_accepted() {
    accepted("balancing.md", 1);
}

#[test]
fn examples_of_connections_are_accepted() {
    accepted("connections.md", 1);
}

#[test]
fn examples_of_secrets_are_accepted() {
    accepted("secrets.md", 1);
}

#[test]
fn examples_of_stats_sinks_are_accepted() {
    accepted("fleet.md", 1);
}

#[test]
fn examples_of_tcp_are_accepted() {
    accepted("tcp.md", 2);
}

fn accepted(page: &str, at_least: usize) {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let found = bootstraps(&std::fs::read_to_string(page).unwrap());
    assert!(found.len() >= at_least, "the examples are found");
    for (line, text) in found {
        let proto: Bootstrap =
            xds_types::text::from_yaml(&text).unwrap_or_else(|e| panic!("line {line}: {e}"));
        let mut d = Diagnostics::default();
        let translated = translate::bootstrap(proto, &Path::root(""), &mut d, &Options::new(&NoData));
        assert!(translated.is_ok() && d.ignored.is_empty(), "line {line}: {d} {:?}", d.ignored);
    }
}
