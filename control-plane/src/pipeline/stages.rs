//! Open stages: the world of each group that has one, compiled beside everybody's, and whether it fares well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use xds_types::ResourceType;

use crate::ads::Refusal;
use crate::model::{Change, Kind, Object, ObjectKey, World};
use crate::snapshot::{Set, changed};
use crate::translate::{Compiler, GroupSets, Objects, Staged, Trust, overlay};

/// An open stage, as it is in force.
#[derive(Clone, Debug)]
pub struct StageView {
    /// The Stage.
    pub stage: Arc<Object>,
    /// Its objects that are set aside, and why.
    pub set_aside: Vec<(ObjectKey, String)>,
    /// Names of the resources that its group gets otherwise than without it.
    pub differs: BTreeMap<ResourceType, BTreeSet<Arc<str>>>,
    /// Since when it is in force here.
    pub since: SystemTime,
}

impl StageView {
    /// Its node group.
    pub fn group(&self) -> &str {
        self.stage.key.name.as_str()
    }

    /// The release that it is.
    pub fn release(&self) -> u64 {
        self.stage.stage().map_or(0, |s| s.release)
    }

    /// Why it must not stay: one of its objects is set aside, or a proxy of its group refuses a resource that it changes.
    pub fn fault(&self, standing: &[Refusal]) -> Option<String> {
        if let Some((key, reason)) = self.set_aside.first() {
            return Some(format!("{key} is set aside: {reason}"));
        }
        let ours = |r: &&Refusal| r.group == self.group() && r.nack.at >= self.since;
        standing.iter().filter(ours).find_map(|r| {
            let differs = self.differs.get(&ResourceType::from_short_name(&r.kind)?)?;
            let name = r.nack.resources.iter().find(|name| differs.contains(*name))?;
            Some(format!("{} refuses {} {name}: {}", r.node, r.kind, r.nack.reason))
        })
    }
}

/// Every open stage.
#[derive(Debug)]
pub(super) struct Stages {
    trust: Trust,
    open: BTreeMap<Arc<str>, Open>,
}

#[derive(Debug)]
struct Open {
    staged: Staged,
    objects: Objects,
    compiler: Compiler,
    since: SystemTime,
}

impl Stages {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust, open: BTreeMap::new() }
    }

    /// What the groups of all stages in force get.
    pub(super) fn follow(
        &mut self,
        world: &World,
        objects: &Objects,
        change: &Change,
        now: SystemTime,
    ) -> BTreeMap<Arc<str>, GroupSets> {
        let in_force = |key: &ObjectKey| objects.states().get(key).and_then(|s| s.in_force.as_ref());
        self.open.retain(|_, open| {
            in_force(open.staged.key()).is_some_and(|stage| Arc::ptr_eq(stage, open.staged.stage()))
        });
        let mut sets = BTreeMap::new();
        for stage in objects.in_force().filter(|o| o.key.kind == Kind::Stage) {
            let Some(staged) = Staged::new(stage) else { continue };
            let group = staged.group().clone();
            let mut opened = false;
            let open = self.open.entry(group.clone()).or_insert_with(|| {
                opened = true;
                let compiler = Compiler::new(self.trust.clone());
                Open { staged, objects: Objects::default(), compiler, since: now }
            });
            if opened || !change.objects.is_empty() {
                open.objects = overlay(objects, &open.staged, &self.trust);
            }
            open.compiler.make(world, &open.objects, &change.services, now);
            sets.insert(group.clone(), open.compiler.sets_of(&group));
        }
        sets
    }

    /// What there is to be seen of them, beside what everybody's compiler makes for their groups.
    pub(super) fn views(&self, everybody: &Compiler) -> BTreeMap<Arc<str>, StageView> {
        let view = |(group, open): (&Arc<str>, &Open)| {
            let states = open.staged.objects().iter().filter_map(|o| open.objects.states().get(&o.key));
            let aside = states.filter(|s| s.is_quarantined()).map(|s| {
                let problems: Vec<String> = s.problems.iter().map(ToString::to_string).collect();
                (s.newest.key.clone(), problems.join("; "))
            });
            let view = StageView {
                stage: open.staged.stage().clone(),
                set_aside: aside.collect(),
                differs: differs(&everybody.sets_of(group), &open.compiler.sets_of(group)),
                since: open.since,
            };
            (group.clone(), view)
        };
        self.open.iter().map(view).collect()
    }

    /// Whether one of them needs the built-in authority, and there is none.
    pub(super) fn wants_root(&self) -> bool {
        self.open.values().any(|open| open.compiler.wants_root())
    }

    /// When certificates of one of them are to be renewed.
    pub(super) fn next_renewal(&self) -> Option<SystemTime> {
        self.open.values().filter_map(|open| open.compiler.next_renewal()).min()
    }
}

