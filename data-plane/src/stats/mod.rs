//! Counters, gauges and histograms under Envoy's names.
//!
//! A [`Block`] holds the metrics of one thing (a cluster, a listener) in one shard per worker: an increment is
//! one relaxed add in the worker's own memory, by a handle resolved at build time. [`Registry`] knows every
//! block; rendering sums shards. A block leaves the registry when its last handle is dropped.

mod block;
mod codes;
mod histogram;
mod names;
mod readout;
mod registry;
mod render;

pub use block::{Block, Counter, Gauge, set_worker};
pub use codes::Codes;
pub use histogram::{Histogram, HistogramSnapshot};
pub use readout::TextReadout;
pub use registry::{Metric, MetricValue, Registry, Scope};
pub use render::{BUCKETS, Format, Kinds, QUANTILES, Query};

/// Declares a struct of metrics, each named by its field, and `new(&Scope)` for it.
///
/// `stat_block! { /// doc pub struct Foo { counters: a, b; gauges: c; histograms: d; } }`
#[macro_export]
macro_rules! stat_block {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        counters: $($c:ident),* ; gauges: $($g:ident),* ; histograms: $($h:ident),* ;
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[allow(missing_docs, dead_code, reason = "fields carry Envoy's stat names; those never charged show as zero")]
        $vis struct $name {
            $(pub $c: $crate::stats::Counter,)*
            $(pub $g: $crate::stats::Gauge,)*
            $(pub $h: $crate::stats::Histogram,)*
        }

        #[allow(dead_code, reason = "most owners need `new` alone")]
        impl $name {
            /// Registers the metrics under `scope` and resolves their handles.
            $vis fn new(scope: &$crate::stats::Scope) -> Self {
                Self::from_block(&Self::register(scope))
            }

            /// Registers the names alone: they read zero until handles are made.
            $vis fn register(scope: &$crate::stats::Scope) -> std::sync::Arc<$crate::stats::Block> {
                scope.block(
                    &[$(stringify!($c)),*],
                    &[$(stringify!($g)),*],
                    &[$(stringify!($h)),*],
                )
            }

            /// Resolves the handles of a block that [`Self::register`] made.
            #[allow(unused_variables, unused_mut, unused_assignments, reason = "some blocks have one kind only")]
            $vis fn from_block(block: &std::sync::Arc<$crate::stats::Block>) -> Self {
                let (mut c, mut g, mut h) = (0, 0, 0);
                Self {
                    $($c: { c += 1; block.counter(c - 1) },)*
                    $($g: { g += 1; block.gauge(g - 1) },)*
                    $($h: { h += 1; block.histogram(h - 1) },)*
                }
            }
        }
    };
}
