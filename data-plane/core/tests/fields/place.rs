//! Places in a message: every message inside it, payloads of `Any` included, with its path.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

#[derive(Clone, Debug)]
enum Step {
    Field(FieldDescriptor),
    Index(usize),
    Key(MapKey),
    /// Into the payload of an `Any`; not part of the path.
    Payload,
}

/// Where a message is inside a root message.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    steps: Vec<Step>,
    path: String,
}

impl Place {
    /// The root and every message below it whose type is `wanted`.
    pub(crate) fn all(root: &DynamicMessage, wanted: &dyn Fn(&str) -> bool) -> Vec<Place> {
        let mut found = Vec::new();
        Place { steps: Vec::new(), path: String::new() }.visit(root, wanted, &mut found);
        found
    }

    fn visit(self, message: &DynamicMessage, wanted: &dyn Fn(&str) -> bool, found: &mut Vec<Place>) {
        if is_any(message) {
            let payload = payload(message);
            return self.step(Step::Payload, "").visit(&payload, wanted, found);
        }
        if !wanted(message.descriptor().full_name()) {
            return;
        }
        for (field, value) in message.fields() {
            let here = self.step(Step::Field(field.clone()), &dotted(&self.path, field.name()));
            match value {
                Value::Message(inner) => here.visit(inner, wanted, found),
                Value::List(list) => {
                    for (i, value) in list.iter().enumerate() {
                        if let Value::Message(inner) = value {
                            here.step(Step::Index(i), &format!("[{i}]")).visit(inner, wanted, found);
                        }
                    }
                }
                Value::Map(map) => {
                    for (key, value) in map {
                        if let (Value::Message(inner), MapKey::String(text)) = (value, key) {
                            here.step(Step::Key(key.clone()), &format!("[{text:?}]"))
                                .visit(inner, wanted, found);
                        }
                    }
                }
                _ => {}
            }
        }
        found.push(self);
    }

    fn step(&self, step: Step, path: &str) -> Place {
        let mut next = self.clone();
        next.steps.push(step);
        next.path.push_str(path);
        next
    }

    /// The path of one of its fields.
    pub(crate) fn field_path(&self, field: &FieldDescriptor) -> String {
        format!("{}{}", self.path, dotted(&self.path, field.name()))
    }

    /// What makes the message here a case of its own: the field that holds it, and which of its fields are set.
    pub(crate) fn shape(&self, root: &DynamicMessage) -> String {
        let holder = self.steps.iter().rev().find_map(|step| match step {
            Step::Field(field) => Some(field.full_name().to_owned()),
            _ => None,
        });
        let message = self.get(root);
        let mut set: Vec<u32> = message.fields().map(|(field, _)| field.number()).collect();
        set.sort_unstable();
        format!("{}: {} {set:?}", holder.unwrap_or_default(), message.descriptor().full_name())
    }

    /// The message here.
    pub(crate) fn get(&self, root: &DynamicMessage) -> DynamicMessage {
        get(root, &self.steps)
    }

    /// A copy of `root` with a field of the message here set.
    pub(crate) fn set(&self, root: &DynamicMessage, field: &FieldDescriptor, value: Value) -> DynamicMessage {
        let mut root = root.clone();
        set(&mut root, &self.steps, field, value);
        root
    }
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!(".{name}") }
}

fn is_any(message: &DynamicMessage) -> bool {
    message.descriptor().full_name() == "google.protobuf.Any"
}

fn payload(any: &DynamicMessage) -> DynamicMessage {
    let any = xds_types::descriptors::from_dynamic::<xds_types::google::protobuf::Any>(any).unwrap();
    xds_types::any::unpack_dynamic(&any).unwrap()
}

fn get(message: &DynamicMessage, steps: &[Step]) -> DynamicMessage {
    let Some((first, rest)) = steps.split_first() else { return message.clone() };
    if let Step::Payload = first {
        return get(&payload(message), rest);
    }
    let Step::Field(field) = first else { panic!("a step into a message names a field") };
    let value = message.get_field(field);
    match (rest.first(), value.as_ref()) {
        (Some(Step::Index(i)), Value::List(list)) => get(list[*i].as_message().unwrap(), &rest[1..]),
        (Some(Step::Key(key)), Value::Map(map)) => get(map[key].as_message().unwrap(), &rest[1..]),
        (_, Value::Message(inner)) => get(inner, rest),
        _ => panic!("steps lead to messages"),
    }
}

fn set(message: &mut DynamicMessage, steps: &[Step], target: &FieldDescriptor, value: Value) {
    let Some((first, rest)) = steps.split_first() else { return message.set_field(target, value) };
    if let Step::Payload = first {
        let mut inner = payload(message);
        set(&mut inner, rest, target, value);
        let packed = xds_types::any::pack_dynamic(&inner);
        message.set_field_by_name("value", Value::Bytes(packed.value.into()));
        return;
    }
    let Step::Field(field) = first else { panic!("a step into a message names a field") };
    match (rest.first(), message.get_field_mut(field)) {
        (Some(Step::Index(i)), Value::List(list)) => {
            set(list[*i].as_message_mut().unwrap(), &rest[1..], target, value);
        }
        (Some(Step::Key(key)), Value::Map(map)) => {
            set(map.get_mut(key).unwrap().as_message_mut().unwrap(), &rest[1..], target, value);
        }
        (_, Value::Message(inner)) => set(inner, rest, target, value),
        _ => panic!("steps lead to messages"),
    }
    debug_assert!(matches!(field.kind(), Kind::Message(_)));
}
