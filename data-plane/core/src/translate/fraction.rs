//! Shares: fractional percents, percents, and shares that runtime may override.

use super::field;
use crate::config::{Fraction, RuntimeFraction};
use crate::path::{Diagnostics, Path, Rejected};
use xds_types::envoy::config::core::v3::RuntimeFractionalPercent;
use xds_types::envoy::r#type::v3::fractional_percent::DenominatorType;
use xds_types::envoy::r#type::v3::{FractionalPercent, Percent};

/// A share in millionths. More than the whole counts as the whole, as in Envoy.
pub(super) fn fractional(
    proto: FractionalPercent,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<Fraction, Rejected> {
    let FractionalPercent { numerator, denominator } = proto;
    let unit = match field::variant(denominator, &at.field("denominator"), d)? {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    Ok(Fraction { per_million: numerator.saturating_mul(unit).min(1_000_000) })
}

/// A share with its runtime key. Without a default it is zero.
pub(super) fn runtime(
    proto: RuntimeFractionalPercent,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<RuntimeFraction, Rejected> {
    let RuntimeFractionalPercent { default_value, runtime_key } = proto;
    let default = match default_value {
        Some(value) => fractional(value, &at.field("default_value"), d)?,
        None => Fraction { per_million: 0 },
    };
    Ok(RuntimeFraction { default, key: runtime_key.into() })
}

/// A percentage, rounded to a whole one.
pub(super) fn percent(proto: Percent, at: &Path<'_>, d: &mut Diagnostics) -> Result<u8, Rejected> {
    let Percent { value } = proto;
    if !(0.0..=100.0).contains(&value) {
        return Err(d.reject(at, format_args!("{value} is not a percentage, must be 0 to 100")));
    }
    Ok(value.round() as u8)
}