fn differs(without: &GroupSets, with: &GroupSets) -> BTreeMap<ResourceType, BTreeSet<Arc<str>>> {
    let none = Arc::new(Set::default());
    let of = |kind: &ResourceType| {
        // Certificates are issued for each world by itself, and differ without anything being another.
        let (old, new) = (without.get(kind).unwrap_or(&none), with.get(kind).unwrap_or(&none));
        (*kind, changed(old, new).into_iter().collect::<BTreeSet<_>>())
    };
    let kinds = ResourceType::ALL.iter().filter(|kind| **kind != ResourceType::Secret);
    let mut differs: BTreeMap<_, _> = kinds.map(of).filter(|(_, names)| !names.is_empty()).collect();
    let (old, new) = (without.get(&ResourceType::Secret), with.get(&ResourceType::Secret));
    let written = |set: Option<&Arc<Set>>| -> BTreeMap<Arc<str>, crate::snapshot::Version> {
        let all = set.into_iter().flat_map(|s| s.resources().values());
        all.filter(|r| !r.origin.is_empty()).map(|r| (r.name.clone(), r.version)).collect()
    };
    let (old, new) = (written(old), written(new));
    let secrets: BTreeSet<Arc<str>> =
        old.keys().chain(new.keys()).filter(|name| old.get(*name) != new.get(*name)).cloned().collect();
    if !secrets.is_empty() {
        differs.insert(ResourceType::Secret, secrets);
    }
    differs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ads::Nack;
    use crate::model::ObjectName;
    use std::time::Duration;

    fn stage() -> StageView {
        let key = ObjectKey::new(Kind::Stage, ObjectName::new("canary").unwrap());
        let text = r#"{"kind": "Stage", "name": "canary", "spec": {"release": 7}}"#;
        StageView {
            stage: Arc::new(Object::stored(key, 1, text)),
            set_aside: Vec::new(),
            differs: [(ResourceType::Listener, ["edge/web".into()].into())].into(),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        }
    }

    fn refusal(group: &str, kind: &str, resource: &str, at: u64) -> Refusal {
        let nack = Nack {
            version: String::new(),
            reason: "no such thing".to_owned(),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
            resources: vec!["other".into(), resource.into()],
            objects: Vec::new(),
        };
        Refusal { node: "n1".to_owned(), group: group.to_owned(), kind: kind.to_owned(), nack }
    }

    #[test]
    fn a_stage_is_blamed_for_what_its_own_group_refuses_of_what_it_changed() {
        let stage = stage();
        assert_eq!(stage.release(), 7);
        for (refusal, blamed) in [
            (refusal("canary", "LDS", "edge/web", 100), true),
            (refusal("edge", "LDS", "edge/web", 100), false),
            (refusal("canary", "CDS", "edge/web", 100), false),
            (refusal("canary", "LDS", "edge/admin", 100), false),
            // It stood before the stage did.
            (refusal("canary", "LDS", "edge/web", 99), false),
            (refusal("canary", "type.googleapis.com/unknown", "edge/web", 100), false),
        ] {
            let fault = stage.fault(std::slice::from_ref(&refusal));
            assert_eq!(fault.is_some(), blamed, "{refusal:?}");
            let told = "n1 refuses LDS edge/web: no such thing";
            assert!(fault.is_none_or(|reason| reason == told));
        }
        assert_eq!(stage.fault(&[]), None);
    }

    #[test]
    fn a_stage_is_blamed_for_an_object_that_is_set_aside() {
        let key = ObjectKey::new(Kind::Gateway, ObjectName::new("edge").unwrap());
        let stage = StageView { set_aside: vec![(key, "80 is taken".to_owned())], ..stage() };
        assert_eq!(stage.fault(&[]).as_deref(), Some("Gateway/edge is set aside: 80 is taken"));
    }
}
