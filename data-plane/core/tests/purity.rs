//! This crate decides and does nothing else: no I/O, no clock, no dice, and protos in one module only.
//!
//! The manifest keeps runtimes out; what the standard library could still smuggle in is looked for here. The order
//! of the modules is held by the proxy's layering test.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::path::{Path, PathBuf};

/// Ways to reach the world: each has an argument in its place.
const BANNED: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "RandomState::new",
    "fastrand",
    "println!",
    "eprintln!",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code with their place; comments and test modules left out.
fn lines() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files.sort();
    let mut out = Vec::new();
    for file in files.into_iter().filter(|f| !f.ends_with("tests.rs")) {
        let place = file.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        for (number, line) in code.enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            out.push((format!("{place}:{}", number + 1), line.to_owned()));
        }
    }
    assert!(out.len() > 1000, "the sources are found");
    out
}

#[test]
fn the_world_is_only_reached_through_arguments() {
    let found: Vec<_> =
        lines().into_iter().filter(|(_, line)| BANNED.iter().any(|banned| line.contains(banned))).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_translate_names_protos() {
    let found: Vec<_> = lines()
        .into_iter()
        .filter(|(place, line)| {
            !place.starts_with("translate") && (line.contains("xds_types") || line.contains("prost"))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}
