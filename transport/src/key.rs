//! A machine's or a person's key.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;

use nix::unistd::Uid;
use rcgen::{KeyPair, PublicKeyData as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use webpki::KeyUsage;

use crate::certificate;
use crate::credential::Credential;
use crate::file::{self, FileError, Forbidden};
use crate::fingerprint::Fingerprint;

/// Where a machine's key is if nothing else is said.
pub const KEY_FILE: &str = "/etc/ftvm/key.pem";

/// PKCS#8 of an Ed25519 key (RFC 8410, section 7), but for its 32 bytes. Its first version, without the public
/// key: OpenSSL reads no other.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What a machine or a person proves itself with: an Ed25519 key, and the certificates that carry it.
///
/// The private key is a file of PKCS#8 in PEM that only its owner can read; of root's, also its group. Beside it, with `.crt` in place of its
/// extension, are the certificates, which are no secret; without them the key is its own.
pub struct Key {
    pair: KeyPair,
    chain: Vec<CertificateDer<'static>>,
    fingerprint: Fingerprint,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error(
        "there is no key {}: make one (`ftvm key generate`), or say `plain` to do without keys on every side",
        path.display()
    )]
    Missing {
        /// Its path.
        path: PathBuf,
    },
    /// Others can read it.
    #[error(
        "others can read the key {} (mode {mode:04o}): make a new one if they may have, and `chmod 600 {}`; of one that is \
         root's its group may read it (640)",
        path.display(),
        path.display()
    )]
    Open {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "the key {} belongs to the user {owner}, who can put another one there: `chown root {}`",
        path.display(),
        path.display()
    )]
    Owner {
        /// Its path.
        path: PathBuf,
        /// Number of its owner.
        owner: u32,
    },
    /// There is one already, or a certificate.
    #[error("{} is there already: remove it first if nothing knows that key any more", path.display())]
    Exists {
        /// Its path.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is no key.
    #[error("{} has no key that ftvm can use (Ed25519, PKCS#8, PEM): {reason}", path.display())]
    NoKey {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There are no certificates in the file of certificates.
    #[error("{} has no certificate: remove it, or put there what `ftvm key sign` says", path.display())]
    NoCertificate {
        /// Its path.
        path: PathBuf,
    },
    /// The certificates are another key's.
    #[error(
        "the certificate {} is that of another key than {}: have this one signed anew, or remove the certificate",
        certificate.display(),
        key.display()
    )]
    OtherKey {
        /// The path of the certificates.
        certificate: PathBuf,
        /// The path of the key.
        key: PathBuf,
    },
    /// A key cannot be made.
    #[error("cannot make a key: {0}")]
    Make(String),
}

impl Key {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Make`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        let random = SystemRandom::new().fill(&mut seed);
        random.map_err(|_| KeyError::Make("the system gives no random numbers".into()))?;
        let der = [&PKCS8_HEAD[..], &seed].concat();
        Self::from_pkcs8(&der).map_err(|error| KeyError::Make(error.to_string()))
    }

    /// Makes a key and writes it to a file that must not be there yet, with its certificate beside it. A key is there
    /// whole or not at all.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let key = Self::generate()?;
        let beside = certificate_file(path);
        if beside == path {
            let reason = format!("{} is a certificate's name", path.display());
            return Err(KeyError::Make(reason));
        }
        // One that was signed is not to be lost.
        if beside.symlink_metadata().is_ok() {
            return Err(KeyError::Exists { path: beside });
        }
        let failed = |path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists {
                path: path.to_owned(),
            },
            _ => KeyError::Write {
                path: path.to_owned(),
                source,
            },
        };
        let files = [
            (path, key_mode(path), key.pair.serialize_pem()),
            (&beside, 0o644, key.certificates()),
        ];
        for (path, mode, text) in files {
            write_new(path, mode, &text).map_err(|source| failed(path, source))?;
        }
        Ok(key)
    }

    /// Reads a key, and the certificates beside it if there are any.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let owned = || path.to_owned();
        let pem = file::read(path, Forbidden::Anything).map_err(|error| match error {
            FileError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                KeyError::Missing { path: owned() }
            }
            FileError::Io(source) => KeyError::Read {
                path: owned(),
                source,
            },
            FileError::Owner(owner) => KeyError::Owner {
                path: owned(),
                owner,
            },
            FileError::Mode(mode) => KeyError::Open {
                path: owned(),
                mode,
            },
        })?;
        let no_key = |reason: String| KeyError::NoKey {
            path: owned(),
            reason,
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| no_key(e.to_string()))?;
        let mut key =
            Self::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| no_key(e.to_string()))?;
        let beside = certificate_file(path);
        match fs::read(&beside) {
            Ok(pem) => key.chain = key.chain_of(&pem, &beside, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(KeyError::Read {
                    path: beside,
                    source,
                });
            }
        }
        Ok(key)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, rcgen::Error> {
        let der = PrivatePkcs8KeyDer::from(der);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?;
        let chain = vec![certificate::self_signed(&pair)?];
        let fingerprint = Fingerprint::of(&pair.subject_public_key_info());
        Ok(Self {
            pair,
            chain,
            fingerprint,
        })
    }

    fn chain_of(
        &self,
        pem: &[u8],
        certificate: &Path,
        key: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, KeyError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.unwrap_or_default();
        let public_key = chain.first().and_then(certificate::public_key);
        let Some(public_key) = public_key else {
            return Err(KeyError::NoCertificate {
                path: certificate.to_owned(),
            });
        };
        if Fingerprint::of(&public_key) != self.fingerprint {
            return Err(KeyError::OtherKey {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        Ok(chain)
    }

    /// Its short name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificates that it shows, in PEM.
    #[must_use]
    pub fn certificates(&self) -> String {
        certificate::pem(&self.chain)
    }

    /// What others find in what it shows.
    pub(crate) fn credential(&self, algorithms: &WebPkiSupportedAlgorithms) -> Credential {
        let read = self.chain.split_first().and_then(|(own, above)| {
            Credential::read(own, above, algorithms, KeyUsage::client_auth()).ok()
        });
        read.unwrap_or(Credential {
            fingerprint: self.fingerprint,
            signed: None,
        })
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.fingerprint).finish()
    }
}

/// Where the certificates of the key at `path` are.
pub(crate) fn certificate_file(path: &Path) -> PathBuf {
    path.with_extension("crt")
}

/// Mode of a new key. In a folder of root's that gives its group to what is in it (setgid, as packages make
/// /etc/ftvm), that group reads it: a service's user.
fn key_mode(path: &Path) -> u32 {
    const SETGID: u32 = 0o2000;
    const WRITTEN_BY_OTHERS: u32 = 0o022;
    let is_shared = fs::metadata(folder_of(path)).is_ok_and(|folder| {
        folder.uid() == 0 && folder.mode() & (SETGID | WRITTEN_BY_OTHERS) == SETGID
    });
    match is_shared && Uid::effective().is_root() {
        true => 0o640,
        false => 0o600,
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Writes a file that must not be there yet: whole, and on the disk, or not at all.
fn write_new(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let folder = folder_of(path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", process::id()));
    let aside = folder.join(name);
    let mut options = OpenOptions::new();
    let mut file = (options.write(true).create_new(true).mode(mode)).open(&aside)?;
    let linked = file
        // Whatever the umask is: a service's user is to read it.
        .set_permissions(Permissions::from_mode(mode))
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&aside, path));
    let removed = fs::remove_file(&aside);
    linked?;
    removed?;
    File::open(folder)?.sync_all()
}
