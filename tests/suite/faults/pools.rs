//! Connections that are kept and shared: what their end does to the requests on them and to those that come next.

use super::*;
use e2e::faulty::Seen;
use e2e::load::{Ask, Clients, Speak, Told, load, tally};
use tokio::task::JoinHandle;

fn config() -> String {
    let retried = format!("timeout: 0s, retry_policy: {{retry_on: \"reset,refused-stream\", {RETRIES}}}");
    let once = "timeout: 0s, retry_policy: {retry_on: refused-stream, num_retries: 1, retry_back_off: {base_interval: 0.001s}}";
    let routes = [
        route("/plain/", "up", "timeout: 0s"),
        route("/retry/", "up", &retried),
        route("/h2/", "up2", "timeout: 0s"),
        route("/h2retry/", "up2", once),
        route(
            "/h2many/",
            "up2",
            "timeout: 0s, retry_policy: {retry_on: refused-stream, num_retries: 20, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}",
        ),
    ];
    let clusters = [cluster("up", "$UP", UNLIMITED), cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}"))];
    bootstrap(&[web(&routes)], &clusters)
}

/// The same thing asked so many times.
fn asks(count: usize, name: &str, path: &str, script: &str) -> Vec<Ask> {
    (0..count).map(|n| Ask::get(format!("{name}{n}"), path, script)).collect()
}

fn posts(count: usize, name: &str, path: &str, script: &str) -> Vec<Ask> {
    asks(count, name, path, script).into_iter().map(|ask| ask.sending("POST", 500)).collect()
}

fn came(seen: &[Seen], name: &str) -> BTreeMap<String, usize> {
    let mut came = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.id.starts_with(name)) {
        *came.entry(seen.id.clone()).or_default() += 1;
    }
    came
}

fn all(count: usize, verdict: &str) -> BTreeMap<String, usize> {
    BTreeMap::from([(verdict.to_owned(), count)])
}

impl Site {
    /// Waits until just so many requests have come.
    async fn sees(&self, count: usize) {
        eventually(&format!("{}: {count} requests reach the origin", self.name), async || {
            let seen = self.up.seen();
            if seen == count { Ok(()) } else { Err(format!("{seen} did")) }
        })
        .await;
    }

