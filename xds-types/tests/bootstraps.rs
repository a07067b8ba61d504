//! Real-looking bootstraps, each accepted by Envoy 1.40 `--mode validate` (or refused only for a file that
//! is not there), must be read, obey the rules and survive every way out and back.

use std::fs;
use std::path::Path;

use xds_types::envoy::config::bootstrap::v3::Bootstrap;
use xds_types::text::{self, Source};
use xds_types::{canonical, rules};

#[test]
fn every_example_bootstrap_is_read_and_comes_back_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bootstraps");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let content = fs::read_to_string(&path).unwrap();
        let parsed = text::parse::<Bootstrap>(Source { name: &name, text: &content });
        let parsed = parsed.unwrap_or_else(|e| panic!("{e}"));
        let violations = rules::check(&parsed.message);
        assert!(violations.is_empty(), "{name}: {violations:?}");
        let bytes = canonical::encode(&parsed.message);
        for out in [text::to_json(&parsed.message).to_string(), text::to_yaml(&parsed.message)] {
            let again: Bootstrap = text::from_yaml(&out).unwrap_or_else(|e| panic!("{name}: {e}\n{out}"));
            assert_eq!(canonical::encode(&again), bytes, "{name} changes on its way:\n{out}");
        }
        count += 1;
    }
    assert!(count >= 7, "the examples are there");
}
