use super::*;
use crate::model::{Kind, ObjectName};
use rcgen::{CertificateParams, KeyPair, SanType};

fn object() -> ObjectKey {
    ObjectKey::new(Kind::Secret, ObjectName::new("web").unwrap())
}

/// Chain and key of a certificate for a name that ends in some days.
fn pair(name: &str, ends: i64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://t/service/a".try_into().unwrap()));
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::days(60);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(ends);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn problems(chain: &str, key: &str) -> Vec<String> {
    let secret = Secret {
        from: Some(From::Certificate(Certificate { chain: chain.into(), key: key.into() })),
        ..Secret::default()
    };
    let mut found = Problems::default();
    check(&object(), &secret, SystemTime::now(), &mut found);
    found.list.iter().map(ToString::to_string).collect()
}

#[test]
fn a_certificate_with_its_key_is_taken_and_its_facts_are_read() {
    let (chain, key) = pair("a.example", 90);
    assert_eq!(problems(&chain, &key), [] as [String; 0]);
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let facts = facts(&der).unwrap();
    assert_eq!(facts.names, ["DNS:a.example", "URI:spiffe://t/service/a"]);
    assert_eq!(facts.fingerprint.len(), 64);
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason_that_quotes_nothing() {
    let (chain, key) = pair("a.example", 90);
    let (_, other) = pair("a.example", 90);
    let (expired, expired_key) = pair("a.example", -1);
    let (soon, soon_key) = pair("a.example", 3);
    for (chain, key, reason) in [
        (&*chain, &*other, "does not belong to the first certificate"),
        (&*chain, "planted", "is not a private key in PEM"),
        ("planted", &*key, "holds no certificate in PEM"),
        (&*key, &*key, "holds no certificate in PEM"),
        (&*chain, &*chain, "is not a private key in PEM"),
        (&*expired, &*expired_key, "expired"),
        (&*soon, &*soon_key, "expires in"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &*key, "is not one of X.509"),
    ] {
        let found = problems(chain, key);
        assert!(found.iter().any(|p| p.contains(reason)), "{reason}: {found:?}");
        assert!(!found.iter().any(|p| p.contains("planted") || p.contains("PRIVATE")), "{found:?}");
    }
}
