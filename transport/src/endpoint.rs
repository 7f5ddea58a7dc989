//! Opens connections.

use std::fmt;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::error::ConnectionError;
use crate::fingerprint::Fingerprint;
use crate::handshake::{Handshake, Means, Opening, Patience, Side};
use crate::key::{Key, KeyError};
use crate::mode::Mode;
use crate::peer::Role;
use crate::preface::{Preface, Service};
use crate::stream::Stream;
use crate::tls::{Connection, Tls};
use crate::trust::{Trust, TrustError};
use crate::verifier::Verifier;

/// How this program speaks with others: with its key and those that it trusts, or plain. A copy is the same one.
#[derive(Clone)]
pub struct Endpoint(Option<Arc<Secure>>);

struct Secure {
    client: Arc<ClientConfig>,
    server: ServerConfig,
    verifier: Arc<Verifier>,
    own: Fingerprint,
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// There is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is not known who is trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// No clock is asked: see [`crate::certificate`].
#[derive(Debug)]
struct NoTime;

impl TimeProvider for NoTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
    }
}

impl Endpoint {
    /// One that authenticates nothing and encrypts nothing. Whoever uses it was asked for it by name.
    #[must_use]
    pub fn plain() -> Self {
        Self(None)
    }

    /// One with the key and the list of those who are trusted that are in these files.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn read(key: &Path, trust: &Path) -> Result<Self, EndpointError> {
        let key = Key::read(key)?;
        let mut provider = ring::default_provider();
        // The quickest first; the other two are as good.
        provider.cipher_suites = vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let provider = Arc::new(provider);
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(Verifier {
            trust: Trust::read(trust, key.credential(&algorithms))?,
            algorithms,
        });
        let client = client(&key, Arc::clone(&provider), Arc::clone(&verifier));
        let server = server(&key, provider, Arc::clone(&verifier));
        Ok(Self(Some(Arc::new(Secure {
            client: Arc::new(client.expect("a key of ours is good for TLS 1.3")),
            server: server.expect("a key of ours is good for TLS 1.3"),
            verifier,
            own: key.fingerprint(),
        }))))
    }

    /// Whether it authenticates and encrypts.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.0 {
            Some(_) => Mode::Secure,
            None => Mode::Plain,
        }
    }

    /// Tells in the log that it authenticates and encrypts nothing, if that is so.
    pub fn tell_if_plain(&self) {
        if self.mode() == Mode::Plain {
            log::warn!(
                "plain, as asked for: nothing is authenticated or encrypted; whoever reaches this network can read \
                 and forge what goes over it"
            );
        }
    }

    /// Opens a connection that this side has made, to somebody with one of `roles`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn call(
        &self,
        socket: impl Into<Arc<TcpStream>>,
        opening: Opening,
        roles: &'static [Role],
        patience: Patience<'_>,
    ) -> Result<Stream, ConnectionError> {
        self.begin(Side::Caller, socket, opening, roles)?
            .finish(patience)
    }

    /// Opens a connection that this side has accepted, of somebody with one of `roles`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn answer(
        &self,
        socket: impl Into<Arc<TcpStream>>,
        opening: Opening,
        roles: &'static [Role],
        patience: Patience<'_>,
    ) -> Result<Stream, ConnectionError> {
        self.begin_answer(socket, opening, roles)?.finish(patience)
    }

    /// The same, for who waits for several at a time.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub fn begin_answer(
        &self,
        socket: impl Into<Arc<TcpStream>>,
        opening: Opening,
        roles: &'static [Role],
    ) -> Result<Handshake, ConnectionError> {
        self.begin(Side::Answerer, socket, opening, roles)
    }

    pub(crate) fn begin(
        &self,
        side: Side,
        socket: impl Into<Arc<TcpStream>>,
        opening: Opening,
        roles: &'static [Role],
    ) -> Result<Handshake, ConnectionError> {
        let service = match opening {
            Opening::Preface(service) => Some(service),
            Opening::Bare => None,
        };
        let socket = socket.into();
        let preface = service.map(|service| Preface {
            mode: self.mode(),
            service,
        });
        let means = match &self.0 {
            None => None,
            Some(secure) => Some(secure.means(side, service)?),
        };
        Ok(Handshake::new(socket, side, preface, means, roles))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Endpoint(plain)"),
            Some(secure) => f.debug_tuple("Endpoint").field(&secure.own).finish(),
        }
    }
}

impl Secure {
    fn means(&self, side: Side, service: Option<Service>) -> Result<Means, ConnectionError> {
        let failed = |error: rustls::Error| ConnectionError::of_tls(&error, self.own);
        let alpn = service.map(|service| service.alpn().to_vec());
        let alpn: Vec<Vec<u8>> = alpn.into_iter().collect();
        let connection = match side {
            Side::Caller => {
                // Its key says who it is, not its name or address: neither is sent or compared.
                let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
                let config = Arc::clone(&self.client);
                let client = UnbufferedClientConnection::new_with_alpn(config, name, alpn);
                Connection::Client(client.map_err(failed)?)
            }
            Side::Answerer => {
                let mut config = self.server.clone();
                config.alpn_protocols = alpn;
                let server = UnbufferedServerConnection::new(Arc::new(config));
                Connection::Server(server.map_err(failed)?)
            }
        };
        Ok(Means {
            side,
            tls: Tls::new(connection),
            verifier: Arc::clone(&self.verifier),
            own: self.own,
        })
    }
}

fn client(
    key: &Key,
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(NoTime))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(key.chain(), key.private())?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn server(
    key: &Key,
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(NoTime))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(key.chain(), key.private())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
