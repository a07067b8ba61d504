//! A module of the control plane imports only modules of lower layers; modules of one layer are siblings and do
//! not import each other. In particular: streams never see how resources are made (`ads`, `translate`), sources
//! never build resources, and what is pure neither does I/O nor reads the clock.
//!
//! Not seen: paths made by macros, and `super::super::`, which we do not write. Imports of tests count too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LAYERS: &[&[&str]] = &[
    &["model"],
    &["secret"],
    &["authority", "release", "snapshot", "source"],
    &["ads", "translate"],
    &["pipeline"],
    &["access"],
    &["fleet", "ratelimit"],
    &["api", "keep", "settings"],
    &["server"],
];

/// Modules that get time and randomness as arguments and do no I/O.
const PURE: &[&str] = &[
    "model",
    "release",
    "translate",
    "fleet/report.rs",
    "ratelimit/algorithm.rs",
    "ratelimit/limits.rs",
    "ads/session.rs",
    "ads/subscription.rs",
    "ads/sotw.rs",
    "ads/delta.rs",
];

/// What a pure module does not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::thread",
    "std::net::Tcp",
    "tokio::net",
    "tokio::fs",
    "tokio::spawn",
    "sleep(",
    "Instant::now",
    "SystemTime::now",
    "fastrand",
    "tonic",
];

fn source_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file at or below a path, or of the module of that name.
fn files_of(dir: &Path, module: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.join(module), dir.join(format!("{module}.rs"))];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if path.is_file() && path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a source file is text");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// First names after `crate::`, those in braces included.
fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => drop(names.insert(first_name(rest))),
            Some(group) => names.extend(top_level(group).iter().map(|item| first_name(item))),
        }
    }
    names.remove("");
    names
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The items of a use group, up to the brace that closes it.
fn top_level(group: &str) -> Vec<String> {
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => {
                items.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        items.last_mut().expect("there is one from the start").push(c);
    }
    items
}

fn level_of(layers: &[&[&str]], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&module))
}

fn breaches(dir: &Path, layers: &[&[&str]]) -> Vec<String> {
    let mut found = Vec::new();
    for (level, module) in layers.iter().enumerate().flat_map(|(i, layer)| layer.iter().map(move |m| (i, *m)))
    {
        let files = files_of(dir, module);
        if files.is_empty() {
            found.push(format!("{module} has a layer but no file"));
        }
        for file in files {
            for name in imported(&code_of(&file)) {
                let lower = level_of(layers, &name).is_some_and(|other| other < level);
                if name != module && !lower {
                    let file = file.strip_prefix(dir).unwrap_or(&file).display();
                    found.push(format!("{file}: {module} may not import {name}"));
                }
            }
        }
    }
    found
}

#[test]
fn every_module_has_a_layer() {
    let modules = fs::read_dir(source_dir())
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().path().file_stem()?.to_str()?.to_owned()));
    let without: BTreeSet<String> =
        modules.filter(|m| level_of(LAYERS, m).is_none() && !["lib", "main"].contains(&m.as_str())).collect();
    assert!(without.is_empty(), "no layer: {without:?}");
}

#[test]
fn modules_import_only_lower_ones() {
    let found = breaches(&source_dir(), LAYERS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_pure_does_no_io_and_reads_no_clock() {
    let mut found = Vec::new();
    for module in PURE {
        for file in
            files_of(&source_dir(), module).into_iter().filter(|f| !f.to_string_lossy().contains("tests"))
        {
            let code = code_of(&file);
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            let named = IMPURE.iter().filter(|name| code.contains(**name));
            found.extend(named.map(|name| format!("{}: {name}", file.display())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_import_upwards_or_sideways_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("low.rs", "use crate::{low::{A, B}, left::C};");
    write("left.rs", "// crate::right is only named\nuse crate::low::A;");
    fs::create_dir(dir.path().join("right")).unwrap();
    write("right/deep.rs", "fn f() { crate::left::g() }");
    let found = breaches(dir.path(), &[&["low"], &["left", "right"]]);
    assert_eq!(found, ["low.rs: low may not import left", "right/deep.rs: right may not import left"]);
}
