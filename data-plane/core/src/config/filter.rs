//! HTTP filters, and what routes say of them.

use super::{
    GlobalRateLimit, HeaderToMetadata, HealthCheckFilter, LocalRateLimit, RateLimitPerRoute, SetMetadata,
};
use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// An HTTP filter of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpFilter {
    /// The configured name, the key of `typed_per_filter_config`.
    pub name: Box<str>,
    /// What it is.
    pub kind: HttpFilterKind,
    /// Only runs where a route enables it.
    pub disabled: bool,
}

/// The HTTP filters built so far. What is large is boxed, what routes may hold too is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFilterKind {
    /// `envoy.filters.http.router`, always last.
    Router {
        /// Leave out x-envoy-* headers on requests and responses (`suppress_envoy_headers`).
        suppress_envoy_headers: bool,
        /// Emit upstream timing stats (`dynamic_stats`). Default true.
        dynamic_stats: bool,
        /// Respect a client's x-envoy-expected-rq-timeout-ms.
        respect_expected_rq_timeout: bool,
    },
    /// `envoy.filters.http.health_check`.
    HealthCheck(Arc<HealthCheckFilter>),
    /// `envoy.filters.http.local_ratelimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `envoy.filters.http.ratelimit`.
    RateLimit(Arc<GlobalRateLimit>),
    /// `envoy.filters.http.header_to_metadata`.
    HeaderToMetadata(Arc<HeaderToMetadata>),
    /// `envoy.filters.http.set_metadata`.
    SetMetadata(Arc<[SetMetadata]>),
}

/// `typed_per_filter_config` of one level: what it says of filters, by their configured names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterOverrides(Box<[(Box<str>, Arc<FilterOverride>)]>);

impl FilterOverrides {
    /// Whether nothing is said of any filter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said of the filter of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<FilterOverride>> {
        self.0.iter().find(|(key, _)| **key == *name).map(|(_, entry)| entry)
    }
}

impl FromIterator<(Box<str>, FilterOverride)> for FilterOverrides {
    fn from_iter<I: IntoIterator<Item = (Box<str>, FilterOverride)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, entry)| (name, Arc::new(entry))).collect())
    }
}

/// What one level says of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOverride {
    /// It does not run. Otherwise it does, also where the chain has it disabled.
    pub disabled: bool,
    /// In place of the filter's own configuration, or beside it: the filter decides.
    pub config: Option<FilterOverrideKind>,
    /// For what the filter builds from `config` and keeps.
    pub built: Built,
}

/// Configuration of filters by routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterOverrideKind {
    /// Of `envoy.filters.http.local_ratelimit`: in place of its own.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Of `envoy.filters.http.ratelimit`.
    RateLimit(Arc<RateLimitPerRoute>),
    /// Of `envoy.filters.http.header_to_metadata`: in place of its own.
    HeaderToMetadata(Arc<HeaderToMetadata>),
}

/// Room beside configuration for what is built from it and must live as long: buckets, counters. Not a part of
/// the configuration: all are equal, and a copy is empty.
#[derive(Default)]
pub struct Built(OnceLock<Box<dyn Any + Send + Sync>>);

impl Built {
    /// What is built; by `build` the first time. `None` when it was built as another type.
    pub fn get_or_build<T: Any + Send + Sync>(&self, build: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(build())).downcast_ref()
    }
}

impl Clone for Built {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Built {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Built {}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Built")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_stays_and_is_no_part_of_the_configuration() {
        let config = FilterOverride { disabled: false, config: None, built: Built::default() };
        assert_eq!(config.built.get_or_build(|| 7), Some(&7));
        assert_eq!(config.built.get_or_build(|| 8), Some(&7));
        assert_eq!(config.built.get_or_build(|| "another type"), None);
        let copy = config.clone();
        assert_eq!(copy, config);
        assert_eq!(copy.built.get_or_build(|| 9), Some(&9), "a copy builds its own");
    }
}
