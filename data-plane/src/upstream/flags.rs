//! What is known of a host's health: bits that the control side sets and that balancing and `/clusters` read.

use data_plane_core::config::EndpointHealth;
use data_plane_core::lb::Health;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One fact about a host's health. Numbers and names are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HealthFlag {
    /// Its active health checks fail.
    FailedActiveHc = 0x1,
    /// Outlier detection ejected it.
    FailedOutlierCheck = 0x2,
    /// The control plane says so: UNHEALTHY or TIMEOUT.
    FailedEdsHealth = 0x4,
    /// Its active health check says that it is degraded.
    DegradedActiveHc = 0x8,
    /// The control plane says so: DEGRADED.
    DegradedEdsHealth = 0x10,
    /// Its source no longer names it; it stays for as long as its health checks pass.
    PendingDynamicRemoval = 0x20,
    /// It has not been checked yet, and takes no part until then.
    PendingActiveHc = 0x40,
    /// A response asked for it to be left out at once.
    ExcludedViaImmediateHcFail = 0x80,
    /// Its last active health check timed out.
    ActiveHcTimeout = 0x100,
    /// The control plane says so: DRAINING.
    EdsStatusDraining = 0x200,
}

use HealthFlag as F;

/// Every flag with its name in `/clusters`, in Envoy's order.
const NAMES: &[(HealthFlag, &str)] = &[
    (F::FailedActiveHc, "/failed_active_hc"),
    (F::FailedOutlierCheck, "/failed_outlier_check"),
    (F::FailedEdsHealth, "/failed_eds_health"),
    (F::DegradedActiveHc, "/degraded_active_hc"),
    (F::DegradedEdsHealth, "/degraded_eds_health"),
    (F::PendingDynamicRemoval, "/pending_dynamic_removal"),
    (F::PendingActiveHc, "/pending_active_hc"),
    (F::ExcludedViaImmediateHcFail, "/excluded_via_immediate_hc_fail"),
    (F::ActiveHcTimeout, "/active_hc_timeout"),
    (F::EdsStatusDraining, "/eds_status_draining"),
];

const UNHEALTHY: u32 = F::FailedActiveHc as u32
    | F::FailedOutlierCheck as u32
    | F::FailedEdsHealth as u32
    | F::EdsStatusDraining as u32;
const DEGRADED: u32 = F::DegradedActiveHc as u32 | F::DegradedEdsHealth as u32;
const EXCLUDED: u32 =
    F::PendingActiveHc as u32 | F::ExcludedViaImmediateHcFail as u32 | F::EdsStatusDraining as u32;

/// All that is known of a host's health at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthState(u32);

impl HealthState {
    /// What a control plane's word makes of it.
    pub(super) fn of_eds(health: EndpointHealth) -> Self {
        Self(match health {
            EndpointHealth::Healthy => 0,
            EndpointHealth::Degraded => F::DegradedEdsHealth as u32,
            EndpointHealth::Unhealthy => F::FailedEdsHealth as u32,
            EndpointHealth::Draining => F::EdsStatusDraining as u32,
        })
    }

    /// Both together.
    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With that flag.
    pub(super) fn and(self, flag: HealthFlag) -> Self {
        Self(self.0 | flag as u32)
    }

    /// Whether that flag is set.
    pub fn has(self, flag: HealthFlag) -> bool {
        self.0 & flag as u32 != 0
    }

    /// Whether the host may be used.
    pub fn coarse(self) -> Health {
        if self.0 & UNHEALTHY != 0 {
            // Envoy: DRAINING gets requests in panic only, like those that fail.
            Health::Unhealthy
        } else if self.0 & DEGRADED != 0 {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// Whether it is left out of the sums that decide on panic and spilling over (Envoy: "excluded").
    pub fn is_excluded(self) -> bool {
        self.0 & EXCLUDED != 0
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| *name)
    }
}

impl fmt::Display for HealthState {
    /// As `/clusters` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("healthy");
        }
        self.names().try_for_each(|name| f.write_str(name))
    }
}

/// Flags that may change at any time.
#[derive(Debug, Default)]
pub(super) struct HealthFlags(AtomicU32);

impl HealthFlags {
    pub(super) fn new(state: HealthState) -> Self {
        Self(AtomicU32::new(state.0))
    }

    pub(super) fn load(&self) -> HealthState {
        HealthState(self.0.load(Relaxed))
    }

    /// Sets or clears a flag; whether that changed anything.
    pub(super) fn set(&self, flag: HealthFlag, on: bool) -> bool {
        let bit = flag as u32;
        let before = if on { self.0.fetch_or(bit, Relaxed) } else { self.0.fetch_and(!bit, Relaxed) };
        (before & bit != 0) != on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_envoy_prints_them() {
        let flags = HealthFlags::default();
        assert_eq!(flags.load().to_string(), "healthy");
        assert!(flags.set(F::FailedOutlierCheck, true));
        assert!(!flags.set(F::FailedOutlierCheck, true), "it was set");
        assert!(flags.set(F::FailedActiveHc, true));
        assert_eq!(flags.load().to_string(), "/failed_active_hc/failed_outlier_check");
        assert!(flags.set(F::FailedActiveHc, false));
        assert_eq!(flags.load().to_string(), "/failed_outlier_check");
    }

    #[test]
    fn the_worst_flag_decides() {
        for (flags, want, excluded) in [
            (&[][..], Health::Healthy, false),
            (&[F::DegradedActiveHc], Health::Degraded, false),
            (&[F::DegradedEdsHealth, F::FailedActiveHc], Health::Unhealthy, false),
            (&[F::EdsStatusDraining], Health::Unhealthy, true),
            (&[F::PendingActiveHc, F::FailedActiveHc], Health::Unhealthy, true),
            (&[F::ActiveHcTimeout], Health::Healthy, false),
            (&[F::PendingDynamicRemoval], Health::Healthy, false),
        ] {
            let state = flags.iter().fold(HealthState::default(), |state, flag| state.and(*flag));
            assert_eq!((state.coarse(), state.is_excluded()), (want, excluded), "{flags:?}");
        }
    }
}
