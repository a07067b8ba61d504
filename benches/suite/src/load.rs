//! Load: wrk and h2load where they serve, and our own where they do not (fixed rates without coordinated
//! omission, bodies, handshakes, connections that are held).

pub(crate) mod client;
pub(crate) mod handshakes;
pub(crate) mod hold;
pub(crate) mod paced;
pub(crate) mod tools;

use std::time::Duration;

/// What a load has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    /// Answered as they should be.
    pub(crate) requests: u64,
    /// Anything else.
    pub(crate) errors: u64,
    pub(crate) took: Duration,
    /// Of each request, in order of size; where the load measures them.
    pub(crate) latencies: Vec<Duration>,
}

impl Load {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency that `share` of the requests do not exceed, microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> Option<f64> {
        let at = (self.latencies.len() as f64 * share).ceil() as usize;
        self.latencies.get(at.saturating_sub(1)).map(|latency| latency.as_secs_f64() * 1e6)
    }
}

/// A request to send again and again.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) host: String,
    /// Beside `host`.
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes of the body; zero makes it a GET, anything else a POST.
    pub(crate) body: usize,
}

impl Request {
    /// `GET /` and nothing else.
    pub(crate) fn plain(port: u16) -> Self {
        Self { port, path: "/".into(), host: "localhost".into(), headers: Vec::new(), body: 0 }
    }

    /// Its HTTP/1.1 bytes.
    fn bytes(&self) -> Vec<u8> {
        let Self { path, host, headers, body, .. } = self;
        let (method, length) = match body {
            0 => ("GET", String::new()),
            n => ("POST", format!("content-length: {n}\r\n")),
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut bytes =
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{length}{headers}\r\n").into_bytes();
        bytes.resize(bytes.len() + body, b'x');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_smallest_latency_that_so_many_do_not_exceed() {
        let load = Load { latencies: (1..=1000).map(Duration::from_micros).collect(), ..Load::default() };
        let at = |share| load.quantile_us(share).map(f64::round);
        assert_eq!(
            (at(0.5), at(0.99), at(0.999), at(1.0)),
            (Some(500.), Some(990.), Some(999.), Some(1000.))
        );
        assert_eq!(Load::default().quantile_us(0.5), None);
    }
}
