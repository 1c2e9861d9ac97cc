//! Authorities and certificates for one test, made by the `openssl` program.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

/// A directory of certificates and their keys: `<name>.crt`, `<name>.key`.
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// An authority `ca`; nothing when there is no openssl.
    pub(crate) fn new(dir: &Path) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIP: openssl is not installed");
            return None;
        }
        let pki = Self { dir: dir.to_owned() };
        pki.own("ca", &["-addext", "keyUsage=critical,keyCertSign"]);
        Some(pki)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn openssl(&self, args: &[&str]) {
        let out = Command::new("openssl").args(args).current_dir(&self.dir).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// A certificate signed by itself, which openssl makes an authority.
    pub(crate) fn own(&self, name: &str, extensions: &[&str]) {
        let (key, crt) = (format!("{name}.key"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let mut args = vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        args.extend(["-nodes", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &crt]);
        args.extend(extensions);
        self.openssl(&args);
    }

    /// A certificate of an RSA key, signed by itself.
    pub(crate) fn rsa(&self, name: &str) {
        let (key, crt, subject) =
            (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let mut args = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        args.extend(["-subj", &subject, "-keyout", &key, "-out", &crt]);
        self.openssl(&args);
    }

    /// Claims signed by `name`'s RSA key, with the certificate beside them (RFC 7519, 7515).
    pub(crate) fn jwt(&self, name: &str, claims: &serde_json::Value) -> String {
        let certificate = CertificateDer::from_pem_file(self.file(&format!("{name}.crt"))).unwrap();
        let header = serde_json::json!({
            "typ": "JWT", "alg": "RS256", "x5c": [BASE64_STANDARD.encode(&certificate)],
        });
        let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        fs::write(self.file("signed"), &signed).unwrap();
        let key = format!("{name}.key");
        self.openssl(&["dgst", "-sha256", "-sign", &key, "-out", "signature", "signed"]);
        let signature = fs::read(self.file("signature")).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// A certificate from the authority, for 127.0.0.1 and `localhost`.
    pub(crate) fn issue(&self, name: &str) {
        let (key, csr, crt) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let mut args =
            vec!["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        args.extend(["-subj", &subject, "-keyout", &key, "-out", &csr]);
        self.openssl(&args);
        fs::write(self.file("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost").unwrap();
        let mut args = vec!["x509", "-req", "-in", &csr, "-CA", "ca.crt", "-CAkey", "ca.key"];
        args.extend(["-CAcreateserial", "-days", "2", "-extfile", "san", "-out", &crt]);
        self.openssl(&args);
    }

    /// A server that shows `name`'s certificate, and wants one of the authority's when `mutual`.
    pub(crate) fn acceptor(&self, name: &str, mutual: bool) -> TlsAcceptor {
        let provider = Arc::new(ring::default_provider());
        let certificate = CertificateDer::from_pem_file(self.file(&format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.file("ca.crt")).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(vec![certificate], key).unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
