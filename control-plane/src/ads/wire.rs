//! Messages on the wire. A resource is encoded once in its life; a stream's response is written piece by piece,
//! as the client takes it, with large resources shared and small ones copied. So neither a slow client nor a
//! large response makes a stream hold memory (tonic's own response body keeps the buffer of its largest message
//! for as long as the stream is open).

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use http_body_util::StreamBody;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

use super::Mode;
use super::session::Response;
use crate::snapshot::Resource;

/// Bytes written at a time: one HTTP/2 frame, as long as clients allow by default.
const PIECE: usize = 16 << 10;

/// Resources from this size on are a piece by themselves, shared and not copied.
const SHARED: usize = 4 << 10;

/// A response on its way to a client.
#[derive(Debug)]
pub(super) struct Frame {
    pub mode: Mode,
    pub response: Response,
    /// `control_plane.identifier` [35].
    pub identifier: Arc<str>,
}

impl Frame {
    /// The gRPC message of the `DiscoveryResponse` or `DeltaDiscoveryResponse`.
    pub(super) fn into_pieces(self) -> Pieces {
        let Self { mode, response, identifier } = self;
        let Response { kind, version, nonce, resources, removed } = response;
        let control_plane = match mode {
            Mode::Sotw => 6,
            Mode::Delta => 7,
        };
        let mut tail = BytesMut::new();
        put_text(4, kind.type_url(), &mut tail);
        put_text(5, &nonce.to_string(), &mut tail);
        if mode == Mode::Delta {
            removed.iter().for_each(|name| put_bytes(6, name.as_bytes(), &mut tail));
        }
        if !identifier.is_empty() {
            put_length(control_plane, text_len(1, &identifier), &mut tail);
            put_text(1, &identifier, &mut tail);
        }
        let all: usize = resources.iter().map(|r| resource_len(mode, r)).sum();
        let len = text_len(1, &version) + all + tail.len();
        let mut open = BytesMut::with_capacity(PIECE.min(HEADER + len));
        open.put_u8(0); // not compressed
        open.put_u32(u32::try_from(len).expect("INVARIANT: sessions split responses far below 4 GiB"));
        put_text(1, &version, &mut open);
        let left = HEADER + len - open.len();
        Pieces { mode, open, resources: resources.into_iter(), shared: None, tail: tail.freeze(), left }
    }

    /// Bytes of resources in it.
    pub(super) fn size(&self) -> usize {
        self.response.resources.iter().map(|r| r.any.len()).sum()
    }
}

/// Compression flag and length, before each gRPC message.
const HEADER: usize = 5;

/// A message, piece by piece.
pub(super) struct Pieces {
    mode: Mode,
    /// What is written of the next piece.
    open: BytesMut,
    resources: std::vec::IntoIter<Arc<Resource>>,
    /// The next piece, whole.
    shared: Option<Bytes>,
    /// What comes after the resources.
    tail: Bytes,
    /// Bytes of the message that are not written yet.
    left: usize,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(shared) = self.shared.take() {
            return Some(shared);
        }
        let mut open = std::mem::take(&mut self.open);
        if open.is_empty() {
            open.reserve(PIECE.min(self.left));
        }
        let before = open.len();
        while open.len() + SHARED < PIECE {
            let Some(r) = self.resources.next() else {
                open.put(std::mem::take(&mut self.tail));
                break;
            };
            put_resource_head(self.mode, &r, &mut open);
            if r.any.len() >= SHARED {
                self.left -= r.any.len();
                self.shared = Some(r.any.clone());
                break;
            }
            open.put_slice(&r.any);
        }
        self.left -= open.len() - before;
        (!open.is_empty()).then(|| open.freeze())
    }
}

/// All of a resource but its `Any`, which comes last.
///
/// SotW: `Any` as field 2. Delta: `Resource { version = 1, resource = 2, name = 3 }` as field 2.
fn put_resource_head(mode: Mode, r: &Resource, out: &mut impl BufMut) {
    if mode == Mode::Delta {
        let version = r.version.to_string();
        put_length(2, delta_len(r, &version), out);
        put_text(1, &version, out);
        put_text(3, &r.name, out);
    }
    put_length(2, r.any.len(), out);
}

fn resource_len(mode: Mode, r: &Resource) -> usize {
    bytes_len(
        2,
        match mode {
            Mode::Sotw => r.any.len(),
            Mode::Delta => delta_len(r, &r.version.to_string()),
        },
    )
}

fn delta_len(r: &Resource, version: &str) -> usize {
    text_len(1, version) + bytes_len(2, r.any.len()) + text_len(3, &r.name)
}

fn put_length(tag: u32, len: usize, out: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut impl BufMut) {
    put_length(tag, bytes.len(), out);
    out.put_slice(bytes);
}

/// A string field; empty ones are left out, as proto3 does.
fn put_text(tag: u32, text: &str, out: &mut impl BufMut) {
    if !text.is_empty() {
        put_bytes(tag, text.as_bytes(), out);
    }
}

fn bytes_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { bytes_len(tag, text.len()) }
}

