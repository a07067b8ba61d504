//! Deterministic bytes: one message, one encoding.
//!
//! Generated and dynamic messages keep maps in hash maps, which encode in another order each time. Content
//! hashes and comparisons of `Any` need one order, so map entries are sorted by their encoded bytes here.

use std::collections::HashMap;
use std::sync::{LazyLock, RwLock};

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _};

use crate::descriptors;

/// Encodes a typed message with its map entries in order.
pub fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    sort(message.encode_to_vec(), &descriptors::of::<M>())
}

/// [`encode`] for a dynamic message.
pub fn encode_dynamic(message: &DynamicMessage) -> Vec<u8> {
    sort(message.encode_to_vec(), &message.descriptor())
}

fn sort(bytes: Vec<u8>, of: &MessageDescriptor) -> Vec<u8> {
    if !holds_map(of) {
        return bytes;
    }
    sorted(&bytes, of).unwrap_or(bytes)
}

/// `None` when the bytes are not a message, which an encoder never makes.
fn sorted(bytes: &[u8], of: &MessageDescriptor) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut run: (u32, Vec<Vec<u8>>) = (0, Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let start = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        if number != run.0 {
            flush(&mut run, &mut out);
        }
        let len = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let (payload, after) = rest.split_at_checked(len)?;
        rest = after;
        let field = of.get_field(number);
        let child = field.as_ref().and_then(|f| f.kind().as_message().cloned());
        match child.filter(|c| wire == WireType::LengthDelimited && (c.is_map_entry() || holds_map(c))) {
            Some(child) => {
                let payload = sorted(payload, &child)?;
                let mut whole = Vec::with_capacity(payload.len() + 8);
                encode_key(number, wire, &mut whole);
                encode_varint(payload.len() as u64, &mut whole);
                whole.extend(payload);
                if child.is_map_entry() {
                    run.0 = number;
                    run.1.push(whole);
                } else {
                    out.extend(whole);
                }
            }
            None => out.extend_from_slice(&start[..start.len() - rest.len()]),
        }
    }
    flush(&mut run, &mut out);
    Some(out)
}

fn flush(run: &mut (u32, Vec<Vec<u8>>), out: &mut Vec<u8>) {
    run.1.sort_unstable();
    for entry in run.1.drain(..) {
        out.extend(entry);
    }
}

/// Whether a message, or one that it can hold, has a map. Remembered for each type.
fn holds_map(of: &MessageDescriptor) -> bool {
    static KNOWN: LazyLock<RwLock<HashMap<String, bool>>> = LazyLock::new(RwLock::default);
    if let Some(known) = KNOWN.read().ok().and_then(|known| known.get(of.full_name()).copied()) {
        return known;
    }
    let mut visited = vec![of.clone()];
    let mut next = 0;
    let mut found = false;
    while let Some(message) = visited.get(next).cloned() {
        next += 1;
        for field in message.fields() {
            found |= field.is_map();
            if let Kind::Message(child) = field.kind()
                && !visited.contains(&child)
            {
                visited.push(child);
            }
        }
        if found {
            break;
        }
    }
    if let Ok(mut known) = KNOWN.write() {
        known.insert(of.full_name().to_owned(), found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::core::v3::{Metadata, Node};
    use crate::google::protobuf::{Struct, Value, value::Kind as ValueKind};

    fn node() -> Node {
        let value = |i: usize| Value { kind: Some(ValueKind::NumberValue(i as f64)) };
        let fields = || (0..20).map(|i| (format!("key{i}"), value(i))).collect();
        let mut node =
            Node { id: "n".into(), metadata: Some(Struct { fields: fields() }), ..Node::default() };
        node.dynamic_parameters.insert("b".into(), Default::default());
        node.dynamic_parameters.insert("a".into(), Default::default());
        node
    }

    #[test]
    fn one_message_has_one_encoding() {
        let first = encode(&node());
        for _ in 0..20 {
            assert_eq!(encode(&node()), first);
        }
        assert_eq!(Node::decode(&*first).unwrap(), node(), "sorting changes nothing but the order");
    }

    #[test]
    fn nested_maps_are_sorted_too() {
        let metadata = || Metadata {
            filter_metadata: (0..9).map(|i| (format!("f{i}"), node().metadata.unwrap())).collect(),
            ..Metadata::default()
        };
        assert_eq!(encode(&metadata()), encode(&metadata()));
    }
}
