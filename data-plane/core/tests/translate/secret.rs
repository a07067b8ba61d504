//! Secrets.

use super::accepted::{accepted, silent};
use super::refused::check;
use super::*;
use data_plane_core::config::{SanKind, Secret, SecretKind, SecretType, ValidationContext};
use std::path::PathBuf;

fn secret(fields: &str) -> Yaml {
    Yaml::Secret(format!("{{name: s, {fields}}}"))
}

fn certificate(fields: &str) -> Yaml {
    secret(&format!("tls_certificate: {{{fields}}}"))
}

fn validation(fields: &str) -> Yaml {
    secret(&format!("validation_context: {{{fields}}}"))
}

fn as_secret(config: Config) -> Secret {
    let Config::Secret(secret) = config else { panic!("a secret") };
    secret
}

fn as_validation(config: Config) -> ValidationContext {
    match as_secret(config).kind {
        SecretKind::Validation(context) => (*context).clone(),
        other => panic!("{other:?} is no validation context"),
    }
}

const PAIR: &str = "certificate_chain: {inline_string: chain}, private_key: {inline_string: key}";

#[test]
fn what_is_not_supported_or_not_complete_is_refused_with_its_path() {
    let hash = "is not a SHA-256 in hexadecimal: 64 digits, or 32 pairs with colons between them";
    let bad_hash = format!("validation_context.verify_certificate_hash[0]: {hash}");
    check(vec![
        (
            certificate(""),
            &["tls_certificate.certificate_chain: is required", "tls_certificate.private_key: is required"],
        ),
        (
            certificate("certificate_chain: {inline_string: ''}, private_key: {filename: /key.pem}"),
            &[
                "tls_certificate.certificate_chain: is empty",
                "tls_certificate.private_key.filename: /key.pem: no such file",
            ],
        ),
        (
            certificate("pkcs12: {inline_bytes: eA==}"),
            &[
                "tls_certificate.pkcs12: not supported: give certificate_chain and private_key in PEM form",
                "tls_certificate.certificate_chain: is required",
            ],
        ),
        (
            certificate(
                "certificate_chain: {inline_string: c}, private_key_provider: {provider_name: qat, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct}}",
            ),
            &["tls_certificate.private_key_provider: not supported: give the private_key itself"],
        ),
        (
            certificate(&format!("{PAIR}, password: {{inline_string: PLANTED}}")),
            &["tls_certificate.password: encrypted private keys are not supported: decrypt it first"],
        ),
        (
            certificate(&format!("{PAIR}, tls_params: {{}}")),
            &["tls_certificate.tls_params: not supported: parameters are those of the whole context"],
        ),
        (
            certificate(&format!("{PAIR}, ocsp_staple: {{inline_string: text}}")),
            &["tls_certificate.ocsp_staple: must be DER: inline_bytes or filename"],
        ),
        (
            certificate(&format!("{PAIR}, watched_directory: {{}}")),
            &["tls_certificate.watched_directory.path: is required"],
        ),
        (
            secret("session_ticket_keys: {keys: [{inline_string: PLANTED}]}"),
            &["session_ticket_keys.keys[0]: has 7 bytes, must have 80"],
        ),
        (
            validation("ca_certificate_provider_instance: {instance_name: x}"),
            &["validation_context.ca_certificate_provider_instance: not supported: give trusted_ca"],
        ),
        (
            validation("require_signed_certificate_timestamp: true"),
            &[
                "validation_context.require_signed_certificate_timestamp: certificate timestamps are not verified",
            ],
        ),
        (
            validation(
                "custom_validator_config: {name: spiffe, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct}}",
            ),
            &["validation_context.custom_validator_config: custom validators are not supported"],
        ),
        (validation(&format!("verify_certificate_hash: ['{}']", "g".repeat(64))), &[bad_hash.as_str()]),
        (
            validation(&format!("verify_certificate_hash: ['{}']", "00-".repeat(31) + "00")),
            &[bad_hash.as_str()],
        ),
        (
            validation(&format!("verify_certificate_spki: ['{}']", "!".repeat(44))),
            &["validation_context.verify_certificate_spki[0]: is not a SHA-256 in base64"],
        ),
        (
            validation("match_typed_subject_alt_names: [{matcher: {exact: a}}, {san_type: DNS}]"),
            &[
                "validation_context.match_typed_subject_alt_names[0].san_type: is required",
                "validation_context.match_typed_subject_alt_names[1].matcher: is required",
            ],
        ),
        (
            validation(
                "match_typed_subject_alt_names: [{san_type: OTHER_NAME, oid: 1.2.3, matcher: {exact: a}}]",
            ),
            &[
                "validation_context.match_typed_subject_alt_names[0].san_type: OTHER_NAME is not supported: EMAIL, DNS, URI, IP_ADDRESS are",
            ],
        ),
    ]);
}

