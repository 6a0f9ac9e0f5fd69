//! HTTPS.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use dormouse::config::Tls;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::node::Node;

/// Certificates for 127.0.0.1, with nothing behind them.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn node(dir: &Path) -> Node {
    let files = Tls { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    put(dir, "first");
    Node::with(|config| config.tls = Some(files))
}

fn put(dir: &Path, name: &str) {
    for part in ["cert", "key"] {
        std::fs::copy(file(&format!("{name}.{part}.pem")), dir.join(format!("{part}.pem"))).unwrap();
    }
}

/// Asks for something, trusting one certificate only.
fn ask_for(node: &Node, path: &str, trusted: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file(&format!("{trusted}.cert.pem"))).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(node.address)?);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask(node: &Node, trusted: &str) -> std::io::Result<String> {
    ask_for(node, "/v1/models", trusted)
}

/// Whether the node has read its certificate again, with this result, by now.
fn has_read(node: &Node, result: &str) -> bool {
    let line = format!("dormouse_certificate_reads_total{{result=\"{result}\"}}");
    ask_for(node, "/metrics", "second").is_ok_and(|metrics| metrics.contains(&line))
}

#[test]
fn a_node_with_a_certificate_speaks_https_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    assert!(ask(&node, "first").unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(&node, "second").is_err(), "another's certificate is not trusted");
    let mut plain = node.client().connect();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It may be told that this is no TLS, or be cut off.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn a_hangup_brings_a_renewed_certificate_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let hang_up = || {
        let id = std::process::id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    };
    put(dir.path(), "second");
    hang_up();
    while !has_read(&node, "used") {
        std::thread::yield_now();
    }
    assert!(ask(&node, "first").is_err(), "the old one is no longer in use");
    std::fs::write(dir.path().join("key.pem"), "no key").unwrap();
    hang_up();
    while !has_read(&node, "refused") {
        std::thread::yield_now();
    }
    assert!(ask(&node, "second").is_ok());
}
