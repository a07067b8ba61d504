//! Responses as bytes, written out of the shared encodings of their resources: a resource is encoded once in
//! its life, and copied once for each stream, into the stream's send buffer.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::Mode;
use super::session::Response;
use crate::snapshot::Resource;

/// A response on its way to a client.
#[derive(Debug)]
pub(super) struct Frame {
    pub mode: Mode,
    pub response: Response,
    /// `control_plane.identifier` (point 35).
    pub identifier: Arc<str>,
}

impl Frame {
    /// Writes `DiscoveryResponse` or `DeltaDiscoveryResponse`.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        let Response { kind, version, nonce, resources, removed } = &self.response;
        let control_plane = match self.mode {
            Mode::Sotw => 6,
            Mode::Delta => 7,
        };
        put_text(1, version, out);
        for r in resources {
            match self.mode {
                Mode::Sotw => put_bytes(2, &r.any, out),
                Mode::Delta => put_resource(r, out),
            }
        }
        put_text(4, kind.type_url(), out);
        put_text(5, &nonce.to_string(), out);
        if self.mode == Mode::Delta {
            removed.iter().for_each(|name| put_bytes(6, name.as_bytes(), out));
        }
        if !self.identifier.is_empty() {
            put_length(control_plane, text_len(1, &self.identifier), out);
            put_text(1, &self.identifier, out);
        }
    }

    /// Bytes of resources in it.
    pub(super) fn size(&self) -> usize {
        self.response.resources.iter().map(|r| r.any.len()).sum()
    }
}

/// `Resource { version = 1, resource = 2, name = 3 }` as field 2.
fn put_resource(r: &Resource, out: &mut impl BufMut) {
    let version = r.version.to_string();
    let any = key_len(2) + encoded_len_varint(r.any.len() as u64) + r.any.len();
    put_length(2, text_len(1, &version) + any + text_len(3, &r.name), out);
    put_text(1, &version, out);
    put_bytes(2, &r.any, out);
    put_text(3, &r.name, out);
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

fn text_len(tag: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { key_len(tag) + encoded_len_varint(text.len() as u64) + text.len() }
}

/// Reads requests of type `M`, writes [`Frame`]s.
pub(super) struct FrameCodec<M>(PhantomData<fn() -> M>);

impl<M> Default for FrameCodec<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Buffer kept by a stream. Small: there are thousands of streams, and most of them are idle.
const BUFFER: usize = 1024;

impl<M: Message + Default + 'static> Codec for FrameCodec<M> {
    type Encode = Frame;
    type Decode = M;
    type Encoder = FrameEncoder;
    type Decoder = RequestDecoder<M>;

    fn encoder(&mut self) -> FrameEncoder {
        FrameEncoder
    }

    fn decoder(&mut self) -> RequestDecoder<M> {
        RequestDecoder(PhantomData)
    }
}

pub(super) struct FrameEncoder;

impl Encoder for FrameEncoder {
    type Item = Frame;
    type Error = Status;

    fn encode(&mut self, frame: Frame, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(frame.size() + 256);
        frame.encode(out);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, BUFFER)
    }
}

pub(super) struct RequestDecoder<M>(PhantomData<fn() -> M>);

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
        let mut bytes = Vec::new();
        frame(Mode::Sotw, "replica-1").encode(&mut bytes);
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
        let f = frame(Mode::Delta, "");
        let mut bytes = Vec::new();
        f.encode(&mut bytes);
        let r = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!((r.nonce.as_str(), r.removed_resources.as_slice()), ("7", &["gone".to_owned()][..]));
        for (got, sent) in r.resources.iter().zip(&f.response.resources) {
            assert_eq!((got.name.as_str(), &got.version), (&*sent.name, &sent.version.to_string()));
            let c = xds_types::any::unpack::<Cluster>(got.resource.as_ref().unwrap()).unwrap();
            assert_eq!(c.name, *sent.name);
        }
        assert_eq!(r.control_plane, None);
        // What prost writes of it is the same, byte for byte.
        assert_eq!(r.encode_to_vec().len(), bytes.len());
    }
}
