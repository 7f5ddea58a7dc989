//! What an authority of the user's own says of others' keys.

use rcgen::{Issuer, PKCS_ED25519, PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, DnsName};

use crate::certificate;
use crate::key::Key;
use crate::peer::Peer;

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

/// Has `authority` sign that the key in `certificate` (PEM) belongs to `peer`. Gives the certificates for the
/// other to show (PEM): the new one, and the authority's.
///
/// # Errors
/// [`SignError`].
pub fn sign(authority: &Key, peer: &Peer, certificate: &str) -> Result<String, SignError> {
    let shown = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|_| SignError::NoCertificate)?;
    let public_key = certificate::public_key(&shown).ok_or(SignError::NoCertificate)?;
    let key = public_key.strip_prefix(&ED25519_HEAD[..]);
    let key = key.and_then(|key| key.try_into().ok());
    let key = PublicKey(key.ok_or(SignError::OtherKey)?);
    let name = peer.name.as_str();
    if DnsName::try_from(name).is_err() {
        return Err(SignError::Name(name.to_owned()));
    }
    let params = certificate::end_entity(name, Some(peer))?;
    let above = certificate::authority()?;
    let issuer = Issuer::from_params(&above, authority.pair());
    let signed = params.signed_by(&key, &issuer)?;
    let own = above.self_signed(authority.pair())?;
    Ok(certificate::pem(&[signed.der().clone(), own.der().clone()]))
}
