//! Blanks the fields that are marked sensitive, for dumps and logs.
//!
//! Envoy's protos mark them with `udpa.annotations.sensitive`, ours with `portolan.annotations.v1.sensitive`.
//! Everything below such a field is blanked, as Envoy does: strings and bytes become `[redacted]`, other
//! scalars are cleared, map keys stay. Every dump goes through here before it is printed.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use crate::google::protobuf::Struct;
use crate::typed_struct::is_typed_struct;
use crate::{any, canonical, descriptors, text};

/// What stands in place of a sensitive string.
pub const REDACTED: &str = "[redacted]";

/// Nesting of messages past which payloads are blanked unseen; bounds the stack.
const MAX_DEPTH: u32 = 200;

/// Blanks every sensitive field, payloads of `Any` and `TypedStruct` included.
pub fn redact(message: &mut DynamicMessage) {
    walk(message, false, 0);
}

/// A copy of a message without its secrets.
pub fn redacted<M: Message + Name>(message: &M) -> DynamicMessage {
    let mut copy = descriptors::to_dynamic(message);
    redact(&mut copy);
    copy
}

/// The options that mark a field.
const MARKS: [&str; 2] = ["udpa.annotations.sensitive", "portolan.annotations.v1.sensitive"];

fn is_sensitive(field: &FieldDescriptor) -> bool {
    let generation = descriptors::generation(field.parent_message());
    let marks = generation.marks.get_or_init(|| {
        MARKS.iter().filter_map(|name| field.parent_pool().get_extension_by_name(name)).collect()
    });
    let options = field.options();
    marks.iter().any(|mark| options.get_extension(mark).as_bool() == Some(true))
}

/// Blanks one message; `inside` says that it stands below a sensitive field. Tells whether it changed.
fn walk(message: &mut DynamicMessage, inside: bool, depth: u32) -> bool {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return payload(message, inside, depth);
    }
    let mut cleared = Vec::new();
    let mut changed = false;
    for (field, value) in message.fields_mut() {
        let blank = inside || is_sensitive(&field);
        match field.kind() {
            Kind::Message(entry) if entry.is_map_entry() => {
                let kind = entry.map_entry_value_field().kind();
                let Value::Map(map) = value else { continue };
                if blank && !is_blankable(&kind) {
                    cleared.push(field);
                    continue;
                }
                map.values_mut().for_each(|v| changed |= one(v, blank, depth));
            }
            kind if blank && !is_blankable(&kind) => cleared.push(field),
            _ => match value {
                Value::List(items) => items.iter_mut().for_each(|v| changed |= one(v, blank, depth)),
                value => changed |= one(value, blank, depth),
            },
        }
    }
    for field in &cleared {
        message.clear_field(field);
    }
    changed || !cleared.is_empty()
}

/// Whether values of a kind can be shown as `[redacted]`, or are walked; others are cleared.
fn is_blankable(kind: &Kind) -> bool {
    matches!(kind, Kind::String | Kind::Bytes | Kind::Message(_))
}

fn one(value: &mut Value, blank: bool, depth: u32) -> bool {
    match value {
        Value::Message(child) if depth < MAX_DEPTH => return walk(child, blank, depth + 1),
        Value::Message(child) => *child = DynamicMessage::new(child.descriptor()),
        Value::String(text) if blank || holds_key(text.as_bytes()) => REDACTED.clone_into(text),
        Value::Bytes(bytes) if blank || holds_key(bytes) => *bytes = REDACTED.as_bytes().into(),
        _ => return false,
    }
    true
}

/// Whether a PEM text holds a private key, be it in a field that should not: a certificate chain and its key are
/// often kept in one file.
fn holds_key(bytes: &[u8]) -> bool {
    const END: &[u8] = b"PRIVATE KEY-----";
    bytes.len() > END.len() && bytes.windows(END.len()).any(|window| window == END)
}

/// Blanks the payload of an `Any`. What cannot be looked into is blanked whole where it may hold a secret.
fn payload(any_message: &mut DynamicMessage, inside: bool, depth: u32) -> bool {
    let (url, bytes) = (any_message.get_field_by_name("type_url"), any_message.get_field_by_name("value"));
    let (Some(url), Some(bytes)) = (url, bytes) else { return false };
    let (Some(url), Some(bytes)) = (url.as_str(), bytes.as_bytes()) else { return false };
    let name = any::type_name(url).unwrap_or_default();
    let decoded = any::decode(url, bytes).ok().filter(|_| depth < MAX_DEPTH);
    let new = match decoded {
        Some(message) if is_typed_struct(name) => typed_struct(message, name, bytes, inside, depth),
        Some(mut message) => {
            walk(&mut message, inside, depth + 1).then(|| canonical::encode_dynamic(&message))
        }
        None if inside || depth >= MAX_DEPTH => (!bytes.is_empty()).then(|| REDACTED.as_bytes().to_vec()),
        None => None,
    };
    let Some(new) = new else { return false };
    any_message.set_field_by_name("value", Value::Bytes(new.into()));
    true
}

