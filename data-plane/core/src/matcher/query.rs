//! Query parameter matchers (Envoy `config.route.v3.QueryParameterMatcher`).

use super::StringMatcher;

/// A query parameter matcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatcher {
    /// Parameter name, compared exactly.
    pub name: Box<str>,
    /// `None`: presence is enough.
    pub value: Option<StringMatcher>,
}

impl QueryMatcher {
    /// Whether the query of `path` matches. The first parameter of the name decides.
    pub fn matches(&self, path: &str) -> bool {
        let Some((_, value)) = parameters(path).find(|(name, _)| *name == &*self.name) else { return false };
        self.value.as_ref().is_none_or(|matcher| matcher.matches(value.as_bytes()))
    }
}

/// Parameters of a path's query in order, undecoded. A fragment does not belong to the query.
pub fn parameters(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
}
