//! Canonical bytes of a message: the same message always gives the same bytes.
//!
//! Generated types keep maps in `HashMap`, whose order differs from run to run and from replica to replica;
//! versions are hashes of bytes, so maps are put in order on the wire. Everything else prost already writes in
//! one order.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// Sorts the entries of every map of an encoded message, those in nested messages and in `Any` payloads of
/// known types included. What cannot be read as the message is returned as it came.
pub fn canonical(of: &MessageDescriptor, bytes: &[u8]) -> Vec<u8> {
    rewrite(of, bytes).unwrap_or_else(|| bytes.to_vec())
}

fn rewrite(of: &MessageDescriptor, bytes: &[u8]) -> Option<Vec<u8>> {
    if of.full_name() == "google.protobuf.Any" {
        return rewrite_any(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    // Entries of the map that is being read; prost writes all entries of a map together.
    let mut map: Option<(u32, Vec<Vec<u8>>)> = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (field, raw) = next_field(&mut rest)?;
        let descriptor = of.get_field(field.number);
        if map.as_ref().is_some_and(|(number, _)| *number != field.number) {
            flush(&mut out, map.take());
        }
        let nested = descriptor.as_ref().and_then(message_of).filter(|_| field.wire == LENGTH);
        let written = match nested {
            Some(inner) => {
                let body = rewrite(&inner, field.body)?;
                let mut one = Vec::with_capacity(body.len() + 8);
                put_varint(&mut one, u64::from(field.number) << 3 | u64::from(LENGTH));
                put_varint(&mut one, body.len() as u64);
                one.extend_from_slice(&body);
                one
            }
            None => raw.to_vec(),
        };
        if descriptor.as_ref().is_some_and(FieldDescriptor::is_map) {
            map.get_or_insert_with(|| (field.number, Vec::new())).1.push(written);
        } else {
            out.extend_from_slice(&written);
        }
    }
    flush(&mut out, map);
    Some(out)
}

/// `Any`: 1 is the type URL, 2 the payload.
fn rewrite_any(bytes: &[u8]) -> Option<Vec<u8>> {
    use prost::Message as _;
    let mut any = xds_types::google::protobuf::Any::decode(bytes).ok()?;
    if let Ok(name) = xds_types::any::type_name(&any.type_url)
        && let Some(inner) = xds_types::descriptors::message(name)
    {
        any.value = rewrite(&inner, &any.value)?;
    }
    Some(any.encode_to_vec())
}

fn flush(out: &mut Vec<u8>, map: Option<(u32, Vec<Vec<u8>>)>) {
    if let Some((_, mut entries)) = map {
        entries.sort_unstable();
        entries.iter().for_each(|e| out.extend_from_slice(e));
    }
}

fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(m) => Some(m),
        _ => None,
    }
}

const LENGTH: u8 = 2;

struct Field<'a> {
    number: u32,
    wire: u8,
    body: &'a [u8],
}

/// The next field, and all of its bytes.
fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(Field<'a>, &'a [u8])> {
    let whole = *rest;
    let tag = varint(rest)?;
    let (number, wire) = (u32::try_from(tag >> 3).ok()?, (tag & 7) as u8);
    let body = match wire {
        0 => {
            let before = *rest;
            varint(rest)?;
            &before[..before.len() - rest.len()]
        }
        1 => take(rest, 8)?,
        5 => take(rest, 4)?,
        LENGTH => {
            let len = usize::try_from(varint(rest)?).ok()?;
            take(rest, len)?
        }
        _ => return None,
    };
    Some((Field { number, wire, body }, &whole[..whole.len() - rest.len()]))
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use xds_types::envoy::config::core::v3::Metadata;
    use xds_types::envoy::config::listener::v3::{Filter, Listener, filter::ConfigType};
    use xds_types::google::protobuf::{Struct, Value, value::Kind as ValueKind};

    fn metadata(keys: &[&str]) -> Metadata {
        let mut fields = Struct::default();
        for k in keys {
            fields.fields.insert((*k).into(), Value { kind: Some(ValueKind::NumberValue(1.0)) });
        }
        Metadata { filter_metadata: [("m".to_owned(), fields)].into(), ..Metadata::default() }
    }

    #[test]
    fn maps_inside_any_payloads_are_sorted_too() {
        let keys: Vec<String> = (0..16).map(|i| format!("key{i}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let encode = || {
            let filter = Filter {
                name: "x".into(),
                config_type: Some(ConfigType::TypedConfig(xds_types::any::pack(&metadata(&keys)))),
            };
            let mut listener = Listener::default();
            listener.default_filter_chain.get_or_insert_default().filters.push(filter);
            canonical(&xds_types::descriptors::of::<Listener>(), &listener.encode_to_vec())
        };
        let first = encode();
        for _ in 0..20 {
            assert_eq!(encode(), first);
        }
    }

    #[test]
    fn the_message_stays_what_it_was() {
        let message = metadata(&["c", "a", "b"]);
        let bytes = canonical(&xds_types::descriptors::of::<Metadata>(), &message.encode_to_vec());
        assert_eq!(Metadata::decode(&*bytes).unwrap(), message);
    }

    #[test]
    fn bytes_that_are_no_message_come_back_as_they_were() {
        let broken = [0x0a, 0x7f, 0x01];
        assert_eq!(canonical(&xds_types::descriptors::of::<Metadata>(), &broken), broken);
    }
}
