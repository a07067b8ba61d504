//! One request's way through the manager: checks, routing, filters, the router, and back.

use super::alarm::Alarm;
use super::chain::Chain;
use super::filter::router::Router;
use super::hcm::Served;
use super::local_reply::{Cause, LocalReply};
use super::normalize::{self, Normalized};
use super::stream::{End, Stream, StreamCx, whole_length};
use super::tail::Tail;
use super::timeouts;
use super::vitals::{Expired, Vitals, WatchedBody};
use crate::codec::{Body, EndReason, Reply, Request};
use crate::turn;
use data_plane_core::config::StripPort;
use data_plane_core::headers::{HeaderId, RequestHead, ResponseHead, Scheme, Version, forwarded, hop_by_hop};
use data_plane_core::route::{self, RouteQuery};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

/// Answers one request.
///
/// # Cancel safety
/// Dropping the future ends the stream as one whose client went away.
pub(super) async fn conduct(served: Rc<Served>, request: Request) -> Reply {
    let flags = Flags { expects: request.expect_continue, upgrade: request.upgrade };
    let (mut stream, body) = Stream::begin(&served, request);
    let mut alarm = Alarm::new(&served.worker.alarms);
    if let Err(reply) = accept(&mut stream, flags) {
        let answer = local(&mut stream, reply, false);
        return send(stream, answer, alarm);
    }
    let body = match whole_length(&body) {
        Some(_) => body,
        None => WatchedBody::body(body, stream.cx.vitals.clone()),
    };
    served.hcm.log_start(&stream.cx, &stream.head);

    let mut chain = served.hcm.chain.start(&stream.cx);
    let vitals = stream.cx.vitals.clone();
    let decoded = {
        let decoding = pin!(decode(&mut stream, &mut chain, body));
        within(&vitals, &mut alarm, decoding).await
    };
    let mut answer = match decoded.unwrap_or_else(|expired| Err(expire(&mut stream, expired))) {
        Ok((head, body)) => Answer { head, body, close: false, upstream: true },
        Err(reply) => local(&mut stream, reply, true),
    };
    if !chain.is_empty() {
        let body = std::mem::take(&mut answer.body);
        let passed = {
            let passing = pin!(chain.on_response(&mut answer.head, body, &mut stream.cx));
            within(&vitals, &mut alarm, passing).await
        };
        match passed.unwrap_or_else(|expired| Err(expire(&mut stream, expired))) {
            Ok(body) => answer.body = body,
            Err(reply) => answer = local(&mut stream, reply, true),
        }
    }
    send(stream, answer, alarm)
}

/// An answer before the manager's own headers.
struct Answer {
    head: ResponseHead,
    body: Body,
    /// Close the connection after it (HTTP/1).
    close: bool,
    /// It is an upstream's.
    upstream: bool,
}

/// What the codec says of a request beside its head.
#[derive(Clone, Copy)]
struct Flags {
    expects: bool,
    upgrade: bool,
}

/// Filters, then the router.
async fn decode(
    stream: &mut Stream,
    chain: &mut Chain,
    mut body: Body,
) -> Result<(ResponseHead, Body), LocalReply> {
    let Stream { head, cx, .. } = stream;
    if !chain.is_empty() {
        body = chain.on_request(head, body, cx).await?;
    }
    let served = Rc::clone(&cx.served);
    let router = &served.hcm.chain.router;
    let target = router.route(head, cx)?;
    router.forward(target, head, body, cx).await
}

/// Runs `work` until it is done or a deadline of the stream passes. By reference: a future that takes another by value
/// has room for it twice.
async fn within<T>(
    vitals: &Vitals,
    alarm: &mut Alarm,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Expired> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        // Asked after the work, which may have moved the deadlines.
        let Some((deadline, expired)) = vitals.next() else { return Poll::Pending };
        alarm.poll(cx, Some(deadline)).map(|_| Err(expired))
    })
    .await
}

/// A deadline passed before a response began: the books of it, and what to answer.
fn expire(stream: &mut Stream, expired: Expired) -> LocalReply {
    let Stream { head, cx, .. } = stream;
    let served = Rc::clone(&cx.served);
    count_expired(cx, expired);
    match expired {
        Expired::Route => served.hcm.chain.router.timed_out(head, cx),
        _ => Cause::Deadline { expired, complete: cx.is_request_complete() }.into(),
    }
}

/// Counts a deadline that passed, but for the route's, which the router counts.
pub(super) fn count_expired(cx: &StreamCx, expired: Expired) {
    let stats = &cx.served.hcm.stats.manager;
    match expired {
        Expired::Route | Expired::Try => {}
        Expired::TryIdle => {
            if let Some(cluster) = &cx.cluster {
                cluster.stats.upstream_rq_per_try_idle_timeout.inc();
            }
        }
        Expired::Idle => stats.downstream_rq_idle_timeout.inc(),
        Expired::Duration => stats.downstream_rq_max_duration_reached.inc(),
        Expired::Request => stats.downstream_rq_timeout.inc(),
    }
}

