//! Whom to trust, and as whom to come: rustls with the system's authorities, a registry's own, none
//! at all, and client certificates.

use crate::{Error, Result, error::At};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What differs from trusting the system's authorities and coming as nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// Files of further authorities, PEM.
    pub(super) authorities: Vec<PathBuf>,
    /// Certificates to show, each with its key unless that stands in the same file.
    pub(super) clients: Vec<(PathBuf, Option<PathBuf>)>,
    /// Trust whoever answers.
    pub(super) skip_verify: bool,
}

/// A configuration that trusts accordingly.
///
/// # Errors
/// `InvalidArgument` naming the file that is missing or is not what it should be.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let failed = |e: &dyn std::fmt::Display| Error::invalid(format_args!("TLS: {e}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?;
    let verifier: Arc<dyn ServerCertVerifier> = if trust.skip_verify {
        Arc::new(Anyone(provider))
    } else {
        let (mut roots, mut pinned) = (RootCertStore::empty(), Vec::new());
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in &trust.authorities {
            let own = certificates(file, "CA cert")?;
            let (added, _) = roots.add_parsable_certificates(own.iter().cloned());
            if added == 0 {
                return Err(unusable(file, "CA cert", "no certificate in it"));
            }
            pinned.extend(own);
        }
        if roots.is_empty() {
            return Err(Error::unavailable("this machine has no certificates to trust"));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| failed(&e))?;
        Arc::new(Pinning { chain, pinned })
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    // One certificate can be shown; of several, Go asks the server, and the first is what fits.
    match trust.clients.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((file, key)) => {
            let chain = certificates(file, "client cert")?;
            let key_file = key.as_ref().unwrap_or(file);
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
                .map_err(|e| unusable(key_file, "client key", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| unusable(file, "client cert", &e))
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).at("reading", file)
}

fn unusable(file: &Path, what: &str, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format_args!("unable to load {what} {:?}: {reason}", file.display()))
}

fn certificates(file: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(file)?;
    let certificates: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|e| unusable(file, what, &e))?;
    if certificates.is_empty() {
        return Err(unusable(file, what, "no certificate in it"));
    }
    Ok(certificates)
}

/// Chains to authorities, and certificates that are trusted themselves: what `openssl req -x509`
/// makes is an authority by its own word, and as a server's certificate good for Go, but not for
/// webpki.
#[derive(Debug)]
struct Pinning {
    chain: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        match self.chain.verify_server_cert(certificate, between, name, ocsp, now) {
            // webpki has looked at the dates before it says this.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(reason)))
                if reason.0.to_string() == "CaUsedAsEndEntity"
                    && self.pinned.iter().any(|own| own == certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// `skip_verify`: whoever answers is the registry, as long as he has the key he shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
