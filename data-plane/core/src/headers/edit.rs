//! Header mutations from configuration (Envoy `request_headers_to_add` and its kin).

use super::format::Format;

/// What to do to a header list, in the order: remove, then add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names to remove, lowercase.
    pub remove: Vec<Box<str>>,
    /// Headers to add.
    pub add: Vec<HeaderAdd>,
}

/// One header to add (Envoy `HeaderValueOption`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAdd {
    /// Name, lowercase.
    pub name: Box<str>,
    /// Value with `%COMMAND%` operators.
    pub value: Format,
    /// What happens to a header already there.
    pub action: AppendAction,
    /// Whether a header whose value formats to nothing is still added.
    pub keep_empty_value: bool,
}

/// What happens to a header already there (Envoy `HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// Adds another.
    #[default]
    AppendOrAdd,
    /// Adds only when absent.
    AddIfAbsent,
    /// Replaces, or adds.
    OverwriteOrAdd,
    /// Replaces only when present.
    OverwriteIfExists,
}
