//! Certificates: what carries a key in TLS.
//!
//! What counts is the key in it. Its period is all of time, because clocks may be wrong: who is not to be
//! believed any more is taken from the list of those who are trusted.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SignatureAlgorithm,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, DnsName};
use webpki::EndEntityCert;

use crate::key::{Key, pem_of};

/// The SubjectPublicKeyInfo of an Ed25519 key (RFC 8410), but for its 32 bytes.
const ED25519_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Why a key was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// There is no certificate.
    #[error("no certificate in it: give what `ftvm key show --certificate` says on that machine")]
    NoCertificate,
    /// It is not one of ftvm's.
    #[error("its certificate has another kind of key than ftvm's (Ed25519)")]
    OtherKey,
    /// The name cannot be in a certificate.
    #[error("{0:?} cannot be in a certificate: a name that is signed is as those of DNS are")]
    Name(String),
    /// The certificate cannot be made.
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

/// A key of another's, as its certificate has it.
struct PublicKey([u8; 32]);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// Has `authority` sign that the key in `certificate` (PEM) belongs to `name`. Gives the certificates for the
/// other to show (PEM): the new one, and the authority's.
///
/// # Errors
/// [`SignError`].
pub fn sign(authority: &Key, name: &str, certificate: &str) -> Result<String, SignError> {
    use rustls::pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|_| SignError::NoCertificate)?;
    let public_key = public_key(&certificate).ok_or(SignError::NoCertificate)?;
    let key = public_key.strip_prefix(&ED25519_HEAD[..]);
    let key = key.and_then(|key| key.try_into().ok());
    let key = PublicKey(key.ok_or(SignError::OtherKey)?);
    if DnsName::try_from(name).is_err() {
        return Err(SignError::Name(name.to_owned()));
    }
    let params = end_entity(name)?;
    let above = authority_params()?;
    let issuer = Issuer::from_params(&above, authority.pair());
    let signed = params.signed_by(&key, &issuer)?;
    let own = above.self_signed(authority.pair())?;
    Ok(pem_of(&[signed.der().clone(), own.der().clone()]))
}

/// The SubjectPublicKeyInfo in a certificate.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    Some(certificate.subject_public_key_info().as_ref().to_vec())
}

/// The certificate of a key that nobody signed: the same each time.
pub(crate) fn self_signed(pair: &KeyPair) -> Result<CertificateDer<'static>, rcgen::Error> {
    let certificate = end_entity("ftvm")?.self_signed(pair)?;
    Ok(certificate.der().clone())
}

fn end_entity(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name)?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    Ok(params)
}

/// Of an authority. Other programs' TLS wants its name and that it is one.
fn authority_params() -> Result<CertificateParams, rcgen::Error> {
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
