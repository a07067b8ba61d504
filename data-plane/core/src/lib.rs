//! The proxy's decisions, free of I/O, clocks and randomness: those are arguments.
//!
//! Modules, low to high; each imports only those before it:
//!
//! - [`path`]: where a configuration error is, and the list that collects them
//! - [`certificate`]: X.509 certificates as far as configuration, logs and headers ask
//! - [`headers`]: header lists, message heads, edits, `%COMMAND%` formats, forwarded headers
//! - [`matcher`]: strings, headers, paths, queries, addresses
//! - [`guard`]: state machines fed with `now`
//! - [`config`]: the validated, immutable model that everything above the wire is built from
//! - [`proxy_protocol`]: headers that tell whose connection it is
//! - [`ratelimit`]: what requests are told apart by, and the buckets of local rate limits
//! - [`saying`]: what filters say of a stream, for others to act upon
//! - [`lb`]: host choice
//! - [`accesslog`]: log lines and log filters
//! - [`trace`]: trace contexts, sampling, what spans say
//! - [`route`]: virtual host and route choice, rewrites
//! - [`translate`]: Envoy's protos to [`config`]; the only module that names `xds_types`

pub mod accesslog;
pub mod certificate;
pub mod config;
pub mod guard;
pub mod headers;
pub mod lb;
pub mod matcher;
pub mod path;
pub mod proxy_protocol;
pub mod ratelimit;
pub mod route;
pub mod saying;
pub mod trace;
pub mod translate;
