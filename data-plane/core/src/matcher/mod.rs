//! Matchers over strings, headers, queries and addresses: built once from configuration, pure to ask.

mod header;
mod query;
mod regex;
mod string;

pub use header::{HeaderMatcher, HeaderRule};
pub use query::QueryMatcher;
pub use regex::{Regex, Substitution, SubstitutionError};
pub use string::{StringMatcher, StringPattern};

use ipnet::IpNet;

/// An address range.
pub type Cidr = IpNet;

/// Runtime values by key, in millionths; `None`: not set.
pub type Runtime<'a> = &'a dyn Fn(&str) -> Option<u32>;
