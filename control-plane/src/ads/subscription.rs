//! One resource type on one stream: what the client asked for, what it was told, and what it answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::session::{ACK_TIMEOUT, Kind, Response};
use crate::snapshot::{Resource, Snapshot, Version};

/// Flights remembered, answered or not: a client that never answers cannot make us remember more.
const MAX_FLIGHTS: usize = 64;

/// What a client was last told about a name.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// It is this.
    Is(Arc<Resource>),
    /// Something of this version, on an earlier stream.
    Was(Version),
    /// Something that we cannot know: another control plane told it, or it was in a refused response.
    Unsure,
    /// It does not exist.
    Gone,
}

/// What a client knows about a name. Small, as a stream has one for each resource, nearly all of them at rest.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What it was last told.
    pub told: Told,
    /// How it got there. `None`: at rest, it uses what it was told.
    course: Option<Box<Course>>,
}

/// What became of what a client was told about a name.
#[derive(Clone, Debug)]
struct Course {
    /// The response that told it; 0 before the first of this stream.
    nonce: u64,
    /// It has a version that it accepted, this one or an older one, and was not told since that it is gone.
    has: bool,
    /// The newest response that told that it is gone; 0: none.
    gone: u64,
    /// It has answered the response that told it.
    settled: bool,
    /// The newest that it accepted, if that was on this stream.
    using: Option<Arc<Resource>>,
}

impl Known {
    /// Nothing is known.
    pub(super) fn unsure() -> Self {
        let course = Course { nonce: 0, has: false, gone: 0, settled: true, using: None };
        Self { told: Told::Unsure, course: Some(Box::new(course)) }
    }

    /// It has a version that it accepted.
    pub(super) fn has(&self) -> bool {
        self.course.as_ref().is_none_or(|c| c.has)
    }

    /// It has answered the response that told it.
    pub(super) fn is_settled(&self) -> bool {
        self.course.as_ref().is_none_or(|c| c.settled)
    }

    /// The newest that it accepted, if that was on this stream.
    pub(super) fn using(&self) -> Option<&Arc<Resource>> {
        match &self.course {
            Some(course) => course.using.as_ref(),
            None => self.resource(),
        }
    }

    fn resource(&self) -> Option<&Arc<Resource>> {
        match &self.told {
            Told::Is(r) => Some(r),
            Told::Was(_) | Told::Unsure | Told::Gone => None,
        }
    }

    /// The response that told it, while that matters: no answer changes what is at rest.
    fn nonce(&self) -> u64 {
        self.course.as_ref().map_or(0, |c| c.nonce)
    }

    /// Wakes it from its rest.
    fn course(&mut self) -> &mut Course {
        let using = self.using().cloned();
        self.course
            .get_or_insert_with(|| Box::new(Course { nonce: 0, has: true, gone: 0, settled: true, using }))
    }

    /// Lays it to rest, if it has accepted the newest that it was told and uses that.
    fn rest(&mut self) {
        let at_rest = self.course.as_ref().is_some_and(|c| {
            let same = match (&c.using, self.resource()) {
                (Some(using), Some(told)) => Arc::ptr_eq(using, told),
                _ => false,
            };
            c.has && c.settled && same
        });
        if at_rest {
            self.course = None;
        }
    }

    /// `again`: it is what it was told before, sent for the sake of others, so that an answer counts on.
    fn tell(&mut self, resource: &Arc<Resource>, nonce: u64, again: bool) {
        let course = self.course();
        course.settled &= again;
        course.nonce = nonce;
        self.told = Told::Is(resource.clone());
        if again {
            self.rest();
        }
    }

    fn tell_gone(&mut self, nonce: u64) {
        let course = self.course();
        (course.nonce, course.settled) = (nonce, false);
        (course.has, course.gone) = (false, nonce);
        self.told = Told::Gone;
    }

    /// It has accepted the response of this nonce, which said that the name is of this version.
    fn accept(&mut self, version: Version, nonce: u64) {
        let using = self.resource().filter(|r| r.version == version).cloned();
        let is_newest = self.is(version);
        let Some(course) = &mut self.course else { return };
        course.has |= nonce > course.gone;
        if is_newest {
            course.settled |= course.nonce <= nonce;
            course.using = using;
        }
        self.rest();
    }

