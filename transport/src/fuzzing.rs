//! Fuzz targets: what a stranger, who has no key that is listed, can send to either side of a connection.
//!
//! Whatever that is, no connection comes of it, no side waits for a stranger who has gone, and what is held of a
//! stranger's stays within the bounds of a handshake. A violation panics. `tests/fuzz` has libFuzzer run these.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::{env, fs, process};

use rcgen::SigningKey as _;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::{default_provider, sign::any_eddsa_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme,
};

use crate::certificate;
use crate::endpoint::Endpoint;
use crate::handshake::{Handshake, MOST_BYTES, Opening, Side};
use crate::key::Key;
use crate::mode::Mode;
use crate::peer::{Peer, Role};
use crate::preface::{PREFACE_LEN, Preface, Service};
use crate::trust::Trust;
use crate::verifier::Verifier;

/// A fuzz target: its name, what is done with an input, and inputs that go deep.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of this crate.
pub const TARGETS: [Target; 3] = [
    ("opening", opening, openings),
    ("certificates", certificates, chains),
    ("impostor", impostor, impostors),
];

/// The most that a handshake may hold of a stranger's and for a stranger: what came, once more as room that a buffer
/// has when it grows, and answers, which are shorter than what they answer or a certificate.
const MOST_HELD: usize = 3 * MOST_BYTES;

/// Who is attacked, and what with.
struct World {
    secure: Endpoint,
    verifier: Verifier,
    /// A key that nobody lists,
    stranger: Key,
    /// and an authority that nobody names.
    authority: Key,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = env::temp_dir().join(format!("ftvm-fuzz-{}", process::id()));
    fs::create_dir(&folder).expect("a directory");
    let world = World::make(&folder);
    // What the list said stays in force, and no handshake has to read it.
    fs::remove_dir_all(&folder).expect("it is there");
    world
});

impl World {
    fn make(folder: &Path) -> Self {
        let (key, trust) = (folder.join("a.pem"), folder.join("trust.toml"));
        let own = Key::create(&key).expect("a key").fingerprint();
        let new = || Key::generate().expect("a key");
        let listed = new().fingerprint();
        let list = format!("authority = \"{listed}\"\n[hosts]\na = \"{own}\"\nb = \"signed\"\n");
        fs::write(&trust, list).expect("a file");
        let algorithms = default_provider().signature_verification_algorithms;
        let own = Key::read(&key).expect("a key").credential(&algorithms);
        Self {
            secure: Endpoint::read(&key, &trust).expect("a key and a list"),
            verifier: Verifier {
                trust: Trust::read(&trust, own).expect("a list"),
                algorithms,
            },
            stranger: new(),
            authority: new(),
        }
    }
}

/// A connection: the socket of the side that is attacked, and the stranger's. Not TCP, which remembers each of a
/// hundred million connections for a minute.
fn sockets() -> (TcpStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    theirs.set_nonblocking(true).expect("a socket");
    (OwnedFd::from(ours).into(), theirs)
}

/// Goes on with what a stranger has sent. Whether there is more to do.
fn goes_on(handshake: &mut Handshake, mode: Mode) -> bool {
    let advanced = handshake.advance();
    let held = handshake.held();
    assert!(held <= MOST_HELD, "it holds {held} bytes of a stranger's");
    match advanced {
        Ok(None) => true,
        Ok(Some(_)) => {
            assert_eq!(mode, Mode::Plain, "a stranger is let in");
            false
        }
        Err(_) => false,
    }
}

/// The stranger goes.
fn leave(handshake: &mut Handshake, mode: Mode, stranger: &UnixStream) {
    let _ = stranger.shutdown(Shutdown::Write);
    let waits = goes_on(handshake, mode);
    assert!(!waits, "a stranger who has gone is waited for");
}

const SERVICE: Service = Service::Log;

/// Bits of the first byte of [`opening`]'s and [`impostor`]'s inputs.
const CALLER: u8 = 1;
const PLAIN: u8 = 2;
const BARE: u8 = 4;

fn side(how: u8) -> Side {
    match how & CALLER {
        0 => Side::Answerer,
        _ => Side::Caller,
    }
}

/// Bytes, in pieces: two that say to whom and in pieces of which length (0: all at once), and what is sent.
pub fn opening(input: &[u8]) {
    let Some((&[how, piece], sent)) = input.split_first_chunk() else {
        return;
    };
    let (endpoint, mode) = match how & PLAIN {
        0 => (WORLD.secure.clone(), Mode::Secure),
        _ => (Endpoint::plain(), Mode::Plain),
    };
    let opening = match how & BARE {
        0 => Opening::Preface(SERVICE),
        _ => Opening::Bare,
    };
    let (socket, mut stranger) = sockets();
    let begun = endpoint.begin(side(how), socket, opening, &[Role::Host]);
    let mut handshake = begun.expect("it needs nobody");
    let piece = match piece {
        0 => sent.len().max(1),
        piece => piece.into(),
    };
    for piece in sent.chunks(piece) {
        stranger.write_all(piece).expect("there is room");
        if !goes_on(&mut handshake, mode) {
            return;
        }
    }
    leave(&mut handshake, mode, &stranger);
}

