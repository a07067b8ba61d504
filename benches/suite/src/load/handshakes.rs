//! Full TLS 1.3 handshakes: connect, shake hands, close; nothing is resumed.

use super::Load;
use anyhow::{Context, Result};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// At a time.
const THREADS: usize = 8;

/// Shakes hands for `time` with a server whose certificate is `trusted`.
///
/// X25519 only: a hybrid with ML-KEM would be chosen by some of the peers and not by others.
pub(crate) fn run(port: u16, trusted: &[u8], time: Duration) -> Result<Load> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(trusted))?;
    let provider =
        CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    let start = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut load = Load::default();
                while start.elapsed() < time {
                    match shake(port, &config) {
                        Ok(()) => load.requests += 1,
                        Err(error) => {
                            load.errors += 1;
                            if load.errors == 1 {
                                eprintln!("handshake: {error:#}");
                            }
                        }
                    }
                }
                load
            })
        })
        .collect();
    let mut all = Load::default();
    for thread in threads {
        let load = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        all.requests += load.requests;
        all.errors += load.errors;
    }
    all.took = start.elapsed();
    Ok(all)
}

fn shake(port: u16, config: &Arc<ClientConfig>) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost")?)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("handshake")?;
    }
    Ok(())
}
