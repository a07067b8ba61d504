//! The elements of a list in a text, told apart without reading them.
//!
//! A file of ten thousand resources of which one changed need not be read whole: whoever knows the others by their
//! text blanks them out, and what is left reads as before, at the same lines and columns. Only plain layouts are
//! understood, and `None` says that one is not: the text is then to be read whole.

use std::ops::Range;

/// Where the elements of the list `field` of the text's outermost map lie. JSON, or YAML in block style with one
/// element under the other and without anchors.
pub fn elements(text: &str, field: &str) -> Option<Elements> {
    let bytes = text.as_bytes();
    match skip_space(bytes, 0) {
        at if bytes.get(at) == Some(&b'{') => Json { bytes, at }.elements(field),
        _ => yaml(text, field),
    }
}

/// See [`elements`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elements {
    /// In order.
    pub ranges: Vec<Range<usize>>,
    /// Of JSON: where the comma behind each but the last is.
    commas: Vec<usize>,
}

impl Elements {
    /// The text without the elements that `keep` does not want, by their place. What stays, stays where it is.
    pub fn keep(&self, text: &str, keep: impl Fn(usize) -> bool) -> String {
        let mut out = text.as_bytes().to_vec();
        let last = (0..self.ranges.len()).rev().find(|index| keep(*index));
        for (index, range) in self.ranges.iter().enumerate().filter(|(index, _)| !keep(*index)) {
            blank(&mut out[range.clone()]);
            if let Some(comma) = self.commas.get(index) {
                out[*comma] = b' ';
            }
        }
        // Nothing follows the last.
        if let Some(comma) = last.and_then(|last| self.commas.get(last)) {
            out[*comma] = b' ';
        }
        String::from_utf8(out).expect("INVARIANT: whole elements became spaces")
    }
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| b.is_ascii_whitespace()).count()
}

struct Json<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Json<'_> {
    fn elements(mut self, field: &str) -> Option<Elements> {
        let mut found = None;
        self.take(b'{')?;
        while self.peek()? != b'}' {
            let key = self.value()?;
            self.take(b':')?;
            if self.bytes[key] == *format!("\"{field}\"").as_bytes() {
                // A second one is an error for the parser to tell.
                if found.replace(self.list()?).is_some() {
                    return None;
                }
            } else {
                self.value()?;
            }
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
        (skip_space(self.bytes, self.at) == self.bytes.len()).then_some(())?;
        found
    }

    fn list(&mut self) -> Option<Elements> {
        let mut elements = Elements { ranges: Vec::new(), commas: Vec::new() };
        self.take(b'[')?;
        while self.peek()? != b']' {
            elements.ranges.push(self.value()?);
            match self.peek()? {
                b',' => {
                    elements.commas.push(self.at);
                    self.at += 1;
                }
                b']' => {}
                _ => return None,
            }
        }
        self.at += 1;
        // Not where a comma leads nowhere.
        (elements.commas.len() < elements.ranges.len().max(1)).then_some(elements)
    }

    /// Past a value of any kind, which is not looked at more closely than its end needs.
    fn value(&mut self) -> Option<Range<usize>> {
        self.peek()?;
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                break;
            }
        }
        let value = self.bytes[start..self.at].trim_ascii_end();
        (!value.is_empty()).then_some(start..start + value.len())
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let stop = memchr::memchr2(b'"', b'\\', rest)?;
            self.at += stop + 1;
            if rest[stop] == b'"' {
                return Some(());
            }
            self.at += 1;
            self.bytes.get(self.at)?;
        }
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        self.at = skip_space(self.bytes, self.at);
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }
}

fn yaml(text: &str, field: &str) -> Option<Elements> {
    if text.contains('\t') || has_anchors(text.as_bytes()) {
        return None;
    }
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut indent = None;
    let mut state = State::Before;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let content = line.trim_start_matches(' ');
        let column = line.len() - content.len();
        let is_empty = content.trim_end().is_empty() || content.starts_with('#');
        let is_key = |line: &str| {
            line.strip_prefix(field).and_then(|rest| rest.strip_prefix(':')).is_some_and(|rest| {
                let rest = rest.trim();
                rest.is_empty() || rest.starts_with('#')
            })
        };
        match state {
            State::Before if column == 0 && is_key(line) => state = State::Within,
            State::Before => {}
            State::Within if is_empty => {}
            State::Within => {
                let is_item = content.starts_with("- ") && column == *indent.get_or_insert(column);
                match ranges.last_mut() {
                    _ if is_item => ranges.push(start..end),
                    Some(last) if Some(column) > indent => last.end = end,
                    _ if column == 0 => state = State::Behind,
                    _ => return None,
                }
            }
            State::Behind => {}
        }
        // A second document, or a second list, is for the parser to tell.
        if state != State::Before && (line.starts_with("---") || line.starts_with("...")) {
            return None;
        }
        if state == State::Behind && line.starts_with(field) {
            return None;
        }
    }
    (!ranges.is_empty()).then_some(Elements { ranges, commas: Vec::new() })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    Behind,
}

