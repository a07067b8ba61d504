//! Single exchanges that fail, many at a time, among as many that must not notice.

use super::*;
use e2e::load::{Ask, Speak, Told, load, tally};
use std::fmt::Write as _;

/// Requests that fail at a time.
const EACH: usize = 8;

/// One way to fail.
struct Fault {
    name: &'static str,
    path: &'static str,
    method: &'static str,
    body: usize,
    script: &'static str,
    /// A header besides; none where its name is empty.
    header: (&'static str, &'static str),
    /// How often the origin gets each request.
    tries: usize,
    /// Begins of what clients get.
    verdict: &'static str,
    /// Why ours is not as the real Envoy.
    differs: &'static str,
    /// One in a hundred finds the host that works at once, so that how often it was tried is not compared.
    chance: bool,
}

const NONE: Fault = Fault {
    name: "",
    path: "/plain/",
    method: "GET",
    body: 0,
    script: "",
    header: ("", ""),
    tries: 1,
    verdict: "",
    differs: "",
    chance: false,
};

const FAULTS: &[Fault] = &[
    Fault { name: "refused", path: "/dead/", tries: 0, verdict: "503 ", ..NONE },
    Fault { name: "refused, retried", path: "/deadretry/", tries: 0, verdict: "503 ", ..NONE },
    Fault { name: "connecting hangs", path: "/hole/", tries: 0, verdict: "503 ", ..NONE },
    Fault { name: "close before", method: "POST", body: 500, script: "close", verdict: "503 ", ..NONE },
    Fault { name: "reset before", method: "POST", body: 500, script: "reset", verdict: "503 ", ..NONE },
    Fault {
        name: "reset before, POST",
        method: "POST",
        body: 5000,
        script: "reset",
        verdict: "503 ",
        ..NONE
    },
    Fault {
        name: "close in head",
        script: "raw:HTTP/1.1_200_OK\\r\\ncontent-le close",
        verdict: "502 ",
        ..NONE
    },
    Fault {
        name: "reset in head",
        script: "raw:HTTP/1.1_200_OK\\r\\ncontent-le reset",
        verdict: "502 ",
        ..NONE
    },
    Fault { name: "close in body", script: "head:5000 data:2000 close", verdict: "200 (2000 bytes)", ..NONE },
    Fault { name: "reset in body", script: "head:5000 data:2000 reset", verdict: "200 (2000 bytes)", ..NONE },
    Fault {
        name: "close in chunk",
        script: "chunked chunk:700 raw:fff\\r\\nxxx close",
        verdict: "200 (703 bytes)",
        ..NONE
    },
    Fault {
        name: "close between chunks",
        script: "chunked chunk:700 close",
        verdict: "200 (700 bytes)",
        ..NONE
    },
    Fault {
        name: "bad chunk",
        script: "chunked chunk:700 raw:zz\\r\\n",
        verdict: "200 (700 bytes)",
        differs: "what came before the fault is delivered, also when it came with it",
        ..NONE
    },
    Fault { name: "no HTTP", script: "raw:what_is_this\\r\\n\\r\\n close", verdict: "502 ", ..NONE },
    Fault { name: "bad status", script: "raw:HTTP/1.1_abc_OK\\r\\n\\r\\n hang", verdict: "502 ", ..NONE },
    Fault {
        name: "bad length",
        script: "raw:HTTP/1.1_200_OK\\r\\ncontent-length:_abc\\r\\n\\r\\n hang",
        verdict: "502 ",
        ..NONE
    },
    Fault {
        name: "two lengths",
        script: "raw:HTTP/1.1_200_OK\\r\\ncontent-length:_2\\r\\ncontent-length:_3\\r\\n\\r\\nok hang",
        verdict: "502 ",
        ..NONE
    },
    Fault {
        name: "NUL in head",
        script: "raw:HTTP/1.1_200_OK\\r\\nx-a:_\\0\\r\\n\\r\\n hang",
        verdict: "502 ",
        ..NONE
    },
    Fault {
        name: "more than promised",
        script: "raw:HTTP/1.1_200_OK\\r\\ncontent-length:_2\\r\\n\\r\\nok-and-more",
        verdict: "200 ok",
        ..NONE
    },
    Fault {
        name: "answer and close",
        script: "raw:HTTP/1.1_200_OK\\r\\nconnection:_close\\r\\ncontent-length:_2\\r\\n\\r\\nok close",
        verdict: "200 ok",
        ..NONE
    },
    Fault {
        name: "until the end",
        script: "raw:HTTP/1.1_200_OK\\r\\n\\r\\nxxxxx close",
        verdict: "200 (5 bytes)",
        ..NONE
    },
    Fault {
        name: "until a reset",
        script: "raw:HTTP/1.1_200_OK\\r\\n\\r\\nxxxxx reset",
        verdict: "200 (5 bytes)",
        differs: "a reset is no good end of a body that has no length",
        ..NONE
    },
    Fault { name: "some hints", script: "hints:5 ok", verdict: "200 ok", ..NONE },
    Fault {
        name: "a flood of hints",
        script: "hints:1000 ok",
        verdict: "502 ",
        differs: "a host that floods is not believed",
        ..NONE
    },
    Fault { name: "a hint of continue", script: "continue ok", verdict: "200 ok", ..NONE },
    Fault { name: "slow head", path: "/timeout/", script: "hang", verdict: "504 ", ..NONE },
    Fault {
        name: "slow body",
        path: "/timeout/",
        script: "head:500 data:200 hang",
        verdict: "200 (200 bytes)",
        ..NONE
    },
    Fault { name: "stalled head", path: "/idle/", script: "hang", verdict: "504", ..NONE },
    Fault {
        name: "stalled body",
        path: "/idle/",
        script: "head:500 data:200 hang",
        verdict: "200 (200 bytes)",
        ..NONE
    },
    Fault {
        name: "reset, retried",
        path: "/retry/",
        method: "POST",
        body: 500,
        script: "reset|close|ok",
        verdict: "200 ok",
        tries: 3,
        ..NONE
    },
    Fault {
        name: "reset, retried, POST",
        path: "/retry/",
        method: "POST",
        body: 5000,
        script: "reset|status:503|ok",
        verdict: "200 ok",
        tries: 3,
        ..NONE
    },
    Fault {
        name: "5xx for ever",
        path: "/retry/",
        script: "status:503",
        verdict: "503 ok",
        tries: 3,
        ..NONE
    },
    Fault {
        name: "not kept",
        path: "/retry/",
        method: "POST",
        body: 3_000_000,
        script: "status:503|ok",
        verdict: "503 ok",
        tries: 1,
        differs: "HTTP/2: Envoy keeps a stream window's worth, ours what the listener says",
        ..NONE
    },
    Fault {
        name: "cut is not retried",
        path: "/retry/",
        script: "head:5000 data:2000 close|ok",
        verdict: "200 (2000 bytes)",
        tries: 1,
        ..NONE
    },
    Fault {
        name: "garbage, retried",
        path: "/retry/",
        script: "raw:what_is_this\\r\\n\\r\\n close|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault { name: "per try", path: "/pertry/", script: "hang|ok", verdict: "200 ok", tries: 2, ..NONE },
    Fault { name: "per try, for ever", path: "/pertry1/", script: "hang", verdict: "504 ", tries: 2, ..NONE },
    Fault {
        name: "early, whole, POST",
        method: "POST",
        body: 200_000,
        script: "now ok read",
        verdict: "200 ok",
        ..NONE
    },
    Fault {
        name: "early and close, POST",
        method: "POST",
        body: 3_000_000,
        script: "now raw:HTTP/1.1_413_No\\r\\nconnection:_close\\r\\ncontent-length:_2\\r\\n\\r\\nno read close",
        verdict: "413 no",
        ..NONE
    },
    Fault { name: "409", path: "/4xx/", script: "status:409|ok", verdict: "200 ok", tries: 2, ..NONE },
    Fault { name: "404", path: "/4xx/", script: "status:404|ok", verdict: "404 ok", ..NONE },
    Fault {
        name: "a status",
        path: "/status/",
        script: "status:418|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault { name: "another status", path: "/status/", script: "status:419|ok", verdict: "419 ok", ..NONE },
    Fault {
        name: "a header of the answer",
        path: "/headers/",
        script: "raw:HTTP/1.1_200_OK\\r\\nx-again:_yes\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "another value",
        path: "/headers/",
        script: "raw:HTTP/1.1_200_OK\\r\\nx-again:_no\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        verdict: "200 no",
        ..NONE
    },
    Fault {
        name: "a header named by a stranger",
        path: "/headers/",
        script: "raw:HTTP/1.1_200_OK\\r\\nx-other:_1\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        header: ("x-envoy-retriable-header-names", "x-other"),
        verdict: "200 no",
        ..NONE
    },
    Fault {
        name: "a request that asks",
        path: "/asked/",
        script: "status:503|ok",
        header: ("x-again", "1"),
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "a request that does not",
        path: "/asked/",
        script: "status:503|ok",
        verdict: "503 ok",
        ..NONE
    },
    Fault {
        name: "rate limited",
        path: "/limited/",
        script: "raw:HTTP/1.1_503_No\\r\\nretry-after:_1\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "limited by envoy",
        path: "/ratelimited/",
        script: "raw:HTTP/1.1_429_No\\r\\nx-envoy-ratelimited:_true\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "limited, not asked for",
        path: "/retry/",
        script: "raw:HTTP/1.1_503_No\\r\\nx-envoy-ratelimited:_true\\r\\ncontent-length:_2\\r\\n\\r\\nno|ok",
        verdict: "503 no",
        ..NONE
    },
    Fault { name: "try idle", path: "/tryidle/", script: "hang|ok", verdict: "200 ok", tries: 2, ..NONE },
    Fault {
        name: "try idle, for ever",
        path: "/tryidle/",
        script: "hang",
        verdict: "504 ",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "try idle in body",
        path: "/tryidle/",
        script: "head:500 data:200 hang",
        verdict: "200 (200 bytes)",
        ..NONE
    },
    Fault { name: "previous hosts", path: "/previous/", verdict: "200 ok", chance: true, ..NONE },
    Fault { name: "canary", path: "/canary/", verdict: "200 ok", chance: true, ..NONE },
    Fault { name: "metadata", path: "/labelled/", verdict: "200 ok", chance: true, ..NONE },
    Fault { name: "priorities", path: "/priorities/", verdict: "200 ok", ..NONE },
    Fault { name: "no predicate", path: "/stubborn/", tries: 0, verdict: "503 ", ..NONE },
    Fault { name: "wide head", script: "wide:80000", verdict: "200 ok", ..NONE },
    Fault { name: "head too wide", script: "wide:90000", verdict: "502 ", ..NONE },
    Fault {
        name: "head too wide, retried",
        path: "/retry/",
        script: "wide:90000|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault { name: "head far too wide", script: "wide:2000000", verdict: "502 ", ..NONE },
    Fault { name: "h2 wide head", path: "/h2/", script: "wide:60000", verdict: "200 ok", ..NONE },
    Fault {
        name: "h2 head too wide",
        path: "/h2wide/",
        script: "wide:90000",
        verdict: "50",
        differs: "Envoy gives up the connection, ours the stream",
        ..NONE
    },
    Fault { name: "h2 reset before", path: "/h2/", script: "rst:2", verdict: "503 ", ..NONE },
    Fault {
        name: "h2 refused",
        path: "/h2/",
        script: "rst:7",
        verdict: "503 ",
        tries: 2,
        differs: "tried once more, within the limit of retries",
        ..NONE
    },
    Fault {
        name: "h2 refused once",
        path: "/h2retry/",
        method: "POST",
        body: 3000,
        script: "rst:7|ok",
        verdict: "200 ok",
        tries: 2,
        ..NONE
    },
    Fault {
        name: "h2 reset in body",
        path: "/h2/",
        script: "head:5000 data:2000 rst:2",
        verdict: "200 (2000 bytes)",
        ..NONE
    },
    Fault {
        name: "h2 no error in body",
        path: "/h2/",
        script: "chunked data:2000 rst:0",
        verdict: "200 (2000 bytes)",
        ..NONE
    },
    Fault { name: "h2 slow head", path: "/h2timeout/", script: "hang", verdict: "504 ", ..NONE },
    Fault {
        name: "h2 slow body",
        path: "/h2timeout/",
        script: "head:500 data:200 hang",
        verdict: "200 (200 bytes)",
        ..NONE
    },
    Fault { name: "h2 hints", path: "/h2/", script: "hints:3 ok", verdict: "200 ok", ..NONE },
    Fault {
        name: "h2 early, POST",
        path: "/h2/",
        method: "POST",
        body: 200_000,
        script: "now ok",
        verdict: "200 ok",
        ..NONE
    },
];

fn config() -> String {
    let retries = |on: &str| format!("timeout: 0s, retry_policy: {{retry_on: \"{on}\", {RETRIES}}}");
    let every = "5xx,reset,connect-failure,refused-stream";
    let with = |on: &str, fields: &str| {
        format!("timeout: 0s, retry_policy: {{retry_on: \"{on}\", {RETRIES}, {fields}}}")
    };
    // Of two hosts the one that refuses is chosen a hundred times before the other.
    let avoiding = |cluster: &str, name: &str, config: &str| {
        route(
            &format!("/{cluster}/"),
            cluster,
            &format!(
                "timeout: 0s, retry_policy: {{retry_on: connect-failure, num_retries: 1, retry_back_off: {{base_interval: 0.001s}}, \
                 host_selection_retry_max_attempts: 500, retry_host_predicate: [{{name: envoy.retry_host_predicates.{name}, \
                 typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.retry.host.{config}}}}}]}}"
            ),
        )
    };
    let endpoint = |port: &str, weight: u32, labels: &str| {
        format!(
            "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, load_balancing_weight: {weight}, \
             metadata: {{filter_metadata: {{envoy.lb: {{{labels}}}}}}}}}"
        )
    };
    let hosts = |name: &str, groups: &[String]| {
        let groups: Vec<_> = groups
            .iter()
            .enumerate()
            .map(|(priority, hosts)| format!("{{priority: {priority}, lb_endpoints: [{hosts}]}}"))
            .collect();
        format!(
            "{{name: {name}, load_assignment: {{cluster_name: {name}, endpoints: [{}]}}, {UNLIMITED}}}",
            groups.join(", ")
        )
    };
    let mostly_dead = |name: &str, labels: &str| {
        hosts(name, &[format!("{}, {}", endpoint("$REFUSED", 100, labels), endpoint("$UP", 1, ""))])
    };
    let routes = [
        route("/plain/", "up", "timeout: 0s"),
        route("/timeout/", "up", "timeout: 0.5s"),
        route("/idle/", "up", "timeout: 0s, idle_timeout: 0.5s"),
        route("/retry/", "up", &retries(every)),
        route(
            "/pertry/",
            "up",
            &format!("timeout: 0s, retry_policy: {{retry_on: \"{every}\", {RETRIES}, per_try_timeout: 1s}}"),
        ),
        route(
            "/pertry1/",
            "up",
            "timeout: 0s, retry_policy: {retry_on: reset, num_retries: 1, per_try_timeout: 0.3s, retry_back_off: {base_interval: 0.001s}}",
        ),
        route("/4xx/", "up", &retries("retriable-4xx")),
        route("/status/", "up", &with("retriable-status-codes", "retriable_status_codes: [418]")),
        route(
            "/headers/",
            "up",
            &with("retriable-headers", "retriable_headers: [{name: x-again, string_match: {exact: 'yes'}}]"),
        ),
        route(
            "/asked/",
            "up",
            &with("5xx", "retriable_request_headers: [{name: x-again, present_match: true}]"),
        ),
        route(
            "/limited/",
            "limited",
            &with(
                "5xx",
                "rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}]}",
            ),
        ),
        route("/ratelimited/", "up", &retries("envoy-ratelimited")),
        route(
            "/tryidle/",
            "up",
            "timeout: 0s, retry_policy: {retry_on: reset, num_retries: 1, per_try_idle_timeout: 0.3s, retry_back_off: {base_interval: 0.001s}}",
        ),
        avoiding("previous", "previous_hosts", "previous_hosts.v3.PreviousHostsPredicate"),
        avoiding("canary", "omit_canary_hosts", "omit_canary_hosts.v3.OmitCanaryHostsPredicate"),
        avoiding(
            "labelled",
            "omit_host_metadata",
            "omit_host_metadata.v3.OmitHostMetadataConfig, metadata_match: {filter_metadata: {envoy.lb: {stage: bad}}}",
        ),
        route(
            "/priorities/",
            "priorities",
            "timeout: 0s, retry_policy: {retry_on: connect-failure, num_retries: 1, retry_back_off: {base_interval: 0.001s}, \
             retry_priority: {name: envoy.retry_priorities.previous_priorities, typed_config: {\"@type\": \
             type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}",
        ),
        route(
            "/stubborn/",
            "priorities",
            "timeout: 0s, retry_policy: {retry_on: connect-failure, num_retries: 1, retry_back_off: {base_interval: 0.001s}}",
        ),
        route("/dead/", "dead", "timeout: 0s"),
        route("/deadretry/", "dead", &retries(every)),
        route("/hole/", "hole", "timeout: 0s"),
        route("/h2/", "up2", "timeout: 0s"),
        route("/h2retry/", "up2", &retries(every)),
        route("/h2wide/", "up2wide", "timeout: 0s"),
        route("/h2timeout/", "up2", "timeout: 0.5s"),
    ];
    let clusters = [
        cluster("up", "$UP", UNLIMITED),
        cluster("up2", "$UP", &format!("{UNLIMITED}, {HTTP2}")),
        cluster("up2wide", "$UP", &format!("{UNLIMITED}, {HTTP2}")),
        cluster("dead", "$REFUSED", UNLIMITED),
        cluster("hole", "$HOLE", &format!("{UNLIMITED}, connect_timeout: 0.3s")),
        cluster("limited", "$UP", UNLIMITED),
        mostly_dead("previous", ""),
        mostly_dead("canary", "canary: true"),
        mostly_dead("labelled", "stage: bad"),
        hosts("priorities", &[endpoint("$REFUSED", 1, ""), endpoint("$UP", 1, "")]),
    ];
    bootstrap(&[web(&routes)], &clusters)
}

/// What became of a fault's requests.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    told: BTreeMap<String, usize>,
    /// Requests by how often they came.
    tries: BTreeMap<usize, usize>,
}

impl Fault {
    fn id(&self, speak: Speak, n: usize) -> String {
        format!("{}-{speak:?}-{n}", self.name.replace([' ', ','], "_"))
    }

    /// Asks for it among others, which must not notice.
    async fn on(&self, site: &Site, speak: Speak) -> Outcome {
        site.up.take();
        let mut asks = Vec::new();
        for n in 0..EACH {
            let ask = Ask::get(self.id(speak, n), self.path, self.script).sending(self.method, self.body);
            asks.push(match self.header {
                ("", _) => ask,
                (name, value) => ask.header(name, value),
            });
            asks.push(Ask::get(format!("good{n}"), "/plain/", "bytes:3000").sending("POST", 10));
            asks.push(Ask::get(format!("good-h2-{n}"), "/h2/", "bytes:3000").sending("POST", 10));
        }
        let told = load(site.web, speak, 12, asks).await;
        let seen = site.up.take();
        let (good, bad): (Told, Told) = told.into_iter().partition(|(id, _)| id.starts_with("good"));
        let what = format!("{}: beside {:?} over {speak:?}", site.name, self.name);
        assert_eq!(tally(&good), BTreeMap::from([("200 (3000 bytes)".to_owned(), 2 * EACH)]), "{what}");
        let came = |id: &str| seen.iter().filter(|seen| seen.id == id).count();
        assert!(good.keys().all(|id| came(id) == 1), "{what}");
        let mut tries = BTreeMap::new();
        for id in bad.keys() {
            *tries.entry(came(id)).or_default() += 1;
        }
        Outcome { told: tally(&bad), tries }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_exchanges_are_told_as_envoy_tells_them() {
    let sites = Site::pair(&config()).await;
    let mut wrong = String::new();
    for fault in FAULTS {
        for speak in [Speak::Http1, Speak::Http2] {
            let (ours, envoy) = tokio::join!(fault.on(&sites[0], speak), fault.on(&sites[1], speak));
            let right = ours.told.len() == 1
                && ours.told.keys().all(|told| told.starts_with(fault.verdict))
                && ours.tries == BTreeMap::from([(fault.tries, EACH)]);
            if !right || (ours != envoy && fault.differs.is_empty()) {
                let _ = writeln!(wrong, "{} over {speak:?}\n  envoy {envoy:?}\n  ours  {ours:?}", fault.name);
            }
        }
    }
    let compared = FAULTS.iter().filter(|fault| fault.differs.is_empty());
    let ids: Vec<(String, bool)> = compared
        .flat_map(|fault| {
            let of = move |speak| (0..EACH).map(move |n| (fault.id(speak, n), fault.chance));
            [Speak::Http1, Speak::Http2].into_iter().flat_map(of)
        })
        .collect();
    let logs = eventually("all is logged", async || {
        let logs = [sites[0].log(), sites[1].log()];
        for (site, log) in sites.iter().zip(&logs) {
            let missing = ids.iter().find(|(id, _)| !log.contains_key(id));
            ensure!(missing.is_none(), "{}: not {missing:?}", site.name);
        }
        Ok(logs)
    })
    .await;
    for (id, chance) in &ids {
        let [ours, envoy] = logs.each_ref().map(|log| {
            let line = log[id].as_str();
            if *chance { line.rsplit_once(" tries=").map_or(line, |(before, _)| before) } else { line }
        });
        if ours != envoy {
            let _ = writeln!(wrong, "log of {id}\n  envoy {envoy}\n  ours  {ours}");
        }
    }
    let waits = async |site: &Site| {
        let stats = site.proxy.stats().await.unwrap();
        let kinds = ["backoff_ratelimited", "backoff_exponential"];
        kinds.map(|kind| stats[&format!("cluster.limited.upstream_rq_retry_{kind}")])
    };
    let (ours, envoy) = (waits(&sites[0]).await, waits(&sites[1]).await);
    if ours != envoy || ours != [2 * EACH as u64, 0] {
        let _ = writeln!(wrong, "waits\n  envoy {envoy:?}\n  ours  {ours:?}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    for site in sites {
        site.over().await;
    }
}