/// The body of an answer: these responses, then the status: that of the first error, or OK.
pub(super) fn body(responses: impl Stream<Item = Result<Frame, Status>> + Send + 'static) -> Body {
    let data = |piece| http_body::Frame::data(piece);
    let trailers = |status: Status| {
        let mut headers = HeaderMap::new();
        // What cannot be said in a header is left out; the code always can.
        if status.add_header(&mut headers).is_err() {
            let _ = Status::new(status.code(), "").add_header(&mut headers);
        }
        http_body::Frame::trailers(headers)
    };
    // Nothing is read after the first trailers, so that an error is not followed by the OK.
    let ended = stream::once(async { Err(Status::ok("")) });
    let frames = responses.chain(ended).flat_map(move |response| match response {
        Ok(frame) => stream::iter(frame.into_pieces()).map(data).left_stream(),
        Err(status) => stream::once(std::future::ready(trailers(status))).right_stream(),
    });
    Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>)))
}

/// Buffer kept by a stream. Small: there are thousands of streams, and most of them are idle.
const BUFFER: usize = 1024;

/// Reads requests of type `M`.
pub(super) struct RequestDecoder<M>(PhantomData<fn() -> M>);

impl<M> Default for RequestDecoder<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Message + Default> Decoder for RequestDecoder<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let message = M::decode(from.copy_to_bytes(from.remaining()))
            .map_err(|e| Status::invalid_argument(format!("malformed request: {e}")))?;
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, BUFFER)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Kind;
    use super::*;
    use xds_types::ResourceType;
    use xds_types::envoy::config::cluster::v3::Cluster;
    use xds_types::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

    /// The message, without its gRPC header.
    fn message(frame: Frame) -> Vec<u8> {
        let all: Vec<u8> = frame.into_pieces().flatten().collect();
        let (header, message) = all.split_at(HEADER);
        assert_eq!(header, [&[0][..], &(message.len() as u32).to_be_bytes()].concat());
        message.to_vec()
    }

    fn frame(mode: Mode, identifier: &str) -> Frame {
        let cluster = |name: &str| {
            let c = Cluster { name: name.into(), ..Cluster::default() };
            Arc::new(Resource::encode(ResourceType::Cluster, name, &c, vec![], vec![]))
        };
        let response = Response {
            kind: Kind::Served(ResourceType::Cluster),
            version: "v".into(),
            nonce: 7,
            resources: vec![cluster("a"), cluster(&"b".repeat(300))],
            removed: vec!["gone".into()],
        };
        Frame { mode, response, identifier: identifier.into() }
    }

    #[test]
    fn a_sotw_response_reads_back() {
        let bytes = message(frame(Mode::Sotw, "replica-1"));
        let r = DiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!((r.version_info.as_str(), r.nonce.as_str()), ("v", "7"));
        assert_eq!(r.type_url, ResourceType::Cluster.type_url());
        assert_eq!(r.control_plane.unwrap().identifier, "replica-1");
        let names: Vec<usize> = r
            .resources
            .iter()
            .map(|any| xds_types::any::unpack::<Cluster>(any).unwrap().name.len())
            .collect();
        assert_eq!(names, [1, 300]);
        assert!(r.resources.iter().all(|any| any.type_url == r.type_url), "[21]");
    }

    #[test]
    fn a_delta_response_reads_back() {
        let resources = frame(Mode::Delta, "").response.resources;
        let bytes = message(frame(Mode::Delta, ""));
        let r = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!((r.nonce.as_str(), r.removed_resources.as_slice()), ("7", &["gone".to_owned()][..]));
        for (got, sent) in r.resources.iter().zip(&resources) {
            assert_eq!((got.name.as_str(), &got.version), (&*sent.name, &sent.version.to_string()));
            let c = xds_types::any::unpack::<Cluster>(got.resource.as_ref().unwrap()).unwrap();
            assert_eq!(c.name, *sent.name);
        }
        assert_eq!(r.control_plane, None);
        // What prost writes of it is the same, byte for byte.
        assert_eq!(r.encode_to_vec().len(), bytes.len());
    }

    #[test]
    fn a_large_response_leaves_in_frames_and_shares_its_large_resources() {
        let cluster = |i: usize| {
            let size = if i % 7 == 3 { 100_000 } else { i * 40 };
            let c = Cluster { name: "x".repeat(size), ..Cluster::default() };
            Arc::new(Resource::encode(ResourceType::Cluster, format!("c{i}"), &c, vec![], vec![]))
        };
        for mode in [Mode::Sotw, Mode::Delta] {
            let mut f = frame(mode, "replica-1");
            f.response.resources = (0..100).map(cluster).collect();
            let sent = f.response.resources.clone();
            let shared = |piece: &Bytes| sent.iter().any(|r| r.any.as_ptr() == piece.as_ptr());
            let pieces: Vec<Bytes> = f.into_pieces().collect();
            assert!(pieces.iter().all(|p| !p.is_empty() && (p.len() <= PIECE || shared(p))));
            assert_eq!(pieces.iter().filter(|p| p.len() >= 100_000).count(), 14);
            let bytes = pieces.concat();
            let names: Vec<usize> = match mode {
                Mode::Sotw => DiscoveryResponse::decode(&bytes[HEADER..]).unwrap().resources,
                Mode::Delta => {
                    let all = DeltaDiscoveryResponse::decode(&bytes[HEADER..]).unwrap().resources;
                    all.into_iter().filter_map(|r| r.resource).collect()
                }
            }
            .iter()
            .map(|any| xds_types::any::unpack::<Cluster>(any).unwrap().name.len())
            .collect();
            let expected: Vec<usize> =
                sent.iter().map(|r| r.decode::<Cluster>().unwrap().name.len()).collect();
            assert_eq!(names, expected);
        }
    }
}
