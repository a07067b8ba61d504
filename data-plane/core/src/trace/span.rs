//! Spans, and what they say: Envoy's tags, in its words.

use super::Context;
use crate::config::{CustomTag, TagSource};
use crate::headers::format::is_grpc;
use crate::headers::{HeaderId, HeaderList, Record, RequestHead, Timing};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};

/// Which side of an exchange a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that came in.
    Server,
    /// A request that went out.
    Client,
}

/// A span that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its place in the trace.
    pub context: Context,
    /// Side.
    pub kind: Kind,
    /// Operation.
    pub name: Box<str>,
    /// Wall-clock begin.
    pub start: SystemTime,
    /// Length.
    pub duration: Duration,
    /// What it says.
    pub tags: Tags,
    /// Moments, from the start.
    pub events: Vec<(Duration, &'static str)>,
    /// It carries the caller's id (Zipkin).
    pub shared: bool,
}

impl Span {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let tags = &self.tags.list;
        // Names are few and mostly constant: they are not counted.
        let text: usize = tags.iter().map(|tag| tag.value.len()).sum();
        size_of::<Self>()
            + self.name.len()
            + text
            + tags.capacity() * size_of::<Tag>()
            + self.events.capacity() * size_of::<(Duration, &str)>()
            + self.context.state.as_ref().map_or(0, |state| state.len())
    }
}

/// A name and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Name.
    pub name: Cow<'static, str>,
    /// Value.
    pub value: Box<str>,
}

/// The tags of a span, in the order they were set; a name is set once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    list: Vec<Tag>,
    error: bool,
}

impl Tags {
    /// Sets or replaces a tag.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Box<str>>) {
        let (name, value) = (name.into(), value.into());
        match self.list.iter_mut().find(|tag| tag.name == name) {
            Some(tag) => tag.value = value,
            None => self.list.push(Tag { name, value }),
        }
    }

    /// Marks the span as failed.
    pub fn fail(&mut self) {
        self.error = true;
        self.set("error", "true");
    }

    /// Whether it failed.
    pub fn is_error(&self) -> bool {
        self.error
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Tag> {
        self.list.iter()
    }

    fn header(&mut self, name: &'static str, headers: &HeaderList, id: HeaderId, absent: Option<&str>) {
        match headers.get_id(id).map(String::from_utf8_lossy) {
            Some(value) => self.set(name, &*value),
            None => {
                if let Some(absent) = absent {
                    self.set(name, absent);
                }
            }
        }
    }
}

/// Tags of the span of a request that came in, once it ended. `node`: id and zone of this proxy.
pub fn server_tags(record: &Record<'_>, node: (&str, &str), max_path: usize, custom: &[&CustomTag]) -> Tags {
    let mut tags = Tags { list: Vec::with_capacity(20 + custom.len()), error: false };
    tags.set("node_id", node.0);
    tags.set("zone", node.1);
    if let Some(request) = record.request {
        let headers = &request.headers;
        tags.header("guid:x-request-id", headers, HeaderId::XRequestId, None);
        tags.set("http.url", url(request, max_path));
        tags.set("http.method", &*request.method);
        tags.header("downstream_cluster", headers, HeaderId::XEnvoyDownstreamServiceCluster, Some("-"));
        tags.header("user_agent", headers, HeaderId::UserAgent, Some("-"));
        tags.set("http.protocol", record.protocol.map_or("-", |version| version.as_str()));
        if let Some(downstream) = record.downstream {
            tags.set("peer.address", downstream.direct_remote.ip().to_canonical().to_string());
        }
        if let Some(id) = headers.get(b"x-client-trace-id") {
            tags.set("guid:x-client-trace-id", String::from_utf8_lossy(id));
        }
        if is_grpc(request) {
            tags.set("grpc.path", &*request.path);
            tags.set("grpc.authority", &*request.authority);
            tags.header("grpc.content_type", headers, HeaderId::ContentType, None);
            tags.header("grpc.timeout", headers, HeaderId::GrpcTimeout, None);
        }
    }
    let bytes = &record.downstream_bytes;
    tags.set("request_size", bytes.body_received.to_string());
    tags.set("response_size", bytes.body_sent.to_string());
    outcome(&mut tags, record);
    custom_tags(record, custom.iter().copied()).for_each(|(name, value)| tags.set(name, value));
    tags
}

