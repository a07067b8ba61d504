//! A route that was chosen: its cluster, its rewrites, its answer.

use super::hash::{self, HashPeer, Hashed};
use super::redirect;
use crate::config::{
    Action, ClusterChoice, ClusterWeight, DirectResponse, FilterOverride, Forward, HostRewrite,
    MetadataMatch, PathMatch, PathRewrite, Redirect, Route, RouteConfig, VirtualHost,
};
use crate::headers::edit::HeaderEdits;
use crate::headers::{HeaderId, Record, RequestHead, ResponseHead};
use crate::matcher::{Regex, Substitution};
use std::sync::Arc;

/// Calls what it is given with what is known of the stream, where edits ask for it: most routes edit nothing, and a record
/// takes some making.
pub type WithRecord<'a> = dyn Fn(&mut dyn FnMut(&Record<'_>)) + 'a;

/// A chosen route without its table, to be kept over awaits: [`super::RouteTable::matched`] gives the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId {
    pub(super) virtual_host: u32,
    pub(super) route: u32,
    /// Index into the weighted clusters.
    pub(super) cluster: u32,
}

impl RouteId {
    /// In place of a route's index: the redirect of a virtual host that requires TLS.
    pub(super) const TO_HTTPS: u32 = u32::MAX;
}

/// A chosen route.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    /// The whole configuration.
    pub config: &'a RouteConfig,
    /// The virtual host.
    pub virtual_host: &'a VirtualHost,
    /// The route; a redirect to https when the virtual host requires TLS.
    pub route: &'a Route,
    pub(super) id: RouteId,
}

