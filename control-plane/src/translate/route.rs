//! Route -> the routes of a virtual host.

use xds_types::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use xds_types::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source::Specifier,
};
use xds_types::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use xds_types::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use xds_types::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use xds_types::envoy::config::route::v3::route::Action;
use xds_types::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
};
use xds_types::envoy::config::route::v3::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use xds_types::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use xds_types::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route as EnvoyRoute,
    RouteAction, RouteMatch, WeightedCluster,
};
use xds_types::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use xds_types::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use xds_types::google::protobuf::Duration;
use xds_types::portolan::config::v1::{
    Backend, HeaderEdits, Match, Redirect, Rewrite, Route, Rule, ValueMatch, r#match::Path,
    value_match::Value,
};

use super::Dialect;
use super::parts::{check_rules, uint};
use super::patch::{self, Patches};
use super::{conduct, names};
use crate::model::{ObjectKey, Problems};

/// The routes of one Route object, in order. One for each match of each rule.
pub(super) fn routes(
    key: &ObjectKey,
    spec: &Route,
    dialect: Dialect,
    found: &mut Problems,
) -> Vec<EnvoyRoute> {
    let patches = Patches::new(key, &spec.patch);
    patches.check_keys(&["route"], found);
    let mut all = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        let any = [Match::default()];
        let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        for m in matches {
            for (matching, separated) in route_matches(m, dialect) {
                let route = EnvoyRoute {
                    name: names::route(key.name.as_str(), &rule.name, i),
                    r#match: Some(matching),
                    action: action(rule, m, separated, dialect),
                    request_headers_to_add: to_add(rule.request_headers.as_ref()),
                    request_headers_to_remove: to_remove(rule.request_headers.as_ref()),
                    response_headers_to_add: to_add(rule.response_headers.as_ref()),
                    response_headers_to_remove: to_remove(rule.response_headers.as_ref()),
                    ..EnvoyRoute::default()
                };
                let route = patches.apply("route", route, found);
                check_rules(&route, key, "route", found);
                all.push(route);
            }
        }
    }
    // A patch is merged into each route: what is wrong with it was found once for each.
    found.list.dedup();
    all
}

/// The rule of each of [`routes`], by its place.
pub(super) fn rules(spec: &Route) -> Vec<usize> {
    let matches = |r: &Rule| match r.matches.is_empty() {
        true => 1,
        false => r.matches.iter().map(|m| route_matches(m, Dialect::Envoy).len()).sum(),
    };
    spec.rules.iter().enumerate().flat_map(|(i, r)| std::iter::repeat_n(i, matches(r))).collect()
}

/// The clusters that a Route names, also those of weight 0, which are kept warm, those of mirrors, and those of its patch.
pub(super) fn clusters(spec: &Route) -> impl Iterator<Item = std::sync::Arc<str>> + '_ {
    let of_rules = spec.rules.iter().flat_map(|r| {
        let backends = r.backends.iter().map(|b| names::cluster(&b.service, &b.subset));
        backends.chain(r.mirrors.iter().map(|m| names::cluster(&m.service, &m.subset)))
    });
    of_rules.chain(patch::clusters(&spec.patch, "route"))
}

/// Whether a path was matched by elements.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separated {
    Yes,
    No,
}

