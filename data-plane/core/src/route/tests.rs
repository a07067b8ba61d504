use super::*;
use crate::config::{
    ClusterWeight, DirectResponse, Forward, Fraction, HostRewrite, PathMatch, PathRewrite, RedirectPath,
    RuntimeFraction,
};
use crate::headers::edit::{AppendAction, HeaderAdd, HeaderEdits};
use crate::headers::format::{Format, Missing};
use crate::headers::{HeaderList, Record, ResponseHead, Scheme, Version};
use crate::matcher::{
    HeaderMatcher, HeaderRule, QueryMatcher, Regex, StringMatcher, StringPattern, Substitution,
};
use proptest::prelude::*;
use std::time::{Duration, SystemTime};

fn head(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: "GET".into(),
        path: path.into(),
        authority: authority.into(),
        scheme: Scheme::Http,
        version: Version::Http11,
        headers: HeaderList::default(),
    }
}

fn query(head: &RequestHead) -> RouteQuery<'_> {
    RouteQuery { head, random: 0, is_tls: false, internal: false, runtime: None, peer: None }
}

fn matches(path: PathMatch) -> RouteMatch {
    RouteMatch {
        path,
        case_sensitive: true,
        fraction: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    }
}

fn route(name: &str, matches: RouteMatch, action: Action) -> Route {
    Route {
        name: name.into(),
        matches,
        action,
        tracing: None,
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        overrides: Default::default(),
        metadata: Default::default(),
    }
}

fn forward(cluster: ClusterChoice) -> Forward {
    Forward {
        upgrades: Vec::new(),
        cluster,
        metadata_match: None,
        cluster_not_found_status: 503,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        grpc_timeout_header_offset: Duration::ZERO,
        rate_limits: Vec::new(),
        include_vh_rate_limits: false,
        hash_policy: Vec::new(),
        high_priority: false,
        retry: None,
        body_limit: Default::default(),
        mirrors: Default::default(),
    }
}

fn to(cluster: &str) -> Action {
    Action::Forward(Box::new(forward(ClusterChoice::Named(cluster.into()))))
}

fn virtual_host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|domain| (*domain).into()).collect(),
        routes,
        require_tls: RequireTls::No,
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
        rate_limits: Vec::new(),
        include_is_timeout_retry: false,
        overrides: Default::default(),
    }
}

fn config(virtual_hosts: Vec<VirtualHost>) -> RouteConfig {
    RouteConfig {
        name: "routes".into(),
        virtual_hosts,
        request_edits: HeaderEdits::default(),
        response_edits: HeaderEdits::default(),
        internal_only_headers: Vec::new(),
        most_specific_header_mutations_wins: false,
        ignore_port_in_host_matching: false,
        ignore_path_parameters: false,
        validate_clusters: false,
        overrides: Default::default(),
    }
}

fn table(virtual_hosts: Vec<VirtualHost>) -> RouteTable {
    RouteTable::build(Arc::new(config(virtual_hosts)))
}

/// A table of one `*` virtual host.
fn routes(routes: Vec<Route>) -> RouteTable {
    table(vec![virtual_host("all", &["*"], routes)])
}

fn chosen<'a>(table: &'a RouteTable, head: &RequestHead) -> Option<&'a str> {
    table.route(&query(head)).map(|matched| &*matched.route.name)
}

fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix(text.into())
}

fn regex(text: &str) -> PathMatch {
    PathMatch::Regex(Regex::new(text).unwrap())
}

fn text(pattern: StringPattern) -> StringMatcher {
    StringMatcher { pattern, ignore_case: false }
}

fn add(name: &str, value: &str, action: AppendAction) -> HeaderAdd {
    let value = Format::compile(value, Missing::Empty).unwrap();
    HeaderAdd { name: name.into(), value, action, keep_empty_value: false }
}

fn record() -> Record<'static> {
    Record::new(SystemTime::UNIX_EPOCH)
}

mod virtual_hosts {
    use super::*;