/// What a route says to do.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// Send to [`Matched::cluster`].
    Forward(&'a Forward),
    /// Answer with [`Matched::location`].
    Redirect(&'a Redirect),
    /// Answer as written.
    Direct(&'a DirectResponse),
}

impl<'a> Matched<'a> {
    /// The request's hash by the route's policies.
    pub fn hash(&self, head: &RequestHead, peer: &HashPeer) -> Hashed {
        self.forward().map(|forward| hash::hash(&forward.hash_policy, head, peer)).unwrap_or_default()
    }

    /// What is asked of a host's metadata by the weighted cluster, else by the route.
    pub fn metadata_match(&self) -> Option<&'a Arc<MetadataMatch>> {
        match self.weight() {
            Some(weight) => weight.metadata_match.as_ref(),
            None => self.forward()?.metadata_match.as_ref(),
        }
    }

    /// To keep over awaits.
    pub fn id(&self) -> RouteId {
        self.id
    }

    /// What to do.
    pub fn answer(&self) -> Answer<'a> {
        match &self.route.action {
            Action::Forward(forward) => Answer::Forward(forward),
            Action::Redirect(redirect) => Answer::Redirect(redirect),
            Action::Direct(direct) => Answer::Direct(direct),
        }
    }

    /// The cluster to forward to. `None` when the route does not forward, or the header that names it is missing.
    pub fn cluster<'b>(&self, head: &'b RequestHead) -> Option<&'b str>
    where
        'a: 'b,
    {
        match &self.forward()?.cluster {
            ClusterChoice::Named(name) => Some(name),
            ClusterChoice::Weighted(weighted) => {
                weighted.clusters.get(self.id.cluster as usize).map(|cluster| &*cluster.name)
            }
            ClusterChoice::Header(name) => {
                let value = match &**name {
                    ":authority" | "host" => head.authority.as_bytes(),
                    ":method" => head.method.as_bytes(),
                    ":path" => head.path.as_bytes(),
                    name => head.headers.get(name.as_bytes())?,
                };
                std::str::from_utf8(value).ok().filter(|name| !name.is_empty())
            }
        }
    }

    /// What is said of the filter of that configured name, from the most specific level to the most general:
    /// weighted cluster, route, virtual host, route configuration. Nothing where TLS is required first.
    pub fn filter_overrides(&self, name: &str) -> impl Iterator<Item = &'a Arc<FilterOverride>> {
        let routed = self.id.route != RouteId::TO_HTTPS;
        let levels = [
            self.weight().map(|weight| &weight.overrides),
            Some(&self.route.overrides),
            Some(&self.virtual_host.overrides),
            Some(&self.config.overrides),
        ];
        levels.into_iter().flatten().filter(move |_| routed).filter_map(move |level| level.get(name))
    }

    /// Edits the request that goes upstream: header edits of all levels, host and path rewrites. Call once a
    /// request, before the first try. `keep_original`: keep what was rewritten in x-envoy-original-path and
    /// x-envoy-original-host (not with `suppress_envoy_headers`).
    pub fn finalize_request(&self, head: &mut RequestHead, record: &WithRecord<'_>, keep_original: bool) {
        let apply = |edits: &HeaderEdits, head: &mut RequestHead| {
            if !edits.is_empty() {
                record(&mut |record| edits.apply_request(head, record));
            }
        };
        if let Some(weight) = self.weight() {
            apply(&weight.request_edits, head);
            if let Some(host) = &weight.host_rewrite {
                head.authority.clear();
                head.authority.push_str(host);
            }
        }
        for edits in self.levels([
            &self.config.request_edits,
            &self.virtual_host.request_edits,
            &self.route.request_edits,
        ]) {
            apply(edits, head);
        }
        let Some(forward) = self.forward() else { return };
        if let Some(rewrite) = &forward.host_rewrite {
            self.rewrite_configured_host(rewrite, head, keep_original);
        }
        if let Some(rewrite) = &forward.path_rewrite
            && let Some(path) = self.rewritten_path(rewrite, &head.path)
        {
            let old = std::mem::replace(&mut head.path, path);
            if keep_original {
                head.headers.set_id(HeaderId::XEnvoyOriginalPath, old.as_bytes());
            }
        }
    }

    /// Whether the host becomes the chosen endpoint's name: then call [`Matched::rewrite_host`] for each try.
    pub fn wants_endpoint_host(&self) -> bool {
        self.forward().is_some_and(|forward| matches!(forward.host_rewrite, Some(HostRewrite::Auto)))
    }

    /// Sets the host of a request, and keeps the old one as [`Matched::finalize_request`] does, in
    /// x-forwarded-host too if the route says so. An empty `host` changes nothing.
    pub fn rewrite_host(&self, head: &mut RequestHead, host: &str, keep_original: bool) {
        if host.is_empty() {
            return;
        }
        let old = std::mem::replace(&mut head.authority, host.to_owned());
        if old.is_empty() {
            return;
        }
        if keep_original {
            head.headers.set_id(HeaderId::XEnvoyOriginalHost, old.as_bytes());
        }
        if self.forward().is_some_and(|forward| forward.append_x_forwarded_host) {
            append_forwarded_host(head, &old);
        }
    }

    /// Edits the response that goes downstream: header edits of all levels. Local replies that were made after
    /// this route was chosen too.
    pub fn finalize_response(&self, head: &mut ResponseHead, record: &WithRecord<'_>) {
        let mut apply = |edits: &HeaderEdits| {
            if !edits.is_empty() {
                record(&mut |record| edits.apply_response(head, record));
            }
        };
        if let Some(weight) = self.weight() {
            apply(&weight.response_edits);
        }
        for edits in self.levels([
            &self.config.response_edits,
            &self.virtual_host.response_edits,
            &self.route.response_edits,
        ]) {
            apply(edits);
        }
    }

    /// The `location` of a redirect; empty for other answers.
    pub fn location(&self, head: &RequestHead) -> String {
        match &self.route.action {
            // Envoy: the redirect of `require_tls` keeps the port.
            Action::Redirect(_) if self.id.route == RouteId::TO_HTTPS => {
                format!("https://{}{}", head.authority, head.path)
            }
            Action::Redirect(redirect) => redirect::location(redirect, &self.route.matches.path, head),
            Action::Forward(_) | Action::Direct(_) => String::new(),
        }
    }

    fn forward(&self) -> Option<&'a Forward> {
        match &self.route.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Direct(_) => None,
        }
    }

    fn weight(&self) -> Option<&'a ClusterWeight> {
        match &self.forward()?.cluster {
            ClusterChoice::Weighted(weighted) => weighted.clusters.get(self.id.cluster as usize),
            ClusterChoice::Named(_) | ClusterChoice::Header(_) => None,
        }
    }

    /// Edits from general to specific in the order in which they apply: a later one wins.
    fn levels<'e>(&self, mut edits: [&'e HeaderEdits; 3]) -> [&'e HeaderEdits; 3] {
        if !self.config.most_specific_header_mutations_wins {
            edits.reverse();
        }
        edits
    }

    fn rewrite_configured_host(&self, rewrite: &HostRewrite, head: &mut RequestHead, keep_original: bool) {
        let host = match rewrite {
            HostRewrite::Auto => return,
            HostRewrite::Literal(host) => host.to_string(),
            HostRewrite::Header(name) => match head.headers.get(name.as_bytes()) {
                Some(value) => String::from_utf8_lossy(value).into_owned(),
                None => return,
            },
            HostRewrite::PathRegex(regex, substitution) => {
                let path = &head.path[..head.path.len() - query_and_fragment(&head.path).len()];
                String::from_utf8_lossy(&regex.replace_all(path.as_bytes(), substitution)).into_owned()
            }
        };
        self.rewrite_host(head, &host, keep_original);
    }

    fn rewritten_path(&self, rewrite: &PathRewrite, path: &str) -> Option<String> {
        match rewrite {
            PathRewrite::Prefix(prefix) => replace_prefix(path, &self.route.matches.path, prefix),
            PathRewrite::Regex(regex, substitution) => {
                let old = &path[..path.len() - query_and_fragment(path).len()];
                replace_path(path, old, regex, substitution)
            }
        }
    }
}

