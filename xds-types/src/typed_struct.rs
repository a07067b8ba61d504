//! `TypedStruct`, which the package `envoy-types` leaves out: a message as a `Struct` beside its type URL, in
//! its two packages `xds.type.v3` and `udpa.type.v1`.
//!
//! Envoy's factories read the message out of it; [`crate::any`] does the same.

use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::google::protobuf::Struct;

/// Full names of the message.
const NAMES: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

/// A message whose fields are written as a struct.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    /// Type URL of the message that `value` stands for.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its fields, by their JSON or proto names.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl prost::Name for TypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "xds.type.v3";

    fn type_url() -> String {
        format!("{}{}", crate::type_url::PREFIX, NAMES[0])
    }
}

/// Whether a full name is that of a `TypedStruct`.
pub(crate) fn is_typed_struct(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The descriptors of both packages.
pub(crate) fn files() -> impl Iterator<Item = FileDescriptorProto> {
    NAMES.into_iter().map(|full_name| {
        let package = full_name.trim_end_matches(".TypedStruct");
        FileDescriptorProto {
            name: Some(format!("{}/typed_struct.proto", package.replace('.', "/"))),
            package: Some(package.to_owned()),
            dependency: vec!["google/protobuf/struct.proto".to_owned()],
            message_type: vec![DescriptorProto {
                name: Some("TypedStruct".to_owned()),
                field: vec![field("type_url", 1, Type::String), field("value", 2, Type::Message)],
                ..DescriptorProto::default()
            }],
            syntax: Some("proto3".to_owned()),
            ..FileDescriptorProto::default()
        }
    })
}

fn field(name: &str, number: i32, of: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(of as i32),
        type_name: (of == Type::Message).then(|| ".google.protobuf.Struct".to_owned()),
        ..FieldDescriptorProto::default()
    }
}