/// What a side of ours says first, to either side in each mode, and what an answerer says to that.
fn openings() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for how in [0, CALLER, PLAIN, CALLER | PLAIN, BARE, CALLER | BARE] {
        let (endpoint, opening) = match (how & PLAIN, how & BARE) {
            (0, 0) => (WORLD.secure.clone(), Opening::Preface(SERVICE)),
            (0, _) => (WORLD.secure.clone(), Opening::Bare),
            _ => (Endpoint::plain(), Opening::Preface(SERVICE)),
        };
        let ((ours, near), (theirs, far)) = (sockets(), sockets());
        let begin = |side, socket| {
            let begun = endpoint.begin(side, socket, opening, &[Role::Host]);
            begun.expect("it needs nobody")
        };
        let mut caller = begin(Side::Caller, ours);
        caller.advance().expect("nothing came");
        let called = take(&near);
        (&far).write_all(&called).expect("there is room");
        // Of the same key, or plain: it is answered.
        let mut answerer = begin(Side::Answerer, theirs);
        let answered = answerer.advance();
        let answered = answered.map(|_| take(&far)).expect("it is one of ours");
        let sent = match side(how) {
            Side::Answerer => called,
            Side::Caller => answered,
        };
        for piece in [0, 7] {
            seeds.push([&[how, piece], &sent[..]].concat());
        }
    }
    seeds
}

/// What waits in a socket.
fn take(mut socket: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Its end is that it would have to wait.
    let _ = socket.read_to_end(&mut bytes);
    bytes
}

