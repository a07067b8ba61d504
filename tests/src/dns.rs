//! A name server over UDP that answers every question for an address as it is told.

use anyhow::Result;
use parking_lot::Mutex;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Seconds that answers may be kept.
const TTL: u32 = 1;

/// A running name server.
#[derive(Debug)]
pub struct Dns {
    /// Where it listens.
    pub addr: SocketAddr,
    /// `None`: it fails.
    answer: Arc<Mutex<Option<Vec<Ipv4Addr>>>>,
    _serving: JoinSet<()>,
}

impl Dns {
    /// Starts one on a port of its own. It fails until told otherwise.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = socket.local_addr()?;
        let answer: Arc<Mutex<Option<Vec<Ipv4Addr>>>> = Arc::default();
        let mut serving = JoinSet::new();
        let told = Arc::clone(&answer);
        serving.spawn(async move {
            let mut question = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                let reply = reply(&question[..length], told.lock().as_deref());
                if let Some(reply) = reply {
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Ok(Self { addr, answer, _serving: serving })
    }

    /// Every name has these addresses from now on.
    ///
    /// # Panics
    /// One is not an address.
    pub fn answer(&self, addresses: &[&str]) {
        let all = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        *self.answer.lock() = Some(all);
    }

    /// It fails (SERVFAIL) from now on.
    pub fn fail(&self) {
        *self.answer.lock() = None;
    }
}

/// The reply to a message with one question (RFC 1035, section 4).
fn reply(question: &[u8], answer: Option<&[Ipv4Addr]>) -> Option<Vec<u8>> {
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += usize::from(question[end]) + 1;
    }
    let asked = question.get(12..end + 5)?;
    let is_address = asked[asked.len() - 4..] == [0, 1, 0, 1];
    let answers = if is_address { answer.unwrap_or_default() } else { &[] };
    let code = if answer.is_none() { 2 } else { 0 };
    let mut out = question[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(answers.len()).ok()?, 0, 0, 0, 0]);
    out.extend(asked);
    for address in answers {
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(TTL.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}