/// gRPC clients do not know `path_separated_prefix`: for them `/a` is `/a` itself, or what begins with `/a/`.
fn route_matches(m: &Match, dialect: Dialect) -> Vec<(RouteMatch, Separated)> {
    let Match { path, method, headers, query, grpc } = m;
    let mut conditions: Vec<HeaderMatcher> = headers.iter().map(header).collect();
    if !method.is_empty() && dialect == Dialect::Envoy {
        conditions.insert(0, exact_header(":method", method));
    }
    let mut grpc_only = None;
    let paths = match path {
        _ if !grpc.is_empty() => {
            if dialect == Dialect::Envoy {
                grpc_only = Some(GrpcRouteMatchOptions::default());
            }
            let on = match grpc.contains('/') {
                true => PathSpecifier::Path(format!("/{grpc}")),
                false => PathSpecifier::Prefix(format!("/{grpc}/")),
            };
            vec![(on, Separated::No)]
        }
        None => vec![(everything(dialect), Separated::No)],
        Some(Path::Prefix(p)) if p == "/" => vec![(everything(dialect), Separated::No)],
        Some(Path::Prefix(p)) => vec![(PathSpecifier::Prefix(p.clone()), Separated::No)],
        Some(Path::Exact(p)) => vec![(PathSpecifier::Path(p.clone()), Separated::No)],
        Some(Path::Regex(r)) => vec![(PathSpecifier::SafeRegex(regex(r)), Separated::No)],
        Some(Path::PathPrefix(p)) => match (p.trim_end_matches('/'), dialect) {
            ("", _) => vec![(everything(dialect), Separated::Yes)],
            (p, Dialect::Envoy) => vec![(PathSpecifier::PathSeparatedPrefix(p.to_owned()), Separated::Yes)],
            (p, Dialect::Grpc) => vec![
                (PathSpecifier::Path(p.to_owned()), Separated::Yes),
                (PathSpecifier::Prefix(format!("{p}/")), Separated::Yes),
            ],
        },
    };
    let with = |(on, separated)| {
        let matching = RouteMatch {
            headers: conditions.clone(),
            query_parameters: query.iter().map(query_parameter).collect(),
            grpc: grpc_only,
            path_specifier: Some(on),
            ..RouteMatch::default()
        };
        (matching, separated)
    };
    paths.into_iter().map(with).collect()
}

/// gRPC clients take only an empty prefix as the one that matches all.
fn everything(dialect: Dialect) -> PathSpecifier {
    PathSpecifier::Prefix(match dialect {
        Dialect::Envoy => "/".to_owned(),
        Dialect::Grpc => String::new(),
    })
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

fn exact_header(name: &str, value: &str) -> HeaderMatcher {
    let value = string(MatchPattern::Exact(value.to_owned()));
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..HeaderMatcher::default()
    }
}

/// The condition on a string; `None` when presence alone counts.
fn pattern(value: Option<&Value>) -> Option<StringMatcher> {
    let pattern = match value? {
        Value::Exact(v) => MatchPattern::Exact(v.clone()),
        Value::Prefix(v) => MatchPattern::Prefix(v.clone()),
        Value::Suffix(v) => MatchPattern::Suffix(v.clone()),
        Value::Regex(v) => MatchPattern::SafeRegex(regex(v)),
        Value::Present(_) => return None,
    };
    Some(string(pattern))
}

fn header(m: &ValueMatch) -> HeaderMatcher {
    let ValueMatch { name, value, not } = m;
    let condition = match pattern(value.as_ref()) {
        Some(value) => HeaderMatchSpecifier::StringMatch(value),
        None => HeaderMatchSpecifier::PresentMatch(!matches!(value, Some(Value::Present(false)))),
    };
    HeaderMatcher {
        name: name.to_ascii_lowercase(),
        invert_match: *not,
        header_match_specifier: Some(condition),
        ..HeaderMatcher::default()
    }
}

