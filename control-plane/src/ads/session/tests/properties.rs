//! A client that follows the protocol, random worlds, random refusals: whatever happens, it ends with what was
//! published, and on the way nothing forbidden is sent.

use super::*;
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// Publishes: for each name the revision of its cluster (0: none); which clusters the route names.
    Publish([u32; 4], u32, u8),
    /// Answers the oldest response that waits.
    Answer,
    /// Answers all.
    AnswerAll,
    /// Subscribes or unsubscribes endpoints by name.
    Toggle(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (proptest::array::uniform4(0u32..4), 1u32..3, 0u8..16).prop_map(|(c, l, r)| Step::Publish(c, l, r)),
        3 => Just(Step::Answer),
        2 => Just(Step::AnswerAll),
        2 => (0usize..4).prop_map(Step::Toggle),
        1 => (1u64..20).prop_map(Step::Pass),
    ]
}

/// What the client has of each type: name -> version.
type Held = BTreeMap<ResourceType, BTreeMap<Arc<str>, Arc<Resource>>>;

/// Names and versions of a response.
type Content = Vec<(Arc<str>, Version)>;

struct Client {
    bench: Bench,
    mode: Mode,
    waiting: Vec<Response>,
    held: Held,
    endpoints: BTreeSet<&'static str>,
    nonces: BTreeSet<u64>,
    /// Clusters of this revision are refused; 0: none are.
    poison: u32,
    /// Refused by itself, and not to come again.
    refused: BTreeSet<(ResourceType, Content)>,
    passed: bool,
    /// What is published.
    last: Vec<Arc<Resource>>,
}

impl Client {
    fn new(mode: Mode, poison: u32) -> Self {
        let mut c = Self {
            bench: Bench::envoy(mode),
            mode,
            waiting: Vec::new(),
            held: Held::new(),
            endpoints: BTreeSet::new(),
            nonces: BTreeSet::new(),
            poison,
            refused: BTreeSet::new(),
            passed: false,
            last: Vec::new(),
        };
        for (kind, names) in [(CDS, &[][..]), (LDS, &[]), (RDS, &["l"])] {
            let out = match mode {
                Mode::Sotw => c.bench.sotw(kind, names, ""),
                Mode::Delta => c.bench.delta(kind, names, &[]),
            };
            c.take(out);
        }
        c
    }

    fn take(&mut self, responses: Vec<Response>) {
        for r in responses {
            assert!(self.nonces.insert(r.nonce), "[4] a nonce is sent once");
            let Kind::Served(kind) = r.kind else { panic!("unknown type") };
            let names: BTreeSet<&str> =
                r.resources.iter().map(|r| &*r.name).chain(r.removed.iter().map(|n| &**n)).collect();
            assert_eq!(names.len(), r.resources.len() + r.removed.len(), "[34] a name is in a response once");
            let content: Vec<(Arc<str>, Version)> =
                r.resources.iter().map(|r| (r.name.clone(), r.version)).collect();
            assert!(!self.refused.contains(&(kind, content)), "[2] what was refused came again {r:?}");
            self.waiting.push(r);
        }
    }

    fn names(&self, kind: ResourceType) -> Vec<&'static str> {
        match kind {
            EDS => self.endpoints.iter().copied().collect(),
            RDS => vec!["l"],
            _ => Vec::new(),
        }
    }

    fn is_published(&self, kind: ResourceType, (name, version): &(Arc<str>, Version)) -> bool {
        self.last.iter().any(|r| r.kind == kind && r.name == *name && r.version == *version)
    }

    fn is_bad(&self, r: &Resource) -> bool {
        self.poison > 0 && r.kind == CDS && r.version == cluster(&r.name, self.poison).version
    }

    /// Applies and answers the oldest response of some type.
    fn answer(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let r = self.waiting.remove(0);
        let Kind::Served(kind) = r.kind else { panic!("unknown type") };
        let bad = r.resources.iter().any(|r| self.is_bad(r));
        let held = self.held.entry(kind).or_default();
        let full = self.mode == Mode::Sotw && matches!(kind, CDS | LDS);
        let good: Vec<Arc<Resource>> = r
            .resources
            .iter()
            .filter(|r| {
                !(self.poison > 0 && r.kind == CDS && r.version == cluster(&r.name, self.poison).version)
            })
            .cloned()
            .collect();
        if full && !bad {
            held.clear();
        }
        held.extend(good.into_iter().map(|r| (r.name.clone(), r)));
        for name in &r.removed {
            held.remove(name);
        }
        if bad && (full || r.resources.len() + r.removed.len() == 1) {
            let content: Vec<_> = r.resources.iter().map(|r| (r.name.clone(), r.version)).collect();
            // A SotW server does not look at answers to any but its newest response [3]; in delta, what was said
            // since about the same name is another attempt.
            let says = |other: &Response, name: &str| {
                other.resources.iter().map(|r| &r.name).chain(&other.removed).any(|n| **n == *name)
            };
            let newer = |name: &str| self.waiting.iter().any(|o| o.kind == r.kind && says(o, name));
            let counts = match self.mode {
                Mode::Sotw => !self.waiting.iter().any(|other| other.kind == r.kind),
                Mode::Delta => content.iter().all(|one| self.is_published(kind, one) && !newer(&one.0)),
            };
            if counts {
                self.refused.insert((kind, content));
            }
        }
        if !bad {
            self.check_routes();
        }
        let names = self.names(kind);
        let (_, out) = self.bench.answer(&r, &names, bad.then_some("bad"));
        self.take(out);
        true
    }

    /// Make before break: while nothing is refused and no wait has ended, the routes in use name clusters that
    /// the client has.
    fn check_routes(&self) {
        if self.poison > 0 || self.passed {
            return;
        }
        let Some(route) = self.held.get(&RDS).and_then(|r| r.get("l")) else { return };
        let empty = BTreeMap::new();
        let clusters = self.held.get(&CDS).unwrap_or(&empty);
        for to in &route.references {
            assert!(
                clusters.contains_key(&to.name),
                "[19] the route names `{}`, which is not there",
                to.name
            );
        }
    }

    fn toggle(&mut self, name: &'static str) {
        let add = !self.endpoints.remove(name);
        if add {
            self.endpoints.insert(name);
        }
        let out = match self.mode {
            Mode::Delta if add => self.bench.delta(EDS, &[name], &[]),
            Mode::Delta => self.bench.delta(EDS, &[], &[name]),
            Mode::Sotw => {
                // As clients do: the nonce of the newest response received, once it was answered.
                while self.waiting.iter().any(|r| r.kind == Kind::Served(EDS)) {
                    self.answer();
                }
                let newest = self.bench.session.types.get(&Kind::Served(EDS)).map_or(0, |s| s.newest);
                let nonce = if newest == 0 { String::new() } else { newest.to_string() };
                let names = self.names(EDS);
                self.bench.sotw(EDS, &names, &nonce)
            }
        };
        if !add {
            self.held.entry(EDS).or_default().remove(name);
            for r in &mut self.waiting {
                if r.kind == Kind::Served(EDS) {
                    r.resources.retain(|r| &*r.name != name); // what is not asked for is ignored
                }
            }
        }
        self.take(out);
    }
}

