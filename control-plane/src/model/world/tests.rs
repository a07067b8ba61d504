use super::*;
use crate::model::{Kind, ObjectName};
use proptest::prelude::*;
use xds_types::portolan::config::v1::{Resource, Service, resource::Spec};

fn first() -> SourceId {
    SourceId::new(0, "etcd")
}

fn second() -> SourceId {
    SourceId::new(1, "consul")
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn instance(name: &str, id: &str, port: u16) -> Instance {
    let mut i = Instance::at(service(name), ([10, 0, 0, 1], port).into()).unwrap();
    i.id = InstanceId::new(id).unwrap();
    i
}

fn object(name: &str, revision: u64) -> Object {
    let resource =
        Resource { name: name.into(), spec: Some(Spec::Service(Service::default())), ..Resource::default() };
    Object::new(resource, revision).unwrap()
}

fn run(world: World, events: impl IntoIterator<Item = Event>) -> (World, Change) {
    events.into_iter().fold((world, Change::default()), |(world, mut all), event| {
        let (world, change) = apply(world, event);
        all.merge(change);
        (world, all)
    })
}

fn ports(world: &World, name: &str) -> Vec<u16> {
    world.instances(name).iter().map(|i| i.port).collect()
}

#[test]
fn the_world_is_synced_once_every_source_has_listed() {
    let world = World::new([first(), second()]);
    assert!(!world.is_synced());
    let (world, change) = apply(world, Event::Resync { source: first(), held: Held::default() });
    assert!(!world.is_synced());
    assert!(change.sync);
    let (world, _) = apply(world, Event::Resync { source: second(), held: Held::default() });
    assert!(world.is_synced());
}

#[test]
fn instances_of_one_service_from_two_sources_are_united() {
    let (world, change) = run(
        World::new([first(), second()]),
        [
            Event::UpsertInstance { source: second(), instance: instance("cart", "b", 2) },
            Event::UpsertInstance { source: first(), instance: instance("cart", "a", 1) },
        ],
    );
    assert_eq!(ports(&world, "cart"), [1, 2]);
    assert_eq!(change.services, BTreeSet::from([service("cart")]));
}

#[test]
fn the_source_listed_first_wins_and_the_other_takes_over_when_it_lets_go() {
    let (world, _) = run(
        World::new([first(), second()]),
        [
            Event::UpsertInstance { source: second(), instance: instance("cart", "a", 2) },
            Event::UpsertInstance { source: first(), instance: instance("cart", "a", 1) },
            Event::UpsertObject { source: second(), object: object("cart", 20) },
            Event::UpsertObject { source: first(), object: object("cart", 10) },
        ],
    );
    let key = ObjectKey::new(Kind::Service, ObjectName::new("cart").unwrap());
    assert_eq!(ports(&world, "cart"), [1]);
    assert_eq!(world.objects()[&key].1.revision, 10);

    let id = InstanceId::new("a").unwrap();
    let (world, change) = run(
        world,
        [
            Event::RemoveInstance { source: first(), service: service("cart"), id, why: Gone::Lost },
            Event::RemoveObject { source: first(), key: key.clone() },
        ],
    );
    assert_eq!(ports(&world, "cart"), [2]);
    assert_eq!(world.objects()[&key].1.revision, 20);
    assert!(change.objects.contains(&key));
}

#[test]
fn a_change_behind_a_winner_is_no_change() {
    let (world, _) = run(
        World::new([first(), second()]),
        [Event::UpsertInstance { source: first(), instance: instance("cart", "a", 1) }],
    );
    let (_, change) =
        apply(world, Event::UpsertInstance { source: second(), instance: instance("cart", "a", 9) });
    assert!(change.is_empty(), "{change:?}");
}

#[test]
fn a_resync_with_equal_contents_is_no_change() {
    let held = Held { instances: vec![instance("cart", "a", 1)], objects: vec![object("cart", 1)] };
    let resync = Event::Resync { source: first(), held };
    let (world, change) = apply(World::new([first()]), resync.clone());
    assert!(!change.is_empty());
    let (_, change) = apply(world, resync);
    assert!(change.is_empty(), "{change:?}");
}

#[test]
fn a_resync_removes_what_is_no_longer_held() {
    let held = Held { instances: vec![instance("cart", "a", 1), instance("pay", "p", 3)], objects: vec![] };
    let (world, _) = apply(World::new([first()]), Event::Resync { source: first(), held });
    let held = Held { instances: vec![instance("pay", "p", 3)], objects: vec![] };
    let (world, change) = apply(world, Event::Resync { source: first(), held });
    assert_eq!(change.services, BTreeSet::from([service("cart")]));
    assert!(world.services().keys().eq([&service("pay")]));
}

#[test]
fn a_service_may_be_replaced_as_a_whole() {
    let (world, _) = run(
        World::new([first()]),
        [
            Event::UpsertInstance { source: first(), instance: instance("cart", "a", 1) },
            Event::ReplaceService {
                source: first(),
                service: service("cart"),
                instances: vec![instance("cart", "b", 2), instance("other", "x", 9)],
                why: Gone::Lost,
            },
        ],
    );
    assert_eq!(ports(&world, "cart"), [2]);
    assert_eq!(ports(&world, "other"), [0; 0], "instances of other services do not slip in");
    let gone = Event::ReplaceService {
        source: first(),
        service: service("cart"),
        instances: vec![],
        why: Gone::Lost,
    };
    assert!(apply(world, gone).0.services().is_empty());
}

#[test]
fn kept_state_stands_in_until_the_store_speaks_and_never_after() {
    let kept = |port| Event::Restore {
        source: first(),
        held: Held { instances: vec![instance("cart", "a", port)], objects: vec![] },
    };
    let (world, _) = apply(World::new([first()]), kept(1));
    assert!(world.is_restored() && !world.is_synced());
    assert_eq!(ports(&world, "cart"), [1]);
    let (world, _) = apply(world, Event::Resync { source: first(), held: Held::default() });
    assert!(world.is_synced() && world.services().is_empty());
    let (world, change) = apply(world, kept(1));
    assert!(change.is_empty() && world.services().is_empty());
}

#[test]
fn who_left_on_request_is_told_and_who_failed_before_did_not() {
    let mut failed = instance("cart", "failed", 3);
    failed.health = Health::Unhealthy;
    let (world, _) = run(
        World::new([first()]),
        [instance("cart", "a", 1), instance("cart", "b", 2), failed]
            .map(|instance| Event::UpsertInstance { source: first(), instance }),
    );
    let id = |id: &str| InstanceId::new(id).unwrap();
    for (why, left) in [(Gone::Asked, vec!["a"]), (Gone::Lost, vec![])] {
        let left = left.into_iter().map(|i| (service("cart"), id(i))).collect();
        let instances = vec![instance("cart", "b", 2)];
        let event = Event::ReplaceService { source: first(), service: service("cart"), instances, why };
        assert_eq!(apply(world.clone(), event).1.left, left);
        let event = Event::RemoveInstance { source: first(), service: service("cart"), id: id("a"), why };
        assert_eq!(apply(world.clone(), event).1.left, left);
    }
}

#[test]
fn held_instances_are_served_beside_and_instead_of_those_that_are_there() {
    let (mut world, _) = run(
        World::new([first()]),
        [instance("cart", "a", 1), instance("cart", "b", 2)]
            .map(|instance| Event::UpsertInstance { source: first(), instance }),
    );
    world.hold(
        &service("cart"),
        vec![Arc::new(instance("cart", "b", 20)), Arc::new(instance("cart", "c", 3))],
    );
    world.hold(&service("gone"), vec![Arc::new(instance("gone", "x", 9))]);
    assert_eq!(ports(&world, "cart"), [1, 20, 3]);
    assert_eq!(ports(&world, "gone"), [9]);
    assert_eq!(world.sources()[&first()].instances.len(), 1, "what sources hold is not touched");
}

fn any_event() -> impl Strategy<Value = Event> {
    let source = prop_oneof![Just(first()), Just(second())];
    let name = prop_oneof![Just("a"), Just("b")];
    let id = prop_oneof![Just("1"), Just("2"), Just("3")];
    (source, name, id, 1u16..4, 0u8..5).prop_map(|(source, name, id, port, what)| match what {
        0 => Event::UpsertInstance { source, instance: instance(name, id, port) },
        1 => Event::RemoveInstance {
            source,
            service: service(name),
            id: InstanceId::new(id).unwrap(),
            why: Gone::Lost,
        },
        2 => Event::ReplaceService {
            source,
            service: service(name),
            instances: vec![instance(name, id, port)],
            why: Gone::Lost,
        },
        3 => Event::UpsertObject { source, object: object(name, port.into()) },
        _ => Event::Resync {
            source,
            held: Held {
                instances: vec![instance(name, id, port)],
                objects: vec![object(name, port.into())],
            },
        },
    })
}

proptest! {
    #[test]
    fn the_merged_view_depends_on_what_sources_hold_and_not_on_the_way_there(events in proptest::collection::vec(any_event(), 0..40)) {
        let (world, _) = run(World::new([first(), second()]), events);
        let fresh = world.sources().iter().map(|(source, c)| Event::Resync {
            source: source.clone(),
            held: Held {
                instances: c.instances.values().flat_map(|all| all.values()).map(|i| (**i).clone()).collect(),
                objects: c.objects.values().map(|o| (**o).clone()).collect(),
            },
        }).collect::<Vec<_>>();
        let (again, _) = run(World::new([first(), second()]), fresh);
        prop_assert_eq!(world.services(), again.services());
        prop_assert_eq!(world.objects(), again.objects());
    }

    #[test]
    fn what_is_not_named_in_the_change_did_not_change(events in proptest::collection::vec(any_event(), 1..40)) {
        let mut world = World::new([first(), second()]);
        for event in events {
            let before = world.clone();
            let (after, change) = apply(world, event);
            for name in before.services().keys().chain(after.services().keys()) {
                let same = before.services().get(name) == after.services().get(name);
                prop_assert_eq!(same, !change.services.contains(name));
            }
            for key in before.objects().keys().chain(after.objects().keys()) {
                let same = before.objects().get(key) == after.objects().get(key);
                prop_assert_eq!(same, !change.objects.contains(key));
            }
            world = after;
        }
    }
}
