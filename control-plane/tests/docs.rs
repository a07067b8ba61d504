//! Every example in the documents on resource kinds is read and admitted.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use control_plane::translate::{Objects, Trust, admit};
use std::path::Path;
use xds_types::resource;
use xds_types::text::Source;

const DOCUMENTS: [&str; 4] = ["resources.md", "rate-limit-service.md", "tcp.md", "tracing.md"];

fn examples(document: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    // Bootstraps of proxies are held elsewhere.
    let blocks = text.split("```yaml\n").skip(1).filter(|block| !block.starts_with("static_resources:"));
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_example_is_admitted() {
    for document in DOCUMENTS {
        let all = examples(document);
        assert!(!all.is_empty(), "{document} must have examples");
        // Those of one document belong together: a Route's Gateway stands in another block.
        let text = all.join("---\n");
        let parsed = resource::parse(Source { name: document, text: &text });
        let parsed = parsed.unwrap_or_else(|e| panic!("{document}:\n{e}"));
        let objects: Vec<_> = parsed.into_iter().map(|p| p.resource).collect();
        let admission = admit(&Objects::default(), &objects, &[], &Trust::default());
        assert!(admission.problems.list.is_empty(), "{document}:\n{}", admission.problems);
    }
}