fn world(clusters: [u32; 4], listener_revision: u32, route: u8) -> Vec<Arc<Resource>> {
    let mut all = vec![listener("l", listener_revision)];
    let (mut named, mut i) = (Vec::new(), 0);
    for (name, revision) in NAMES.into_iter().zip(clusters) {
        if revision > 0 {
            all.push(cluster(name, revision));
            all.push(endpoints(name, revision));
            if route & (1 << i) != 0 {
                named.push(name);
            }
        }
        i += 1;
    }
    all.push(routes("l", &named));
    all
}

fn run(mode: Mode, poison: u32, steps: Vec<Step>) {
    let mut c = Client::new(mode, poison);
    let start = c.bench.now;
    let mut last = world([1; 4], 1, 15);
    c.last = last.clone();
    let out = c.bench.publish(&last);
    c.take(out);
    for step in steps {
        match step {
            Step::Publish(clusters, l, r) => {
                last = world(clusters, l, r);
                c.last = last.clone();
                // What was refused may come again when something else came between.
                let mut refused = std::mem::take(&mut c.refused);
                refused.retain(|(kind, content)| {
                    mode == Mode::Delta && content.iter().all(|one| c.is_published(*kind, one))
                });
                c.refused = refused;
                let out = c.bench.publish(&last);
                c.take(out);
            }
            Step::Answer => drop(c.answer()),
            Step::AnswerAll => while c.answer() {},
            Step::Toggle(i) => c.toggle(NAMES[i]),
            Step::Pass(seconds) => {
                let out = c.bench.pass(Duration::from_secs(seconds));
                c.passed |= c.bench.now >= start + HOLD;
                c.take(out);
            }
        }
    }
    // It comes to rest.
    for _ in 0..50 {
        while c.answer() {}
        c.passed = true;
        let out = c.bench.pass(HOLD);
        c.take(out);
    }
    let empty = BTreeMap::new();
    for kind in [CDS, EDS, LDS, RDS] {
        let held = c.held.get(&kind).unwrap_or(&empty);
        for r in last.iter().filter(|r| r.kind == kind) {
            let asked = kind != EDS || c.endpoints.contains(&*r.name);
            if asked && !c.is_bad(r) {
                let version = held.get(&r.name).map(|r| r.version);
                assert_eq!(version, Some(r.version), "{mode}: {kind} {} is what was published", r.name);
            }
        }
        let left = |name: &&Arc<str>| !last.iter().any(|r| r.kind == kind && r.name == **name);
        if matches!(kind, CDS | LDS) && poison == 0 {
            assert_eq!(
                held.keys().filter(left).collect::<Vec<_>>(),
                Vec::<&Arc<str>>::new(),
                "{mode}: {kind} removed"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_client_ends_with_what_was_published(steps in proptest::collection::vec(step(), 0..40)) {
        run(Mode::Sotw, 0, steps.clone());
        run(Mode::Delta, 0, steps);
    }

    #[test]
    fn a_client_that_refuses_some_resources_ends_with_all_others(steps in proptest::collection::vec(step(), 0..40)) {
        run(Mode::Sotw, 2, steps.clone());
        run(Mode::Delta, 2, steps);
    }
}
