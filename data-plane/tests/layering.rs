//! A module may import only modules listed before it. Modules on one line are siblings and may not import each
//! other. Known limits: `super::super::` (banned) and paths made by macros are not seen; upward imports of tests
//! count too, on purpose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Layers = &'static [&'static [&'static str]];

const PROXY: Layers = &[
    &["runtime", "stats", "task", "turn"],
    &["transport"],
    &["codec"],
    &["upstream"],
    &["export"],
    &["trace"],
    &["http"],
    &["network"],
    &["listener"],
    &["admin", "xds"],
    &["server"],
];

const CORE: Layers = &[
    &["path"],
    &["certificate"],
    &["headers"],
    &["matcher"],
    &["guard"],
    &["config"],
    &["proxy_protocol", "ratelimit", "saying"],
    &["lb"],
    &["accesslog"],
    &["trace"],
    &["route"],
    &["translate"],
];

fn layer_of(layers: Layers, module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(&module))
}

/// Names `n` in `crate::n`, including the first level of `crate::{a::.., b}`.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut out = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            out.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        let (mut depth, mut word, mut head) = (0, String::new(), true);
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    out.insert(std::mem::take(&mut word));
                    head = true;
                }
                c if depth == 0 && head && (c.is_alphanumeric() || c == '_') => word.push(c),
                c if c.is_whitespace() => {}
                _ => head = false,
            }
        }
        out.insert(word);
    }
    out.remove("");
    out
}

/// Rust files of a module: `dir/module.rs` and everything under `dir/module/`.
fn files(dir: &Path, module: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![dir.join(module)];
    found.extend(Some(dir.join(format!("{module}.rs"))).filter(|f| f.is_file()));
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn violations(dir: &Path, layers: Layers) -> Vec<String> {
    let mut out = Vec::new();
    for (level, module) in layers.iter().enumerate().flat_map(|(i, l)| l.iter().map(move |m| (i, *m))) {
        let files = files(dir, module);
        if files.is_empty() {
            out.push(format!("{module}: listed in the layers but not there"));
        }
        for file in files {
            for import in imports(&std::fs::read_to_string(&file).unwrap()) {
                let allowed = match layer_of(layers, &import) {
                    Some(other) => import == module || other < level,
                    None => import.starts_with(char::is_uppercase) || import == "stat_block",
                };
                if !allowed {
                    out.push(format!("{}: {module} may not import {import}", file.display()));
                }
            }
        }
    }
    out
}

/// Modules of the crate that no layer lists.
fn unlisted(dir: &Path, layers: Layers) -> Vec<String> {
    let listed: BTreeSet<&str> = layers.iter().flat_map(|l| l.iter().copied()).collect();
    std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|e| Some(e.unwrap().path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| {
            !listed.contains(name.as_str()) && !["lib", "main", "flags", "allocator"].contains(&name.as_str())
        })
        .collect()
}

fn assert_layered(dir: PathBuf, layers: Layers) {
    assert_eq!(unlisted(&dir, layers), Vec::<String>::new(), "every module has a layer");
    assert_eq!(violations(&dir, layers), Vec::<String>::new(), "modules import only lower ones");
}

#[test]
fn proxy_modules_import_only_lower_ones() {
    assert_layered(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), PROXY);
}

#[test]
fn core_modules_import_only_lower_ones() {
    assert_layered(Path::new(env!("CARGO_MANIFEST_DIR")).join("core/src"), CORE);
}

#[test]
fn upward_and_sideways_imports_are_named_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("low.rs"), "use crate::{mid::A, low::{B, C}};").unwrap();
    std::fs::create_dir(dir.path().join("mid")).unwrap();
    std::fs::write(dir.path().join("mid/mod.rs"), "use crate::low::X;\n// crate::side is only named")
        .unwrap();
    std::fs::write(dir.path().join("side.rs"), "fn f() { crate::mid::g() }").unwrap();
    let found = violations(dir.path(), &[&["low"], &["mid", "side"]]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].ends_with("low.rs: low may not import mid"), "{found:?}");
    assert!(found[1].ends_with("side.rs: side may not import mid"), "{found:?}");
}
