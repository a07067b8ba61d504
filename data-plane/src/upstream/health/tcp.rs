//! TCP checks.

use super::probe::{Broken, Prober, Report, holds};
use crate::transport::tls::Offer;
use data_plane_core::config::TcpProbe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes that are read at most while what is expected has not come.
const MAX_ANSWER: usize = 64 * 1024;

pub(super) async fn check(prober: &Prober, probe: &TcpProbe) -> Result<Report, Broken> {
    let kept = prober.seat().tcp.take();
    let mut stream = match kept {
        Some(stream) => stream,
        None => prober.connect(Offer::Http1).await?,
    };
    if !probe.send.is_empty() {
        stream.write_all(&probe.send).await?;
        stream.flush().await?;
    }
    if probe.receive.is_empty() {
        // Connecting was the question: the next check connects anew.
        return Ok(Report::PASS);
    }
    let mut data = Vec::new();
    while !holds(&data, &probe.receive) {
        if data.len() > MAX_ANSWER || stream.read_buf(&mut data).await? == 0 {
            return Err(Broken);
        }
    }
    prober.seat().tcp.replace(Some(stream));
    Ok(Report::PASS)
}
