//! What a host is picked by.

use super::host::Host;
use data_plane_core::config::MetadataMatch;
use std::fmt;

/// What a host is picked by. The default asks for nothing in particular.
#[derive(Clone, Copy, Default)]
pub struct PickRequest<'a> {
    /// 64 fresh random bits.
    pub random: u64,
    /// The request's hash, for policies that keep a client on a host.
    pub hash: Option<u64>,
    /// What the route asks of a host's metadata; matters in clusters that are divided into subsets only.
    pub subset: Option<&'a MetadataMatch>,
    /// Hosts to do without (retry host predicates): another one is picked, at most [`Self::avoid_attempts`] times;
    /// after that the last one is taken all the same, as Envoy does.
    pub avoid: Option<&'a dyn Fn(&Host) -> bool>,
    /// Further picks when a host is to be avoided (`host_selection_retry_max_attempts`).
    pub avoid_attempts: u32,
    /// Priorities that were tried: they get no load while another one can take it (`previous_priorities`).
    pub tried_priorities: &'a [u32],
}

impl fmt::Debug for PickRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickRequest")
            .field("hash", &self.hash)
            .field("subset", &self.subset)
            .field("avoid_attempts", &self.avoid_attempts)
            .field("tried_priorities", &self.tried_priorities)
            .finish_non_exhaustive()
    }
}

impl PickRequest<'_> {
    /// A pick by chance alone.
    pub fn random(random: u64) -> Self {
        Self { random, ..Self::default() }
    }
}
