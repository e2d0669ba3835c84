//! The keys by which hosts know each other: one Ed25519 pair a host.
//!
//! A private key is a PKCS#8 PEM file that only its owner may read; a public key a `SubjectPublicKeyInfo` PEM file. Both are
//! what `openssl genpkey -algorithm ed25519` makes as well. There are no certificates, no names in the keys and no dates: a
//! host is trusted because its public key stands in the configuration, until it is taken out there.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use thiserror::Error;

/// What stands before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// bytes; a public key with its prefix
const SPKI_LEN: usize = SPKI_PREFIX.len() + 32;
/// Mode of a private key's file.
const PRIVATE_MODE: u32 = 0o600;

/// A key file could not be made or read. Nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Give a path that may be read.
    #[error("the key {path:?} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Give another path, or remove the file there if nobody needs it.
    #[error("the key {path:?} cannot be written{}", if source.kind() == io::ErrorKind::AlreadyExists {
        ": a key that exists is never overwritten; give another path"
    } else { "" })]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read it: `chmod 600`, and make a new pair if somebody may have read it.
    #[error(
        "the private key {path:?} may be read by others (mode {mode:o}): `chmod 600` it, and make a new one if somebody did"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Give the other file of the pair, or make one with `nodeset keygen`.
    #[error("{path:?} is not an Ed25519 {kind} key in PEM: `nodeset keygen` makes a pair")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `private` or `public`.
        kind: &'static str,
    },
    /// The system gives no random numbers.
    #[error("no key could be drawn: the system gives no random numbers")]
    Random,
}

/// By what another host is known: the public half of its pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    /// As the handshake carries it.
    spki: [u8; SPKI_LEN],
}

impl PublicKey {
    /// Reads the PEM file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<PublicKey, KeyError> {
        let text = fs::read(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let malformed = || KeyError::Malformed { path: path.to_owned(), kind: "public" };
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(&text).map_err(|_| malformed())?;
        PublicKey::from_spki(&spki).ok_or_else(malformed)
    }

    /// From what a handshake carries; `None` for another kind of key.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<PublicKey> {
        let spki: [u8; SPKI_LEN] = spki.try_into().ok()?;
        spki.starts_with(&SPKI_PREFIX).then_some(PublicKey { spki })
    }

    /// As a handshake carries it.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The text of its file.
    pub fn to_pem(&self) -> String {
        pem_text("PUBLIC KEY", &self.spki)
    }
}

impl fmt::Display for PublicKey {
    /// The 32 bytes in hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spki[SPKI_PREFIX.len()..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// What a host proves its name with. Neither shown nor written anywhere but by [`KeyPair::save`].
#[derive(Clone)]
pub struct KeyPair {
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
    /// PKCS#8
    private: Arc<PrivatePkcs8KeyDer<'static>>,
}

impl KeyPair {
    /// Draws a new one.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub fn generate() -> Result<KeyPair, KeyError> {
        let drawn = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
        KeyPair::from_pkcs8(PrivatePkcs8KeyDer::from(drawn.as_ref().to_vec())).ok_or(KeyError::Random)
    }

    /// Reads the private key's PEM file at `path`; the public half follows from it.
    ///
    /// # Errors
    ///
    /// It cannot be read, others than its owner may read it as well, or it is something else.
    pub fn read(path: &Path) -> Result<KeyPair, KeyError> {
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        let text = io::read_to_string(file).map_err(failed)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).ok().and_then(KeyPair::from_pkcs8);
        key.ok_or_else(|| KeyError::Malformed { path: path.to_owned(), kind: "private" })
    }

    /// Writes the private key to `path`, which only its owner may read then, and the public key to `path` with `.pub` at its
    /// end, whose path is returned.
    ///
    /// # Errors
    ///
    /// One of them is there already, or cannot be written; then neither is there afterwards unless it was before.
    pub fn save(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let mut public_path = path.as_os_str().to_owned();
        public_path.push(".pub");
        let public_path = PathBuf::from(public_path);
        write_new(path, PRIVATE_MODE, &pem_text("PRIVATE KEY", self.private.secret_pkcs8_der()))?;
        if let Err(error) = write_new(&public_path, 0o644, &self.public.to_pem()) {
            // It is ours, and of no use without the other one.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(public_path)
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn signing(&self) -> Arc<dyn SigningKey> {
        self.signing.clone()
    }

    fn from_pkcs8(private: PrivatePkcs8KeyDer<'static>) -> Option<KeyPair> {
        // Keys of other programs have no public half in the file, so it is not demanded there.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.secret_pkcs8_der()).ok()?;
        let mut spki = [0; SPKI_LEN];
        let (prefix, key) = spki.split_at_mut(SPKI_PREFIX.len());
        prefix.copy_from_slice(&SPKI_PREFIX);
        key.copy_from_slice(pair.public_key().as_ref());
        let signing = any_eddsa_type(&private).ok()?;
        Some(KeyPair { signing, public: PublicKey { spki }, private: Arc::new(private) })
    }
}

impl PartialEq for KeyPair {
    /// The public half follows from the private one, and from no other.
    fn eq(&self, other: &KeyPair) -> bool {
        self.public == other.public
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

fn pem_text(tag: &str, contents: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, contents), config)
}

/// Writes a file that is not there yet; what was begun is removed if it cannot be finished.
fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_written_once_and_read_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.key");
        let pair = KeyPair::generate().unwrap();
        let public_path = pair.save(&path).unwrap();
        assert_eq!(public_path, place.path().join("a.key.pub"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(KeyPair::read(&path).unwrap(), pair);
        assert_eq!(PublicKey::read(&public_path).unwrap(), pair.public());

        let error = KeyPair::generate().unwrap().save(&path).unwrap_err();
        assert!(error.to_string().contains("never overwritten"), "{error}");
        assert_eq!(KeyPair::read(&path).unwrap(), pair);
        fs::remove_file(&path).unwrap();
        KeyPair::generate().unwrap().save(&path).unwrap_err();
        assert!(!path.exists(), "the private half is left without its public one");
        assert_eq!(PublicKey::read(&public_path).unwrap(), pair.public());
    }

    #[test]
    fn two_pairs_differ() {
        assert_ne!(KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let pair = KeyPair::generate().unwrap();
        assert_eq!(format!("{pair:?}"), format!("KeyPair {{ public: PublicKey({}), .. }}", pair.public()));
    }

    #[test]
    fn a_private_key_that_others_may_read_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.key");
        KeyPair::generate().unwrap().save(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyPair::read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn what_is_no_key_is_said() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.key");
        let public_path = KeyPair::generate().unwrap().save(&path).unwrap();
        let error = PublicKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("is not an Ed25519 public key"), "{error}");
        fs::set_permissions(&public_path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = KeyPair::read(&public_path).unwrap_err().to_string();
        assert!(error.contains("is not an Ed25519 private key"), "{error}");
        let error = PublicKey::read(&place.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none\" cannot be read"), "{error}");
        assert!(PublicKey::from_spki(&[0; SPKI_LEN]).is_none());
    }

    /// Made by `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`.
    #[test]
    fn keys_of_openssl_are_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key.pem");
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINIXJxgHeg3uo1WX8DLDoWOj8vYjXuwP5li405Bl7FG9\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAPRW4AUsAesApqyzTeff/WJoe0BlIgyQug/eUgVXzONI=\n-----END PUBLIC KEY-----\n";
        write_new(&path, PRIVATE_MODE, private).unwrap();
        assert_eq!(KeyPair::read(&path).unwrap().public().to_pem(), public);
    }
}