/// Whether something may refer to another place of the text.
fn has_anchors(text: &[u8]) -> bool {
    memchr::memchr2_iter(b'&', b'*', text).any(|at| {
        let opens = at == 0 || matches!(text[at - 1], b' ' | b'\n' | b'[' | b'{' | b',' | b':' | b'-');
        opens && text.get(at + 1).is_some_and(|next| !next.is_ascii_whitespace())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str) -> Option<Vec<&str>> {
        Some(elements(text, "resources")?.ranges.into_iter().map(|range| &text[range]).collect())
    }

    #[test]
    fn elements_of_json_are_told_apart() {
        let text = "{ \"version_info\": \"}\\\"{\", \"resources\": [{\"a\": [1, \"]\"]} ,{},\n \"s\\\\\" ] , \"x\":null}\n";
        assert_eq!(texts(text).unwrap(), ["{\"a\": [1, \"]\"]}", "{}", "\"s\\\\\""]);
        assert_eq!(texts("{\"resources\": []}").unwrap(), [""; 0]);
        for odd in [
            "{\"resources\": [{}], \"resources\": []}",
            "{\"resources\": [{},]}",
            "{\"resources\": {}}",
            "{\"resources\": [{}]",
            "{\"resources\": [{}]} x",
            "{\"resources\": [\"",
            "{}",
            "",
        ] {
            assert_eq!(texts(odd), None, "{odd}");
        }
    }

    #[test]
    fn elements_of_yaml_are_told_apart() {
        let text = "---\nversion_info: '1'\nresources:  # all\n- a: 1\n  b:\n  - 2\n\n# c\n- d: |\n    - e\nother: 1\n";
        assert_eq!(texts(text).unwrap(), ["- a: 1\n  b:\n  - 2\n", "- d: |\n    - e\n"]);
        assert_eq!(texts("resources:\n  - a: 1\n  - b: 2").unwrap(), ["  - a: 1\n", "  - b: 2"]);
        for odd in [
            "resources: [{a: 1}]\n",
            "resources:\n- a: &x 1\n- b: *x\n",
            "resources:\n  - a: 1\n - b: 2\n",
            "resources:\n- a: 1\n---\nresources:\n- b: 1\n",
            "resources:\n- a: 1\nresources:\n- b: 1\n",
            "resources:\n\t- a: 1\n",
            "other: 1\n",
        ] {
            assert_eq!(texts(odd), None, "{odd}");
        }
        assert!(texts("resources:\n- domains: [\"*\"]\n- regex: a.*b&c\n").is_some());
    }

    #[test]
    fn what_stays_stays_in_its_place() {
        let text = "{\"resources\": [{\"a\":1},\n{\"b\":2}, {\"c\":3}]}";
        let elements = elements(text, "resources").unwrap();
        let kept = elements.keep(text, |index| index == 1);
        assert_eq!(kept, "{\"resources\": [        \n{\"b\":2}         ]}");
        assert_eq!(
            elements.keep(text, |index| index != 1),
            "{\"resources\": [{\"a\":1},\n         {\"c\":3}]}"
        );
        assert_eq!(elements.keep(text, |_| true), text);
        assert_eq!(elements.keep(text, |_| false).replace([' ', '\n'], ""), "{\"resources\":[]}");
    }

    proptest! {
        /// Whatever is dropped, the rest reads as it did, in JSON and in YAML.
        #[test]
        fn the_rest_reads_as_before(
            values in prop::collection::vec("[a-z\"\\\\\\[\\]{},:é ]{0,8}", 0..6),
            kept in prop::collection::vec(any::<bool>(), 6),
            pretty in any::<bool>(),
        ) {
            let all: Vec<_> = values.iter().map(|v| serde_json::json!({"a": v, "b": [v, {}]})).collect();
            let whole = serde_json::json!({"resources": all, "version_info": "1"});
            let json = if pretty { format!("{whole:#}") } else { whole.to_string() };
            let some: Vec<_> = all.iter().zip(&kept).filter(|(_, keep)| **keep).map(|(v, _)| v.clone()).collect();
            let found = elements(&json, "resources").unwrap();
            let rest: serde_json::Value = serde_json::from_str(&found.keep(&json, |i| kept[i])).unwrap();
            prop_assert_eq!(&rest["resources"], &serde_json::Value::Array(some.clone()));
            if all.is_empty() {
                return Ok(());
            }
            let item = |v: &serde_json::Value| format!("- a: {}\n  b:\n  - {}\n", v["a"], v["b"]);
            let yaml = format!("resources:\n{}version_info: '1'\n", all.iter().map(item).collect::<String>());
            let found = elements(&yaml, "resources").unwrap();
            let rest = found.keep(&yaml, |i| kept[i]);
            let expected = format!("resources:\n{}version_info: '1'\n", some.iter().map(item).collect::<String>());
            let lines = |text: &str| -> Vec<String> {
                text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect()
            };
            prop_assert_eq!(lines(&rest), lines(&expected));
            prop_assert_eq!(rest.len(), yaml.len());
        }
    }
}