/// The bytes of a `TypedStruct` whose value is blanked as the message it names; `None` when nothing changes.
fn typed_struct(
    mut outer: DynamicMessage,
    name: &str,
    bytes: &[u8],
    inside: bool,
    depth: u32,
) -> Option<Vec<u8>> {
    match any::typed_struct_message(name, bytes) {
        Ok(mut message) => {
            if !walk(&mut message, inside, depth + 1) {
                return None;
            }
            let json = text::dynamic_to_json(&message).to_string();
            let value = text::from_yaml::<Struct>(&json).unwrap_or_default();
            outer.set_field_by_name("value", Value::Message(descriptors::to_dynamic(&value)));
        }
        Err(any::Error::UnknownType(_)) if !inside => return None,
        Err(_) => outer.clear_field_by_name("value"),
    }
    Some(canonical::encode_dynamic(&outer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::bootstrap::v3::Bootstrap;
    use crate::google::protobuf::Any;
    use serde_json::{Value as Json, json};

    fn dump(yaml: &str) -> Json {
        let message: Bootstrap = text::from_yaml(yaml).unwrap_or_else(|e| panic!("{e}"));
        text::dynamic_to_json(&redacted(&message))
    }

    const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

    #[test]
    fn keys_and_passwords_are_blanked_and_the_rest_stays() {
        let dump = dump(
            "static_resources: {secrets: [
              {name: a, tls_certificate: {certificate_chain: {filename: c.pem}, private_key: {inline_string: KEY}, password: {inline_bytes: aGk=}}},
              {name: b, session_ticket_keys: {keys: [{inline_string: K1}, {filename: k2}]}},
              {name: c, generic_secret: {secret: {environment_variable: SECRET}}}]}",
        );
        let expected = json!({"secrets": [
            {"name": "a", "tls_certificate": {
                "certificate_chain": {"filename": "c.pem"},
                "private_key": {"inline_string": "[redacted]"},
                "password": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
            }},
            {"name": "b", "session_ticket_keys": {"keys": [
                {"inline_string": "[redacted]"}, {"filename": "[redacted]"}]}},
            {"name": "c", "generic_secret": {"secret": {"environment_variable": "[redacted]"}}},
        ]});
        assert_eq!(dump["static_resources"], expected);
    }

    #[test]
    fn a_private_key_is_blanked_wherever_it_stands() {
        let pem = "-----BEGIN EC PRIVATE KEY-----\\nPLANTED\\n-----END EC PRIVATE KEY-----\\n";
        let dump = dump(&format!(
            "static_resources: {{secrets: [{{name: a, tls_certificate: {{certificate_chain: {{inline_string: \"{pem}\"}}}}}}]}}"
        ));
        let chain = &dump["static_resources"]["secrets"][0]["tls_certificate"]["certificate_chain"];
        assert_eq!(chain["inline_string"], "[redacted]");
    }

    #[test]
    fn payloads_of_any_and_typed_struct_are_blanked() {
        let context = "common_tls_context: {tls_certificates: [{private_key: {inline_string: KEY}, certificate_chain: {filename: c.pem}}]}";
        let cluster = |config: &str| {
            format!(
                "static_resources: {{clusters: [{{name: a, transport_socket: {{name: tls, typed_config: {{{config}}}}}}}]}}"
            )
        };
        for config in [
            format!("'@type': {TLS}, {context}"),
            format!(
                "'@type': type.googleapis.com/xds.type.v3.TypedStruct, type_url: {TLS}, value: {{{context}}}"
            ),
        ] {
            let dump = dump(&cluster(&config)).to_string();
            assert!(!dump.contains("KEY") && dump.contains("[redacted]") && dump.contains("c.pem"), "{dump}");
            assert_eq!(dump.contains("TypedStruct"), config.contains("TypedStruct"), "the type stays");
        }
    }

    #[test]
    fn whatever_stands_below_a_sensitive_field_is_blanked() {
        let provider = |typed: &str| {
            format!(
                "static_resources: {{secrets: [{{name: a, tls_certificate: {{private_key_provider: {{provider_name: p, typed_config: {typed}}}}}}}]}}"
            )
        };
        let typed =
            "{'@type': type.googleapis.com/google.protobuf.Struct, value: {k: KEY, n: 5, l: [KEY, true]}}";
        let dump = dump(&provider(typed));
        let got = &dump["static_resources"]["secrets"][0]["tls_certificate"]["private_key_provider"];
        assert_eq!(got["provider_name"], "p");
        assert_eq!(got["typed_config"]["value"]["k"], "[redacted]");
        assert!(!got.to_string().contains("KEY") && !got.to_string().contains('5'), "{got}");

        let unknown = Any { type_url: "type.googleapis.com/un.known".into(), value: b"KEY".to_vec() };
        let mut message: Bootstrap = text::from_yaml(&provider("{}")).unwrap();
        let secret = &mut message.static_resources.as_mut().unwrap().secrets[0];
        use crate::envoy::extensions::transport_sockets::tls::v3 as tls;
        let Some(tls::secret::Type::TlsCertificate(certificate)) = &mut secret.r#type else { panic!() };
        let provider = certificate.private_key_provider.as_mut().unwrap();
        provider.config_type = Some(tls::private_key_provider::ConfigType::TypedConfig(unknown.clone()));
        let shown = format!("{}", redacted(&message));
        assert!(shown.contains("[redacted]") && !shown.contains("KEY"), "{shown}");
        let mut outside = descriptors::to_dynamic(&unknown);
        redact(&mut outside);
        assert_eq!(
            descriptors::from_dynamic::<Any>(&outside).unwrap(),
            unknown,
            "elsewhere it stays as it is"
        );
    }

    #[test]
    fn both_marks_are_known() {
        for mark in MARKS {
            assert!(descriptors::pool().get_extension_by_name(mark).is_some(), "{mark}");
        }
    }
}
