//! Two texts, compared line by line: Myers' greedy algorithm ("An O(ND) Difference Algorithm", 1986), printed as
//! `diff -u` does.

use std::fmt::Write as _;

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// Most lines that may differ for the smallest difference to be sought: its time and memory grow with the square. Beyond, all
/// lines between the equal head and the equal tail are shown as replaced.
const MOST: usize = 2_000;

/// A line of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// What differs, with its surroundings; empty when nothing does.
pub fn unified(old: &str, new: &str) -> String {
    let lines = compare(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> =
        lines.iter().enumerate().filter(|(_, l)| !matches!(l, Line::Same(_))).map(|(i, _)| i).collect();
    let mut out = String::new();
    let mut next = 0;
    while let Some(&first) = changed.get(next) {
        // A hunk goes on while the next change's surroundings touch those of the last.
        let mut last = first;
        while let Some(&more) = changed.get(next).filter(|more| **more <= last + 2 * CONTEXT + 1) {
            last = more;
            next += 1;
        }
        hunk(&mut out, &lines, first.saturating_sub(CONTEXT), (last + CONTEXT + 1).min(lines.len()));
    }
    out
}

fn hunk(out: &mut String, lines: &[Line<'_>], from: usize, to: usize) {
    let count = |lines: &[Line<'_>]| {
        let of_old = lines.iter().filter(|l| !matches!(l, Line::New(_))).count();
        let of_new = lines.iter().filter(|l| !matches!(l, Line::Old(_))).count();
        (of_old, of_new)
    };
    let (before, within) = (count(&lines[..from]), count(&lines[from..to]));
    let range = |before: usize, within: usize| match within {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        n => format!("{},{n}", before + 1),
    };
    let _ = writeln!(out, "@@ -{} +{} @@", range(before.0, within.0), range(before.1, within.1));
    for line in &lines[from..to] {
        let _ = match line {
            Line::Same(text) => writeln!(out, " {text}"),
            Line::Old(text) => writeln!(out, "-{text}"),
            Line::New(text) => writeln!(out, "+{text}"),
        };
    }
}

fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[head..], &new[head..]);
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old_rest[..old_rest.len() - tail], &new_rest[..new_rest.len() - tail]);

    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|l| Line::Same(l)).collect();
    match shortest(old_rest, new_rest) {
        Some(middle) => lines.extend(middle),
        None => {
            lines.extend(old_rest.iter().map(|l| Line::Old(l)));
            lines.extend(new_rest.iter().map(|l| Line::New(l)));
        }
    }
    lines.extend(old[old.len() - tail..].iter().map(|l| Line::Same(l)));
    lines
}

