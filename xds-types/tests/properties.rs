//! Properties of the reader and the writers: nothing panics, and what goes out comes back.

use std::collections::HashMap;

use proptest::prelude::*;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use xds_types::envoy::config::bootstrap::v3::Bootstrap;
use xds_types::text::{self, Options, Source};
use xds_types::{any, canonical, descriptors, google, redact, resource, rules};

/// A stream of choices: a message is grown from it, so that a shorter stream is a smaller message.
struct Choices<'b> {
    bytes: std::slice::Iter<'b, u8>,
}

impl Choices<'_> {
    fn next(&mut self) -> u8 {
        self.bytes.next().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.next()))
    }

    fn text(&mut self) -> String {
        const PARTS: [&str; 16] = [
            "a", "on", " ", "\n", "é", "😀", "\"", "\\", ": ", "#", "- ", "5", "\u{7f}", "\u{feff}", "null",
            "'",
        ];
        (0..self.next() % 6).map(|_| PARTS[usize::from(self.next()) % PARTS.len()]).collect()
    }
}

fn grow(of: &MessageDescriptor, choices: &mut Choices<'_>, depth: u32) -> DynamicMessage {
    let mut message = DynamicMessage::new(of.clone());
    match of.full_name() {
        "google.protobuf.Any" => {
            if let Some(payload) = payload(choices, depth) {
                return descriptors::to_dynamic(&any::pack_dynamic(&payload));
            }
            return message;
        }
        "google.protobuf.Duration" | "google.protobuf.Timestamp" => {
            message.set_field_by_name("seconds", Value::I64((choices.word() % 1_000_000_000) as i64));
            message.set_field_by_name("nanos", Value::I32((choices.word() % 1_000_000_000) as i32));
            return message;
        }
        "google.protobuf.FieldMask" => return message,
        // An empty Value has no JSON of its own: it is null, and null is the null value.
        "google.protobuf.Value" => message.set_field_by_name("null_value", Value::EnumNumber(0)),
        _ => {}
    }
    let fields: Vec<FieldDescriptor> = of.fields().collect();
    if fields.is_empty() || depth > 6 {
        return message;
    }
    for _ in 0..choices.next() % 5 {
        let field = &fields[usize::from(choices.next()) % fields.len()];
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { continue };
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let Some(key) = scalar(&key.kind(), choices).and_then(Value::into_map_key) else { continue };
            let key = if let MapKey::String(k) = key { MapKey::String(k + "k") } else { key };
            let Some(value) = single(&value.kind(), choices, depth) else { continue };
            Value::Map(HashMap::from([(key, value)]))
        } else if field.is_list() {
            Value::List(
                (0..choices.next() % 3).filter_map(|_| single(&field.kind(), choices, depth)).collect(),
            )
        } else {
            let Some(value) = single(&field.kind(), choices, depth) else { continue };
            value
        };
        message.set_field(field, value);
    }
    // A fraction in untyped YAML comes back as its text, as in Envoy.
    if of.full_name() == "google.protobuf.Value" && message.has_field_by_name("number_value") {
        message.set_field_by_name("number_value", Value::F64(f64::from(choices.next())));
    }
    message
}

fn payload(choices: &mut Choices<'_>, depth: u32) -> Option<DynamicMessage> {
    let all = descriptors::pool().all_messages().len();
    let index = (choices.word() as usize) % all;
    let of = descriptors::pool().all_messages().nth(index)?;
    // Old proto2 messages have required fields and groups, which the JSON of proto3 does not speak of.
    let skipped =
        of.is_map_entry() || of.package_name() == "google.protobuf" || of.package_name() == "validate";
    (!skipped && of.full_name() != "xds.type.v3.TypedStruct" && of.full_name() != "udpa.type.v1.TypedStruct")
        .then(|| grow(&of, choices, depth + 1))
}

fn single(kind: &Kind, choices: &mut Choices<'_>, depth: u32) -> Option<Value> {
    match kind {
        Kind::Message(of) => Some(Value::Message(grow(of, choices, depth + 1))),
        kind => scalar(kind, choices),
    }
}