/// DER of an element (X.690, section 8.1) with a tag of one byte.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend_from_slice(&[0x81, len as u8]),
        _ => out.extend_from_slice(&[0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// The length of an element's content, and that with what is behind it.
fn split_head(der: &[u8]) -> (usize, &[u8]) {
    match *der {
        [_, 0x82, high, low, ref rest @ ..] => (u16::from_be_bytes([high, low]).into(), rest),
        [_, 0x81, len, ref rest @ ..] | [_, len, ref rest @ ..] => (len.into(), rest),
        _ => unreachable!("a certificate of ours has elements"),
    }
}

/// A certificate with this content, which the stranger's authority has signed. It signs anything.
fn signed(content: &[u8]) -> Vec<u8> {
    const ED25519: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
    let signature = WORLD.authority.pair().sign(content).expect("a key");
    let signature = element(0x03, &[&[0], &signature[..]].concat());
    element(0x30, &[content, &ED25519[..], &signature[..]].concat())
}

/// Bits of the first byte of a chain.
const SIGNED: u8 = 1;
const WITH_AUTHORITY: u8 = 2;

/// The certificates that a stranger shows: a byte, the length of its own one (u16), and that one and the one above.
fn chain(input: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let (&[how, low, high], rest) = input.split_first_chunk()?;
    let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (own, above) = rest.split_at(len);
    let own = match how & SIGNED {
        0 => own.to_vec(),
        _ => signed(own),
    };
    let mut chain = vec![CertificateDer::from(own)];
    if how & WITH_AUTHORITY != 0 {
        let pair = WORLD.authority.pair();
        let above = certificate::authority().and_then(|params| params.self_signed(pair));
        chain.push(above.expect("a key").der().clone());
    } else if !above.is_empty() {
        chain.push(CertificateDer::from(above.to_vec()));
    }
    Some(chain)
}

/// Certificates that a stranger shows.
pub fn certificates(input: &[u8]) {
    let Some(chain) = chain(input) else {
        return;
    };
    let (own, above) = chain.split_first().expect("its own one");
    let (verifier, now) = (
        &WORLD.verifier,
        UnixTime::since_unix_epoch(Default::default()),
    );
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let as_server = verifier.verify_server_cert(own, above, &name, &[], now);
    let as_client = verifier.verify_client_cert(own, above, now);
    assert!(
        as_server.is_err() && as_client.is_err(),
        "a stranger is known"
    );
}

/// Its own certificate, and what its authority signs of it: of nobody, and of hosts.
fn chains() -> Vec<Vec<u8>> {
    let World {
        stranger,
        authority,
        ..
    } = &*WORLD;
    let listed = Peer {
        name: "b".into(),
        role: Role::Host,
    };
    let contents = [None, Some(&listed)].map(|peer| {
        let params = certificate::end_entity("b", peer).expect("a name");
        let above = certificate::authority().expect("a name");
        let issuer = rcgen::Issuer::from_params(&above, authority.pair());
        let signed = params.signed_by(stranger.pair(), &issuer).expect("a key");
        // What is signed is the first element of a certificate.
        let (_, rest) = split_head(signed.der());
        let (content, behind) = split_head(rest);
        rest[..rest.len() - behind.len() + content].to_vec()
    });
    let own = stranger.chain().remove(0).to_vec();
    let above = certificate::authority().and_then(|params| params.self_signed(authority.pair()));
    let above = above.expect("a key").der().to_vec();
    let seed = |how: u8, own: &[u8], above: &[u8]| {
        [&[how][..], &(own.len() as u16).to_le_bytes(), own, above].concat()
    };
    let mut seeds = vec![
        seed(0, &own, &[]),
        seed(0, &own, &above),
        seed(0, &above, &above),
    ];
    for content in &contents {
        seeds.push(seed(SIGNED | WITH_AUTHORITY, content, &[]));
        seeds.push(seed(SIGNED, content, &above));
        seeds.push(seed(SIGNED, content, &[]));
    }
    seeds
}

/// A stranger whose TLS is as it should be, and who shows what an input says.
pub fn impostor(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else {
        return;
    };
    let Some(chain) = chain(rest) else {
        return;
    };
    let side = side(how);
    let (socket, mut stranger) = sockets();
    let begun = (WORLD.secure).begin(side, socket, Opening::Preface(SERVICE), &[Role::Host]);
    let mut handshake = begun.expect("it needs nobody");
    let mut tls = tls(side, chain);
    let preface = Preface {
        mode: Mode::Secure,
        service: SERVICE,
    };
    stranger
        .write_all(&preface.encode())
        .expect("there is room");
    let mut is_greeted = false;
    loop {
        if !goes_on(&mut handshake, Mode::Secure) {
            return;
        }
        if !is_greeted {
            let mut theirs = [0; PREFACE_LEN];
            stranger.read_exact(&mut theirs).expect("a preface");
            is_greeted = true;
        }
        let mut moved = false;
        while tls.wants_write() && tls.write_tls(&mut stranger).is_ok_and(|sent| sent > 0) {
            moved = true;
        }
        match tls.read_tls(&mut stranger) {
            Ok(1..) => moved |= tls.process_new_packets().is_ok(),
            Ok(0) => break,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        if !moved {
            break;
        }
    }
    leave(&mut handshake, Mode::Secure, &stranger);
}

fn impostors() -> Vec<Vec<u8>> {
    let to = |how: u8| {
        chains()
            .into_iter()
            .map(move |chain| [&[how], &chain[..]].concat())
    };
    to(0).chain(to(CALLER)).collect()
}

/// The stranger's end of TLS, with the `side` that is attacked.
fn tls(side: Side, chain: Vec<CertificateDer<'static>>) -> Connection {
    let PrivateKeyDer::Pkcs8(key) = WORLD.stranger.private() else {
        unreachable!("keys of ours are PKCS#8");
    };
    let key = any_eddsa_type(&key).expect("a key");
    let shown = Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key))));
    let (provider, anybody) = (Arc::new(default_provider()), Arc::new(Anybody));
    let alpn = vec![SERVICE.alpn().to_vec()];
    match side {
        Side::Answerer => {
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder
                .with_protocol_versions(&[&TLS13])
                .expect("it has TLS 1.3");
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(anybody);
            let mut config = builder.with_client_cert_resolver(shown);
            config.alpn_protocols = alpn;
            let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
            let client = ClientConnection::new(Arc::new(config), name);
            client.expect("it has all that it needs").into()
        }
        Side::Caller => {
            let builder = ServerConfig::builder_with_provider(provider);
            let builder = builder
                .with_protocol_versions(&[&TLS13])
                .expect("it has TLS 1.3");
            let builder = builder.with_client_cert_verifier(anybody);
            let mut config = builder.with_cert_resolver(shown);
            config.alpn_protocols = alpn;
            let server = ServerConnection::new(Arc::new(config));
            server.expect("it has all that it needs").into()
        }
    }
}

/// Shows this, whatever is asked for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

type Believed = Result<HandshakeSignatureValid, Error>;

impl ServerCertVerifier for Anybody {
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
    ) -> Believed {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Believed {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Believed {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Believed {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/inputs.rs"]
mod inputs;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::inputs::inputs;
    use super::*;

    proptest! {
        #[test]
        fn a_stranger_opens_nothing(input in inputs(openings())) {
            opening(&input);
        }

        #[test]
        fn nobody_is_known_by_a_certificate_of_his_own(input in inputs(chains())) {
            certificates(&input);
        }

        #[test]
        fn nobody_is_let_in_by_a_certificate_of_his_own(input in inputs(impostors())) {
            impostor(&input);
        }
    }
}
