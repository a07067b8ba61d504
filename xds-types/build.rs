//! Generates our own types from `proto/portolan` and embeds two descriptor sets: the one that the package
//! `envoy-types` ships, and ours.
//!
//! Runs without protoc and without network. Every package below `proto/portolan` becomes a module of
//! `portolan` by itself: a new `.proto` file needs no line here or in `lib.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Version of `envoy-types` whose descriptor set is embedded. A test holds it equal to the workspace's pin.
const ENVOY_TYPES: &str = "0.7.7";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=ENVOY_TYPES_VERSION={ENVOY_TYPES}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR"));
    generate_ours(&out);
    let file = envoy_types_dir(&out).join("src/generated/types.bin");
    println!("cargo::rerun-if-changed={}", file.display());
    let shipped = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    fs::write(out.join("envoy.fds"), without_source_info(&shipped)).expect("envoy.fds");
}

/// Rust types and the descriptor set of `proto/portolan`.
fn generate_ours(out: &Path) {
    // Asked when it runs: a target folder that was copied holds a build script of another place.
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR")).join("../proto");
    let mut files = Vec::new();
    protos(&root, &mut files);
    files.sort();
    let mut compiler = protox::Compiler::new([&root]).expect("proto folder");
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(&files).unwrap_or_else(|e| panic!("proto/portolan: {e:?}"));

    let mut config = prost_build::Config::new();
    config.compile_well_known_types(); // so that the next line may say where they are
    config.extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    config.enable_type_names();
    // What holds keys is not printed: `lib.rs` says how.
    config.skip_debug([
        ".portolan.config.v1.Certificate",
        ".portolan.config.v1.Value",
        ".portolan.api.v1.CreateTokenResponse",
    ]);
    config.type_name_domain(["."], "type.googleapis.com");
    config.include_file("portolan.rs");
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_fds_with_config(compiler.file_descriptor_set(), config)
        .expect("proto/portolan generates");

    // Encoded by protox itself: going through prost-types would lose our own options.
    compiler.include_source_info(false).include_imports(false);
    fs::write(out.join("portolan.fds"), compiler.encode_file_descriptor_set()).expect("portolan.fds");
}

fn protos(dir: &Path, found: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir).expect("proto folder") {
        let path = entry.expect("proto entry").path();
        if path.is_dir() {
            protos(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            found.push(path);
        }
    }
}

/// The folder cargo unpacked `envoy-types` into (registry, vendored or patched).
///
/// `cargo metadata` on this workspace would need every dev-dependency of every member downloaded, so it is
/// asked about a throw-away package that depends on `envoy-types` alone, with the workspace's lock file.
/// `ENVOY_TYPES_DIR` overrides.
fn envoy_types_dir(out: &Path) -> PathBuf {
    println!("cargo::rerun-if-env-changed=ENVOY_TYPES_DIR");
    if let Some(dir) = env::var_os("ENVOY_TYPES_DIR") {
        return dir.into();
    }
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("CARGO_MANIFEST_DIR"));
    let probe = out.join("probe");
    fs::create_dir_all(&probe).expect("probe folder");
    fs::write(probe.join("lib.rs"), "").expect("probe source");
    let manifest = format!(
        "[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
         [workspace]\n[dependencies]\nenvoy-types = \"={ENVOY_TYPES}\"\n"
    );
    fs::write(probe.join("Cargo.toml"), manifest).expect("probe manifest");
    // A build out of a package archive has no lock file of the workspace; then cargo resolves from its cache.
    if let Some(lock) = here.ancestors().map(|d| d.join("Cargo.lock")).find(|p| p.exists()) {
        fs::copy(lock, probe.join("Cargo.lock")).expect("probe lock file");
    }
    let output = Command::new(env::var_os("CARGO").expect("CARGO"))
        .current_dir(&here) // cargo's configuration (vendoring, mirrors) is looked up from here
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(env::var_os("TARGET").expect("TARGET"))
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "cannot find envoy-types {ENVOY_TYPES}; set ENVOY_TYPES_DIR to its folder: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let graph: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let package = graph["packages"]
        .as_array()
        .and_then(|all| all.iter().find(|p| p["name"] == "envoy-types"))
        .expect("envoy-types is in the graph");
    let manifest = Path::new(package["manifest_path"].as_str().expect("manifest path"));
    manifest.parent().expect("manifest folder").to_owned()
}

/// Drops `FileDescriptorProto.source_code_info` (four fifths of the set) from an encoded `FileDescriptorSet`.
///
/// Done on the wire because decoding into prost-types would drop extension options such as `validate.rules`.
fn without_source_info(set: &[u8]) -> Vec<u8> {
    const FILE: u64 = 0x0a;
    const SOURCE_CODE_INFO: u64 = 9;
    let (mut out, mut at) = (Vec::with_capacity(set.len() / 4), 0);
    while at < set.len() {
        assert_eq!(varint(set, &mut at), FILE, "types.bin is a FileDescriptorSet");
        let len = length(set, &mut at);
        let file = without_field(&set[at..at + len], SOURCE_CODE_INFO);
        at += len;
        put_varint(&mut out, FILE);
        put_varint(&mut out, file.len() as u64);
        out.extend(file);
    }
    out
}

/// Copies one message without one of its fields.
fn without_field(message: &[u8], number: u64) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(message.len()), 0);
    while at < message.len() {
        let start = at;
        let tag = varint(message, &mut at);
        match tag & 7 {
            0 => {
                varint(message, &mut at);
            }
            1 => at += 8,
            2 => at += length(message, &mut at),
            5 => at += 4,
            other => panic!("types.bin holds wire type {other}"),
        }
        if tag >> 3 != number {
            out.extend_from_slice(&message[start..at]);
        }
    }
    out
}

fn length(bytes: &[u8], at: &mut usize) -> usize {
    usize::try_from(varint(bytes, at)).expect("length")
}

fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
        shift += 7;
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