fn scalar(kind: &Kind, choices: &mut Choices<'_>) -> Option<Value> {
    Some(match kind {
        Kind::Bool => Value::Bool(choices.next() % 2 == 1),
        Kind::String => Value::String(choices.text()),
        Kind::Bytes => Value::Bytes(choices.text().into_bytes().into()),
        Kind::Double => Value::F64(f64::from_bits(choices.word())).nan_free(),
        Kind::Float => Value::F32(f32::from_bits(choices.word() as u32)).nan_free(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(choices.word() as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(choices.word() as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(choices.word() as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(choices.word()),
        Kind::Enum(of) => {
            let values: Vec<i32> = of.values().map(|v| v.number()).collect();
            Value::EnumNumber(values[usize::from(choices.next()) % values.len()])
        }
        Kind::Message(_) => return None,
    })
}

trait NanFree {
    fn nan_free(self) -> Self;
}

impl NanFree for Value {
    fn nan_free(self) -> Self {
        match self {
            Value::F64(v) if !v.is_finite() => Value::F64(0.5),
            Value::F32(v) if !v.is_finite() => Value::F32(0.5),
            other => other,
        }
    }
}

fn root(choices: &mut Choices<'_>) -> DynamicMessage {
    const ROOTS: [&str; 5] = [
        "envoy.config.bootstrap.v3.Bootstrap",
        "envoy.config.listener.v3.Listener",
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.route.v3.RouteConfiguration",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    ];
    let name = ROOTS[usize::from(choices.next()) % ROOTS.len()];
    grow(&descriptors::message(name).expect("a known message"), choices, 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_comes_back_from_json_and_from_yaml(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let message = root(&mut Choices { bytes: bytes.iter() });
        let of = prost_reflect::ReflectMessage::descriptor(&message);
        let json = text::dynamic_to_json(&message);
        for out in [json.to_string(), text::json_to_yaml(&json)] {
            let source = Source { name: "out", text: &out };
            let again = text::parse_dynamic(source, &of, Options::default());
            let again = again.map_err(|e| TestCaseError::fail(format!("{e}\n{out}")))?;
            prop_assert_eq!(text::dynamic_to_json(&again.message), json.clone(), "{}", out);
        }
        prop_assert_eq!(canonical::encode_dynamic(&message), canonical::encode_dynamic(&message.clone()));
        let mut blank = message.clone();
        redact::redact(&mut blank);
        rules::check_dynamic(&message);
    }

    #[test]
    fn no_text_panics(text in "[\\PC\\n\\t]{0,120}", name in "a\\.(yaml|json)") {
        drop(text::parse::<Bootstrap>(Source { name: &name, text: &text }));
        drop(resource::parse(Source { name: &name, text: &text }));
    }

    #[test]
    fn no_text_of_likely_pieces_panics(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40),
    ) {
        let text = pieces.concat();
        drop(text::parse::<Bootstrap>(Source { name: "a.yaml", text: &text }));
        drop(resource::parse(Source { name: "a.yaml", text: &text }));
    }

    #[test]
    fn no_bytes_in_an_any_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), index in 0usize..1700) {
        let pool = descriptors::pool();
        let of = pool.all_messages().nth(index % pool.all_messages().len()).unwrap();
        let packed = google::protobuf::Any { type_url: format!("a/{}", of.full_name()), value: bytes };
        text::any_to_json(&packed);
        rules::check(&packed);
        redact::redacted(&packed);
        drop(any::unpack_dynamic(&packed));
    }

    #[test]
    fn no_path_panics(path in "[a-c.\\[\\]\"0-9\\\\é]{0,20}") {
        let source = Source { name: "", text: "{node: {id: a, metadata: {b: [1]}}}" };
        text::parse::<Bootstrap>(source).unwrap().positions.locate(&path);
    }
}

const PIECES: [&str; 40] = [
    "node",
    "static_resources",
    "clusters",
    ": ",
    ":",
    "\n",
    "\n  ",
    "\n- ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: ",
    "!ignore ",
    "!!str ",
    "|\n  x",
    ">-\n y",
    "#",
    "---\n",
    "...\n",
    "null",
    "n",
    "0x1f",
    "1e999",
    "\"@type\": type.googleapis.com/",
    "google.protobuf.Any",
    "envoy.config.core.v3.Node",
    "kind",
    "spec",
    "Service",
    "\\ud83d",
    "5s",
    "\t",
    "? ",
];
