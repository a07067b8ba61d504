//! What is told of resources besides whether they are good: fields that are not known here, and fields that have no
//! effect. Each is logged once, since control planes send the same again and again; `/config_dump?include_ignored` has
//! what has no effect in full.

use super::update::Refusal;
use crate::stats::Counter;
use data_plane_core::path::Finding;
use std::cell::RefCell;
use std::collections::HashSet;
use tracing::{debug, warn};

/// Findings that are remembered as told; once there are so many, all may be told again.
const MAX_TOLD: usize = 1024;

/// What becomes of a resource with fields that are not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// It is taken; the fields are counted and logged.
    #[default]
    Warn,
    /// It is taken (`--ignore-unknown-dynamic-fields`).
    Ignore,
    /// It is refused (`--reject-unknown-dynamic-fields`).
    Refuse,
}

/// See the module.
pub(super) struct Findings {
    policy: UnknownFields,
    /// `server.dynamic_unknown_fields`: each kind of place once, as in Envoy.
    unknown: Counter,
    told: RefCell<HashSet<String>>,
}

impl Findings {
    pub(super) fn new(policy: UnknownFields, unknown: Counter) -> Self {
        Self { policy, unknown, told: RefCell::default() }
    }

    pub(super) fn policy(&self) -> UnknownFields {
        self.policy
    }

    /// What comes of unknown fields in a resource that is good otherwise.
    pub(super) fn unknown(&self, kind: &str, name: &str, found: &[Finding]) -> Result<(), Refusal> {
        match self.policy {
            _ if found.is_empty() => Ok(()),
            UnknownFields::Ignore => Ok(()),
            UnknownFields::Refuse => {
                Err(Refusal { name: name.into(), index: None, findings: found.to_vec(), omitted: 0 })
            }
            UnknownFields::Warn => {
                for Finding { path, message } in found {
                    if self.is_new(kind, path, message) {
                        self.unknown.inc();
                        warn!(kind, name, path, "{message}; further ones of this place are not told");
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells of fields that have no effect.
    pub(super) fn ignored(&self, kind: &str, name: &str, found: &[Finding]) {
        for Finding { path, message } in found {
            if self.is_new(kind, path, message) {
                warn!(kind, name, path, "ignored: {message}; further ones of this place are not told");
            } else {
                debug!(kind, name, path, "ignored: {message}");
            }
        }
    }

    /// Whether this was not told yet of a place like this one, whichever its indices.
    fn is_new(&self, kind: &str, path: &str, message: &str) -> bool {
        let plain: String = path.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut told = self.told.borrow_mut();
        let place = format!("{kind} {plain} {message}");
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Registry;

    fn finding(path: &str) -> Finding {
        Finding { path: path.into(), message: "field 9 of a.B is not known here".into() }
    }

    fn findings(policy: UnknownFields) -> (Findings, Counter) {
        let registry = Registry::new(1);
        let counter = registry.scope("server.", "server.", &[]).counter(&["dynamic_unknown_fields"]);
        (Findings::new(policy, counter.clone()), counter)
    }

    #[test]
    fn unknown_fields_are_counted_once_for_places_that_are_alike() {
        let (findings, counter) = findings(UnknownFields::Warn);
        for path in ["clusters[0].x", "clusters[12].x", "clusters[0].y"] {
            findings.unknown("CDS", "a", &[finding(path)]).unwrap();
        }
        assert_eq!(counter.value(), 2);
    }

    #[test]
    fn they_are_refused_or_passed_over_where_that_is_asked_for() {
        let (refuse, counter) = findings(UnknownFields::Refuse);
        let refusal = refuse.unknown("CDS", "a", &[finding("x")]).unwrap_err();
        assert_eq!(refusal.to_string(), "a: x: field 9 of a.B is not known here");
        refuse.unknown("CDS", "a", &[]).unwrap();
        let (ignore, _) = findings(UnknownFields::Ignore);
        ignore.unknown("CDS", "a", &[finding("x")]).unwrap();
        assert_eq!(counter.value(), 0);
    }
}
