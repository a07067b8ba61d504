//! The secrets section: what Envoy shows of them, and no key.

use super::{Taken, failure, item, json, list, stamp};
use crate::admin::Section;
use crate::xds::{Good, SecretEntry, Xds};
use data_plane_core::config::{Secret, SecretKind};
use data_plane_core::translate::Resource;
use prost::Name;
use std::rc::Rc;
use xds_types::any;
use xds_types::envoy::admin::v3::{SecretsConfigDump, secrets_config_dump};
use xds_types::envoy::config::core::v3::{DataSource, data_source::Specifier};
use xds_types::envoy::extensions::transport_sockets::tls::v3 as tls;
use xds_types::google::protobuf::Any;
use xds_types::redact::REDACTED;

/// Static secrets, delivered ones, and those that are waited for.
pub(super) fn section(taken: &Rc<Taken>, xds: &Xds) -> Section {
    use secrets_config_dump::{DynamicSecret, StaticSecret};
    let statics = taken.boot.proto.static_resources.iter().flat_map(|s| &s.secrets);
    let statics = statics.map(|secret| {
        let (name, raw) = (secret.name.clone(), any::pack(secret));
        item(&secret.name, move || {
            let (name, secret) = (name.clone(), Some(raw.clone()));
            json(&StaticSecret { name, secret, ..StaticSecret::default() })
        })
    });
    let statics = statics.collect();
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    for SecretEntry { name, since, entry } in xds.secrets() {
        let list = if entry.good.is_some() { &mut active } else { &mut warming };
        let label = name.to_string();
        list.push(item(&name, move || {
            let error_state = entry.refused.as_ref().map(failure);
            let name = label.clone();
            let (version_info, last_updated, secret) = match &entry.good {
                Some(good) => (good.version.to_string(), stamp(good.updated), shown(good)),
                None => {
                    let bare = tls::Secret { name: name.clone(), ..tls::Secret::default() };
                    ("uninitialized".into(), stamp(since), any::pack(&bare))
                }
            };
            let secret = Some(secret);
            json(&DynamicSecret {
                name,
                version_info,
                last_updated,
                secret,
                error_state,
                ..Default::default()
            })
        }));
    }
    Section {
        type_url: SecretsConfigDump::type_url(),
        fields: Vec::new(),
        lists: vec![
            list::<StaticSecret>("static_secrets", statics),
            list::<DynamicSecret>("dynamic_active_secrets", active),
            list::<DynamicSecret>("dynamic_warming_secrets", warming),
        ],
    }
}

/// A secret as received, with the certificates of its files in their place, as Envoy shows them. Keys never are.
fn shown(good: &Good) -> Any {
    let Resource::Secret(secret) = &good.resource else { return Any::default() };
    let Ok(mut proto) = any::unpack::<tls::Secret>(&good.raw) else { return Any::default() };
    resolve(&mut proto, secret);
    any::pack(&proto)
}

fn resolve(proto: &mut tls::Secret, secret: &Secret) {
    match (&mut proto.r#type, &secret.kind) {
        (Some(tls::secret::Type::TlsCertificate(proto)), SecretKind::Certificate(certificate)) => {
            put(&mut proto.certificate_chain, &certificate.chain_pem);
            put(&mut proto.private_key, REDACTED.as_bytes());
        }
        (Some(tls::secret::Type::ValidationContext(proto)), SecretKind::Validation(context)) => {
            if let Some(ca) = &context.trusted_ca {
                put(&mut proto.trusted_ca, ca);
            }
        }
        _ => {}
    }
}

/// Puts content where a file is named.
fn put(source: &mut Option<DataSource>, content: &[u8]) {
    if let Some(DataSource { specifier: Some(specifier), .. }) = source
        && matches!(specifier, Specifier::Filename(_))
    {
        *specifier = Specifier::InlineBytes(content.to_vec());
    }
}
