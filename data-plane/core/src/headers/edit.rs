//! Header mutations from configuration (Envoy `request_headers_to_add` and its kin).
//!
//! Removal comes first, then overwrites, then additions, so that no edit of one list sees another's result.

use super::format::Format;
use super::{HeaderList, Record, RequestHead, ResponseHead};

/// What to do to a header list, in the order: remove, then add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Names to remove, lowercase.
    pub remove: Vec<Box<str>>,
    /// Headers to add.
    pub add: Vec<HeaderAdd>,
}

/// One header to add (Envoy `HeaderValueOption`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAdd {
    /// Name, lowercase.
    pub name: Box<str>,
    /// Value with `%COMMAND%` operators.
    pub value: Format,
    /// What happens to a header already there.
    pub action: AppendAction,
    /// Whether a header whose value formats to nothing is still added.
    pub keep_empty_value: bool,
}

/// What happens to a header already there (Envoy `HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendAction {
    /// Adds another.
    #[default]
    AppendOrAdd,
    /// Adds only when absent.
    AddIfAbsent,
    /// Replaces, or adds.
    OverwriteOrAdd,
    /// Replaces only when present.
    OverwriteIfExists,
}

/// Whether configuration may add, change or remove the header `name`: Envoy refuses `:`-prefixed ones and
/// `host`, which have mechanisms of their own.
pub fn is_modifiable(name: &str) -> bool {
    !name.starts_with(':') && !name.eq_ignore_ascii_case("host")
}

impl HeaderEdits {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Edits a request. Values are formatted from `record` with its request replaced by `head`.
    pub fn apply_request(&self, head: &mut RequestHead, record: &Record<'_>) {
        if self.is_empty() {
            return;
        }
        for name in &self.remove {
            head.headers.remove(name.as_bytes());
        }
        let values = self.values(&Record { request: Some(&*head), ..*record });
        self.write(&values, &mut head.headers);
    }

    /// Edits a response. Values are formatted from `record` with its response replaced by `head`.
    pub fn apply_response(&self, head: &mut ResponseHead, record: &Record<'_>) {
        if self.is_empty() {
            return;
        }
        for name in &self.remove {
            head.headers.remove(name.as_bytes());
        }
        let values = self.values(&Record { response: Some(&*head), ..*record });
        self.write(&values, &mut head.headers);
    }

    /// The values of all additions, in order, in one buffer.
    fn values(&self, record: &Record<'_>) -> Values {
        let mut values = Values { bytes: Vec::new(), ends: Vec::with_capacity(self.add.len()) };
        for add in &self.add {
            add.value.render(record, &mut values.bytes);
            values.ends.push(values.bytes.len());
        }
        values
    }

    fn write(&self, values: &Values, headers: &mut HeaderList) {
        // Presence is judged before any edit of this list takes effect, as in Envoy.
        let wanted = |index: usize| {
            let add = &self.add[index];
            let value = values.get(index);
            (add.keep_empty_value || !value.is_empty()).then_some((add, value))
        };
        let mut skip = smallvec::SmallVec::<[bool; 16]>::new();
        for index in 0..self.add.len() {
            let add = &self.add[index];
            let present = headers.contains(add.name.as_bytes());
            skip.push(match add.action {
                AppendAction::AppendOrAdd | AppendAction::OverwriteOrAdd => false,
                AppendAction::AddIfAbsent => present,
                AppendAction::OverwriteIfExists => !present,
            });
        }
        let is_overwrite =
            |action| matches!(action, AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists);
        for overwrites in [true, false] {
            for index in (0..self.add.len()).filter(|index| !skip[*index]) {
                match wanted(index) {
                    Some((add, value)) if is_overwrite(add.action) == overwrites => {
                        if overwrites {
                            // Envoy's place for what it overwrites is the end.
                            headers.remove(add.name.as_bytes());
                        }
                        headers.append(add.name.as_bytes(), value);
                    }
                    _ => {}
                }
            }
        }
    }
}

struct Values {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Values {
    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::format::Missing;
    use crate::headers::{Scheme, Version};
    use std::time::SystemTime;

    fn add(name: &str, value: &str, action: AppendAction) -> HeaderAdd {
        let value = Format::compile(value, Missing::Empty).unwrap();
        HeaderAdd { name: name.into(), value, action, keep_empty_value: false }
    }