    pub(super) fn is(&self, version: Version) -> bool {
        match &self.told {
            Told::Is(r) => r.version == version,
            Told::Was(v) => *v == version,
            Told::Unsure | Told::Gone => false,
        }
    }
}

/// A response that may still be answered.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    /// What it said of each name; `None`: removed.
    items: Vec<(Arc<str>, Option<Version>)>,
    /// Version of the whole, for responses that are the full state.
    full: Option<Version>,
    version: String,
    sent: Instant,
}

/// Names to look at again.
#[derive(Debug)]
pub(super) enum Dirty {
    /// Every name subscribed or known.
    All,
    /// These.
    Names(BTreeSet<Arc<str>>),
}

/// What an answer turned out to be.
#[derive(Debug)]
pub(super) enum Answer {
    /// It accepts the response of this version.
    Ack(String),
    /// It refuses the response of this version, which held these names.
    Nack(String, Vec<Arc<str>>),
}

/// One type on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub kind: Kind,
    /// Everything is subscribed.
    pub wildcard: bool,
    /// The client has named something, so that an empty list is no wildcard any more (point 6).
    pub named: bool,
    /// Names subscribed. They need not exist (point 34).
    pub names: BTreeSet<Arc<str>>,
    /// What the client knows.
    pub known: BTreeMap<Arc<str>, Known>,
    pub dirty: Dirty,
    /// Names to send even though the client has them.
    pub forced: BTreeSet<Arc<str>>,
    /// A response is owed even if there is nothing in it (point 16).
    pub owed: bool,
    /// Newest nonce sent; 0: none.
    pub newest: u64,
    /// Names in their refused versions, which are not sent again unchanged (point 2).
    pub refused: BTreeMap<Arc<str>, Option<Version>>,
    /// Refused full state.
    pub refused_full: Option<Version>,
    /// Parts of a refused response, to be sent each by itself.
    pub retries: VecDeque<Vec<Arc<str>>>,
    flights: VecDeque<Flight>,
    /// Names subscribed and known when they were last packed.
    packed: usize,
}

