//! Certificates: what carries a key in TLS.
//!
//! What counts is the key in it. Its period is all of time, because clocks may be wrong: who is not to be
//! believed any more is taken from the list of those who are trusted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::peer::Peer;

/// The SubjectPublicKeyInfo in a certificate.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    Some(certificate.subject_public_key_info().as_ref().to_vec())
}

/// The certificate of a key that nobody signed: the same each time.
pub(crate) fn self_signed(pair: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    let certificate = end_entity("ftvm", None)?.self_signed(pair)?;
    Ok(certificate.der().clone())
}

/// Of a key that belongs to `name`, as other programs' TLS asks for it, and to `peer`, as ftvm does.
pub(crate) fn end_entity(
    name: &str,
    peer: Option<&Peer>,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name)?;
    params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
    if let Some(peer) = peer {
        let uri = SanType::URI(peer.uri().try_into()?);
        params.subject_alt_names.push(uri);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    Ok(params)
}

/// Of an authority. Other programs' TLS wants its name and that it is one.
pub(crate) fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = params("ftvm authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    Ok(params)
}

/// Certificates in PEM.
pub(crate) fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut out = String::new();
    for certificate in certificates {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}