/// The smallest difference; `None` when it is larger than [`MOST`].
fn shortest<'a>(old: &[&'a str], new: &[&'a str]) -> Option<Vec<Line<'a>>> {
    let most = (old.len() + new.len()).min(MOST);
    // Furthest old line reached on each diagonal (old - new, shifted to be an index), kept for each number of edits.
    let shift = most as isize + 1;
    let at = |k: isize| (k + shift) as usize;
    let mut furthest = vec![0usize; 2 * most + 3];
    let mut kept: Vec<Vec<usize>> = Vec::new();
    for edits in 0..=most as isize {
        kept.push(furthest[at(-edits - 1)..=at(edits + 1)].to_vec());
        for k in (-edits..=edits).step_by(2) {
            let down = k == -edits || (k != edits && furthest[at(k - 1)] < furthest[at(k + 1)]);
            let mut x = if down { furthest[at(k + 1)] } else { furthest[at(k - 1)] + 1 };
            let mut y = (x as isize - k) as usize;
            while x < old.len() && y < new.len() && old[x] == new[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[at(k)] = x;
            if x >= old.len() && y >= new.len() {
                return Some(walk_back(old, new, &kept));
            }
        }
    }
    None
}

/// The lines, from the end back to the start, by what was reached with one edit less each time.
fn walk_back<'a>(old: &[&'a str], new: &[&'a str], kept: &[Vec<usize>]) -> Vec<Line<'a>> {
    let (mut x, mut y) = (old.len(), new.len());
    let mut lines = Vec::new();
    for (edits, furthest) in kept.iter().enumerate().rev() {
        let edits = edits as isize;
        let reached = |k: isize| furthest[(k + edits + 1) as usize];
        let k = x as isize - y as isize;
        let down = k == -edits || (k != edits && reached(k - 1) < reached(k + 1));
        let from = if down { k + 1 } else { k - 1 };
        let (fx, fy) =
            if edits == 0 { (0, 0) } else { (reached(from), (reached(from) as isize - from) as usize) };
        while x > fx && y > fy {
            (x, y) = (x - 1, y - 1);
            lines.push(Line::Same(old[x]));
        }
        if edits > 0 {
            if down {
                y -= 1;
                lines.push(Line::New(new[y]));
            } else {
                x -= 1;
                lines.push(Line::Old(old[x]));
            }
        }
    }
    lines.reverse();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn differences_are_printed_as_diff_u_prints_them() {
        let numbers = |changed: &[(usize, &str)]| {
            let line = |i: usize| {
                changed.iter().find(|(n, _)| *n == i).map_or(i.to_string(), |(_, t)| (*t).to_owned())
            };
            (1..=20).map(line).collect::<Vec<_>>().join("\n")
        };
        for (old, new, expected) in [
            ("a\nb\n".to_owned(), "a\nb\n".to_owned(), ""),
            (String::new(), "a\nb\n".to_owned(), "@@ -0,0 +1,2 @@\n+a\n+b\n"),
            ("a\n".to_owned(), String::new(), "@@ -1 +0,0 @@\n-a\n"),
            (numbers(&[]), numbers(&[(5, "five")]), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"),
            (
                numbers(&[]),
                numbers(&[(1, "one"), (20, "twenty")]),
                "@@ -1,4 +1,4 @@\n-1\n+one\n 2\n 3\n 4\n@@ -17,4 +17,4 @@\n 17\n 18\n 19\n-20\n+twenty\n",
            ),
        ] {
            assert_eq!(unified(&old, &new), expected);
        }
        // As close as this, two changes are one hunk.
        assert_eq!(unified(&numbers(&[]), &numbers(&[(5, "a"), (12, "b")])).matches("@@ ").count(), 1);
        assert_eq!(unified(&numbers(&[]), &numbers(&[(5, "a"), (13, "b")])).matches("@@ ").count(), 2);
    }

    #[test]
    fn texts_that_have_little_in_common_are_shown_as_replaced() {
        let text = |of: &str| (0..MOST).map(|i| format!("{of}{i}\n")).collect::<String>();
        let shown = unified(&text("a"), &text("b"));
        assert_eq!(shown.lines().filter(|l| l.starts_with("-a")).count(), MOST);
        assert_eq!(shown.lines().filter(|l| l.starts_with("+b")).count(), MOST);
    }

    fn longest_common(a: &[&str], b: &[&str]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let mut diagonal = 0;
            for (j, y) in b.iter().enumerate() {
                let above = row[j + 1];
                row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
                diagonal = above;
            }
        }
        row[b.len()]
    }

    proptest! {
        #[test]
        fn the_lines_give_back_both_texts_and_share_as_many_as_can_be(
            old in prop::collection::vec("[abc]", 0..14),
            new in prop::collection::vec("[abc]", 0..14),
        ) {
            let (old, new): (Vec<&str>, Vec<&str>) =
                (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
            let lines = compare(&old, &new);
            let of = |skip: fn(&Line<'_>) -> bool| -> Vec<&str> {
                let text = |l: &Line<'_>| match *l { Line::Same(t) | Line::Old(t) | Line::New(t) => t.to_owned() };
                lines.iter().filter(|l| !skip(l)).map(text).map(|t| if t == "a" { "a" } else if t == "b" { "b" } else { "c" }).collect()
            };
            prop_assert_eq!(of(|l| matches!(l, Line::New(_))), old.clone());
            prop_assert_eq!(of(|l| matches!(l, Line::Old(_))), new.clone());
            let same = lines.iter().filter(|l| matches!(l, Line::Same(_))).count();
            prop_assert_eq!(same, longest_common(&old, &new));
        }
    }
}