/// Tags of the span of a request that went out, once it ended. `attempt` counts from 1.
pub fn client_tags(record: &Record<'_>, attempt: u32, custom: &[&CustomTag]) -> Tags {
    let mut tags = Tags { list: Vec::with_capacity(12 + custom.len()), error: false };
    if attempt > 1 {
        tags.set("retry.count", (attempt - 1).to_string());
    }
    if let Some(upstream) = record.upstream {
        tags.set("http.protocol", upstream.protocol.map_or("-", |version| version.as_str()));
        let address = upstream.address.to_string();
        tags.set("upstream_address", address.as_str());
        tags.set("peer.address", address);
    }
    outcome(&mut tags, record);
    custom_tags(record, custom.iter().copied()).for_each(|(name, value)| tags.set(name, value));
    tags
}

/// What the spans of both sides say of how it went.
fn outcome(tags: &mut Tags, record: &Record<'_>) {
    tags.set("component", "proxy");
    if let Some(cluster) = record.cluster {
        tags.set("upstream_cluster", cluster);
        tags.set("upstream_cluster.name", record.cluster_stat_name.unwrap_or(cluster));
    }
    tags.set("http.status_code", record.status.unwrap_or(0).to_string());
    tags.set("response_flags", record.flags.to_string());
    if record.status.is_none_or(|status| status >= 500) {
        tags.fail();
    }
    if record.request.is_some_and(is_grpc) {
        for headers in
            [record.response.map(|response| &response.headers), record.trailers].into_iter().flatten()
        {
            tags.header("grpc.status_code", headers, HeaderId::GrpcStatus, None);
            tags.header("grpc.message", headers, HeaderId::GrpcMessage, None);
            if headers.get_id(HeaderId::GrpcStatus).is_some_and(is_server_error) {
                tags.fail();
            }
        }
    }
}

/// Statuses by which a server says that it failed: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS. The others blame the caller.
fn is_server_error(status: &[u8]) -> bool {
    matches!(status, b"2" | b"4" | b"8" | b"12" | b"13" | b"14" | b"15")
}

/// The tags that the configuration adds: those of them that have a value for this request.
pub fn custom_tags<'a>(
    record: &'a Record<'a>,
    tags: impl IntoIterator<Item = &'a CustomTag> + 'a,
) -> impl Iterator<Item = (String, String)> + 'a {
    tags.into_iter().filter_map(|tag| Some((tag.name.to_string(), value(&tag.source, record)?)))
}

fn value(source: &TagSource, record: &Record<'_>) -> Option<String> {
    match source {
        TagSource::Literal(value) => Some(value.to_string()),
        TagSource::Header { name, default } => {
            let value = record.request.and_then(|request| request.header(name.as_bytes()));
            let absent = || (!default.is_empty()).then(|| default.to_string());
            value.map(|value| String::from_utf8_lossy(&value).into_owned()).or_else(absent)
        }
        TagSource::Format(format) => {
            let mut value = Vec::new();
            format.render(record, &mut value);
            (!value.is_empty()).then(|| String::from_utf8_lossy(&value).into_owned())
        }
    }
}

/// Where the client asked for, its path cut at `max_path` bytes.
fn url(request: &RequestHead, max_path: usize) -> String {
    let original = request.headers.get_id(HeaderId::XEnvoyOriginalPath).map(String::from_utf8_lossy);
    let path = original.as_deref().unwrap_or(&request.path);
    let path = &path[..path.floor_char_boundary(max_path)];
    format!("{}://{}{path}", request.scheme.as_str(), request.authority)
}