    /// So many connections to the origin, each with a request that waits at the gate; they go on until told.
    async fn hold(&self, clients: usize, asks: Vec<Ask>) -> JoinHandle<(Clients, Told)> {
        self.up.gate(false);
        let (before, count) = (self.up.seen(), asks.len());
        let mut clients = Clients::new(self.web, clients);
        let held = tokio::spawn(async move {
            let told = clients.round(asks).await;
            (clients, told)
        });
        self.sees(before + count).await;
        held
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_as_it_is_reused_costs_no_get_and_repeats_no_post() {
    let sites = Site::pair(&config()).await;
    for site in sites {
        let ours = site.name == "ours";
        // The answer, and then the end of the connection in the place of the next one.
        let held = site.hold(12, asks(12, "warm", "/plain/", "gate ok last")).await;
        site.up.gate(true);
        let (mut clients, told) = held.await.unwrap();
        assert_eq!(tally(&told), all(12, "200 ok"), "{}", site.name);
        site.up.take();
        let told = clients.round(posts(12, "post", "/plain/", "ok")).await;
        let why = format!("{RESET}reset reason: connection termination");
        assert_eq!(tally(&told), all(12, &why), "{}: what may have been done is not done again", site.name);
        let seen = site.up.take();
        assert_eq!(came(&seen, "post").len(), 12);
        assert!(
            seen.iter().all(|seen| seen.whole) && seen.len() == 12,
            "{}: sent twice: {seen:?}",
            site.name
        );
        drop(clients);
        // The same with GET: Envoy needs a policy for it.
        for path in ["/plain/", "/retry/"] {
            let held = site.hold(12, asks(12, "warm", "/plain/", "gate ok last")).await;
            site.up.gate(true);
            let (mut clients, _) = held.await.unwrap();
            site.up.take();
            let told = clients.round(asks(12, "get", path, "ok")).await;
            if ours || path == "/retry/" {
                assert_eq!(tally(&told), all(12, "200 ok"), "{} {path}", site.name);
            }
            let seen = site.up.take();
            drop(clients);
            assert!(
                came(&seen, "get").values().all(|came| *came <= 2 + usize::from(path == "/retry/")),
                "{}: {seen:?}",
                site.name
            );
        }
        site.over().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ended_while_idle_is_not_used() {
    let mut site = Site::start(true, &config()).await;
    let mut clients = Clients::new(site.web, 12);
    for round in 0..4 {
        let told =
            clients.round(posts(12, "post", if round % 2 == 0 { "/plain/" } else { "/h2/" }, "ok")).await;
        assert_eq!(tally(&told), all(12, "200 ok"), "round {round}");
        site.up.hang_up().await.unwrap();
        let seen = site.up.take();
        assert_eq!(seen.len(), 12, "round {round}: each came once");
    }
    drop(clients);
    site.over().await;
}

/// What ends or changes an HTTP/2 connection on which others are under way.
///
/// The last says why ours differs where there is no retry policy: what a host did not take up goes to the next
/// connection.
const SHARED: &[(&str, &str, bool)] = &[
    ("goaway", "goaway:0|ok", true),
    ("goaway with an error", "goaway:11|ok", true),
    ("refused", "rst:7|ok", true),
    ("leaves after it", "ok leave", false),
    ("fewer streams", "streams:2 ok", false),
    ("no stream allowed", "streams:0 ok", false),
    ("closed", "close|ok", false),
    ("reset", "reset|ok", false),
    ("bad header block", "frame:1|ok", false),
    ("bad settings", "frame:4|ok", false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_befalls_a_shared_connection_is_told_as_envoy_tells_it() {
    // One worker: all share one connection.
    let sites = [Site::start_with(true, &config(), 1).await, Site::start_with(false, &config(), 1).await];
    let mut wrong = String::new();
    for (name, script, repeated) in SHARED {
        for path in ["/h2/", "/h2retry/"] {
            let mut out = Vec::new();
            for site in &sites {
                site.up.take();
                let notified = site.proxy.stats().await.unwrap()["cluster.up2.upstream_cx_close_notify"];
                let held = site.hold(8, posts(8, "held", path, "gate ok")).await;
                let trigger = posts(1, "trigger", path, script);
                let told = tokio::spawn(load(site.web, Speak::Http1, 1, trigger));
                // Of its farewell after the answer the answer does not tell.
                let leaves = script.contains("leave");
                eventually("the connection's fate is known", async || {
                    let stats = site.proxy.stats().await?;
                    let known = !leaves || stats["cluster.up2.upstream_cx_close_notify"] > notified;
                    ensure!(told.is_finished() && known, "{stats:?}");
                    Ok(())
                })
                .await;
                let told = told.await.unwrap();
                // Others that come now.
                let more = load(site.web, Speak::Http2, 8, posts(8, "more", path, "ok")).await;
                site.up.gate(true);
                let (clients, held) = held.await.unwrap();
                drop(clients);
                let seen = site.up.take();
                let mut text = format!(
                    "  trigger {:?}\n  held {:?}\n  more {:?}\n",
                    tally(&told),
                    tally(&held),
                    tally(&more)
                );
                for name in ["trigger", "held", "more"] {
                    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
                    for count in came(&seen, name).values() {
                        *counts.entry(*count).or_default() += 1;
                    }
                    text += &format!("  {name} came {counts:?}\n");
                }
                out.push(text);
                site.quiet().await;
            }
            if (out[0] != out[1]) != (*repeated && path == "/h2/") {
                wrong += &format!("== {name} {path}\n{}", e2e::pair::difference(&out[1], &out[0]));
            }
        }
    }
    for site in sites {
        site.over().await;
    }
    assert!(wrong.is_empty(), "- Envoy, + ours\n{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_streams_that_a_host_takes_back_and_all_are_served_once() {
    let site = Site::start(true, &config()).await;
    for round in 0..5 {
        site.up.take();
        let mut mixed = Vec::new();
        for n in 0..60 {
            let script = match n % 6 {
                0 => "streams:1 ok",
                1 => "streams:50 ok",
                2 => "ok leave",
                _ => "ok",
            };
            mixed.push(Ask::get(format!("r{round}-{n}"), "/h2many/", script).sending("POST", 300));
        }
        let told = load(site.web, Speak::Http2, 24, mixed).await;
        assert_eq!(tally(&told), all(60, "200 ok"));
        let seen = site.up.take();
        assert_eq!(seen.len(), 60, "each once");
        site.quiet().await;
    }
    site.over().await;
}
