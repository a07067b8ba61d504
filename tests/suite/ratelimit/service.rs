//! The service as clients see it: one limit over two control planes, and Redis going away.

use control_plane::ratelimit::algorithm::{Algorithm, Hits, Rate, State, Verdict};
use e2e::certs::Authority;
use e2e::control::Control;
use e2e::eventually;
use e2e::redis::Redis;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use xds_types::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use xds_types::envoy::service::ratelimit::v3::rate_limit_response::Code;
use xds_types::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use xds_types::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// Longest wait for an answer that is to come in any case.
const PATIENCE: Duration = Duration::from_secs(10);

type Client = RateLimitServiceClient<Channel>;

/// As users of envoyproxy/ratelimit have it, under `spec.rate_limit_domain`.
const DOMAIN: &str = "
kind: Policy
name: legacy
spec:
  rate_limit_domain:
    domain: legacy
    descriptors:
    - key: fixed
      rate_limit: {unit: day, requests_per_unit: 2000}
    - key: sliding
      rate_limit: {unit: day, requests_per_unit: 50, algorithm: sliding_window}
    - key: bucket
      rate_limit: {unit: day, requests_per_unit: 1, algorithm: token_bucket, burst: 40}
    - key: tenant
      descriptors:
      - key: user
        value: root
        rate_limit: {unlimited: true}
      - key: user
        rate_limit: {unit: hour, requests_per_unit: 3}
      - key: user
        value: test*
        shadow_mode: true
        rate_limit: {unit: hour, requests_per_unit: 1}
";

async fn client(control: &Control) -> Client {
    let channel = Channel::from_shared(format!("http://{}", control.ratelimit)).unwrap();
    let client = Client::new(channel.connect().await.unwrap());
    eventually("the limits are in force", async || {
        let answer =
            ask(&client, &[("tenant", "probe"), ("user", "root")], 1).await.map_err(|e| e.to_string())?;
        match answer.statuses[0].limit_remaining {
            u32::MAX => Ok(()),
            other => Err(format!("{other} remaining")),
        }
    })
    .await;
    client
}

async fn ask(
    client: &Client,
    entries: &[(&str, &str)],
    hits: u32,
) -> Result<RateLimitResponse, tonic::Status> {
    let entries = entries.iter().map(|(k, v)| Entry { key: (*k).into(), value: (*v).into() }).collect();
    let request = RateLimitRequest {
        domain: "legacy".to_owned(),
        descriptors: vec![RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }],
        hits_addend: hits,
    };
    Ok(client.clone().should_rate_limit(request).await?.into_inner())
}

async fn passes(client: &Client, entries: &[(&str, &str)]) -> bool {
    ask(client, entries, 1).await.unwrap().overall_code == i32::from(Code::Ok)
}

