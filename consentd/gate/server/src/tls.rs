//! TLS 1.3 of the listener. The files are those of the daemon's section `grpc.tls`, and are read again on SIGHUP.
//!
//! A certificate that is replaced counts for connections that begin from then on. No session is resumed: otherwise a
//! client of an authority that was removed could come back without a certificate being verified.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The files, PEM.
#[derive(Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those above it.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of clients' certificates; None: clients need none.
    pub client_authorities: Option<PathBuf>,
}

/// What the listener needs of TLS.
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Read the files; an error says which of them does not fit.
    pub fn open(files: TlsFiles) -> Result<Self, String> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Tls { files, current })
    }

    /// Read the files again; if that fails, what is in use stays.
    pub fn reload(&self) -> Result<(), String> {
        let read = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Return what makes the handshake of a new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, String> {
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unfit(&files.key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut authorities = RootCertStore::empty();
            for one in certificates(path)? {
                authorities.add(one).map_err(|error| unfit(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
                .build()
                .map_err(|error| unfit(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut found =
        builder.with_single_cert(certificates(&files.chain)?, key).map_err(|error| unfit(&files.chain, &error))?;
    found.alpn_protocols = vec![b"h2".to_vec()];
    found.session_storage = Arc::new(NoServerSessionStorage {});
    found.send_tls13_tickets = 0;
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(|each| each.collect::<Result<Vec<_>, _>>());
    let found = found.map_err(|error| unfit(path, &error))?;
    if found.is_empty() {
        return Err(format!("TLS file holds no certificate: `{}`", path.display()));
    }
    Ok(found)
}

/// The message of an error; what the file holds is not in it.
fn unfit(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("TLS file cannot be used: `{}`: {error}", path.display())
}
