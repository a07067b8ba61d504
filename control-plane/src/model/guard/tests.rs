use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn service() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn instance(n: u16) -> Instance {
    let mut i = Instance::at(service(), ([10, 0, 0, 1], n).into()).unwrap();
    i.id = InstanceId::new(&format!("i{n}")).unwrap();
    i
}

/// A guard, and the instances that it is shown.
struct Scene {
    guard: Guard,
    all: BTreeMap<u16, Instance>,
    now: Instant,
}

impl Scene {
    fn new(count: u16, options: Options) -> Self {
        let all = (1..=count).map(|n| (n, instance(n))).collect();
        let mut scene = Self { guard: Guard::new(options), all, now: Instant::now() };
        assert_eq!(scene.show(&[]), None, "what is seen first is no loss");
        scene
    }

    fn show(&mut self, left: &[u16]) -> Option<Turn> {
        let left = left.iter().map(|n| (service(), instance(*n).id)).collect();
        let all: Arc<[Arc<Instance>]> = self.all.values().cloned().map(Arc::new).collect();
        self.guard.see(&service(), Some(&all).filter(|all| !all.is_empty()), &left, self.now)
    }

    fn lose(&mut self, lost: impl IntoIterator<Item = u16>) -> Option<Turn> {
        for n in lost {
            self.all.remove(&n);
        }
        self.show(&[])
    }

    fn gain(&mut self, gained: impl IntoIterator<Item = u16>) -> Option<Turn> {
        self.all.extend(gained.into_iter().map(|n| (n, instance(n))));
        self.show(&[])
    }

    fn wait(&mut self, time: Duration) -> Vec<Turn> {
        self.now += time;
        self.guard.tick(self.now).into_iter().map(|(_, turn)| turn).collect()
    }

    fn held(&self) -> Vec<u16> {
        self.guard.held().flat_map(|h| h.lost).map(|i| i.port).collect()
    }
}

#[test]
fn more_than_the_share_within_the_window_is_held() {
    // (instances, percent, lost at once, whether they are held)
    for (count, percent, lost, held) in [
        (10, 50, 5, false),
        (10, 50, 6, true),
        (10, 50, 10, true),
        (10, 0, 10, false),
        (10, 99, 9, false),
        (10, 99, 10, true),
        (3, 50, 2, true),
        (3, 50, 1, false),
        // Too few to tell a bad network from the end of a service.
        (2, 50, 2, false),
        (1, 50, 1, false),
    ] {
        let mut scene = Scene::new(count, Options { percent, ..Options::default() });
        let turn = scene.lose(1..=lost);
        let live = usize::from(count - lost);
        let expected = held.then_some(Turn::Began { lost: lost.into(), live });
        assert_eq!(turn, expected, "{lost} of {count} at {percent}%");
        assert_eq!(scene.held().len(), if held { lost.into() } else { 0 });
    }
}

