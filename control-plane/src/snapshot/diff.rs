//! The difference of two sets.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Set;

/// Names added, changed or removed from one set to another, sorted.
pub fn changed(old: &Set, new: &Set) -> Vec<Arc<str>> {
    let (mut old, mut new) = (old.resources().iter().peekable(), new.resources().iter().peekable());
    let mut names = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            Ordering::Less => names.extend(old.next().map(|(name, _)| name.clone())),
            Ordering::Greater => names.extend(new.next().map(|(name, _)| name.clone())),
            Ordering::Equal => {
                let (a, b) = (old.next(), new.next());
                if let (Some((_, a)), Some((name, b))) = (a, b)
                    && !Arc::ptr_eq(a, b)
                    && a.version != b.version
                {
                    names.push(name.clone());
                }
            }
        }
    }
}
