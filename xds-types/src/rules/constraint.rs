//! Constraints on numbers, durations and enums: what is allowed, and how to say so.

use std::fmt::Display;

/// Allowed values of an ordered type.
#[derive(Clone, Debug)]
pub(super) struct Range<T> {
    pub(super) equal: Option<T>,
    pub(super) more_than: Option<T>,
    pub(super) at_least: Option<T>,
    pub(super) less_than: Option<T>,
    pub(super) at_most: Option<T>,
    pub(super) among: Vec<T>,
    pub(super) not_among: Vec<T>,
}

impl<T> Default for Range<T> {
    fn default() -> Self {
        Self {
            equal: None,
            more_than: None,
            at_least: None,
            less_than: None,
            at_most: None,
            among: Vec::new(),
            not_among: Vec::new(),
        }
    }
}

impl<T: PartialOrd + Copy> Range<T> {
    /// What is wrong with a value; `show` writes one.
    pub(super) fn check<D: Display>(&self, value: T, show: impl Fn(T) -> D) -> Option<String> {
        if let Some(wanted) = self.equal.filter(|wanted| *wanted != value) {
            return Some(format!("must be {}", show(wanted)));
        }
        if !self.among.is_empty() && !self.among.contains(&value) {
            return Some(format!("must be one of {}", list(&self.among, &show)));
        }
        if self.not_among.contains(&value) {
            return Some(format!("must not be {}", show(value)));
        }
        let above = self.more_than.is_none_or(|b| value > b) && self.at_least.is_none_or(|b| value >= b);
        let below = self.less_than.is_none_or(|b| value < b) && self.at_most.is_none_or(|b| value <= b);
        // protoc-gen-validate: bounds the wrong way round allow what lies outside of them.
        let allowed = if self.is_outside() { above || below } else { above && below };
        (!allowed).then(|| self.bounds(&show))
    }

    fn is_outside(&self) -> bool {
        match (self.more_than.or(self.at_least), self.less_than.or(self.at_most)) {
            (Some(low), Some(high)) => high < low,
            _ => false,
        }
    }

    fn bounds<D: Display>(&self, show: &impl Fn(T) -> D) -> String {
        let low = match (self.more_than, self.at_least) {
            (Some(b), _) => Some(format!("greater than {}", show(b))),
            (_, Some(b)) => Some(format!("at least {}", show(b))),
            _ => None,
        };
        let high = match (self.less_than, self.at_most) {
            (Some(b), _) => Some(format!("less than {}", show(b))),
            (_, Some(b)) => Some(format!("at most {}", show(b))),
            _ => None,
        };
        let joint = if self.is_outside() { " or " } else { " and " };
        let parts: Vec<String> = low.into_iter().chain(high).collect();
        format!("must be {}", parts.join(joint))
    }
}

fn list<T: Copy, D: Display>(values: &[T], show: &impl Fn(T) -> D) -> String {
    values.iter().map(|v| show(*v).to_string()).collect::<Vec<_>>().join(", ")
}

/// "1 element", "2 elements".
pub(super) fn count(n: u64, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}

/// What is wrong with a number of things.
pub(super) fn check_count(
    found: u64,
    min: Option<u64>,
    max: Option<u64>,
    of: &str,
    verb: &str,
) -> Option<String> {
    if let Some(min) = min.filter(|min| found < *min) {
        return Some(format!("must {verb} at least {}", count(min, of)));
    }
    let max = max.filter(|max| found > *max)?;
    Some(format!("must {verb} at most {}, not {found}", count(max, of)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_what_it_allows() {
        let both = Range { more_than: Some(0), at_most: Some(9), ..Range::default() };
        assert_eq!(both.check(0, |v| v).as_deref(), Some("must be greater than 0 and at most 9"));
        assert_eq!(both.check(9, |v| v), None);
        let outside = Range { more_than: Some(9), less_than: Some(5), ..Range::default() };
        assert_eq!(outside.check(7, |v| v).as_deref(), Some("must be greater than 9 or less than 5"));
        assert_eq!(outside.check(4, |v| v), None);
        assert_eq!(outside.check(10, |v| v), None);
        let among = Range { among: vec![1, 2], not_among: vec![2], ..Range::default() };
        assert_eq!(among.check(3, |v| v).as_deref(), Some("must be one of 1, 2"));
        assert_eq!(among.check(2, |v| v).as_deref(), Some("must not be 2"));
        let floats = Range { at_least: Some(0.0), ..Range::default() };
        assert_eq!(
            floats.check(f64::NAN, |v| v).as_deref(),
            Some("must be at least 0"),
            "NaN is in no range"
        );
    }
}
