//! Checks of one object by itself: names, ranges, syntax.

use super::{ObjectKey, Problems};
use xds_types::portolan::config::v1::Resource;

/// Everything wrong with an object that can be seen without looking at others.
pub fn object(key: &ObjectKey, resource: &Resource) -> Problems {
    let _ = (key, resource);
    Problems::default()
}
