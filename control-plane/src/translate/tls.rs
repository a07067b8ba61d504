//! TLS of listeners and towards services: contexts that name their secrets, which come by SDS.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::{Message, Name};
use xds_types::ResourceType;
use xds_types::envoy::config::core::v3::data_source::Specifier;
use xds_types::envoy::config::core::v3::{
    DataSource, TransportSocket, UpstreamHttpProtocolOptions, transport_socket,
};
use xds_types::envoy::config::listener::v3::{
    FilterChainMatch, ListenerFilter, listener_filter::ConfigType as ListenerFilterConfig,
};
use xds_types::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use xds_types::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use xds_types::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use xds_types::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use xds_types::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, GenericSecret, SdsSecretConfig,
    Secret as EnvoySecret, SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext, secret,
};
use xds_types::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use xds_types::portolan::config::v1::mutual_tls::Mode;
use xds_types::portolan::config::v1::{
    Discovery, Listener, ListenerTls, Secret, Service, ServiceTls, SubjectName, discovery, secret::From,
    service, service_tls, subject_name, tls_version,
};

use super::names;
use super::parts::{ads, yes};
use crate::authority::{Identity, Issued};
use crate::model::ObjectKey;
use crate::snapshot::{Reference, Resource, Version};

/// Where Debian, and Envoy's images, keep the authorities of the system.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How a connection to or from a listener is made, and when it is of this kind.
pub(super) struct Chain {
    pub socket: Option<TransportSocket>,
    pub matching: Option<FilterChainMatch>,
    /// The client may show a certificate.
    pub knows_clients: bool,
}

/// What TLS adds to a listener: chains to choose from, and the secrets they name.
pub(super) struct Inbound {
    pub chains: Vec<Chain>,
    pub references: Vec<Reference>,
}

/// How a listener takes connections. `mtls` is what holds for it, its service's word included.
pub(super) fn inbound(l: &Listener, service: &str, mtls: Mode) -> Inbound {
    if let Some(tls) = &l.tls {
        let (context, references) = terminate(tls);
        let server_names = l.hostnames.iter().map(|h| h.to_ascii_lowercase()).collect::<Vec<_>>();
        let matching = (!server_names.is_empty())
            .then(|| FilterChainMatch { server_names, ..FilterChainMatch::default() });
        let chain =
            Chain { socket: Some(socket(&context)), matching, knows_clients: !tls.client_ca.is_empty() };
        return Inbound { chains: vec![chain], references };
    }
    let plain = || Chain { socket: None, matching: None, knows_clients: false };
    if !matches!(mtls, Mode::Permissive | Mode::Strict) {
        return Inbound { chains: vec![plain()], references: Vec::new() };
    }
    let own = if service.is_empty() { names::OWN_IDENTITY.into() } else { names::service_identity(service) };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: parameters(tls_version::Version::Tls13.into()),
            tls_certificate_sds_secret_configs: vec![sds(&own)],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(sds(
                names::AUTHORITIES,
            ))),
            alpn_protocols: alpn(&[]),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: yes(),
        ..DownstreamTlsContext::default()
    };
    let references = vec![secret_reference(&own), secret_reference(names::AUTHORITIES)];
    let permissive = mtls == Mode::Permissive;
    let matching = permissive
        .then(|| FilterChainMatch { transport_protocol: "tls".to_owned(), ..FilterChainMatch::default() });
    let mut chains = vec![Chain { socket: Some(socket(&context)), matching, knows_clients: true }];
    if permissive {
        chains.push(plain());
    }
    Inbound { chains, references }
}

fn terminate(tls: &ListenerTls) -> (DownstreamTlsContext, Vec<Reference>) {
    let ListenerTls { certificates, client_ca, require_client_certificate, min_version, alpn: offered } = tls;
    let mut references: Vec<Reference> = certificates.iter().map(|n| secret_reference(n)).collect();
    let mut common = CommonTlsContext {
        tls_params: parameters(*min_version),
        tls_certificate_sds_secret_configs: certificates.iter().map(|n| sds(n)).collect(),
        alpn_protocols: alpn(offered),
        ..CommonTlsContext::default()
    };
    if !client_ca.is_empty() {
        references.push(secret_reference(client_ca));
        common.validation_context_type =
            Some(ValidationContextType::ValidationContextSdsSecretConfig(sds(client_ca)));
    }
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: if *require_client_certificate { yes() } else { None },
        ..DownstreamTlsContext::default()
    };
    (context, references)
}

