//! Other programs' TLS, which is not ftvm's own: no preface, and keys that change in the middle.

use std::fs;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::thread;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, Stream,
};
use transport::{Opening, Patience, Role};

use crate::members::{GENEROUS, Members, sockets};

/// It lets in anybody.
#[derive(Debug)]
struct Careless;

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn config(members: &Members, name: &str) -> ClientConfig {
    let key = fs::read(members.set.key(name)).expect("a key");
    let certificate = fs::read(members.set.key(name).with_extension("crt")).expect("its own");
    let chain = vec![CertificateDer::from_pem_slice(&certificate).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(&key).expect("a key");
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("it is there")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless))
        .with_client_auth_cert(chain, key)
        .expect("they belong together")
}

#[test]
fn a_client_of_another_program_is_known_by_its_key_and_may_change_keys() {
    let members = Members::new();
    let config = Arc::new(config(&members, "anna"));
    let (mut socket, answerer) = sockets();
    let b = members.endpoint("b");
    thread::scope(|scope| {
        let client = scope.spawn(move || {
            let name = ServerName::try_from("disk.example").expect("a name");
            let mut connection = ClientConnection::new(config, name).expect("TLS");
            let mut stream = Stream::new(&mut connection, &mut socket);
            let mut echoed = [0; 100_000];
            for round in 0..10u8 {
                stream.write_all(&[round; 100_000]).expect("it is read");
                stream.read_exact(&mut echoed).expect("it comes back");
                assert!(echoed.iter().all(|byte| *byte == round));
                stream.conn.refresh_traffic_keys().expect("it is open");
            }
            stream.conn.send_close_notify();
            stream.flush().expect("it is read");
        });
        let patience = Patience::of(GENEROUS);
        let stream = b.answer(answerer, Opening::Bare, &[Role::Operator], patience);
        let stream = stream.expect("it is listed");
        assert_eq!(stream.peer().expect("known").to_string(), "operator anna");
        let mut buffer = [0; 3000];
        loop {
            match (&stream).read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => (&stream).write_all(&buffer[..len]).expect("it is read"),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
        client.join().expect("no panic");
    });
}
