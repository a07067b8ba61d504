//! B3 as Zipkin's libraries speak it: several `x-b3-*` headers, or one `b3`
//! (<https://github.com/openzipkin/b3-propagation>). Both are read, the single one first, and a request goes on with
//! the form it came with, or several.

use super::{Caller, Context, Extracted, id};
use crate::headers::{HeaderList, trace_id_text};
use std::fmt::Write;

const SINGLE: &[u8] = b"b3";
const TRACE_ID: &[u8] = b"x-b3-traceid";
const SPAN_ID: &[u8] = b"x-b3-spanid";
const PARENT: &[u8] = b"x-b3-parentspanid";
const SAMPLED: &[u8] = b"x-b3-sampled";
const FLAGS: &[u8] = b"x-b3-flags";

/// What `headers` say: the caller's span, and whether the trace is to be recorded when that alone is told.
pub fn extract(headers: &HeaderList) -> (Extracted, Option<bool>) {
    match headers.get(SINGLE) {
        Some(single) => extract_single(single),
        None => extract_multiple(headers),
    }
}

fn extract_single(text: &[u8]) -> (Extracted, Option<bool>) {
    if let Some(sampled) = state(text) {
        return (Extracted::Absent, Some(sampled));
    }
    let mut parts = text.split(|&b| b == b'-');
    let (trace, span, told, parent) = (parts.next(), parts.next(), parts.next(), parts.next());
    let read = || {
        let trace_id = trace.and_then(trace_id)?;
        let span_id = span.and_then(span_id)?;
        let sampled = match told {
            Some(told) => Some(state(told)?),
            None => None,
        };
        let parent = match parent {
            Some(parent) => Some(span_id_of(parent)?),
            None => None,
        };
        Some(Caller { trace_id, span_id, parent, sampled, state: None })
    };
    match (read(), parts.next()) {
        (Some(caller), None) => {
            let sampled = caller.sampled;
            (Extracted::Caller(caller), sampled)
        }
        _ => (Extracted::Malformed, None),
    }
}

fn extract_multiple(headers: &HeaderList) -> (Extracted, Option<bool>) {
    let debug = headers.get(FLAGS) == Some(b"1");
    let told = match headers.get(SAMPLED) {
        // Old libraries say it in words.
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    let sampled = if debug { Some(true) } else { told };
    let (Some(trace), Some(span)) = (headers.get(TRACE_ID), headers.get(SPAN_ID)) else {
        return (Extracted::Absent, sampled);
    };
    let parent = headers.get(PARENT).filter(|parent| !parent.is_empty());
    let read = || {
        let parent = match parent {
            Some(parent) => Some(span_id_of(parent)?),
            None => None,
        };
        Some(Caller { trace_id: trace_id(trace)?, span_id: span_id(span)?, parent, sampled, state: None })
    };
    (read().map_or(Extracted::Malformed, Extracted::Caller), sampled)
}

/// 64 or 128 bits.
fn trace_id(text: &[u8]) -> Option<u128> {
    id(text, 16).or_else(|| id(text, 32))
}

fn span_id(text: &[u8]) -> Option<u64> {
    u64::try_from(id(text, 16)?).ok()
}

/// A parent's id; some libraries write 0 for "none", which is not refused.
fn span_id_of(text: &[u8]) -> Option<u64> {
    u64::try_from(super::hex(text, 16)?).ok()
}

fn state(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    }
}

/// Writes `context` in place of what `headers` say, in their form.
pub fn inject(context: &Context, headers: &mut HeaderList) {
    let Context { trace_id, span_id, parent, sampled, state: _ } = context;
    if headers.contains(SINGLE) {
        let mut text = format!("{}-{span_id:016x}-{}", trace_id_text(*trace_id), u8::from(*sampled));
        if let Some(parent) = parent.filter(|&parent| parent != 0) {
            // Writing to memory does not fail.
            _ = write!(text, "-{parent:016x}");
        }
        return headers.set(SINGLE, text.as_bytes());
    }
    headers.set(TRACE_ID, trace_id_text(*trace_id).as_bytes());
    headers.set(SPAN_ID, format!("{span_id:016x}").as_bytes());
    match parent.filter(|&parent| parent != 0) {
        Some(parent) => headers.set(PARENT, format!("{parent:016x}").as_bytes()),
        None => _ = headers.remove(PARENT),
    }
    headers.set(SAMPLED, if *sampled { b"1" } else { b"0" });
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn headers(list: &[(&str, &str)]) -> HeaderList {
        let mut headers = HeaderList::default();
        for (name, value) in list {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    #[test]
    fn both_forms_say_the_same() {
        let parent = "05e3ac9a4f6e3b90";
        let single = format!("{TRACE}-{SPAN}-1-{parent}");
        let one = extract(&headers(&[("b3", &single)]));
        let several = extract(&headers(&[
            ("X-B3-TraceId", TRACE),
            ("X-B3-SpanId", SPAN),
            ("X-B3-ParentSpanId", parent),
            ("X-B3-Sampled", "1"),
        ]));
        assert_eq!(one, several);
        let (Extracted::Caller(caller), Some(true)) = one else { panic!("{one:?}") };
        assert_eq!(format!("{:x}-{:x}", caller.trace_id, caller.span_id), format!("{TRACE}-{SPAN}"));
        assert_eq!(caller.parent, Some(0x05e3_ac9a_4f6e_3b90));
    }

    #[test]
    fn a_decision_may_come_without_a_span() {
        for (list, sampled) in [
            (&[("b3", "0")][..], Some(false)),
            (&[("b3", "1")], Some(true)),
            (&[("b3", "d")], Some(true)),
            (&[("x-b3-sampled", "0")], Some(false)),
            (&[("x-b3-sampled", "true")], Some(true)),
            (&[("x-b3-sampled", "0"), ("x-b3-flags", "1")], Some(true)),
            (&[("x-b3-traceid", TRACE)], None),
            (&[], None),
        ] {
            assert_eq!(extract(&headers(list)), (Extracted::Absent, sampled), "{list:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        for list in [
            &[("b3", "")][..],
            &[("b3", "x")],
            &[("b3", "80f198ee56343ba864fe8b2a57d3eff7")],
            &[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-2")],
            &[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90-x")],
            &[("x-b3-traceid", "12"), ("x-b3-spanid", SPAN)],
            &[("x-b3-traceid", "0000000000000000"), ("x-b3-spanid", SPAN)],
            &[("x-b3-traceid", TRACE), ("x-b3-spanid", "zz57b5a2e4d86bd1")],
        ] {
            assert_eq!(extract(&headers(list)).0, Extracted::Malformed, "{list:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for trace_id in [u128::from(u64::MAX), u128::MAX] {
            let context = Context { trace_id, span_id: 9, parent: None, sampled: false, state: None };
            for form in [("b3", "1"), ("x-b3-parentspanid", SPAN)] {
                let mut headers = headers(&[form]);
                inject(&context, &mut headers);
                let (Extracted::Caller(read), Some(false)) = extract(&headers) else { panic!("unreadable") };
                assert_eq!((read.trace_id, read.span_id, read.parent), (trace_id, 9, None));
                assert_eq!(headers.contains(SINGLE), form.0 == "b3", "the form stays");
            }
        }
    }
}