/// Moments of a request for the span of `kind` (Envoy `verbose`), in the order they happened, from its start.
pub fn events(kind: Kind, timing: &Timing) -> Vec<(Duration, &'static str)> {
    let upstream = [
        (timing.upstream_tx_begin, "first_upstream_tx_byte_sent"),
        (timing.upstream_tx_end, "last_upstream_tx_byte_sent"),
        (timing.upstream_rx_begin, "first_upstream_rx_byte_received"),
        (timing.upstream_rx_end, "last_upstream_rx_byte_received"),
    ];
    let downstream = [
        (timing.downstream_tx_begin, "first_downstream_tx_byte_sent"),
        (timing.downstream_tx_end, "last_downstream_tx_byte_sent"),
    ];
    let received = [(timing.downstream_rx_end, "last_downstream_rx_byte_received")];
    let is_server = kind == Kind::Server;
    let all =
        received.iter().filter(|_| is_server).chain(&upstream).chain(downstream.iter().filter(|_| is_server));
    all.filter_map(|&(at, name)| Some((at?, name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::format::{Format, Missing};
    use crate::headers::{ResponseFlags, ResponseHead, Scheme, Version};

    fn request(headers: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead {
            method: "GET".into(),
            path: "/changed".into(),
            authority: "shop.test:8080".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers: HeaderList::default(),
        };
        for (name, value) in headers {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn text(tags: &Tags) -> Vec<String> {
        tags.iter().map(|tag| format!("{}={}", tag.name, tag.value)).collect()
    }

    #[test]
    fn a_request_that_came_in_is_told_in_envoys_words_and_order() {
        let request =
            request(&[("x-request-id", "id"), ("user-agent", "curl"), ("x-envoy-original-path", "/was")]);
        let record = Record {
            request: Some(&request),
            protocol: Some(Version::Http11),
            status: Some(200),
            cluster: Some("up"),
            cluster_stat_name: Some("up-stat"),
            ..Record::new(SystemTime::UNIX_EPOCH)
        };
        let literal = CustomTag { name: "lit".into(), source: TagSource::Literal("v".into()) };
        let tags = server_tags(&record, ("n1", "z1"), 256, &[&literal]);
        assert_eq!(
            text(&tags),
            [
                "node_id=n1",
                "zone=z1",
                "guid:x-request-id=id",
                "http.url=http://shop.test:8080/was",
                "http.method=GET",
                "downstream_cluster=-",
                "user_agent=curl",
                "http.protocol=HTTP/1.1",
                "request_size=0",
                "response_size=0",
                "component=proxy",
                "upstream_cluster=up",
                "upstream_cluster.name=up-stat",
                "http.status_code=200",
                "response_flags=-",
                "lit=v",
            ]
        );
        assert!(!tags.is_error());
    }

    #[test]
    fn no_answer_and_server_errors_fail_a_span() {
        for (status, failed) in [(None, true), (Some(500), true), (Some(499), false), (Some(302), false)] {
            let record = Record {
                status,
                flags: ResponseFlags::UPSTREAM_OVERFLOW,
                ..Record::new(SystemTime::UNIX_EPOCH)
            };
            let tags = client_tags(&record, 3, &[]);
            assert_eq!(tags.is_error(), failed, "{status:?}");
            assert!(text(&tags).contains(&"retry.count=2".to_owned()));
            assert!(text(&tags).contains(&"response_flags=UO".to_owned()));
        }
    }

    #[test]
    fn a_grpc_status_that_blames_the_server_fails_a_span() {
        for (status, failed) in [("0", false), ("5", false), ("14", true), ("13", true), ("16", false)] {
            let request = request(&[("content-type", "application/grpc"), ("grpc-timeout", "1S")]);
            let mut response = ResponseHead::new(200);
            response.headers.append(b"grpc-status", status.as_bytes());
            let record = Record {
                request: Some(&request),
                response: Some(&response),
                status: Some(200),
                ..Record::new(SystemTime::UNIX_EPOCH)
            };
            let tags = server_tags(&record, ("", ""), 256, &[]);
            assert_eq!(tags.is_error(), failed, "{status}");
            let told = text(&tags);
            for tag in ["grpc.path=/changed", "grpc.timeout=1S", &format!("grpc.status_code={status}")] {
                assert!(told.contains(&tag.to_owned()), "{tag} in {told:?}");
            }
        }
    }

    #[test]
    fn tags_of_the_configuration_come_from_headers_and_formats() {
        let request = request(&[("x-h", "hv")]);
        let record = Record { request: Some(&request), ..Record::new(SystemTime::UNIX_EPOCH) };
        let header = |name: &str, default: &str| CustomTag {
            name: name.into(),
            source: TagSource::Header { name: name.into(), default: default.into() },
        };
        let format = |name: &str, text: &str| CustomTag {
            name: name.into(),
            source: TagSource::Format(Format::compile(text, Missing::Empty).unwrap()),
        };
        let custom = [
            header("x-h", "d"),
            header("x-none", "d"),
            header("x-nothing", ""),
            format("f", "%REQ(x-h)%!"),
            format("g", "%REQ(x-none)%"),
        ];
        let told = text(&client_tags(&record, 1, &custom.iter().collect::<Vec<_>>()));
        let own: Vec<_> = told.iter().filter(|tag| tag.starts_with(['x', 'f', 'g'])).collect();
        assert_eq!(own, ["x-h=hv", "x-none=d", "f=hv!"]);
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        let mut request = request(&[]);
        request.path = "/äöü".into();
        assert_eq!(url(&request, 2), "http://shop.test:8080/");
        assert_eq!(url(&request, 3), "http://shop.test:8080/ä");
    }
}