/// Tells TLS from plaintext, and reads the name asked for.
pub(super) fn inspector() -> ListenerFilter {
    let config = xds_types::any::pack(&TlsInspector::default());
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(ListenerFilterConfig::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}

/// What TLS adds to a cluster.
#[derive(Default)]
pub(super) struct Outbound {
    pub socket: Option<TransportSocket>,
    /// Take the name from each request's host.
    pub by_host: Option<UpstreamHttpProtocolOptions>,
    pub references: Vec<Reference>,
}

/// How proxies connect to a service.
pub(super) fn outbound(service: &str, spec: &Service, trust_domain: &str) -> Outbound {
    let http2 = service::Protocol::try_from(spec.protocol) == Ok(service::Protocol::Http2);
    let alpn_protocols = vec![if http2 { "h2" } else { "http/1.1" }.to_owned()];
    if crate::model::check::speaks_mtls(spec.mtls) {
        // The instances' certificate is that of the service, whatever it is called elsewhere.
        let uri = Identity::Service(registered_as(service, spec.discovery.as_ref()).into()).uri(trust_domain);
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_params: parameters(tls_version::Version::Tls13.into()),
                tls_certificate_sds_secret_configs: vec![sds(names::OWN_IDENTITY)],
                validation_context_type: Some(combined(vec![san(SanType::Uri, uri)], names::AUTHORITIES)),
                alpn_protocols,
                ..CommonTlsContext::default()
            }),
            ..UpstreamTlsContext::default()
        };
        let references = vec![secret_reference(names::OWN_IDENTITY), secret_reference(names::AUTHORITIES)];
        return Outbound { socket: Some(socket(&context)), by_host: None, references };
    }
    let Some(tls) = &spec.tls else { return Outbound::default() };
    let ServiceTls { mode, sni, ca, client_certificate, sans, min_version } = tls;
    let verify = *mode == i32::from(service_tls::Mode::Verify);
    let sni = asked_for(sni, spec.discovery.as_ref()).to_owned();
    let mut references = Vec::new();
    let mut common = CommonTlsContext {
        tls_params: parameters(*min_version),
        alpn_protocols,
        ..CommonTlsContext::default()
    };
    if !client_certificate.is_empty() {
        common.tls_certificate_sds_secret_configs = vec![sds(client_certificate)];
        references.push(secret_reference(client_certificate));
    }
    if verify {
        let mut matchers: Vec<SubjectAltNameMatcher> = sans.iter().filter_map(subject_name).collect();
        if matchers.is_empty() && !sni.is_empty() {
            matchers.push(san(SanType::Dns, sni.clone()));
        }
        common.validation_context_type = Some(if ca.is_empty() {
            let trusted_ca = Some(DataSource {
                specifier: Some(Specifier::Filename(SYSTEM_AUTHORITIES.to_owned())),
                ..DataSource::default()
            });
            let context = CertificateValidationContext {
                trusted_ca,
                match_typed_subject_alt_names: matchers,
                ..CertificateValidationContext::default()
            };
            ValidationContextType::ValidationContext(context)
        } else {
            references.push(secret_reference(ca));
            combined(matchers, ca)
        });
    }
    let by_host = sni.is_empty().then(|| UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: verify && sans.is_empty(),
        ..UpstreamHttpProtocolOptions::default()
    });
    let context =
        UpstreamTlsContext { common_tls_context: Some(common), sni, ..UpstreamTlsContext::default() };
    Outbound { socket: Some(socket(&context)), by_host, references }
}

/// The name that TLS asks a service for, where it is the same for every connection.
fn asked_for<'a>(sni: &'a str, discovery: Option<&'a Discovery>) -> &'a str {
    match (sni, discovery.and_then(|d| d.from.as_ref())) {
        ("", Some(discovery::From::Dns(dns))) => &dns.hostname,
        (sni, _) => sni,
    }
}

/// Whether a service's certificates are verified, but by the host of each request: without requests, any name would do.
pub(super) fn names_nobody(spec: &Service) -> bool {
    let Some(tls) = spec.tls.as_ref().filter(|_| !crate::model::check::speaks_mtls(spec.mtls)) else {
        return false;
    };
    tls.mode == i32::from(service_tls::Mode::Verify)
        && tls.sans.is_empty()
        && asked_for(&tls.sni, spec.discovery.as_ref()).is_empty()
}

fn registered_as<'a>(service: &'a str, discovery: Option<&'a Discovery>) -> &'a str {
    match discovery.and_then(|d| d.from.as_ref()) {
        Some(discovery::From::Service(other)) => other,
        _ => service,
    }
}

fn subject_name(name: &SubjectName) -> Option<SubjectAltNameMatcher> {
    use subject_name::Name as Of;
    Some(match name.name.as_ref()? {
        Of::Dns(dns) => san(SanType::Dns, dns.to_ascii_lowercase()),
        Of::Ip(ip) => san(SanType::IpAddress, ip.clone()),
        Of::Uri(uri) => san(SanType::Uri, uri.clone()),
    })
}

fn san(kind: SanType, exact: String) -> SubjectAltNameMatcher {
    let matcher =
        StringMatcher { match_pattern: Some(MatchPattern::Exact(exact)), ..StringMatcher::default() };
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(matcher),
        ..SubjectAltNameMatcher::default()
    }
}

