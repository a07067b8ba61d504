//! Generates our own types from `proto/portolan`, without protoc.

use std::path::{Path, PathBuf};

fn protos(dir: &Path, found: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in std::fs::read_dir(dir).expect("proto folder") {
        let path = entry.expect("proto entry").path();
        if path.is_dir() {
            protos(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            found.push(path);
        }
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut files = Vec::new();
    protos(&root, &mut files);
    files.sort();
    let set = protox::compile(&files, [&root]).expect("proto/portolan compiles");
    let mut config = prost_build::Config::new();
    config.compile_well_known_types(); // so that the next line may say where they are
    config.extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_fds_with_config(set, config)
        .expect("proto/portolan generates");
}
