//! Counters by status code, `upstream_rq_503`: made when a code is first seen.

use super::block::Counter;
use super::registry::Scope;
use std::sync::OnceLock;

/// Counters `<stem><code>` of a scope. A lookup walks the few codes seen so far; nothing is locked.
#[derive(Debug)]
pub struct Codes {
    scope: Scope,
    stem: &'static str,
    first: OnceLock<Box<Node>>,
}

#[derive(Debug)]
struct Node {
    code: u16,
    counter: Counter,
    next: OnceLock<Box<Node>>,
}

impl Codes {
    /// `Codes::new(&scope, "upstream_rq_")`.
    pub fn new(scope: &Scope, stem: &'static str) -> Self {
        Self { scope: scope.clone(), stem, first: OnceLock::new() }
    }

    /// Counts one answer.
    pub fn inc(&self, code: u16) {
        let mut slot = &self.first;
        loop {
            let node = slot.get_or_init(|| {
                let counter = self.scope.named_counter(&format!("{}{code}", self.stem));
                Box::new(Node { code, counter, next: OnceLock::new() })
            });
            if node.code == code {
                return node.counter.inc();
            }
            slot = &node.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{MetricValue, Registry};

    #[test]
    fn a_code_appears_once_seen_and_is_counted() {
        let registry = Registry::new(1);
        let codes = Codes::new(&registry.scope("cluster.web.", "cluster.", &[]), "upstream_rq_");
        assert!(registry.collect().is_empty());
        for code in [200, 503, 200] {
            codes.inc(code);
        }
        let mut seen: Vec<_> = registry.collect().into_iter().map(|m| (m.name, m.value)).collect();
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(
            seen,
            [
                ("upstream_rq_200".to_owned(), MetricValue::Counter(2)),
                ("upstream_rq_503".to_owned(), MetricValue::Counter(1))
            ]
        );
    }
}
