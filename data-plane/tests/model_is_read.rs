//! The second half of "no field is silent": translation honours a field by putting it into the model, so every field
//! of the model must be read by something that is not translation. Told by name, which is weak for common names and
//! strong for the rest.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Fields that translation reports as ignored whenever they are set, or acts upon itself.
const REPORTED: &[&str] = &[
    // Requests of both priorities count against the default thresholds.
    // Translation refuses the routes.
    "validate_clusters",
    // A malformed message ends its HTTP/1 connection.
    "stream_error_on_invalid_http_message",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") && !["tests.rs", "testing.rs"].contains(&name.as_str()) {
            found.push(path);
        }
    }
}

/// Code without comments and without the test module at its end.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    production.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

/// Names of the public fields in a file of the model.
fn fields(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let (name, _) = line.trim_start().strip_prefix("pub ")?.split_once(": ")?;
        words(name).next().filter(|word| *word == name)
    })
}

#[test]
fn every_field_of_the_model_is_read_outside_of_translation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut model, mut readers) = (Vec::new(), Vec::new());
    sources(&root.join("core/src/config"), &mut model);
    sources(&root.join("core/src"), &mut readers);
    sources(&root.join("src"), &mut readers);
    readers.retain(|f| {
        !f.starts_with(root.join("core/src/config")) && !f.starts_with(root.join("core/src/translate"))
    });
    let read: Vec<String> = readers.iter().map(|f| code(f)).collect();
    let read: BTreeSet<&str> = read.iter().flat_map(|text| words(text)).collect();
    let model: Vec<String> = model.iter().map(|f| code(f)).collect();
    let fields: BTreeSet<&str> = model.iter().flat_map(|text| fields(text)).collect();
    assert!(fields.len() > 100, "the model is found");

    let unread: Vec<_> = fields.iter().filter(|f| !read.contains(*f) && !REPORTED.contains(f)).collect();
    assert!(unread.is_empty(), "translated and then never read: {unread:?}");
    let stale: Vec<_> = REPORTED.iter().filter(|f| read.contains(*f)).collect();
    assert!(stale.is_empty(), "read by now: translation should no longer report {stale:?}");
}
