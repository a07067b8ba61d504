//! All releases that are kept, and what there was at any of them.

use std::collections::BTreeMap;

use super::{Action, Change, Record, Text};
use crate::model::ObjectKey;

/// The release is not there to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// There is none of that number yet.
    #[error("there is no release {0} yet; the newest is {1}")]
    Future(u64, u64),
    /// It is not kept any more.
    #[error("release {0} is not kept any more; the oldest to go back to is {1}")]
    Past(u64, u64),
}

/// Releases by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    records: BTreeMap<u64, Record>,
}

impl History {
    /// Of what a store holds.
    pub fn new(records: impl IntoIterator<Item = (u64, Record)>) -> Self {
        Self { records: records.into_iter().collect() }
    }

    /// Every release, in order of numbers.
    pub fn records(&self) -> &BTreeMap<u64, Record> {
        &self.records
    }

    /// Number of the newest; 0 without any.
    pub fn newest(&self) -> u64 {
        self.records.last_key_value().map_or(0, |(n, _)| *n)
    }

    /// The release before the newest one that changed what can be undone: where a rollback goes that was not told.
    pub fn before_newest(&self) -> Option<u64> {
        let undone = |r: &Record| undoable(r).next().is_some();
        self.records.iter().rev().find(|(_, r)| undone(r)).map(|(n, _)| n.saturating_sub(1))
    }

    /// Whether one can go back to right after a release; 0: before the first.
    ///
    /// # Errors
    /// Some release after it is not kept any more, or it was not made yet.
    pub fn reaches(&self, number: u64) -> Result<(), Gone> {
        let newest = self.newest();
        let oldest = self.records.first_key_value().map_or(0, |(n, _)| n.saturating_sub(1));
        match number {
            n if n > newest => Err(Gone::Future(n, newest)),
            n if n < oldest => Err(Gone::Past(n, oldest)),
            _ => Ok(()),
        }
    }

    /// Each object that releases after `from` changed, and what it was before them: what undoing them writes.
    pub fn before(&self, from: u64) -> BTreeMap<&ObjectKey, &Text> {
        let mut found = BTreeMap::new();
        for change in self.records.range(from.saturating_add(1)..).flat_map(|(_, r)| undoable(r)) {
            found.entry(&change.object).or_insert(&change.before);
        }
        found
    }

    /// Each object that releases after `from` and up to `to` changed, as it was before and after them.
    pub fn between(&self, from: u64, to: u64) -> BTreeMap<&ObjectKey, (&Text, &Text)> {
        let mut found: BTreeMap<&ObjectKey, (&Text, &Text)> = BTreeMap::new();
        if from >= to {
            return found;
        }
        for change in self.records.range(from + 1..=to).flat_map(|(_, r)| undoable(r)) {
            found
                .entry(&change.object)
                .and_modify(|(_, after)| *after = &change.after)
                .or_insert((&change.before, &change.after));
        }
        found
    }

    /// The release that ended a stage, and how.
    pub fn end_of(&self, stage: u64) -> Option<(u64, Action)> {
        let ends = |r: &Record| {
            r.of == Some(stage) && matches!(r.action, Action::Promote | Action::Abort | Action::Withdraw)
        };
        self.records.range(stage..).find(|(_, r)| ends(r)).map(|(n, r)| (*n, r.action))
    }

    /// What the newest release that wrote an object made of it. `None`: no release that is kept did.
    pub fn written(&self, object: &ObjectKey) -> Option<&Text> {
        let all = self.records.values().rev().filter(|r| r.action != Action::Stage).flat_map(|r| &r.changes);
        all.filter(|c| c.object == *object).map(|c| &c.after).next()
    }
}