fn query_parameter(m: &ValueMatch) -> QueryParameterMatcher {
    let condition = match pattern(m.value.as_ref()) {
        Some(value) => QueryParameterMatchSpecifier::StringMatch(value),
        None => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    QueryParameterMatcher { name: m.name.clone(), query_parameter_match_specifier: Some(condition) }
}

fn action(rule: &Rule, m: &Match, separated: Separated, dialect: Dialect) -> Option<Action> {
    let Rule {
        name: _,
        matches: _,
        backends,
        redirect,
        respond,
        rewrite,
        request_headers: _, // these two are fields of the route, not of its action
        response_headers: _,
        timeout,
        retry: _, // these are added by `conduct`
        mirrors: _,
        hash: _,
        idle_timeout: _,
        priority: _,
    } = rule;
    if let Some(r) = redirect {
        return Some(Action::Redirect(redirection(r)));
    }
    if let Some(r) = respond {
        let body = (!r.body.is_empty()).then(|| DataSource {
            specifier: Some(Specifier::InlineString(r.body.clone())),
            ..DataSource::default()
        });
        return Some(Action::DirectResponse(DirectResponseAction {
            status: r.status,
            body,
            body_format: None,
        }));
    }
    let mut action = RouteAction { cluster_specifier: cluster(backends), ..RouteAction::default() };
    match dialect {
        Dialect::Envoy => action.timeout = *timeout,
        // gRFC A31: clients look at this one, and have no limit of their own.
        Dialect::Grpc => action.max_stream_duration = timeout.as_ref().and_then(stream_duration),
    }
    if let Some(Rewrite { prefix, host }) = rewrite {
        if !host.is_empty() {
            action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
        }
        if !prefix.is_empty() {
            rewrite_path(&mut action, m, prefix, separated);
        }
    }
    conduct::apply(&mut action, rule, dialect);
    Some(Action::Route(action))
}

fn stream_duration(timeout: &Duration) -> Option<MaxStreamDuration> {
    let none = timeout.seconds == 0 && timeout.nanos == 0;
    (!none).then(|| MaxStreamDuration { max_stream_duration: Some(*timeout), ..MaxStreamDuration::default() })
}

fn cluster(backends: &[Backend]) -> Option<ClusterSpecifier> {
    if let [one] = backends {
        return Some(ClusterSpecifier::Cluster(names::cluster(&one.service, &one.subset).to_string()));
    }
    let clusters = backends
        .iter()
        .map(|b| ClusterWeight {
            name: names::cluster(&b.service, &b.subset).to_string(),
            weight: uint(b.weight.as_ref().map_or(1, |w| w.value)),
            ..ClusterWeight::default()
        })
        .collect();
    Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..WeightedCluster::default() }))
}

/// A prefix matched by elements and replaced by one that ends in `/` would leave two slashes, or none where one
/// is needed: then the slash that follows is replaced too.
fn rewrite_path(action: &mut RouteAction, m: &Match, new: &str, separated: Separated) {
    let old = match &m.path {
        Some(Path::PathPrefix(p)) => p.trim_end_matches('/'),
        _ => "",
    };
    if separated == Separated::No || old.is_empty() || !new.ends_with('/') {
        action.prefix_rewrite = new.to_owned();
        return;
    }
    action.regex_rewrite = Some(RegexMatchAndSubstitute {
        pattern: Some(self::regex(&format!("^{}/*", regex::escape(old)))),
        // A backslash would name a group.
        substitution: new.replace('\\', r"\\"),
    });
}

fn redirection(r: &Redirect) -> RedirectAction {
    let Redirect { scheme, host, port, path, prefix, status } = r;
    let status = match status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = match (path.is_empty(), prefix.is_empty()) {
        (false, _) => Some(PathRewriteSpecifier::PathRedirect(path.clone())),
        (true, false) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.clone())),
        (true, true) => None,
    };
    RedirectAction {
        host_redirect: host.clone(),
        port_redirect: *port,
        response_code: status.into(),
        scheme_rewrite_specifier: (!scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(scheme.clone())),
        path_rewrite_specifier: path,
        ..RedirectAction::default()
    }
}

/// Sorted by name, because a proto map has no order.
fn to_add(edits: Option<&HeaderEdits>) -> Vec<HeaderValueOption> {
    let Some(HeaderEdits { set, add, remove: _ }) = edits else { return Vec::new() };
    let one = |(key, value): (&String, &String), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue { key: key.clone(), value: value.clone(), ..HeaderValue::default() }),
        append_action: action.into(),
        // An empty value is what was asked for; without this it is dropped.
        keep_empty_value: value.is_empty(),
        ..HeaderValueOption::default()
    };
    let mut sorted: Vec<_> = set.iter().map(|h| one(h, HeaderAppendAction::OverwriteIfExistsOrAdd)).collect();
    sorted.extend(add.iter().map(|h| one(h, HeaderAppendAction::AppendIfExistsOrAdd)));
    sorted.sort_by(|a, b| {
        let key = |o: &HeaderValueOption| (o.header.as_ref().map(|h| h.key.clone()), -o.append_action);
        key(a).cmp(&key(b))
    });
    sorted
}

fn to_remove(edits: Option<&HeaderEdits>) -> Vec<String> {
    edits.map(|e| e.remove.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
