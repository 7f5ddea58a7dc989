//! What a peer's certificates prove, whoever is trusted.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::certificate;
use crate::fingerprint::Fingerprint;

/// A key, and what an authority says of it. That the peer has the key, TLS's handshake proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) signed: Option<Signed>,
}

/// An authority that a certificate was signed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) authority: Fingerprint,
    /// Whose it says the key is; see [`Peer::uri`](crate::Peer::uri).
    pub(crate) uris: Vec<String>,
}

/// Every certificate that `ftvm key sign` makes holds then. No clock is asked: one that is wrong must keep nobody
/// out, and lets nobody in.
const THEN: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_700_000_000));

impl Credential {
    /// Reads certificates, the peer's own first.
    pub(crate) fn read(
        own: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        algorithms: &WebPkiSupportedAlgorithms,
        usage: KeyUsage,
    ) -> Result<Self, Error> {
        let public_key = certificate::public_key(own)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let signed = above
            .first()
            .and_then(|authority| signed_by(own, authority, algorithms, usage));
        Ok(Self {
            fingerprint: Fingerprint::of(&public_key),
            signed,
        })
    }
}

/// What `authority` says of `certificate`, if it has signed it.
fn signed_by(
    certificate: &CertificateDer<'_>,
    authority: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
    usage: KeyUsage,
) -> Option<Signed> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let anchor = anchor_from_trusted_cert(authority).ok()?;
    certificate
        .verify_for_usage(algorithms.all, &[anchor], &[], THEN, usage, None, None)
        .ok()?;
    Some(Signed {
        authority: Fingerprint::of(&certificate::public_key(authority)?),
        uris: certificate.valid_uri_names().map(str::to_owned).collect(),
    })
}