/// What of a release a rollback undoes.
fn undoable(record: &Record) -> impl Iterator<Item = &Change> {
    let counts = match record.action {
        Action::Apply | Action::Delete | Action::Rollback | Action::Promote => true,
        Action::Reseal | Action::Stage | Action::Abort | Action::Withdraw => false,
    };
    record.changes.iter().filter(move |_| counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, ObjectName};
    use std::time::SystemTime;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::Route, ObjectName::new(name).unwrap())
    }

    fn text(of: &str) -> Text {
        if of.is_empty() { Text::Absent } else { Text::Is(of.to_owned()) }
    }

    fn record(action: Action, changes: &[(&str, &str, &str)]) -> Record {
        let one = |(name, before, after): &(&str, &str, &str)| Change {
            object: key(name),
            before: text(before),
            after: text(after),
        };
        let changes = changes.iter().map(one).collect();
        let (by, message) = (String::new(), String::new());
        Record { at: SystemTime::UNIX_EPOCH, by, message, action, of: None, group: None, changes }
    }

    /// a is made by 1, b by 2; 3 changes both, 4 deletes a, 5 encrypts b anew, 6 makes a again.
    fn history() -> History {
        History::new([
            (1, record(Action::Apply, &[("a", "", "a1")])),
            (2, record(Action::Apply, &[("b", "", "b1")])),
            (3, record(Action::Apply, &[("a", "a1", "a2"), ("b", "b1", "b2")])),
            (4, record(Action::Delete, &[("a", "a2", "")])),
            (5, record(Action::Reseal, &[("b", "b2", "b2x")])),
            (6, record(Action::Rollback, &[("a", "", "a1")])),
        ])
    }

    fn shown(found: &BTreeMap<&ObjectKey, &Text>) -> Vec<String> {
        let one = |(key, text): (&&ObjectKey, &&Text)| {
            let text = Option::<String>::from((*text).clone()).unwrap_or_default();
            format!("{}={text}", key.name)
        };
        found.iter().map(one).collect()
    }

    #[test]
    fn going_back_undoes_every_later_release_and_nothing_else() {
        let history = history();
        for (to, expected) in [
            (0, &["a=", "b="][..]),
            (1, &["a=a1", "b="]),
            (2, &["a=a1", "b=b1"]),
            (3, &["a=a2"]),
            (4, &["a="]),
            (5, &["a="]),
            (6, &[]),
        ] {
            assert_eq!(shown(&history.before(to)), expected, "back to {to}");
        }
    }

    #[test]
    fn what_a_direct_write_made_between_releases_is_what_undoing_the_later_one_brings_back() {
        let history = History::new([
            (1, record(Action::Apply, &[("a", "", "a1")])),
            (2, record(Action::Apply, &[("a", "direct", "a2")])),
        ]);
        assert_eq!(shown(&history.before(1)), ["a=direct"]);
        assert_eq!(history.written(&key("a")), Some(&text("a2")));
    }

    #[test]
    fn between_two_releases_is_what_those_after_the_first_did() {
        let history = history();
        let found = history.between(2, 4);
        assert_eq!(found[&key("a")], (&text("a1"), &text("")));
        assert_eq!(found[&key("b")], (&text("b1"), &text("b2")));
        assert!(history.between(4, 5).is_empty(), "encrypting anew changes nothing that is shown");
        assert!(history.between(4, 2).is_empty() && history.between(3, 3).is_empty());
    }

    #[test]
    fn what_was_written_last_counts_encrypting_anew() {
        let history = history();
        assert_eq!(history.written(&key("b")), Some(&text("b2x")));
        assert_eq!(history.written(&key("c")), None);
    }

    #[test]
    fn a_stage_changes_nothing_until_it_is_promoted() {
        let staged = [("a", "a1", "a2")];
        let end = |action| Record {
            of: Some(2),
            ..record(action, if action == Action::Promote { &staged } else { &[] })
        };
        let with = |action: Option<Action>| {
            let mut all =
                vec![(1, record(Action::Apply, &[("a", "", "a1")])), (2, record(Action::Stage, &staged))];
            all.extend(action.map(|action| (3, end(action))));
            History::new(all)
        };
        for (ended, before, written) in [
            (None, &[][..], "a1"),
            (Some(Action::Abort), &[], "a1"),
            (Some(Action::Withdraw), &[], "a1"),
            (Some(Action::Promote), &["a=a1"], "a2"),
        ] {
            let history = with(ended);
            assert_eq!(shown(&history.before(1)), before, "{ended:?}");
            assert_eq!(history.written(&key("a")), Some(&text(written)), "{ended:?}");
            assert_eq!(history.end_of(2), ended.map(|action| (3, action)));
        }
        assert_eq!(with(None).before_newest(), Some(0));
        assert_eq!(with(Some(Action::Promote)).before_newest(), Some(2));
    }

    #[test]
    fn only_what_is_kept_can_be_gone_back_to() {
        let mut records = history().records;
        records.retain(|n, _| *n >= 3);
        let history = History::new(records);
        let reaches: Vec<bool> = (0..=8).map(|n| history.reaches(n).is_ok()).collect();
        assert_eq!(reaches, [false, false, true, true, true, true, true, false, false]);
        assert_eq!(history.reaches(1), Err(Gone::Past(1, 2)));
        assert_eq!(history.reaches(7), Err(Gone::Future(7, 6)));
        assert_eq!(History::default().reaches(0), Ok(()));
    }

    #[test]
    fn a_rollback_that_was_not_told_where_to_undoes_the_newest_change() {
        let mut history = history();
        assert_eq!(history.before_newest(), Some(5));
        history.records.remove(&6);
        assert_eq!(history.before_newest(), Some(3), "encrypting anew is not undone");
        assert_eq!(History::default().before_newest(), None);
    }
}
