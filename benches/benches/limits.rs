//! What a decision of a local rate limit costs: one bucket, one of many descriptors, one of many clients.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use data_plane_core::config::{LocalDescriptor, LocalRateLimit, VirtualHostLimits};
use data_plane_core::guard::Fill;
use data_plane_core::ratelimit::{Descriptor, Entry, LocalLimiter};
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

const FILL: Fill = Fill { max: 1_000_000_000, per_fill: 1_000_000, interval: Duration::from_secs(1) };

fn config(descriptors: Vec<LocalDescriptor>) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "bench".into(),
        status: 429,
        bucket: Some(FILL),
        enabled: None,
        enforced: None,
        request_edits: Default::default(),
        response_edits: Default::default(),
        descriptors,
        stage: 0,
        per_connection: false,
        x_ratelimit: false,
        virtual_host_limits: VirtualHostLimits::Override,
        always_consume_default: false,
        resource_exhausted: false,
        rate_limits: Vec::new(),
        max_dynamic_descriptors: 10_000,
        retry_after: false,
    }
}

fn descriptor(value: &str) -> Descriptor<'_> {
    let entry = Entry { key: Cow::Borrowed("client"), value: Cow::Borrowed(value) };
    Descriptor { entries: [entry].into_iter().collect(), ..Descriptor::default() }
}

fn rule(value: &str) -> LocalDescriptor {
    LocalDescriptor { entries: vec![("client".into(), value.into())], fill: FILL, shadow: false }
}

fn decisions(c: &mut Criterion) {
    let mut now = Duration::ZERO;
    let mut later = move || {
        now += Duration::from_nanos(100);
        now
    };
    let one = LocalLimiter::new(&config(Vec::new()), Duration::ZERO, 1);
    c.bench_function("limit one bucket", |b| b.iter(|| black_box(one.decide(&[], later()).allowed)));

    let names: Vec<String> = (0..10_000).map(|i| format!("10.0.{}.{}", i / 256, i % 256)).collect();
    let fixed = config(names.iter().map(|name| rule(name)).collect());
    let open = config(vec![rule("")]);
    for (what, config) in [("limit one of 10000 descriptors", fixed), ("limit one of 10000 clients", open)] {
        let limiter = LocalLimiter::new(&config, Duration::ZERO, 1);
        let mut at = 0;
        c.bench_function(what, |b| {
            b.iter_batched(
                || {
                    at = (at + 7919) % names.len();
                    [descriptor(&names[at])]
                },
                |descriptors| black_box(limiter.decide(&descriptors, later()).allowed),
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
