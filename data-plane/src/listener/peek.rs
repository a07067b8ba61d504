//! Looking at the first bytes of a connection without taking them.

use rustix::net::RecvFlags;
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Looks at the first bytes until they are enough to tell: `decide` is given all of them, at most `most` bytes, and
/// answers `None` for want of more, which it does not do with `most` of them. `None`: the peer will send no more.
///
/// # Cancel safety
/// Cancel safe: nothing is taken.
pub(super) async fn peek<T>(
    stream: &TcpStream,
    most: usize,
    mut decide: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    const FIRST_LOOK: usize = 2048;
    let mut bytes = Vec::new();
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let looked = stream.try_io(Interest::READABLE, || {
            loop {
                bytes.resize(bytes.len().max(FIRST_LOOK).min(most), 0);
                let (read, _) = rustix::net::recv(stream, &mut bytes[..], RecvFlags::PEEK)?;
                if read == 0 {
                    return Ok(None);
                }
                match decide(&bytes[..read]) {
                    Some(told) => return Ok(Some(told)),
                    // There may be more than fitted.
                    None if read == bytes.len() && read < most => bytes.resize((read * 2).min(most), 0),
                    // Waits for the next bytes to arrive: the next event, since readiness is cleared.
                    None => return Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        });
        match looked {
            // That the peer is done stays readable for ever: there is nothing to wait for.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_peer_that_ends_in_the_middle_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let looks = Cell::new(0);
        let told = peek(&server, 100, |bytes| {
            looks.set(looks.get() + 1);
            (bytes.len() > 5).then_some(())
        });
        let write = async {
            client.write_all(b"some").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let both = async { tokio::join!(told, write).0 };
        let told = tokio::time::timeout(Duration::from_secs(60), both).await;
        assert_eq!(told.expect("it ends by itself").unwrap(), None);
        assert!(looks.get() < 5, "it does not look again and again: {}", looks.get());
    }

    #[tokio::test]
    async fn more_than_the_first_look_holds_is_looked_at() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(&[1; 9000]).await.unwrap();
        let told = peek(&server, 9000, |bytes| (bytes.len() == 9000).then_some(())).await;
        assert_eq!(told.unwrap(), Some(()));
    }
}
