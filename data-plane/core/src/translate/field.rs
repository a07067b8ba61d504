//! The field policy's tools: whether a field is set, refusing it, reporting it, walking lists and enums.

use crate::path::{Diagnostics, Path, Rejected};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use xds_types::google::protobuf::{BoolValue, UInt32Value};

/// A proto field that knows whether it was set.
pub(super) trait Field {
    /// Whether it differs from the proto default; a message that is present counts as set.
    fn is_set(&self) -> bool;
}

macro_rules! scalar_fields {
    ($($scalar:ty),+) => {$(
        impl Field for $scalar {
            fn is_set(&self) -> bool {
                *self != <$scalar>::default()
            }
        }
    )+};
}

scalar_fields!(bool, i32, u32, i64, u64, f64);

impl Field for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> Field for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> Field for HashMap<K, V, RandomState> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<T> Field for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

/// A wrapped scalar whose absence means a known value.
pub(super) trait Wrapped<T> {
    /// Whether it says something else than its absence would.
    fn differs_from(&self, absent: T) -> bool;
}

impl Wrapped<bool> for Option<BoolValue> {
    fn differs_from(&self, absent: bool) -> bool {
        self.as_ref().is_some_and(|v| v.value != absent)
    }
}

impl Wrapped<u32> for Option<UInt32Value> {
    fn differs_from(&self, absent: u32) -> bool {
        self.as_ref().is_some_and(|v| v.value != absent)
    }
}

/// A field's name in the proto: Rust's spelling without the raw prefix.
pub(super) fn name(rust: &'static str) -> &'static str {
    rust.strip_prefix("r#").unwrap_or(rust)
}

/// Whether a field is set, or with a value: whether it says something else than that.
macro_rules! is_set {
    ($field:ident) => {
        $crate::translate::field::Field::is_set(&$field)
    };
    ($field:ident, $absent:expr) => {
        $crate::translate::field::Wrapped::differs_from(&$field, $absent)
    };
}

/// Rejects each of the fields that is set: ignoring it would change routing, security or bodies.
///
/// `field = value` names the wrapped value that means the same as absence.
macro_rules! unsupported {
    ($d:expr, $at:expr; $($fields:tt)+) => {
        $crate::translate::field::unsupported!($d, $at, "not supported"; $($fields)+)
    };
    ($d:expr, $at:expr, $why:expr; $($field:ident $(= $absent:expr)?),+ $(,)?) => {
        $(if $crate::translate::field::is_set!($field $(, $absent)?) {
            $d.reject(&$at.field($crate::translate::field::name(stringify!($field))), $why);
        })+
    };
}

/// Reports each of the fields that is set: it only observes or tunes.
macro_rules! ignored {
    ($d:expr, $at:expr, $why:expr; $($field:ident $(= $absent:expr)?),+ $(,)?) => {
        $(if $crate::translate::field::is_set!($field $(, $absent)?) {
            $d.ignored(&$at.field($crate::translate::field::name(stringify!($field))), $why);
        })+
    };
}

pub(super) use {ignored, is_set, unsupported};

/// The variant of an enum field.
pub(super) fn variant<E: TryFrom<i32>>(
    value: i32,
    at: &Path<'_>,
    d: &mut Diagnostics,
) -> Result<E, Rejected> {
    E::try_from(value).map_err(|_| d.reject(at, format_args!("{value} is not a value of this enum")))
}

/// Translates every element, so that all errors are reported; those that failed are left out.
pub(super) fn each<P, T>(
    list: impl IntoIterator<Item = P>,
    at: &Path<'_>,
    d: &mut Diagnostics,
    mut translate: impl FnMut(P, &Path<'_>, &mut Diagnostics) -> Result<T, Rejected>,
) -> Vec<T> {
    let list = list.into_iter();
    // Not collected, which would happen in the list's own memory and keep it: messages are several times as large.
    let mut all = Vec::with_capacity(list.size_hint().0);
    all.extend(list.enumerate().filter_map(|(i, proto)| translate(proto, &at.index(i), d).ok()));
    all
}

/// A message that must be there.
pub(super) fn required<T>(value: Option<T>, at: &Path<'_>, d: &mut Diagnostics) -> Result<T, Rejected> {
    value.ok_or_else(|| d.reject(at, "is required"))
}

/// A port number; zero is allowed where `lowest` is zero.
pub(super) fn port(value: u32, lowest: u16, at: &Path<'_>, d: &mut Diagnostics) -> Result<u16, Rejected> {
    match u16::try_from(value) {
        Ok(port) if port >= lowest => Ok(port),
        _ => Err(d.reject(at, format_args!("{value} is not a port, must be {lowest} to 65535"))),
    }
}