/// Checks and cleans a request, finds out where it comes from, and routes it.
fn accept(stream: &mut Stream, flags: Flags) -> Result<(), LocalReply> {
    let Stream { head, cx, .. } = stream;
    let served = Rc::clone(&cx.served);
    let (hcm, worker) = (&served.hcm, &served.worker);
    let (config, stats) = (&hcm.config, &hcm.stats);
    cx.vitals.idle.set(config.stream_idle_timeout);
    cx.vitals.request.set(config.request_timeout.map(|timeout| cx.start + timeout));
    cx.vitals.end.set(config.max_stream_duration.filter(|d| !d.is_zero()).map(|d| cx.start + d));
    if flags.expects && !config.proxy_100_continue {
        // The codec writes it once the body is asked for.
        stats.response(100);
        head.headers.remove_id(HeaderId::Expect);
    }
    let is_connect = &*head.method == "CONNECT";
    if head.authority.is_empty() {
        return Err(Cause::MissingHost.into());
    }
    if !is_connect {
        check_path(head, cx)?;
    }
    if config.strip_port != StripPort::No || config.strip_trailing_host_dot {
        let port = served.local().port();
        normalize::host(head, config.strip_port, config.strip_trailing_host_dot, port);
    }
    let upgrade = flags.upgrade && !is_connect;
    hop_by_hop::strip_request(head, upgrade);

    let table = worker.table(&hcm.routes);
    let connection = forwarded::Connection {
        peer: served.facts.remote,
        local: served.facts.local,
        is_tls: served.is_tls,
        tls: served.facts.tls.as_deref(),
        interface: served.interface,
    };
    let internal_only = table.as_ref().map_or(&[][..], |table| &table.config().internal_only_headers);
    let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
    cx.origin = forwarded::accept(head, &connection, &hcm.rules, internal_only, random);
    let by_tls = head.headers.get_id(HeaderId::XForwardedProto) == Some(b"https");
    if head.version != Version::Http2 && config.scheme_override.is_none() {
        head.scheme = if by_tls { Scheme::Https } else { Scheme::Http };
    }
    if let Some(table) = &table {
        let runtime = |key: &str| hcm.runtime.per_million(key);
        let query = RouteQuery {
            head: &*head,
            random: cx.random,
            is_tls: by_tls,
            internal: cx.origin.internal,
            runtime: Some(&runtime),
            peer: Some(cx.hash_peer()),
        };
        // A CONNECT needs a route that is made for it, and there is no such match yet.
        cx.route = if is_connect { None } else { table.route(&query).map(|matched| matched.id()) };
    }
    cx.table = table;
    if upgrade && !is_upgrade_enabled(head, cx) {
        stats.manager.downstream_rq_ws_on_non_ws_route.inc();
        return Err(Cause::UpgradeRefused.into());
    }
    if upgrade {
        stats.manager.downstream_cx_upgrades_total.inc();
    }
    cx.upgrade = upgrade;
    cx.begin_trace(head);
    set_deadlines(head, cx);
    Ok(())
}

fn check_path(head: &mut RequestHead, cx: &StreamCx) -> Result<(), LocalReply> {
    let hcm = &cx.served.hcm;
    let stats = &hcm.stats.manager;
    if !head.path.starts_with('/') {
        stats.downstream_rq_non_relative_path.inc();
        return Err(Cause::NotAPath.into());
    }
    match normalize::path(&mut head.path, hcm.config.path) {
        Normalized::Forward => Ok(()),
        // A gRPC client does not follow redirects.
        Normalized::Redirect if !cx.grpc => {
            stats.downstream_rq_redirected_with_normalized_path.inc();
            Err(Cause::NormalizedPath(&head.path).into())
        }
        Normalized::Redirect | Normalized::Reject => {
            stats.downstream_rq_failed_path_normalization.inc();
            Err(Cause::BadPath.into())
        }
    }
}

/// Whether the route, or else the connection manager, accepts what the request asks to upgrade to.
fn is_upgrade_enabled(head: &RequestHead, cx: &StreamCx) -> bool {
    let asked = head.headers.get_id(HeaderId::Upgrade).unwrap_or_default();
    let is_asked = |name: &str| asked.eq_ignore_ascii_case(name.as_bytes());
    let by_route = cx.route().and_then(|matched| match matched.answer() {
        route::Answer::Forward(forward) => {
            forward.upgrades.iter().find(|(name, _)| is_asked(name)).map(|u| u.1)
        }
        route::Answer::Redirect(_) | route::Answer::Direct(_) => None,
    });
    by_route.unwrap_or_else(|| cx.served.hcm.config.upgrades.iter().any(|name| is_asked(name)))
}