#[test]
fn losses_one_by_one_add_up_within_the_window_and_all_are_held() {
    let mut scene = Scene::new(10, Options::default());
    for n in 1..=5 {
        scene.now += SECOND;
        assert_eq!(scene.lose([n]), None);
    }
    scene.now += SECOND;
    assert_eq!(scene.lose([6]), Some(Turn::Began { lost: 6, live: 4 }));
    assert_eq!(scene.held(), [1, 2, 3, 4, 5, 6]);
    scene.now += SECOND;
    assert_eq!(scene.lose([7]), None, "what is lost later joins");
    assert_eq!(scene.held(), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn losses_that_are_further_apart_than_the_window_are_let_go() {
    let mut scene = Scene::new(10, Options::default());
    for n in 1..=10 {
        assert_eq!(scene.lose([n]), None, "instance {n}");
        assert_eq!(scene.wait(Duration::from_secs(60)), []);
        assert_eq!(scene.guard.next(), None, "it is forgotten");
    }
}

#[test]
fn a_rolling_restart_is_no_loss() {
    let mut scene = Scene::new(10, Options::default());
    for n in 1..=10 {
        assert_eq!(scene.lose([n]), None);
        assert_eq!(scene.gain([n + 100]), None);
        scene.now += SECOND;
    }
    assert_eq!(scene.lose(101..=106), Some(Turn::Began { lost: 6, live: 4 }));
    assert_eq!(scene.held(), [101, 102, 103, 104, 105, 106], "what was replaced is not called back");
}

#[test]
fn what_came_lately_counts_as_well() {
    let mut scene = Scene::new(0, Options::default());
    for n in 1..=4 {
        assert_eq!(scene.gain([n]), None);
        scene.now += SECOND;
    }
    assert_eq!(scene.lose(1..=3), Some(Turn::Began { lost: 3, live: 1 }));

    let mut scene = Scene::new(10, Options::default());
    scene.gain(11..=20);
    assert_eq!(scene.lose(1..=10), None, "the old half leaves when the new one is there");
}

#[test]
fn deregistering_makes_a_service_smaller_without_making_losses_larger() {
    let mut scene = Scene::new(10, Options::default());
    for n in 1..=6 {
        scene.all.remove(&n);
        assert_eq!(scene.show(&[n]), None);
    }
    assert_eq!(scene.lose([7, 8]), None, "2 of 4");
    assert_eq!(scene.lose([9]), Some(Turn::Began { lost: 3, live: 1 }));
    scene.all.remove(&10);
    assert_eq!(scene.show(&[10]), None);
    assert_eq!(scene.held(), [7, 8, 9]);
}

#[test]
fn an_instance_that_is_back_under_another_name_is_back() {
    let mut scene = Scene::new(4, Options::default());
    for i in scene.all.values_mut() {
        i.id = InstanceId::new(&format!("new-{}", i.port)).unwrap();
    }
    assert_eq!(scene.show(&[]), None);
}

#[test]
fn what_leaves_on_request_or_drains_is_no_loss() {
    let mut scene = Scene::new(4, Options::default());
    scene.all.clear();
    assert_eq!(scene.show(&[1, 2, 3, 4]), None, "all were deregistered");

    let mut scene = Scene::new(4, Options::default());
    for i in scene.all.values_mut() {
        i.health = Health::Draining;
    }
    assert_eq!(scene.show(&[]), None);
    assert_eq!(scene.lose(1..=4), None, "what drained may vanish");
}

#[test]
fn instances_that_turn_unhealthy_are_held_as_they_were() {
    let mut scene = Scene::new(4, Options::default());
    for i in scene.all.values_mut().take(3) {
        i.health = Health::Unhealthy;
    }
    assert_eq!(scene.show(&[]), Some(Turn::Began { lost: 3, live: 1 }));
    let held: Vec<_> = scene.guard.held().flat_map(|h| h.lost).collect();
    assert!(held.iter().all(|i| i.health == Health::Healthy));
    assert_eq!(scene.lose([1, 2, 3]), None, "their store forgets them; they stay held");
    assert_eq!(scene.held(), [1, 2, 3]);
}

#[test]
fn the_hold_ends_when_enough_are_back_and_begins_again_when_they_go_again() {
    let mut scene = Scene::new(10, Options::default());
    scene.lose(1..=8).unwrap();
    assert_eq!(scene.gain([1, 2]), None, "6 of 10 are still lost");
    assert_eq!(scene.held(), [3, 4, 5, 6, 7, 8]);
    assert_eq!(scene.gain([3]), Some(Turn::Ended { why: Ended::Back, let_go: 5 }));
    assert!(scene.held().is_empty());
    assert_eq!(scene.lose([3]), Some(Turn::Began { lost: 6, live: 4 }));
    assert_eq!(scene.gain(3..=8), Some(Turn::Ended { why: Ended::Back, let_go: 0 }));
    assert_eq!(scene.guard.next(), None);
}

#[test]
fn others_in_their_place_end_the_hold_too() {
    let mut scene = Scene::new(4, Options::default());
    scene.lose(1..=4).unwrap();
    assert_eq!(scene.gain([101]), None, "3 of 4 are missing");
    assert_eq!(scene.gain([102]), Some(Turn::Ended { why: Ended::Back, let_go: 4 }));
}

#[test]
fn a_hold_lasts_for_the_longest_time_at_most() {
    let mut scene = Scene::new(4, Options::default());
    scene.lose(1..=4).unwrap();
    assert_eq!(scene.guard.next(), Some(scene.now + Duration::from_secs(600)));
    assert_eq!(scene.wait(Duration::from_secs(599)), []);
    assert_eq!(scene.wait(SECOND), [Turn::Ended { why: Ended::TooLong, let_go: 4 }]);
    assert!(scene.held().is_empty());

    let mut scene = Scene::new(4, Options { longest: None, ..Options::default() });
    scene.lose(1..=4).unwrap();
    assert_eq!(scene.guard.next(), None);
    assert_eq!(scene.wait(Duration::from_secs(1_000_000)), []);
    assert_eq!(scene.held().len(), 4);
}

#[test]
fn an_accepted_loss_is_let_go_and_not_held_again() {
    let mut scene = Scene::new(4, Options::default());
    assert_eq!(scene.guard.accept(&service()), None, "nothing is held");
    scene.lose([1]);
    assert_eq!(scene.guard.accept(&service()), None, "nor is a single loss");
    scene.lose([2, 3]).unwrap();
    assert_eq!(scene.guard.accept(&service()).unwrap().len(), 3);
    assert!(scene.held().is_empty());
    assert_eq!(scene.show(&[]), None);
    assert_eq!(scene.wait(SECOND), []);
}

#[test]
fn a_hold_of_the_process_before_goes_on_with_its_time() {
    let mut scene =
        Scene { guard: Guard::new(Options::default()), all: BTreeMap::new(), now: Instant::now() };
    let lost = (1..=4).map(|n| Arc::new(instance(n))).collect();
    scene.guard.restore(service(), scene.now, lost, 0);
    scene.now += Duration::from_secs(100);
    assert_eq!(scene.gain([1]), None);
    assert_eq!(scene.held(), [2, 3, 4]);
    assert_eq!(scene.wait(Duration::from_secs(500)), [Turn::Ended { why: Ended::TooLong, let_go: 3 }]);
}
