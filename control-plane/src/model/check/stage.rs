//! Checks of a Stage's shape. What its objects say is checked in the world that they make.

use super::Checker;
use crate::model::{Kind, ObjectKey};
use xds_types::portolan::config::v1::{Stage, StagedObject};

pub(super) fn check(s: &Stage, at: &mut Checker<'_>) {
    let Stage { release, objects } = s;
    if *release == 0 {
        at.error("spec.release", "is required; `portolan apply --stage` makes stages");
    }
    if objects.is_empty() {
        at.error("spec.objects", "must not be empty");
    }
    for (i, StagedObject { object, text: _, base_revision: _, deleted: _ }) in objects.iter().enumerate() {
        match object.parse::<ObjectKey>() {
            Err(reason) => at.error(format!("spec.objects[{i}].object"), reason),
            Ok(key) if matches!(key.kind, Kind::AccessToken | Kind::Stage) => {
                at.error(format!("spec.objects[{i}].object"), format!("{key} cannot be staged"));
            }
            Ok(_) => {}
        }
    }
}