fn combined(sans: Vec<SubjectAltNameMatcher>, authorities: &str) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: sans,
            ..CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(sds(authorities)),
        ..CombinedCertificateValidationContext::default()
    })
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) }
}

fn secret_reference(name: &str) -> Reference {
    Reference::new(ResourceType::Secret, name)
}

fn alpn(offered: &[String]) -> Vec<String> {
    if offered.is_empty() { vec!["h2".to_owned(), "http/1.1".to_owned()] } else { offered.to_vec() }
}

fn parameters(min_version: i32) -> Option<TlsParameters> {
    use tls_version::Version as V;
    let least = match V::try_from(min_version) {
        Ok(V::Tls13) => TlsProtocol::TlSv13,
        Ok(V::Tls12) => TlsProtocol::TlSv12,
        Ok(V::Default) | Err(_) => TlsProtocol::TlsAuto, // 1.2
    };
    Some(TlsParameters {
        tls_minimum_protocol_version: least.into(),
        // Said, because Envoy's default for clients is 1.2 at most.
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..TlsParameters::default()
    })
}

fn socket<M: Message + Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(xds_types::any::pack(context))),
    }
}

/// What the secrets that resources name are of the kinds they are used as: `certificate` or `authorities`.
pub(super) fn secrets_of_gateway(
    spec: &xds_types::portolan::config::v1::Gateway,
) -> Vec<(String, &str, &'static str)> {
    let mut named = Vec::new();
    for (i, l) in spec.listeners.iter().enumerate() {
        let Some(tls) = &l.tls else { continue };
        for (j, name) in tls.certificates.iter().enumerate() {
            named.push((format!("spec.listeners[{i}].tls.certificates[{j}]"), name.as_str(), "certificate"));
        }
        if !tls.client_ca.is_empty() {
            named.push((format!("spec.listeners[{i}].tls.client_ca"), tls.client_ca.as_str(), "authorities"));
        }
    }
    named
}

/// The same of a Service.
pub(super) fn secrets_of_service(spec: &Service) -> Vec<(String, &str, &'static str)> {
    let Some(tls) = &spec.tls else { return Vec::new() };
    let named = [
        ("spec.tls.ca", tls.ca.as_str(), "authorities"),
        ("spec.tls.client_certificate", tls.client_certificate.as_str(), "certificate"),
    ];
    named.into_iter().filter(|(_, n, _)| !n.is_empty()).map(|(p, n, k)| (p.to_owned(), n, k)).collect()
}

/// Names of secrets that a fragment of `patch` may name besides, which is anything: those of values.
pub(super) fn is_on(listeners: &[Listener]) -> bool {
    listeners.iter().any(|l| crate::model::check::speaks_mtls(l.mtls))
}

/// The resource of a Secret. Its version says nothing of what it holds: that of what it was sealed as.
pub(super) fn secret(name: &str, secret: &Secret, sealed: &[u8], key: &ObjectKey) -> Option<Resource> {
    let kind = match secret.from.as_ref()? {
        From::Certificate(c) => certificate(&c.chain, &c.key),
        From::Authorities(a) => {
            let crl = (!a.revocation_lists.trim().is_empty()).then(|| inline(&a.revocation_lists));
            secret::Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(&a.certificates)),
                crl,
                ..CertificateValidationContext::default()
            })
        }
        From::Value(v) => secret::Type::GenericSecret(GenericSecret {
            secret: Some(inline(&v.text)),
            ..GenericSecret::default()
        }),
        From::Sealed(_) => return None,
    };
    Some(resource(name, kind, Version::of(sealed), vec![key.clone()]))
}

fn certificate(chain: &str, key: &str) -> secret::Type {
    secret::Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ..TlsCertificate::default()
    })
}

/// An issued certificate as a resource; its version is that of the certificate, which is no secret.
pub(super) fn issued(name: &str, issued: &Issued) -> Resource {
    let kind = certificate(&issued.chain, &issued.key);
    resource(name, kind, Version::of(issued.chain.as_bytes()), Vec::new())
}

/// What proxies of the fleet trust.
pub(super) fn authorities(bundle: &str) -> Resource {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(bundle)),
        ..CertificateValidationContext::default()
    };
    let kind = secret::Type::ValidationContext(context);
    resource(names::AUTHORITIES, kind, Version::of(bundle.as_bytes()), Vec::new())
}

fn resource(name: &str, kind: secret::Type, version: Version, origin: Vec<ObjectKey>) -> Resource {
    let message = EnvoySecret { name: name.to_owned(), r#type: Some(kind) };
    let encoded = Resource::encode(ResourceType::Secret, name, &message, Vec::new(), origin);
    Resource { version, ..encoded }
}

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..DataSource::default() }
}

/// Names of the secrets that resources refer to.
pub(super) fn named<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> BTreeSet<Arc<str>> {
    resources
        .flat_map(|r| r.references.iter())
        .filter(|r| r.kind == ResourceType::Secret)
        .map(|r| r.name.clone())
        .collect()
}
