//! HTTPS by rustls: a certificate and its key from PEM files, read again at SIGHUP so that a renewed
//! certificate needs no restart.

use std::{
    io,
    path::Path,
    sync::{Arc, RwLock},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{Error, config, service::Service};

/// What new connections are accepted with.
pub(crate) struct Tls {
    files: config::Tls,
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads the files. Blocks.
    pub(crate) fn open(files: config::Tls) -> Result<Self, Error> {
        let acceptor = RwLock::new(read(&files)?);
        Ok(Self { files, acceptor })
    }

    /// What the next connection is accepted with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.read().expect("no panic holds this lock").clone()
    }

    /// From now on, SIGHUP reads the files again. Connections that are open stay as they are; files that
    /// can't be used change nothing.
    pub(crate) fn reload_at_hangup(self: Arc<Self>, service: Arc<Service>) -> io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let this = self.clone();
                // A panic in there would be rustls' own; the old files stay in force.
                let is_used = spawn_blocking(move || this.reload()).await.unwrap_or(false);
                service.metrics.certificate_read(is_used);
            }
        });
        Ok(())
    }

    /// Whether the files are in force now.
    fn reload(&self) -> bool {
        match read(&self.files) {
            Ok(acceptor) => {
                *self.acceptor.write().expect("no panic holds this lock") = acceptor;
                tracing::info!(cert = %self.files.cert.display(), "read the certificate again");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate stays as it was");
                false
            }
        }
    }
}

fn read(files: &config::Tls) -> Result<TlsAcceptor, Error> {
    let fault = |path: &Path, reason: String| Error::Tls { path: path.to_owned(), reason };
    let cert = |error: &dyn std::error::Error| fault(&files.cert, error.to_string());
    let key = |error: &dyn std::error::Error| fault(&files.key, error.to_string());
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(|error| cert(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| cert(&error))?;
    if chain.is_empty() {
        return Err(fault(&files.cert, "has no certificate".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| key(&error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| cert(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| key(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
