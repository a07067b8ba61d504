//! Why a handshake failed, in Envoy's words where it has some.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use std::io;

/// What a failed handshake is to statistics and logs.
#[derive(Clone, Debug)]
pub struct HandshakeError {
    /// For logs: `TLS_error:|..:TLS_error_end`, empty when the peer just left.
    pub reason: Box<str>,
    /// Counted already, by the one who judged the peer's certificate.
    pub(super) counted: bool,
    /// The peer should have had a certificate.
    pub(super) no_certificate: bool,
    /// Nothing was wrong with the protocol: the peer closed.
    pub(super) closed: bool,
}

impl HandshakeError {
    pub(super) fn new(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some(tls) = tls else {
            let reason = match error.kind() {
                io::ErrorKind::UnexpectedEof => "".into(),
                _ => io_reason(error),
            };
            return Self { reason, counted: false, no_certificate: false, closed: true };
        };
        Self {
            reason: wrapped(&text(tls)),
            counted: matches!(tls, Error::InvalidCertificate(_)),
            no_certificate: matches!(tls, Error::NoCertificatesPresented),
            closed: false,
        }
    }

    pub(super) fn plain(reason: &str) -> Self {
        Self { reason: reason.into(), counted: false, no_certificate: false, closed: true }
    }
}

fn io_reason(error: &io::Error) -> Box<str> {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).into()
}

fn wrapped(text: &str) -> Box<str> {
    format!("TLS_error:|{text}:TLS_error_end").replace(' ', "_").into()
}

/// BoringSSL's numbers and names of what we can tell apart.
fn text(error: &Error) -> String {
    const LIB: u32 = 0x1000_0000;
    let boring = |number: u32, name: &str| format!("{}:SSL routines:OPENSSL_internal:{name}", LIB + number);
    match error {
        Error::InvalidCertificate(error) => {
            format!("{}:verify cert failed: {}", boring(125, "CERTIFICATE_VERIFY_FAILED"), certificate(error))
        }
        Error::NoCertificatesPresented => boring(192, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        Error::AlertReceived(alert) => {
            let (number, name) = self::alert(*alert);
            boring(1000 + number, name)
        }
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => boring(247, "WRONG_VERSION_NUMBER"),
        Error::PeerIncompatible(_) => boring(184, "NO_SHARED_CIPHER"),
        Error::NoApplicationProtocol => boring(1120, "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"),
        Error::DecryptError => boring(137, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        other => other.to_string(),
    }
}

fn certificate(error: &CertificateError) -> String {
    let chain = |what: &str| format!("X509_verify_cert: certificate verification error at depth 0: {what}");
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            chain("certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            chain("certificate is not yet valid")
        }
        CertificateError::Revoked => chain("certificate revoked"),
        CertificateError::UnknownIssuer => chain("unable to get local issuer certificate"),
        CertificateError::UnknownRevocationStatus => chain("unable to get certificate CRL"),
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            chain("CRL has expired")
        }
        CertificateError::BadSignature => chain("certificate signature failure"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            chain("unsuitable certificate purpose")
        }
        CertificateError::Other(other) => other.0.to_string(),
        other => other.to_string(),
    }
}

fn alert(alert: AlertDescription) -> (u32, &'static str) {
    let name = match alert {
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UserCanceled => "TLSV1_ALERT_USER_CANCELLED",
        AlertDescription::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "UNKNOWN_ALERT_TYPE",
    };
    (u32::from(u8::from(alert)), name)
}