    fn edited(headers: &[(&str, &str)], remove: &[&str], add: Vec<HeaderAdd>) -> Vec<(String, String)> {
        let mut head = RequestHead {
            method: "GET".into(),
            path: "/p".into(),
            authority: "h".into(),
            scheme: Scheme::Http,
            version: Version::Http11,
            headers: HeaderList::default(),
        };
        for (name, value) in headers {
            head.headers.append(name.as_bytes(), value.as_bytes());
        }
        let remove = remove.iter().map(|name| (*name).into()).collect();
        HeaderEdits { remove, add }.apply_request(&mut head, &Record::new(SystemTime::UNIX_EPOCH));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        head.headers.iter().map(|header| (text(header.name), text(header.value))).collect()
    }

    fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_action_treats_present_and_absent_headers_its_way() {
        use AppendAction::{AddIfAbsent, AppendOrAdd, OverwriteIfExists, OverwriteOrAdd};
        for (action, present, absent) in [
            (AppendOrAdd, &[("x", "old"), ("x", "new")][..], &[("x", "new")][..]),
            (AddIfAbsent, &[("x", "old")], &[("x", "new")]),
            (OverwriteOrAdd, &[("x", "new")], &[("x", "new")]),
            (OverwriteIfExists, &[("x", "new")], &[]),
        ] {
            assert_eq!(
                edited(&[("x", "old")], &[], vec![add("x", "new", action)]),
                pairs(present),
                "{action:?}"
            );
            assert_eq!(edited(&[], &[], vec![add("x", "new", action)]), pairs(absent), "{action:?}");
        }
    }

    #[test]
    fn removal_comes_before_addition() {
        let added = vec![add("x", "%REQ(x)%new", AppendAction::AddIfAbsent)];
        assert_eq!(edited(&[("X", "old"), ("y", "1")], &["x"], added), pairs(&[("y", "1"), ("x", "new")]));
    }

    #[test]
    fn overwrites_come_before_additions() {
        let added = vec![
            add("x", "appended", AppendAction::AppendOrAdd),
            add("x", "overwritten", AppendAction::OverwriteOrAdd),
        ];
        assert_eq!(edited(&[("x", "old")], &[], added), pairs(&[("x", "overwritten"), ("x", "appended")]));
    }

    #[test]
    fn a_value_that_formats_to_nothing_is_left_out_unless_kept() {
        assert_eq!(edited(&[], &[], vec![add("x", "%REQ(nope)%", AppendAction::AppendOrAdd)]), []);
        assert_eq!(
            edited(&[("x", "old")], &[], vec![add("x", "%REQ(nope)%", AppendAction::OverwriteOrAdd)]),
            pairs(&[("x", "old")]),
            "and does not overwrite"
        );
        let kept = HeaderAdd { keep_empty_value: true, ..add("x", "%REQ(nope)%", AppendAction::AppendOrAdd) };
        assert_eq!(edited(&[], &[], vec![kept]), pairs(&[("x", "")]));
    }

    #[test]
    fn values_see_the_head_as_it_was_before_this_list() {
        let added = vec![
            add("x", "new", AppendAction::OverwriteOrAdd),
            add("copy", "%REQ(x)% %REQ(:path)% 100%%", AppendAction::AppendOrAdd),
        ];
        assert_eq!(edited(&[("x", "old")], &[], added), pairs(&[("x", "new"), ("copy", "old /p 100%")]));
    }

    #[test]
    fn responses_are_formatted_from_themselves() {
        let edits = HeaderEdits {
            remove: vec!["server".into()],
            add: vec![add("x", "%RESP(y)%-%RESPONSE_CODE%", AppendAction::AppendOrAdd)],
        };
        let mut head = ResponseHead::new(204);
        head.headers.append(b"server", b"s");
        head.headers.append(b"y", b"1");
        edits.apply_response(&mut head, &Record { status: Some(204), ..Record::new(SystemTime::UNIX_EPOCH) });
        assert_eq!(head.headers.get(b"x"), Some(&b"1-204"[..]));
        assert!(!head.headers.contains(b"server"));
    }

    #[test]
    fn pseudo_headers_and_host_are_not_for_edits() {
        for (name, modifiable) in [(":path", false), (":status", false), ("Host", false), ("x-host", true)] {
            assert_eq!(is_modifiable(name), modifiable, "{name}");
        }
    }
}