/// Takes up what the route says of the stream's deadlines.
fn set_deadlines(head: &mut RequestHead, cx: &mut StreamCx) {
    let manager = cx.served.hcm.config.max_stream_duration;
    let (idle, duration, grpc) = {
        let matched = cx.route();
        let forward = matched.as_ref().and_then(|matched| match matched.answer() {
            route::Answer::Forward(forward) => Some(forward),
            route::Answer::Redirect(_) | route::Answer::Direct(_) => None,
        });
        let Some(forward) = forward else { return };
        let duration = timeouts::stream_duration(Some(forward), manager, &head.headers);
        let by_route = forward.max_stream_duration.is_some() || forward.grpc_timeout_header_max.is_some();
        (forward.idle_timeout, duration, by_route && cx.grpc)
    };
    if let Some(idle) = idle {
        cx.vitals.idle.set(idle);
    }
    cx.vitals.end.set(duration.map(|duration| cx.start + duration));
    if let Some(duration) = duration.filter(|_| grpc) {
        timeouts::set_grpc_timeout(&mut head.headers, duration);
    }
}

/// A local reply with what the route adds. `routed`: the request got as far as the router.
fn local(stream: &mut Stream, mut reply: LocalReply, routed: bool) -> Answer {
    let Stream { head: request, cx, .. } = stream;
    cx.flags |= reply.flags;
    cx.details = reply.details.clone();
    cx.local_body = reply.body.clone();
    let (close, overloaded, attempts) = (reply.close, reply.overloaded, reply.attempts);
    let added = reply.added.take();
    let served = Rc::clone(&cx.served);
    tracing::debug!(
        connection = served.facts.connection_id,
        request_id = %request.headers.get_id(HeaderId::XRequestId).unwrap_or_default().escape_ascii(),
        trace_id = cx.traced.trace.as_ref().map(|trace| tracing::field::display(format!("{:032x}", trace.ids().0))),
        status = reply.status,
        details = %reply.details,
        "answered by the proxy itself"
    );
    let (head, body) = reply.render(Some(&*request), |head, reply| {
        if routed {
            served.hcm.chain.router.edit_response(head, request, cx);
        }
        if let Some(added) = added {
            for (name, value) in added.headers {
                head.headers.append(&name, &value);
            }
            if let Some(edits) = added.edits {
                cx.with_record(Some(request), None, None, |record| edits.apply_response(head, record));
            }
            if let Some(seconds) = added.retry_after.filter(|_| !head.headers.contains(b"retry-after")) {
                head.headers.append(b"retry-after", itoa::Buffer::new().format(seconds).as_bytes());
            }
        }
        if overloaded {
            head.headers.append_id(HeaderId::XEnvoyOverloaded, b"true");
        }
        if attempts {
            Router::count_attempts(head, cx);
        }
        served.hcm.replies.apply(head, reply, Some(request), cx);
    });
    Answer { head, body: Body::from(body), close, upstream: false }
}

/// Gives an answer its last headers and lets it go; ends the stream where nothing more is to come.
fn send(mut stream: Stream, answer: Answer, alarm: Alarm) -> Reply {
    let Answer { mut head, body, close, upstream } = answer;
    let served = Rc::clone(&stream.cx.served);
    let hcm = &served.hcm;
    // The clock is read once for an answer that nothing has held up since its head came.
    let at_once = upstream && hcm.chain.filters.is_empty();
    let now = stream.cx.moments.upstream_head.filter(|_| at_once).unwrap_or_else(turn::now);
    let upgraded = upstream && stream.cx.upgrade && head.status == 101;
    if upstream {
        hop_by_hop::strip_response(&mut head, upgraded);
    }
    stream.cx.answer_trace(&mut head);
    hcm.seal(&mut head, Some(&stream.head), &served.worker, now);
    let early = !stream.cx.is_request_complete() && !upgraded;
    if early {
        hcm.stats.manager.downstream_rq_response_before_rq_complete.inc();
        if stream.cx.protocol != Version::Http2 {
            // Envoy counts the unread rest of the request as reset.
            hcm.stats.manager.downstream_rq_rx_reset.inc();
        }
    }
    hcm.stats.response(head.status);
    stream.cx.status = Some(head.status);
    stream.cx.moments.answered = Some(now);
    // What an HTTP/1 client still sends would be read as its next request.
    let close = match close || (early && stream.cx.protocol != Version::Http2) {
        true => Some(EndReason::Local),
        false if upgraded => None,
        false => hcm.dismisses(),
    };
    let body = match whole_length(&body) {
        Some(length) => {
            stream.cx.sent = length;
            if upstream {
                let Stream { head, cx, .. } = &mut stream;
                hcm.chain.router.completed(head, cx, now);
            }
            stream.finish(End::Answered, now, Some(&head), None);
            body
        }
        None => {
            let kept = hcm.keeps_heads().then(|| head.clone());
            Tail::body(stream, kept, body, alarm, upstream, upgraded)
        }
    };
    Reply { close, ..Reply::new(head, body) }
}
