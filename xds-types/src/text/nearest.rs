//! "Did you mean": the nearest of the names that would have been right.

/// Separators by which names of one meaning may differ; a cheap first sieve.
const SEPARATORS: usize = 6;

/// The nearest candidate, when it is near enough to be what was meant.
pub(crate) fn nearest<'c>(wrong: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let limit = (wrong.chars().count() / 3).clamp(1, 6);
    let plain = fold(wrong);
    candidates
        .filter(|c| c.len().abs_diff(wrong.len()) <= limit + SEPARATORS)
        .filter_map(|c| distance(&plain, &fold(c), limit).map(|d| (d, c)))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// `; did you mean `x`?` for the nearest of the candidates, or nothing when none is near.
pub fn suggestion<'c>(wrong: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    nearest(wrong, candidates).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Lower case without separators, so that `connectTimeout` and `CONNECT-TIMEOUT` are near `connect_timeout`.
fn fold(name: &str) -> Vec<char> {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).take(256).collect()
}

/// Edits (insert, delete, replace, swap of neighbours) from one to the other, if no more than a limit.
fn distance(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        if row.iter().all(|d| *d > limit) {
            return None;
        }
        before = std::mem::replace(&mut last, row);
    }
    (last[b.len()] <= limit).then_some(last[b.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
        let names = || ["lb_policy", "lb_subset_config", "name", "type", "connect_timeout"].into_iter();
        assert_eq!(nearest("lb_polcy", names()), Some("lb_policy"));
        assert_eq!(nearest("lb_ploicy", names()), Some("lb_policy"));
        assert_eq!(nearest("nam", names()), Some("name"));
        assert_eq!(nearest("Connect-Timeout", names()), Some("connect_timeout"));
        assert_eq!(nearest("listeners", names()), None);
        assert_eq!(nearest("", names()), None);
        assert_eq!(nearest("x", names()), None);
    }
}
