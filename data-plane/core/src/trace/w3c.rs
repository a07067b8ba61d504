//! W3C Trace Context: `traceparent` and `tracestate` (<https://www.w3.org/TR/trace-context/>). `baggage` travels on
//! as any other header.

use super::{Caller, Context, Extracted, hex, id};
use crate::headers::{HeaderList, hex as hex_digits};

const PARENT: &[u8] = b"traceparent";
const STATE: &[u8] = b"tracestate";

/// `00-` trace id `-` span id `-` flags.
const LENGTH: usize = 55;

/// The bit of the flags that says the caller records.
const SAMPLED: u128 = 1;

/// What `headers` say.
pub fn extract(headers: &HeaderList) -> Extracted {
    let mut parents = headers.get_all(PARENT);
    let Some(parent) = parents.next() else { return Extracted::Absent };
    if parents.next().is_some() {
        return Extracted::Malformed;
    }
    match read(parent) {
        Some((trace_id, span_id, sampled)) => {
            let state = headers.joined(STATE).and_then(|state| String::from_utf8(state.into_owned()).ok());
            Extracted::Caller(Caller {
                trace_id,
                span_id,
                parent: None,
                sampled: Some(sampled),
                state: state.filter(|state| !state.is_empty()).map(Into::into),
            })
        }
        None => Extracted::Malformed,
    }
}

fn read(parent: &[u8]) -> Option<(u128, u64, bool)> {
    let version = hex(parent.get(..2)?, 2)?;
    // Section 3.2.2 and 4.3: ff is no version, and only later versions may be longer.
    let fits = match version {
        0xff => false,
        0 => parent.len() == LENGTH,
        _ => parent.len() == LENGTH || parent.get(LENGTH) == Some(&b'-'),
    };
    let dashes = [2, 35, 52].iter().all(|&at| parent.get(at) == Some(&b'-'));
    if !fits || !dashes {
        return None;
    }
    let trace_id = id(&parent[3..35], 32)?;
    let span_id = u64::try_from(id(&parent[36..52], 16)?).ok()?;
    let flags = hex(&parent[53..55], 2)?;
    Some((trace_id, span_id, flags & SAMPLED != 0))
}

/// Writes `context` in place of what `headers` say.
pub fn inject(context: &Context, headers: &mut HeaderList) {
    let Context { trace_id, span_id, sampled, state, parent: _ } = context;
    let mut text = *b"00-________________________________-________________-00";
    hex_digits::write(&trace_id.to_be_bytes(), &mut text[3..35]);
    hex_digits::write(&span_id.to_be_bytes(), &mut text[36..52]);
    hex_digits::write(&[u8::from(*sampled)], &mut text[53..]);
    headers.set(PARENT, &text);
    match state {
        Some(state) => headers.set(STATE, state.as_bytes()),
        None => _ = headers.remove(STATE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT_OF_SPEC: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(list: &[(&str, &str)]) -> HeaderList {
        let mut headers = HeaderList::default();
        for (name, value) in list {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    #[test]
    fn a_callers_span_is_read() {
        let found = extract(&headers(&[
            ("Traceparent", PARENT_OF_SPEC),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]));
        let Extracted::Caller(caller) = found else { panic!("{found:?}") };
        assert_eq!(caller.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(caller.span_id, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(caller.sampled, Some(true));
        assert!(matches!(caller.state.as_deref(), Some("a=1,b=2" | "a=1, b=2")), "{caller:?}");
    }

    #[test]
    fn what_the_specification_forbids_is_malformed() {
        for parent in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
        ] {
            assert_eq!(extract(&headers(&[("traceparent", parent)])), Extracted::Malformed, "{parent:?}");
        }
        let twice = [("traceparent", PARENT_OF_SPEC), ("traceparent", PARENT_OF_SPEC)];
        assert_eq!(extract(&headers(&twice)), Extracted::Malformed);
    }

    #[test]
    fn later_versions_may_say_more() {
        for parent in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more",
            &PARENT_OF_SPEC.replacen("00", "01", 1),
        ] {
            assert!(
                matches!(extract(&headers(&[("traceparent", parent)])), Extracted::Caller(_)),
                "{parent}"
            );
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (sampled, state) in [(true, None), (false, Some("a=1".into()))] {
            let context = Context { trace_id: 7, span_id: u64::MAX, parent: Some(3), sampled, state };
            let mut headers = headers(&[("traceparent", "nonsense"), ("tracestate", "old=1")]);
            inject(&context, &mut headers);
            let Extracted::Caller(read) = extract(&headers) else { panic!("unreadable") };
            assert_eq!((read.trace_id, read.span_id, read.sampled), (7, u64::MAX, Some(sampled)));
            assert_eq!(read.state, context.state);
        }
    }
}