/// How many of so many calls pass, spread over these clients and made at once.
async fn passed(clients: &[Client], key: &'static str, value: &'static str, calls: usize) -> usize {
    let one = |i: usize| {
        let client = clients[i % clients.len()].clone();
        async move { passes(&client, &[(key, value)]).await }
    };
    let mut all = tokio::task::JoinSet::new();
    for i in 0..calls {
        all.spawn(one(i));
        if all.len() >= 64 {
            // Bounded, so that no call waits for its turn longer than Redis may take.
            break;
        }
    }
    let (mut next, mut count) = (all.len(), 0);
    while let Some(done) = all.join_next().await {
        count += usize::from(done.unwrap());
        if next < calls {
            all.spawn(one(next));
            next += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_control_planes_over_one_redis_enforce_one_limit() {
    let redis = Redis::start(Some("hunter2-redis")).await.unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "hunter2-redis\n").unwrap();
    let (url, file) = (redis.url(), secret.path().display().to_string());
    let args = [
        "--ratelimit-redis",
        &url,
        "--ratelimit-redis-password-file",
        &file,
        "--ratelimit-redis-timeout-ms",
        "5000",
    ];
    let (mut a, mut b) = (Control::start(&args).await.unwrap(), Control::start(&args).await.unwrap());
    a.apply(DOMAIN).await.unwrap();
    b.apply(DOMAIN).await.unwrap();
    let clients = [client(&a).await, client(&b).await];
    counts_in_redis(&a).await;
    counts_in_redis(&b).await;
    // R and 1.01 R; a day's window does not turn here, but at midnight, when twice as many pass.
    let count = passed(&clients, "fixed", "x", 4000).await;
    assert!((2000..=2020).contains(&count), "{count} of a limit of 2000 passed");
    assert_eq!(passed(&clients, "sliding", "x", 200).await, 50);
    assert_eq!(passed(&clients, "bucket", "x", 200).await, 40);
    let metrics = a.call("GET", "/metrics", "").await.unwrap().text();
    for name in ["ratelimit_hits_total", "ratelimit_over_limit_total", "ratelimit_near_limit_total"] {
        assert!(
            metrics.contains(&format!("{name}{{domain=\"legacy\",limit=\"fixed\"}}")),
            "{name}:\n{metrics}"
        );
    }
    for control in [&mut a, &mut b] {
        assert!(!control.process().log().contains("hunter2"), "a password must not be logged");
    }
}

async fn counts_in_redis(control: &Control) {
    eventually("Redis is up", async || {
        let metrics = control.call("GET", "/metrics", "").await.map_err(|e| e.to_string())?.text();
        if metrics.contains("ratelimit_redis_up 1") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_spoken_to_by_tls_and_verified() {
    let (authority, other) = (Authority::new("redis").unwrap(), Authority::new("other").unwrap());
    let redis = Redis::start_tls(&authority).await.unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let start = async |authority: &Authority| {
        let ca = authority.write(dir.path()).unwrap().display().to_string();
        let args = [
            "--ratelimit-redis",
            &redis.url(),
            "--ratelimit-redis-ca-file",
            &ca,
            "--ratelimit-redis-failure=error",
        ];
        let control = Control::start(&args).await.unwrap();
        control.apply(DOMAIN).await.unwrap();
        control
    };
    let control = start(&authority).await;
    counts_in_redis(&control).await;
    let trusted = client(&control).await;
    for expected in [true, true, true, false] {
        assert_eq!(passes(&trusted, &[("tenant", "a"), ("user", "joe")]).await, expected);
    }
    let mut control = start(&other).await;
    eventually("the certificate of another authority is refused", async || {
        let log = control.process().log();
        if log.contains("Redis cannot be reached") { Ok(()) } else { Err(log) }
    })
    .await;
    let metrics = control.call("GET", "/metrics", "").await.unwrap().text();
    assert!(!metrics.contains("ratelimit_redis_up 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_under_load_fails_no_call_and_the_limit_is_one_again() {
    let mut redis = Redis::start(None).await.unwrap();
    let url = redis.url();
    let args =
        ["--ratelimit-redis", &url, "--ratelimit-redis-timeout-ms=500", "--ratelimit-redis-failure=open"];
    let (a, b) = tokio::join!(Control::start(&args), Control::start(&args));
    let (a, b) = (a.unwrap(), b.unwrap());
    a.apply(DOMAIN).await.unwrap();
    b.apply(DOMAIN).await.unwrap();
    let clients = [client(&a).await, client(&b).await];
    counts_in_redis(&a).await;
    counts_in_redis(&b).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut load = tokio::task::JoinSet::new();
    for client in clients.clone() {
        let stopped = stopped.clone();
        load.spawn(async move {
            let mut calls = 0;
            while !*stopped.borrow() {
                let answer = tokio::time::timeout(PATIENCE, ask(&client, &[("fixed", "load")], 1)).await;
                answer.expect("no call hangs").expect("no call fails");
                calls += 1;
            }
            calls
        });
    }
    for _ in 0..2 {
        redis.restart().await.unwrap();
        for client in &clients {
            eventually("it counts again", async || {
                let probe = fastrand::u64(..).to_string();
                let answer = ask(client, &[("sliding", &probe)], 1).await.map_err(|e| e.to_string())?;
                match answer.statuses[0].limit_remaining {
                    49 => Ok(()),
                    other => Err(format!("{other} remaining")),
                }
            })
            .await;
        }
    }
    assert_eq!(passed(&clients, "sliding", "x", 200).await, 50, "both count as one");
    stop.send_replace(true);
    while let Some(done) = load.join_next().await {
        assert!(done.unwrap() > 0, "there was load");
    }
}

/// One counter of the comparison: in Redis, and by our own arithmetic.
struct Twin {
    rate: Rate,
    state: State,
    told: Vec<String>,
}

/// The script and `algorithm.rs` say the same of the same sequences, with the clock as an argument of both.
#[tokio::test]
async fn the_script_in_redis_counts_as_our_own_arithmetic_does() {
    const TWINS: usize = 90;
    const STEPS: usize = 300;
    let redis = Redis::start(None).await.unwrap();
    let mut connection =
        redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let script = redis::Script::new(control_plane::ratelimit::redis::SCRIPT);
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut twins: Vec<Twin> = (0..TWINS)
        .map(|i| {
            let hits = *random.choice([0, 1, 2, 3, 7, 10, 1000].iter()).unwrap();
            let window = Duration::from_secs(*random.choice([1, 7, 60, 86_400].iter()).unwrap());
            let burst = random.u32(1..12);
            let algorithm = match i % 3 {
                0 => Algorithm::FixedWindow,
                1 => Algorithm::TokenBucket { burst },
                _ => Algorithm::SlidingWindow,
            };
            Twin { rate: Rate { hits, window, algorithm }, state: State::default(), told: Vec::new() }
        })
        .collect();
    let mut now: u64 = 1_700_000_000_123_457;
    for _ in 0..STEPS {
        // Mostly a little later; sometimes windows later, or at the very turn of one.
        now = match random.u32(0..20) {
            0 => now + random.u64(0..150_000_000),
            1 => (now + 1).next_multiple_of(1_000_000) + random.u64(0..2) - 1,
            _ => now + random.u64(0..400_000),
        };
        let mut invocation = script.prepare_invoke();
        let mut asked = Vec::new();
        for (i, twin) in twins.iter().enumerate() {
            let n = random.i64(-3..6);
            let (letter, burst) = match twin.rate.algorithm {
                Algorithm::FixedWindow => ("f", 0),
                Algorithm::TokenBucket { burst } => ("t", burst),
                Algorithm::SlidingWindow => ("s", 0),
            };
            let micros = u64::try_from(twin.rate.window.as_micros()).unwrap();
            invocation.key(format!("twin {i}")).arg(letter).arg(twin.rate.hits).arg(n).arg(micros).arg(burst);
            invocation.arg(3_600_000); // no key expires by the clock of the machine
            asked.push(n);
        }
        let said: Vec<i64> = invocation.arg(now).invoke_async(&mut connection).await.unwrap();
        for ((twin, n), said) in twins.iter_mut().zip(asked).zip(said.chunks_exact(3)) {
            let hits = match u64::try_from(n) {
                Ok(n) => Hits::Take(n),
                Err(_) => Hits::Return(n.unsigned_abs()),
            };
            let Verdict { allowed, remaining, reset } = twin.rate.decide(&mut twin.state, hits, now * 1000);
            let micros = i64::try_from(reset.as_nanos().div_ceil(1000)).unwrap();
            let ours = [i64::from(allowed), i64::from(remaining), micros];
            twin.told.push(format!("{now}: {n} -> {said:?}, ours {ours:?}"));
            assert_eq!(said, ours, "seed {seed}, {:?}: {:#?}", twin.rate, twin.told);
        }
    }
    // A clock that goes back opens no new window, and fills no bucket.
    for letter in ["f", "s", "t"] {
        for (now, allowed) in [(now, 1), (now - 5_000_000, 0)] {
            let mut invocation = script.prepare_invoke();
            invocation
                .key(format!("back {letter}"))
                .arg(letter)
                .arg(1)
                .arg(1)
                .arg(1_000_000)
                .arg(1)
                .arg(3_600_000);
            let said: Vec<i64> = invocation.arg(now).invoke_async(&mut connection).await.unwrap();
            assert_eq!(said[0], allowed, "{letter}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_failure_mode_decides_within_the_deadline() {
    for mode in ["open", "closed", "local", "error"] {
        let mut redis = Redis::start(None).await.unwrap();
        let url = redis.url();
        let args = [
            "--ratelimit-redis",
            &url,
            "--ratelimit-redis-failure",
            mode,
            "--ratelimit-redis-timeout-ms",
            "200",
        ];
        let control = Control::start(&args).await.unwrap();
        control.apply(DOMAIN).await.unwrap();
        let client = client(&control).await;
        let user = |name: &'static str| [("tenant", "a"), ("user", name)];
        let works = async |name: &'static str| {
            eventually("Redis counts", async || {
                let answer = ask(&client, &user(name), 1).await.map_err(|e| e.to_string())?;
                match answer.statuses[0].limit_remaining {
                    2 => Ok(()),
                    other => Err(format!("{other} remaining")),
                }
            })
            .await;
        };
        if mode == "open" || mode == "error" {
            works("first").await;
        }
        // Hangs, then is gone.
        redis.process().signal("STOP").unwrap();
        let gone = [false, true];
        for killed in gone {
            if killed {
                redis.kill();
            }
            for _ in 0..5 {
                let start = Instant::now();
                let answer = ask(&client, &user("second"), 1).await;
                assert!(start.elapsed() < Duration::from_secs(2), "{mode}: {:?}", start.elapsed());
                match (mode, answer) {
                    ("error", Err(status)) => assert_eq!(status.code(), tonic::Code::Unavailable),
                    ("open", Ok(answer)) => assert_eq!(answer.overall_code, i32::from(Code::Ok)),
                    ("closed", Ok(answer)) => assert_eq!(answer.overall_code, i32::from(Code::OverLimit)),
                    ("local", Ok(_)) => {}
                    (_, other) => panic!("{mode}: {other:?}"),
                }
            }
        }
        if mode == "local" {
            assert!(!passes(&client, &user("second")).await, "ten calls are more than three");
        }
        redis.restart().await.unwrap();
        if mode != "local" {
            works(if mode == "open" { "third" } else { "fourth" }).await;
        }
    }
}

#[tokio::test]
async fn limits_are_nested_replaced_by_the_store_and_shadowed() {
    let control = Control::start(&[]).await.unwrap();
    control.apply(DOMAIN).await.unwrap();
    let client = client(&control).await;
    let user = |name: &'static str| [("tenant", "a"), ("user", name)];
    for expected in [true, true, true, false] {
        assert_eq!(passes(&client, &user("joe")).await, expected);
    }
    for name in ["root", "tester"] {
        for _ in 0..5 {
            assert!(passes(&client, &user(name)).await, "{name}");
        }
    }
    // A changed limit counts at once; refusals name the object and the field.
    control.apply(&DOMAIN.replace("requests_per_unit: 3", "requests_per_unit: 5")).await.unwrap();
    eventually("the new limit is in force", async || match passes(&client, &user("joe")).await {
        true => Ok(()),
        false => Err("still the old one"),
    })
    .await;
    let answer =
        control.call("POST", "/api/v1/apply", DOMAIN.replace("unit: hour", "unit: eon")).await.unwrap();
    assert!(answer.status >= 400 && answer.text().contains("unit"), "{}", answer.text());
    let other = DOMAIN.replace("name: legacy", "name: second");
    let answer = control.call("POST", "/api/v1/apply", other).await.unwrap();
    assert!(answer.text().contains("is defined by Policy/legacy"), "{}", answer.text());
    let answer = control.call("DELETE", "/api/v1/objects/policy/legacy", "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("nothing is limited", async || {
        for _ in 0..9 {
            if !passes(&client, &user("joe")).await {
                return Err("still limited");
            }
        }
        Ok(())
    })
    .await;
}