impl Subscription {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            wildcard: false,
            named: false,
            names: BTreeSet::new(),
            known: BTreeMap::new(),
            dirty: Dirty::Names(BTreeSet::new()),
            forced: BTreeSet::new(),
            owed: false,
            newest: 0,
            refused: BTreeMap::new(),
            refused_full: None,
            retries: VecDeque::new(),
            flights: VecDeque::new(),
            packed: 0,
        }
    }

    /// A name to keep, shared with everybody who has the resource, if there is one.
    pub(super) fn name(&self, name: &str, snapshot: Option<&Snapshot>) -> Arc<str> {
        let shared = match (&self.kind, snapshot) {
            (Kind::Served(kind), Some(snapshot)) => snapshot.set(*kind).get(name),
            _ => None,
        };
        shared.map_or_else(|| name.into(), |r| r.name.clone())
    }

    pub(super) fn subscribes(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn mark(&mut self, name: Arc<str>) {
        if let Dirty::Names(names) = &mut self.dirty {
            names.insert(name);
        }
    }

    pub(super) fn is_marked(&self, name: &str) -> bool {
        match &self.dirty {
            Dirty::All => true,
            Dirty::Names(names) => names.contains(name),
        }
    }

    pub(super) fn mark_all(&mut self) {
        self.dirty = Dirty::All;
    }

    /// Takes the names to look at.
    pub(super) fn take_dirty(&mut self, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        match std::mem::replace(&mut self.dirty, Dirty::Names(BTreeSet::new())) {
            Dirty::Names(names) => names,
            Dirty::All => self.all(snapshot),
        }
    }

    /// Every name subscribed or known.
    pub(super) fn all(&self, snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = self.names.iter().chain(self.known.keys()).cloned().collect();
        if let (true, Kind::Served(kind)) = (self.wildcard, &self.kind) {
            names.extend(snapshot.set(*kind).resources().keys().cloned());
        }
        names
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.owed
            || !self.retries.is_empty()
            || match &self.dirty {
                Dirty::All => true,
                Dirty::Names(names) => !names.is_empty(),
            }
    }

    /// Starts to subscribe a name: its resource goes out at once, whatever the client has (points 13, 14, 9).
    pub(super) fn add(&mut self, name: Arc<str>) {
        self.forced.insert(name.clone());
        self.mark(name.clone());
        self.names.insert(name);
    }

    /// Stops to subscribe a name. Needs no answer (point 13).
    pub(super) fn drop_name(&mut self, name: &str) {
        self.names.remove(name);
        if !self.wildcard {
            self.forget(name);
        }
    }

    /// The client has thrown the name away.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.refused.remove(name);
        self.forced.remove(name);
        self.retries.iter_mut().for_each(|batch| batch.retain(|n| **n != *name));
        self.retries.retain(|batch| !batch.is_empty());
    }

    /// The client says which version it has from an earlier stream.
    pub(super) fn has_version(&mut self, name: Arc<str>, version: &str, current: Option<Arc<Resource>>) {
        let version = Version::parse(version);
        let using = current.filter(|r| Some(r.version) == version);
        let told = match (&using, version) {
            (Some(r), _) => Told::Is(r.clone()),
            (None, Some(version)) => Told::Was(version),
            (None, None) => Told::Unsure,
        };
        let course = Course { nonce: 0, has: true, gone: 0, settled: true, using };
        let mut known = Known { told, course: Some(Box::new(course)) };
        known.rest();
        self.known.insert(name, known);
    }

    pub(super) fn is_retrying(&self, name: &str) -> bool {
        self.retries.iter().any(|batch| batch.iter().any(|n| **n == *name))
    }

    /// Responses that wait for an answer, those that have waited too long not counted.
    pub(super) fn in_flight(&self, now: Instant) -> usize {
        self.flights.iter().filter(|f| now < f.sent + ACK_TIMEOUT).count()
    }

    /// When the oldest response that waits for an answer will have waited too long.
    pub(super) fn expiry(&self, now: Instant) -> Option<Instant> {
        self.flights.iter().map(|f| f.sent + ACK_TIMEOUT).filter(|at| *at > now).min()
    }

    /// Notes that a response was sent: what it held, and what it said or, being the full state, implied to
    /// be gone.
    pub(super) fn sent(&mut self, response: &Response, full: Option<Version>, now: Instant) {
        let Response { kind: _, version, nonce, resources, removed } = response;
        let nonce = *nonce;
        if full.is_some() {
            self.imply_gone(resources, nonce);
            self.refused_full = None; // other content came between
        }
        let mut items: Vec<(Arc<str>, Option<Version>)> =
            resources.iter().map(|r| (r.name.clone(), Some(r.version))).collect();
        items.extend(removed.iter().map(|name| (name.clone(), None)));
        for r in resources {
            let known = self.known.entry(r.name.clone()).or_insert_with(Known::unsure);
            let again = full.is_some() && known.is(r.version);
            known.tell(r, nonce, again);
            self.forced.remove(&r.name);
        }
        for name in removed {
            let known = self.known.entry(name.clone()).or_insert_with(Known::unsure);
            known.tell_gone(nonce);
            self.forced.remove(name);
        }
        self.owed = false;
        self.newest = nonce;
        if self.flights.len() == MAX_FLIGHTS {
            self.flights.pop_front();
        }
        self.flights.push_back(Flight { nonce, items, full, version: version.clone(), sent: now });
    }

    fn imply_gone(&mut self, all: &[Arc<Resource>], nonce: u64) {
        let there: BTreeSet<&str> = all.iter().map(|r| &*r.name).collect();
        for (_, known) in self.known.iter_mut().filter(|(name, _)| !there.contains(&***name)) {
            if !matches!(known.told, Told::Gone) {
                known.tell_gone(nonce);
            }
        }
    }

    /// Hash of everything that the client will know once it has these.
    pub(super) fn version_with(&self, resources: &[Arc<Resource>]) -> Version {
        let told = self.known.iter().filter_map(|(name, k)| match &k.told {
            Told::Is(r) => Some((&**name, r.version)),
            Told::Was(version) => Some((&**name, *version)),
            Told::Unsure | Told::Gone => None,
        });
        let mut all: BTreeMap<&str, Version> = told.collect();
        all.extend(resources.iter().map(|r| (&*r.name, r.version)));
        Version::of_all(all)
    }

    /// Notes an answer. Only the first request that names a nonce answers it (point 1); an answer to a response
    /// answers the older ones too where `covers_older` (SotW).
    pub(super) fn answered(&mut self, nonce: u64, refuses: bool, covers_older: bool) -> Option<Answer> {
        let at = self.flights.iter().position(|f| f.nonce == nonce)?;
        if covers_older {
            for flight in self.flights.drain(..at).collect::<Vec<_>>() {
                self.accept(&flight);
            }
        }
        let at = if covers_older { 0 } else { at };
        let flight = self.flights.remove(at)?;
        if refuses { Some(self.refuse(flight)) } else { Some(self.accept(&flight)) }
    }

    fn accept(&mut self, flight: &Flight) -> Answer {
        for (name, version) in &flight.items {
            match (self.known.get_mut(name), version) {
                (Some(known), Some(version)) => {
                    known.accept(*version, flight.nonce);
                    // Accepted after all, in other company, or in a newer version: nothing stands against it.
                    if known.is(*version) || self.refused.get(name) == Some(&Some(*version)) {
                        self.refused.remove(name);
                    }
                }
                (Some(known), None) if matches!(known.told, Told::Gone) => {
                    let course = known.course();
                    (course.has, course.using, course.settled) = (false, None, true);
                    self.refused.remove(name);
                }
                _ => {}
            }
        }
        // What is gone and not asked for by name is of no interest any more.
        let (names, nonce) = (&self.names, flight.nonce);
        self.known
            .retain(|name, k| !matches!(k.told, Told::Gone) || k.nonce() > nonce || names.contains(name));
        self.pack();
        Answer::Ack(flight.version.clone())
    }

    /// Counts nothing of the response as delivered (point 33). Full state waits for other content. Other responses
    /// are sent again in halves, so that the good resources arrive and the bad one is found; what is refused
    /// by itself waits until it changes.
    fn refuse(&mut self, flight: Flight) -> Answer {
        let names: Vec<Arc<str>> = flight.items.iter().map(|(name, _)| name.clone()).collect();
        let mut again = Vec::new();
        if let (None, [(name, version)]) = (flight.full, flight.items.as_slice()) {
            self.refused.insert(name.clone(), *version);
        }
        for (name, _) in &flight.items {
            let Some(known) = self.known.get_mut(name) else { continue };
            if known.nonce() != flight.nonce {
                continue; // told something newer since, or uses it anyway
            }
            known.course().settled = true;
            if flight.full.is_none() {
                known.told = Told::Unsure;
                if flight.items.len() > 1 {
                    again.push(name.clone());
                }
            }
        }
        if let Some(full) = flight.full {
            self.refused_full = Some(full);
            self.mark_all(); // to be sent again if it has changed meanwhile
        }
        match again.len() {
            0 => {}
            1 => self.retries.push_back(again),
            n => {
                let second = again.split_off(n / 2);
                self.retries.push_back(again);
                self.retries.push_back(second);
            }
        }
        Answer::Nack(flight.version, names)
    }

    /// Builds the trees anew when they have grown by an eighth: those that names were put into one by one, in order,
    /// are half empty. Only at rest.
    fn pack(&mut self) {
        let len = self.names.len() + self.known.len();
        if self.flights.is_empty() && len > self.packed + self.packed / 8 {
            self.names = std::mem::take(&mut self.names).into_iter().collect();
            self.known = std::mem::take(&mut self.known).into_iter().collect();
            self.packed = len;
        }
    }

    /// Whether a refusal stands.
    pub(super) fn stands_refused(&self) -> bool {
        self.refused_full.is_some() || !self.refused.is_empty() || !self.retries.is_empty()
    }
}
