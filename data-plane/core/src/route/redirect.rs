//! The `location` of redirects, by Envoy's rules.

use super::hosts::port_at;
use super::matched::{query_and_fragment, replace_path, replace_prefix};
use crate::config::{PathMatch, Redirect, RedirectPath};
use crate::headers::{HeaderId, RequestHead};

/// The `location` for a request that matched `matched`.
pub(super) fn location(redirect: &Redirect, matched: &PathMatch, head: &RequestHead) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(head.scheme.as_str());
    let host = match &redirect.host {
        Some(host) => host,
        None => kept_host(&head.authority, scheme, redirect.port.is_some(), head),
    };
    let mut location = format!("{scheme}://{host}");
    if let Some(port) = redirect.port {
        location.push(':');
        location.push_str(itoa::Buffer::new().format(port));
    }
    let (path, has_own_query) = new_path(redirect, matched, head);
    if !path.starts_with('/') {
        location.push('/');
    }
    let kept = if redirect.strip_query && !has_own_query {
        path.find('?').map_or(&*path, |query| &path[..query])
    } else {
        &path
    };
    location.push_str(kept);
    location
}

/// The request's host. Its port goes when the redirect has one, or when the scheme changes and it was the
/// default of the old scheme.
fn kept_host<'a>(authority: &'a str, scheme: &str, has_port: bool, head: &RequestHead) -> &'a str {
    let Some(colon) = port_at(authority) else { return authority };
    let came_by = head
        .headers
        .get_id(HeaderId::XForwardedProto)
        .and_then(|proto| std::str::from_utf8(proto).ok())
        .unwrap_or(head.scheme.as_str());
    let is_old_default = matches!((came_by, &authority[colon..]), ("http", ":80") | ("https", ":443"));
    if has_port || (scheme != came_by && is_old_default) { &authority[..colon] } else { authority }
}

/// The path, and whether its query is the configuration's own, which is never stripped.
fn new_path<'a>(
    redirect: &'a Redirect,
    matched: &PathMatch,
    head: &'a RequestHead,
) -> (std::borrow::Cow<'a, str>, bool) {
    let path = head.path.as_str();
    match &redirect.path {
        None => (path.into(), false),
        Some(RedirectPath::Full(full)) if full.contains('?') => ((&**full).into(), true),
        Some(RedirectPath::Full(full)) => match path.find('?') {
            None => ((&**full).into(), false),
            Some(query) => (format!("{full}{}", &path[query..]).into(), false),
        },
        Some(RedirectPath::Prefix(prefix)) => {
            (replace_prefix(path, matched, prefix).map_or(path.into(), Into::into), false)
        }
        Some(RedirectPath::Regex(regex, substitution)) => {
            let old = &path[..path.len() - query_and_fragment(path).len()];
            (replace_path(path, old, regex, substitution).map_or(path.into(), Into::into), false)
        }
    }
}
