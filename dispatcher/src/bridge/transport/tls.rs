//! Encryption between hosts: TLS 1.3, both sides known by their raw public keys (RFC 7250).
//!
//! A key that stands in the configuration is a host; every other key, certificate or lack of one ends the handshake. So there
//! is no authority to run, nothing expires, and names in certificates mean nothing. Nothing is resumed and no data goes
//! early, hence nothing can be replayed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};

use super::keys::{KeyPair, PublicKey};

/// What is spoken inside, so that a server of something else is never mistaken for a dispatcher.
const PROTOCOL: &[u8] = b"nodeset-bridge/1";

/// Makes sessions, as the side that listens and the side that dials.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    identity: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
    names: Arc<BTreeMap<PublicKey, Arc<str>>>,
}

impl Tls {
    /// For a host with the pair `own`, which knows the hosts `known`. A key that two hosts have is the first one's.
    ///
    /// # Errors
    ///
    /// The cryptography refuses the key.
    pub fn new<'a>(own: &KeyPair, known: impl IntoIterator<Item = (&'a str, PublicKey)>) -> Result<Tls, Error> {
        let provider = Arc::new(ring::default_provider());
        let public = CertificateDer::from(own.public().spki().to_vec());
        let identity = Arc::new(CertifiedKey::new(vec![public], own.signing()));
        let mut names = BTreeMap::new();
        for (name, key) in known {
            names.entry(key).or_insert_with(|| Arc::from(name));
        }
        let pinned = Pinned { keys: names.keys().copied().collect(), algorithms: algorithms(&provider) };
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(pinned))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(identity.clone())));
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Tls { provider, identity, server: Arc::new(server), names: Arc::new(names) })
    }

    /// A session with whoever connected.
    ///
    /// # Errors
    ///
    /// The cryptography has no random numbers.
    pub fn accept(&self) -> Result<Connection, Error> {
        ServerConnection::new(self.server.clone()).map(Connection::from)
    }

    /// A session with the host whose key is `expected`, and with nobody else.
    ///
    /// # Errors
    ///
    /// The cryptography has no random numbers.
    pub fn dial(&self, expected: PublicKey) -> Result<Connection, Error> {
        let pinned = Pinned { keys: vec![expected], algorithms: algorithms(&self.provider) };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.identity.clone())));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let name = ServerName::try_from("nodeset-dispatcher").map_err(|error| Error::General(error.to_string()))?;
        ClientConnection::new(Arc::new(config), name).map(Connection::from)
    }

    /// Which host is at the other end of a session whose handshake is done.
    pub fn peer(&self, session: &Connection) -> Option<Arc<str>> {
        let key = PublicKey::from_spki(session.peer_certificates()?.first()?)?;
        self.names.get(&key).cloned()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("names", &self.names).finish_non_exhaustive()
    }
}

fn algorithms(provider: &CryptoProvider) -> WebPkiSupportedAlgorithms {
    provider.signature_verification_algorithms
}

/// Takes a handful of keys, and proof that the other side has the private half of one of them.
#[derive(Debug)]
struct Pinned {
    keys: Vec<PublicKey>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match PublicKey::from_spki(shown) {
            Some(key) if self.keys.contains(&key) => Ok(()),
            Some(_) => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _further: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _further: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
