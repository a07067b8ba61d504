//! Why a request takes the route it takes, in words: for the admin endpoint and the command-line tool.

use super::{RouteQuery, RouteTable, matched_path};
use crate::config::{PathMatch, RouteMatch};
use crate::headers::format::is_grpc;
use crate::matcher::{HeaderMatcher, HeaderRule, QueryMatcher, StringMatcher, StringPattern};

/// The way to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Name of the virtual host; `None` when no domain matches.
    pub virtual_host: Option<String>,
    /// The virtual host's routes that were looked at, in order; the last is the chosen one, if one was chosen.
    pub routes: Vec<Verdict>,
    /// The answer in one sentence.
    pub outcome: String,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Place in the list.
    pub index: usize,
    /// Name; may be empty.
    pub name: String,
    /// The first condition that does not hold; `None` when the route is chosen.
    pub failed: Option<String>,
}

/// Walks the routes one by one, as the configuration reads.
pub(super) fn explain(table: &RouteTable, query: &RouteQuery<'_>) -> Explanation {
    let authority = &query.head.authority;
    let Some(at) = table.hosts.find(authority) else {
        let outcome = format!("no virtual host has a domain for {authority:?}");
        return Explanation { virtual_host: None, routes: Vec::new(), outcome };
    };
    let host = &table.config.virtual_hosts[at as usize];
    let mut explanation =
        Explanation { virtual_host: Some(host.name.to_string()), routes: Vec::new(), outcome: String::new() };
    if query.must_move_to_https(host) {
        explanation.outcome = "redirected to https: the virtual host requires TLS".into();
        return explanation;
    }
    for (index, route) in host.routes.iter().enumerate() {
        let failed = failed(&route.matches, table, query);
        let chosen = failed.is_none();
        explanation.routes.push(Verdict { index, name: route.name.to_string(), failed });
        if chosen {
            explanation.outcome = format!("route {index} {:?} is the first whose match holds", route.name);
            return explanation;
        }
    }
    explanation.outcome = format!("none of the {} routes matches", host.routes.len());
    explanation
}

/// The first condition that does not hold.
fn failed(matches: &RouteMatch, table: &RouteTable, query: &RouteQuery<'_>) -> Option<String> {
    let RouteMatch { path: condition, case_sensitive, fraction, headers, query: parameters, grpc } = matches;
    let Some(path) = matched_path(&table.config, &query.head.path) else {
        return Some("the request has no path".into());
    };
    if !path_holds(condition, *case_sensitive, path) {
        return Some(format!("path {path:?} {}", path_in_words(condition, *case_sensitive)));
    }
    if let Some(fraction) = fraction
        && !fraction.takes(query.random, query.runtime)
    {
        return Some(format!("not in its share of {} millionths", fraction.default.per_million));
    }
    if *grpc && !is_grpc(query.head) {
        return Some("not a gRPC request".into());
    }
    if let Some(matcher) = headers.iter().find(|matcher| !matcher.matches(query.head)) {
        return Some(header_in_words(matcher));
    }
    let parameter = parameters.iter().find(|matcher| !matcher.matches(&query.head.path))?;
    Some(query_in_words(parameter))
}

/// Whether a path condition holds, asked directly.
pub(super) fn path_holds(condition: &PathMatch, case_sensitive: bool, path: &str) -> bool {
    let fold = |text: &str| if case_sensitive { text.to_owned() } else { text.to_ascii_lowercase() };
    match condition {
        PathMatch::Prefix(text) => fold(path).starts_with(&fold(text)),
        PathMatch::Exact(text) => fold(path) == fold(text),
        PathMatch::Separated(text) => {
            fold(path).strip_prefix(&fold(text)).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => regex.is_full_match(path.as_bytes()),
    }
}

fn path_in_words(condition: &PathMatch, case_sensitive: bool) -> String {
    let text = match condition {
        PathMatch::Prefix(text) => format!("does not start with {text:?}"),
        PathMatch::Exact(text) => format!("is not {text:?}"),
        PathMatch::Separated(text) => format!("is not {text:?} and not below it"),
        PathMatch::Regex(regex) => return format!("does not match the regex {:?} in full", regex.source()),
    };
    if case_sensitive { text } else { text + " in any case" }
}

/// Never the value: it may be a secret.
fn header_in_words(matcher: &HeaderMatcher) -> String {
    let rule = match &matcher.rule {
        HeaderRule::Present(true) => "present".into(),
        HeaderRule::Present(false) => "absent".into(),
        HeaderRule::Range { start, end } => format!("an integer in {start}..{end}"),
        HeaderRule::Text(text) => text_in_words(text),
    };
    let not = if matcher.invert { "there without being" } else { "" };
    format!("header {:?} must be {not}{}{rule}", matcher.name, if not.is_empty() { "" } else { " " })
}

fn query_in_words(matcher: &QueryMatcher) -> String {
    match &matcher.value {
        None => format!("query parameter {:?} must be present", matcher.name),
        Some(text) => format!("query parameter {:?} must be {}", matcher.name, text_in_words(text)),
    }
}

fn text_in_words(matcher: &StringMatcher) -> String {
    let text = match &matcher.pattern {
        StringPattern::Exact(text) => format!("{text:?}"),
        StringPattern::Prefix(text) => format!("something that starts with {text:?}"),
        StringPattern::Suffix(text) => format!("something that ends with {text:?}"),
        StringPattern::Contains(text) => format!("something that contains {text:?}"),
        StringPattern::Regex(regex) => format!("something that matches {:?} in full", regex.source()),
    };
    if matcher.ignore_case { text + " in any case" } else { text }
}