/// The query and the fragment of a path with their `?` or `#`; empty when it has neither.
pub(super) fn query_and_fragment(path: &str) -> &str {
    memchr::memchr2(b'?', b'#', path.as_bytes()).map_or("", |at| &path[at..])
}

/// `path` with what was matched replaced by `new`. A regex matched all of the path without the query.
pub(super) fn replace_prefix(path: &str, matched: &PathMatch, new: &str) -> Option<String> {
    let length = match matched {
        PathMatch::Prefix(text) | PathMatch::Exact(text) | PathMatch::Separated(text) => text.len(),
        PathMatch::Regex(_) => path.len() - query_and_fragment(path).len(),
    };
    // A filter may have changed the path since it matched: then it is left alone.
    Some(format!("{new}{}", path.get(length..)?))
}

/// `path` with `old`, its part without the query, rewritten. An empty result is no rewrite.
pub(super) fn replace_path(
    path: &str,
    old: &str,
    regex: &Regex,
    substitution: &Substitution,
) -> Option<String> {
    let new = regex.replace_all(old.as_bytes(), substitution);
    if new.is_empty() {
        return None;
    }
    let mut new = String::from_utf8(new).ok()?;
    new.push_str(&path[old.len()..]);
    Some(new)
}

/// Adds `host` to x-forwarded-host unless it is its last element already.
fn append_forwarded_host(head: &mut RequestHead, host: &str) {
    let joined = match head.headers.joined(HeaderId::XForwardedHost.as_str().as_bytes()) {
        Some(old) if !old.is_empty() => {
            let last = old.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            if last == host.as_bytes() {
                return;
            }
            [&*old, host.as_bytes()].join(&b',')
        }
        _ => host.as_bytes().to_vec(),
    };
    head.headers.set_id(HeaderId::XForwardedHost, &joined);
}