    fn serving(domains: &[&[&str]], authority: &str) -> Option<String> {
        let hosts = domains
            .iter()
            .enumerate()
            .map(|(at, domains)| {
                virtual_host(&at.to_string(), domains, vec![route("r", matches(prefix("/")), to("c"))])
            })
            .collect();
        table(hosts).route(&query(&head(authority, "/"))).map(|matched| matched.virtual_host.name.to_string())
    }

    #[test]
    fn exact_beats_suffix_beats_prefix_beats_any() {
        let domains: &[&[&str]] = &[&["*"], &["www.*"], &["*.foo.com"], &["www.foo.com"]];
        for (authority, host) in
            [("www.foo.com", "3"), ("api.foo.com", "2"), ("www.bar.com", "1"), ("bar.com", "0")]
        {
            assert_eq!(serving(domains, authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn the_longest_wildcard_wins() {
        let domains: &[&[&str]] = &[&["*.com"], &["*-bar.foo.com"], &["*.foo.com"], &["a.*"], &["a.b.*"]];
        for (authority, host) in
            [("x-bar.foo.com", "1"), ("x.foo.com", "2"), ("x.com", "0"), ("a.b.c", "4"), ("a.c.d", "3")]
        {
            assert_eq!(serving(domains, authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_at_least_one_byte() {
        assert_eq!(serving(&[&["*.foo.com"]], ".foo.com"), None);
        assert_eq!(serving(&[&["foo.*"]], "foo."), None);
    }

    #[test]
    fn case_is_ignored() {
        assert_eq!(serving(&[&["Foo.com"], &["x"]], "fOO.COM").as_deref(), Some("0"));
        assert_eq!(serving(&[&["*.Foo.com"], &["x"]], "A.fOO.COM").as_deref(), Some("0"));
    }

    #[test]
    fn a_port_belongs_to_the_host_unless_told_otherwise() {
        assert_eq!(serving(&[&["foo.com"]], "foo.com:8080"), None);
        let host = virtual_host("h", &["foo.com", "[::1]"], vec![route("r", matches(prefix("/")), to("c"))]);
        let table = RouteTable::build(Arc::new(RouteConfig {
            ignore_port_in_host_matching: true,
            ..config(vec![host])
        }));
        for authority in ["foo.com:8080", "foo.com", "[::1]:80", "[::1]"] {
            assert!(table.route(&query(&head(authority, "/"))).is_some(), "{authority}");
        }
    }

    #[test]
    fn no_host_reaches_only_a_table_of_nothing_but_any() {
        assert_eq!(serving(&[&["*"]], "").as_deref(), Some("0"));
        assert_eq!(serving(&[&["*"], &["foo.com"]], ""), None);
    }
}

mod paths {
    use super::*;

    #[test]
    fn the_first_route_in_order_wins_however_it_matches() {
        let table = routes(vec![
            route("regex", matches(regex("/api/v[0-9]+")), to("c")),
            route("exact", matches(PathMatch::Exact("/api/v1".into())), to("c")),
            route("separated", matches(PathMatch::Separated("/api".into())), to("c")),
            route("long", matches(prefix("/apix/long")), to("c")),
            route("short", matches(prefix("/api")), to("c")),
            route("any", matches(prefix("/")), to("c")),
        ]);
        for (path, name) in [
            ("/api/v1", "regex"),
            ("/api/v1?x=1", "regex"),
            ("/api/v1#f", "regex"),
            ("/api/vx", "separated"),
            ("/api", "separated"),
            ("/api/", "separated"),
            ("/api?q", "separated"),
            ("/apix", "short"),
            ("/apix/long/er", "long"),
            ("/ap", "any"),
        ] {
            assert_eq!(chosen(&table, &head("h", path)), Some(name), "{path}");
        }
    }

    #[test]
    fn a_later_route_is_taken_when_the_rest_of_an_earlier_match_fails() {
        let only_post = RouteMatch {
            headers: vec![HeaderMatcher {
                name: ":method".into(),
                rule: HeaderRule::Text(text(StringPattern::Exact("POST".into()))),
                invert: false,
                treat_missing_as_empty: false,
            }],
            ..matches(prefix("/a"))
        };
        let table =
            routes(vec![route("post", only_post, to("c")), route("any", matches(prefix("/")), to("c"))]);
        assert_eq!(chosen(&table, &head("h", "/a")), Some("any"));
        let mut post = head("h", "/a");
        post.method = "POST".into();
        assert_eq!(chosen(&table, &post), Some("post"));
    }

    #[test]
    fn case_is_ignored_where_asked() {
        let folded = |path| RouteMatch { case_sensitive: false, ..matches(path) };
        let table = routes(vec![
            route("exact", folded(PathMatch::Exact("/Login".into())), to("c")),
            route("separated", folded(PathMatch::Separated("/Docs".into())), to("c")),
            route("prefix", folded(prefix("/AP")), to("c")),
            route("sensitive", matches(prefix("/zz")), to("c")),
        ]);
        for (path, name) in [
            ("/LOGIN", Some("exact")),
            ("/docs/x", Some("separated")),
            ("/docsx", None),
            ("/apI", Some("prefix")),
            ("/ZZ", None),
        ] {
            assert_eq!(chosen(&table, &head("h", path)), name, "{path}");
        }
    }

    #[test]
    fn path_parameters_are_ignored_where_asked() {
        let host =
            virtual_host("h", &["*"], vec![route("r", matches(PathMatch::Exact("/a".into())), to("c"))]);
        let table = |ignore_path_parameters| {
            RouteTable::build(Arc::new(RouteConfig { ignore_path_parameters, ..config(vec![host.clone()]) }))
        };
        assert_eq!(chosen(&table(true), &head("h", "/a;b=c?d")), Some("r"));
        assert_eq!(chosen(&table(false), &head("h", "/a;b=c?d")), None);
    }

    #[test]
    fn grpc_query_and_share_are_parts_of_the_match() {
        let table = routes(vec![
            route("grpc", RouteMatch { grpc: true, ..matches(prefix("/")) }, to("c")),
            route(
                "query",
                RouteMatch {
                    query: vec![QueryMatcher {
                        name: "v".into(),
                        value: Some(text(StringPattern::Prefix("2".into()))),
                    }],
                    ..matches(prefix("/"))
                },
                to("c"),
            ),
            route(
                "share",
                RouteMatch {
                    fraction: Some(RuntimeFraction {
                        default: Fraction { per_million: 250_000 },
                        key: "routing.share".into(),
                    }),
                    ..matches(prefix("/"))
                },
                to("c"),
            ),
        ]);
        let mut grpc = head("h", "/s/m");
        grpc.headers.append(b"content-type", b"application/grpc+proto");
        assert_eq!(chosen(&table, &grpc), Some("grpc"));
        grpc.headers.set(b"content-type", b"application/grpc-web");
        assert_ne!(chosen(&table, &grpc), Some("grpc"));
        assert_eq!(chosen(&table, &head("h", "/?a=1&v=20")), Some("query"));
        let plain = head("h", "/?v=1");
        let at = |random, runtime| table.route(&RouteQuery { random, runtime, ..query(&plain) }).is_some();
        assert!(at(249_999, None));
        assert!(!at(250_000, None));
        assert!(at(250_000, Some(&|key| (key == "routing.share").then_some(300_000))));
    }

    #[test]
    fn many_regexes_are_matched_as_a_set() {
        let mut list: Vec<_> = (0..50)
            .map(|n| route(&n.to_string(), matches(regex(&format!("/r{n}/[a-z]+"))), to("c")))
            .collect();
        list.insert(10, route("prefix", matches(prefix("/r4")), to("c")));
        list.push(route("last", matches(regex(".*")), to("c")));
        let table = routes(list);
        for (path, name) in
            [("/r3/a", "3"), ("/r4/a", "4"), ("/r40/a", "prefix"), ("/r33/b", "33"), ("/x", "last")]
        {
            assert_eq!(chosen(&table, &head("h", path)), Some(name), "{path}");
        }
    }

    #[test]
    fn a_request_without_a_path_matches_nothing() {
        assert_eq!(chosen(&routes(vec![route("any", matches(prefix("")), to("c"))]), &head("h", "")), None);
    }

    #[test]
    fn a_chain_of_ten_thousand_nested_prefixes_is_no_stack_overflow() {
        let list = (1..10_000).rev().map(|n| route("r", matches(prefix(&"a".repeat(n))), to("c"))).collect();
        assert!(chosen(&routes(list), &head("h", "aaa")).is_some());
    }
}

mod clusters {
    use super::*;

    fn weighted(weights: &[(&str, u32)], header: Option<&str>) -> RouteTable {
        let clusters = weights
            .iter()
            .map(|(name, weight)| ClusterWeight {
                name: (*name).into(),
                weight: *weight,
                metadata_match: None,
                request_edits: HeaderEdits { remove: vec!["x-gone".into()], ..HeaderEdits::default() },
                response_edits: HeaderEdits::default(),
                host_rewrite: Some(format!("{name}.local").into()),
                overrides: Default::default(),
            })
            .collect();
        let total = weights.iter().map(|(_, weight)| weight).sum();
        let choice = ClusterChoice::Weighted(WeightedClusters {
            clusters,
            total,
            random_value_header: header.map(Into::into),
            use_hash_policy: false,
        });
        routes(vec![route("r", matches(prefix("/")), Action::Forward(Box::new(forward(choice))))])
    }

    #[test]
    fn weights_divide_the_random_range_and_zero_is_never_chosen() {
        let table = weighted(&[("never", 0), ("a", 30), ("b", 70), ("never", 0)], None);
        let head = head("h", "/");
        let mut counts = std::collections::BTreeMap::<String, u32>::new();
        for random in 0..1000 {
            let matched = table.route(&RouteQuery { random, ..query(&head) }).unwrap();
            *counts.entry(matched.cluster(&head).unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("a".into(), 300), ("b".into(), 700)]);
    }

    #[test]
    fn a_header_may_hold_the_random_value() {
        let table = weighted(&[("a", 30), ("b", 70)], Some("x-random"));
        let mut head = head("h", "/");
        let at = |head: &RequestHead| {
            let matched = table.route(&RouteQuery { random: 99, ..query(head) }).unwrap();
            matched.cluster(head).unwrap().to_owned()
        };
        assert_eq!(at(&head), "b");
        head.headers.append(b"x-random", b"29");
        assert_eq!(at(&head), "a");
        head.headers.append(b"x-random", b"29");
        assert_eq!(at(&head), "b", "two values are as good as none");
    }

    #[test]
    fn the_chosen_clusters_edits_and_host_apply() {
        let table = weighted(&[("a", 1)], None);
        let mut head = head("h", "/");
        head.headers.append(b"x-gone", b"1");
        let matched = table.route(&query(&head)).unwrap();
        matched.finalize_request(&mut head, &|edit| edit(&record()), true);
        assert!(!head.headers.contains(b"x-gone"));
        assert_eq!(head.authority, "a.local");
        assert_eq!(table.matched(matched.id()).cluster(&head), Some("a"), "an id recalls the choice");
    }

    #[test]
    fn a_header_may_name_the_cluster() {
        let choice = ClusterChoice::Header("x-cluster".into());
        let table =
            routes(vec![route("r", matches(prefix("/")), Action::Forward(Box::new(forward(choice))))]);
        let mut head = head("h", "/");
        assert_eq!(table.route(&query(&head)).unwrap().cluster(&head), None);
        head.headers.append(b"x-cluster", b"blue");
        assert_eq!(table.route(&query(&head)).unwrap().cluster(&head), Some("blue"));
    }
}

mod rewrites {
    use super::*;

    fn rewritten(condition: PathMatch, edit: impl FnOnce(&mut Forward), head: &mut RequestHead) {
        let mut action = forward(ClusterChoice::Named("c".into()));
        edit(&mut action);
        let table = routes(vec![route("r", matches(condition), Action::Forward(Box::new(action)))]);
        table.route(&query(head)).unwrap().finalize_request(head, &|edit| edit(&record()), true);
    }

    fn path(condition: PathMatch, rewrite: PathRewrite, path: &str) -> (String, Option<String>) {
        let mut head = head("h", path);
        rewritten(condition, |forward| forward.path_rewrite = Some(rewrite), &mut head);
        let original = head.headers.get(b"x-envoy-original-path");
        let original = original.map(|path| String::from_utf8(path.to_vec()).unwrap());
        (std::mem::take(&mut head.path), original)
    }

    fn substitute(pattern: &str, substitution: &str) -> (Regex, Substitution) {
        let regex = Regex::new(pattern).unwrap();
        let substitution = Substitution::new(substitution, &regex).unwrap();
        (regex, substitution)
    }

    #[test]
    fn the_matched_part_is_replaced_and_the_query_kept() {
        for (condition, new, old, want) in [
            (prefix("/api/"), "/", "/api/x?q=1", "/x?q=1"),
            (prefix("/api"), "/", "/api/x", "//x"),
            (PathMatch::Exact("/a".into()), "/b", "/a?q", "/b?q"),
            (PathMatch::Separated("/a".into()), "/b", "/a/c", "/b/c"),
            (regex("/a.*"), "/b", "/a/c?q", "/b?q"),
        ] {
            let (path, original) = path(condition, PathRewrite::Prefix(new.into()), old);
            assert_eq!((path.as_str(), original.as_deref()), (want, Some(old)));
        }
    }

    #[test]
    fn a_regex_rewrites_the_path_without_the_query() {
        let (pattern, substitution) = substitute("^/service/([^/]+)(/.*)$", r"\2/instance/\1");
        let rewrite = PathRewrite::Regex(pattern, substitution);
        assert_eq!(
            path(prefix("/"), rewrite, "/service/foo/v1?x=/service/a/b").0,
            "/v1/instance/foo?x=/service/a/b"
        );
    }

    #[test]
    fn a_rewrite_to_nothing_is_none() {
        let (pattern, substitution) = substitute(".*", "");
        let (path, original) = path(prefix("/"), PathRewrite::Regex(pattern, substitution), "/a");
        assert_eq!((path.as_str(), original), ("/a", None));
    }

    #[test]
    fn a_host_is_rewritten_by_literal_header_or_path() {
        let (pattern, substitution) = substitute("^/(.+)/.+$", r"\1");
        for (rewrite, want) in [
            (HostRewrite::Literal("new".into()), "new"),
            (HostRewrite::Header("x-host".into()), "from-header"),
            (HostRewrite::Header("x-none".into()), "old"),
            (HostRewrite::PathRegex(pattern, substitution), "from-path"),
            (HostRewrite::Auto, "old"),
        ] {
            let mut head = head("old", "/from-path/x?a=/b/");
            head.headers.append(b"x-host", b"from-header");
            rewritten(
                prefix("/"),
                |forward| {
                    forward.host_rewrite = Some(rewrite.clone());
                    forward.append_x_forwarded_host = true;
                },
                &mut head,
            );
            assert_eq!(head.authority, want);
            let kept = head.headers.get(b"x-forwarded-host");
            assert_eq!(kept, (want != "old").then_some(&b"old"[..]), "the old host is kept on a rewrite");
        }
    }

    #[test]
    fn x_forwarded_host_does_not_repeat_its_last_element() {
        for (before, after) in [("a", "a,old"), ("a,old", "a,old"), ("old,a", "old,a,old")] {
            let mut head = head("old", "/");
            head.headers.append(b"x-forwarded-host", before.as_bytes());
            rewritten(
                prefix("/"),
                |forward| {
                    forward.host_rewrite = Some(HostRewrite::Literal("new".into()));
                    forward.append_x_forwarded_host = true;
                },
                &mut head,
            );
            assert_eq!(head.headers.get(b"x-forwarded-host"), Some(after.as_bytes()));
        }
    }

    #[test]
    fn edits_apply_from_specific_to_general_unless_reversed() {
        for (most_specific_wins, want) in [(false, "config"), (true, "route")] {
            let edits = |level| HeaderEdits {
                add: vec![add("x-level", level, AppendAction::OverwriteOrAdd)],
                ..HeaderEdits::default()
            };
            let mut r = route("r", matches(prefix("/")), to("c"));
            (r.request_edits, r.response_edits) = (edits("route"), edits("route"));
            let mut host = virtual_host("h", &["*"], vec![r]);
            (host.request_edits, host.response_edits) = (edits("host"), edits("host"));
            let table = RouteTable::build(Arc::new(RouteConfig {
                request_edits: edits("config"),
                response_edits: edits("config"),
                most_specific_header_mutations_wins: most_specific_wins,
                ..config(vec![host])
            }));
            let mut head = head("h", "/");
            let matched = table.route(&query(&head)).unwrap();
            matched.finalize_request(&mut head, &|edit| edit(&record()), true);
            assert_eq!(head.headers.get(b"x-level"), Some(want.as_bytes()));
            let mut response = ResponseHead::new(200);
            matched.finalize_response(&mut response, &|edit| edit(&record()));
            assert_eq!(response.headers.get(b"x-level"), Some(want.as_bytes()));
        }
    }
}

mod redirects {
    use super::*;

    fn plain() -> Redirect {
        Redirect { scheme: None, host: None, port: None, path: None, status: 301, strip_query: false }
    }

    fn location(redirect: Redirect, condition: PathMatch, authority: &str, path: &str) -> String {
        let table = routes(vec![route("r", matches(condition), Action::Redirect(Box::new(redirect)))]);
        let mut head = head(authority, path);
        head.headers.append(b"x-forwarded-proto", b"http");
        let matched = table.route(&query(&head)).unwrap();
        assert!(matches!(matched.answer(), Answer::Redirect(redirect) if redirect.status == 301));
        matched.location(&head)
    }

    #[test]
    fn scheme_host_and_port_are_replaced_one_by_one() {
        let https = || Redirect { scheme: Some("https".into()), ..plain() };
        for (redirect, authority, want) in [
            (https(), "a.com", "https://a.com/p?q"),
            (https(), "a.com:80", "https://a.com/p?q"),
            (https(), "a.com:8080", "https://a.com:8080/p?q"),
            (https(), "[::1]:80", "https://[::1]/p?q"),
            (https(), "[::1]", "https://[::1]/p?q"),
            (plain(), "a.com:80", "http://a.com:80/p?q"),
            (Redirect { port: Some(8443), ..https() }, "a.com:80", "https://a.com:8443/p?q"),
            (Redirect { port: Some(8080), ..plain() }, "a.com", "http://a.com:8080/p?q"),
            (Redirect { host: Some("b.com".into()), ..plain() }, "a.com:81", "http://b.com/p?q"),
            (Redirect { strip_query: true, ..plain() }, "a.com", "http://a.com/p"),
        ] {
            assert_eq!(location(redirect, prefix("/"), authority, "/p?q"), want);
        }
    }

    #[test]
    fn paths_are_replaced_in_full_by_prefix_or_by_regex() {
        let pattern = Regex::new("^/old/(.*)$").unwrap();
        let substitution = Substitution::new(r"/new/\1", &pattern).unwrap();
        let with = |path| Redirect { path: Some(path), ..plain() };
        for (redirect, condition, path, want) in [
            (with(RedirectPath::Full("/n".into())), prefix("/"), "/o?q=1", "http://h/n?q=1"),
            (with(RedirectPath::Full("/n?own".into())), prefix("/"), "/o?q=1", "http://h/n?own"),
            (with(RedirectPath::Full("n".into())), prefix("/"), "/o", "http://h/n"),
            (with(RedirectPath::Prefix("/new".into())), prefix("/old"), "/old/x?q", "http://h/new/x?q"),
            (with(RedirectPath::Prefix("/new".into())), regex("/o.*"), "/old/x?q", "http://h/new?q"),
            (
                with(RedirectPath::Regex(pattern, substitution)),
                prefix("/"),
                "/old/x?/old/y",
                "http://h/new/x?/old/y",
            ),
            (
                Redirect { strip_query: true, ..with(RedirectPath::Full("/n?own".into())) },
                prefix("/"),
                "/o?q",
                "http://h/n?own",
            ),
        ] {
            assert_eq!(location(redirect, condition, "h", path), want);
        }
    }

    #[test]
    fn require_tls_redirects_before_any_route() {
        for (require, proto, is_tls, internal, redirected) in [
            (RequireTls::All, None, false, true, true),
            (RequireTls::All, None, true, false, false),
            (RequireTls::All, Some("https"), false, false, false),
            (RequireTls::All, Some("http"), true, false, true),
            (RequireTls::External, None, false, true, false),
            (RequireTls::External, None, false, false, true),
            (RequireTls::No, None, false, false, false),
        ] {
            let mut host = virtual_host("h", &["*"], vec![route("r", matches(prefix("/")), to("c"))]);
            host.require_tls = require;
            let table = table(vec![host]);
            let mut head = head("a.com:80", "/x?y");
            if let Some(proto) = proto {
                head.headers.append(b"x-forwarded-proto", proto.as_bytes());
            }
            let matched = table.route(&RouteQuery { is_tls, internal, ..query(&head) }).unwrap();
            let location = matched.location(&head);
            assert_eq!(
                location,
                if redirected { "https://a.com:80/x?y" } else { "" },
                "{require:?} {proto:?}"
            );
        }
    }
}

#[test]
fn a_direct_response_is_answered_as_written() {
    let direct = DirectResponse { status: 418, body: "tea".into(), body_format: None };
    let table = routes(vec![route("r", matches(prefix("/")), Action::Direct(direct))]);
    let head = head("h", "/");
    let matched = table.route(&query(&head)).unwrap();
    assert!(matches!(matched.answer(), Answer::Direct(direct) if direct.status == 418));
    assert_eq!(matched.cluster(&head), None);
}

#[test]
fn an_explanation_names_each_failed_condition() {
    let secret = HeaderMatcher {
        name: "x-key".into(),
        rule: HeaderRule::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    };
    let table = table(vec![virtual_host(
        "shop",
        &["shop.com"],
        vec![
            route("cart", matches(PathMatch::Exact("/cart".into())), to("c")),
            route("keyed", RouteMatch { headers: vec![secret], ..matches(prefix("/")) }, to("c")),
            route("all", matches(prefix("/")), to("c")),
            route("never", matches(prefix("/")), to("c")),
        ],
    )]);
    let explained = table.explain(&query(&head("shop.com", "/x")));
    let failed: Vec<_> = explained.routes.iter().map(|verdict| verdict.failed.as_deref()).collect();
    assert_eq!(
        failed,
        [Some("path \"/x\" is not \"/cart\""), Some("header \"x-key\" must be present"), None],
        "routes after the chosen one are not looked at"
    );
    assert_eq!(explained.outcome, "route 2 \"all\" is the first whose match holds");
    assert_eq!(table.explain(&query(&head("x", "/"))).virtual_host, None);
}

/// What the index must equal: the routes asked one by one.
fn linear(table: &RouteTable, query: &RouteQuery<'_>) -> Option<usize> {
    let host = &table.config.virtual_hosts[table.hosts.find(&query.head.authority)? as usize];
    let path = matched_path(&table.config, &query.head.path)?;
    host.routes.iter().position(|route| {
        explain::path_holds(&route.matches.path, route.matches.case_sensitive, path)
            && query.satisfies(&route.matches)
    })
}

/// Virtual hosts asked one by one.
fn linear_host(config: &RouteConfig, authority: &str) -> Option<u32> {
    let host = authority.to_ascii_lowercase();
    let domains = || {
        config.virtual_hosts.iter().enumerate().flat_map(|(at, host)| {
            host.domains.iter().map(move |domain| (at as u32, domain.to_ascii_lowercase()))
        })
    };
    let first = |found: Vec<(usize, u32)>| {
        let longest = found.iter().map(|(length, _)| *length).max()?;
        found.iter().find(|(length, _)| *length == longest).map(|(_, at)| *at)
    };
    if host.is_empty() && domains().any(|(_, domain)| domain != "*") {
        return None;
    }
    let exact = domains().find(|(_, domain)| *domain == host && !domain.contains('*')).map(|(at, _)| at);
    let suffixes = domains().filter_map(|(at, domain)| {
        let suffix = domain.strip_prefix('*').filter(|suffix| !suffix.is_empty())?;
        (host.ends_with(suffix) && host.len() > suffix.len()).then_some((suffix.len(), at))
    });
    let prefixes = domains().filter_map(|(at, domain)| {
        let prefix =
            domain.strip_suffix('*').filter(|prefix| !prefix.is_empty() && !domain.starts_with('*'))?;
        (host.starts_with(prefix) && host.len() > prefix.len()).then_some((prefix.len(), at))
    });
    exact
        .or_else(|| first(suffixes.collect()))
        .or_else(|| first(prefixes.collect()))
        .or_else(|| domains().find(|(_, domain)| domain == "*").map(|(at, _)| at))
}

fn any_route() -> impl Strategy<Value = Route> {
    let path = prop_oneof![
        4 => "(/|[abAB])(/?[abAB]){0,4}".prop_map(|text| PathMatch::Prefix(text.into())),
        2 => "/([abAB]/?){0,4}".prop_map(|text| PathMatch::Exact(text.into())),
        2 => "/[abAB](/[abAB]){0,2}".prop_map(|text| PathMatch::Separated(text.into())),
        3 => "/[ab](/[ab]){0,2}(/?\\.\\*)?".prop_map(|text| PathMatch::Regex(Regex::new(&text).unwrap())),
    ];
    (path, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(path, case_sensitive, keyed)| {
        let matcher = HeaderMatcher {
            name: "x-key".into(),
            rule: HeaderRule::Present(true),
            invert: false,
            treat_missing_as_empty: false,
        };
        let headers = if keyed { vec![matcher] } else { Vec::new() };
        route("", RouteMatch { case_sensitive, headers, ..matches(path) }, to("c"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_index_equals_a_linear_scan(
        list in prop::collection::vec(any_route(), 0..24),
        paths in prop::collection::vec(("/([abAB]/?){0,5}(\\?a=/b)?", any::<bool>()), 1..20),
    ) {
        let table = routes(list);
        for (path, keyed) in paths {
            let mut head = head("h", &path);
            if keyed {
                head.headers.append(b"x-key", b"1");
            }
            let query = query(&head);
            let found = table.route(&query).map(|matched| matched.id.route as usize);
            prop_assert_eq!(found, linear(&table, &query), "path {}", path);
        }
    }

    #[test]
    fn candidates_are_all_matching_routes_in_order(
        list in prop::collection::vec(any_route(), 0..24),
        path in "/([abAB]/?){0,5}",
    ) {
        let index = PathIndex::build(&list);
        let found: Vec<_> = index.candidates(path.as_bytes()).map(|at| at as usize).collect();
        let want: Vec<_> = (0..list.len())
            .filter(|at| {
                explain::path_holds(&list[*at].matches.path, list[*at].matches.case_sensitive, &path)
            })
            .collect();
        prop_assert_eq!(found, want);
    }

    #[test]
    fn the_host_index_equals_a_linear_scan(
        domains in prop::collection::vec("\\*|[abA](\\.[ab]){0,2}|\\*(\\.[abB]){1,3}|([abA]\\.){1,2}\\*|\\*-a\\.b", 0..12),
        authority in "([abA](\\.[abB]){0,3})?",
    ) {
        let hosts = domains.iter().enumerate().map(|(at, domain)| virtual_host(&at.to_string(), &[domain], vec![])).collect();
        let config = config(hosts);
        prop_assert_eq!(HostIndex::build(&config).find(&authority), linear_host(&config, &authority));
    }
}