#[test]
fn a_certificate_is_read_with_where_it_came_from() {
    let files = "certificate_chain: {filename: /body.txt}, private_key: {environment_variable: BODY}, watched_directory: {path: /certs}";
    let read = as_secret(silent(&certificate(files)));
    assert_eq!(read.name, "s".into());
    assert_eq!(read.files.paths, [PathBuf::from("/body.txt")]);
    assert_eq!(read.files.watched_directory, Some("/certs".into()));
    let SecretKind::Certificate(certificate) = &read.kind else { panic!("{read:?}") };
    assert_eq!((&*certificate.chain_pem, &*certificate.chain_origin), (&b"from a file"[..], "/body.txt"));
    assert_eq!(&**certificate.key_pem.expose(), b"from a variable");
    assert!(!format!("{read:?}").contains("from a variable"));
}

#[test]
fn ticket_keys_and_other_secrets_are_read() {
    let key = "k".repeat(80);
    let keys =
        as_secret(silent(&secret(&format!("session_ticket_keys: {{keys: [{{inline_string: {key}}}]}}"))));
    let SecretKind::TicketKeys(keys) = keys.kind else { panic!("{keys:?}") };
    assert_eq!(&**keys.0[0].expose(), key.as_bytes());
    let yaml = "generic_secret: {secret: {inline_string: a}, secrets: {x: {filename: /body.txt}}}";
    let generic = as_secret(silent(&secret(yaml)));
    assert_eq!(generic.files.paths, [PathBuf::from("/body.txt")]);
    let SecretKind::Generic(generic) = generic.kind else { panic!("{generic:?}") };
    assert_eq!(generic.secret.as_ref().map(|s| &**s.expose()), Some(&b"a"[..]));
    assert_eq!(&**generic.secrets["x"].expose(), b"from a file");
}

#[test]
fn hashes_are_read_with_and_without_colons() {
    let (plain, colons) = ("ab".repeat(32), vec!["AB"; 32].join(":"));
    let context = as_validation(silent(&validation(&format!(
        "verify_certificate_hash: ['{plain}', '{colons}'], verify_certificate_spki: ['{}=']",
        "A".repeat(43)
    ))));
    assert_eq!((context.hashes, context.spki), (vec![[0xab; 32]; 2], vec![[0; 32]]));
}

#[test]
fn untyped_names_are_looked_for_among_names_of_every_type_unless_there_are_typed_ones() {
    let old = "match_subject_alt_names: [{exact: a}]";
    let kinds = |context: ValidationContext| context.sans.into_iter().map(|s| s.kind).collect::<Vec<_>>();
    let every = as_validation(silent(&validation(old)));
    assert_eq!(kinds(every), [SanKind::Dns, SanKind::Uri, SanKind::Email, SanKind::Ip]);
    let both = format!("{old}, match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: a}}}}]");
    let (config, ignored) = accepted(&validation(&both));
    assert_eq!(kinds(as_validation(config)), [SanKind::Uri]);
    assert_eq!(
        ignored,
        ["validation_context.match_subject_alt_names: match_typed_subject_alt_names says it"]
    );
}

#[test]
fn static_secrets_are_told_by_name_and_type() {
    let text = format!(
        "static_resources: {{secrets: [{{name: a, tls_certificate: {{{PAIR}, watched_directory: {{path: /c}}}}}}, {{name: a, validation_context: {{}}}}]}}"
    );
    let (config, ignored) = accepted(&bootstrap(&text));
    let Config::Bootstrap(bootstrap) = config else { panic!("a bootstrap") };
    let types: Vec<_> = bootstrap.secrets.iter().map(|s| (&*s.name, s.kind.of())).collect();
    assert_eq!(types, [("a", SecretType::Certificate), ("a", SecretType::Validation)]);
    assert_eq!(
        ignored,
        [
            "static_resources.secrets[0].tls_certificate.watched_directory: only files of secrets delivered by SDS are watched"
        ]
    );
    check(vec![(
        self::bootstrap(
            "static_resources: {secrets: [{name: a, validation_context: {}}, {name: a, validation_context: {}}]}",
        ),
        &["static_resources.secrets[1].name: \"a\" is already the name of secrets[0]"],
    )]);
}
