//! Makes sure that the eBPF object is there to be embedded (`cargo xtask build` makes it), and turns
//! `proto/uplink.proto` into Rust where the upstream is wanted. No `protoc` is needed.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed=TRACER_EBPF_OBJECT");
    let object = env::var("TRACER_EBPF_OBJECT").unwrap_or_default();
    println!("cargo:rerun-if-changed={object}");
    if !Path::new(&object).is_file() {
        println!(
            "cargo:error=the eBPF object '{object}' is missing: run `cargo xtask build` first"
        );
        return ExitCode::FAILURE;
    }
    #[cfg(feature = "upstream")]
    if let Err(error) = uplink() {
        println!("cargo:error=proto/uplink.proto: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Payloads become `Bytes`: slices of what was read from the socket, not copies.
#[cfg(feature = "upstream")]
fn uplink() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/uplink.proto");
    let files = protox::compile(["proto/uplink.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::uplink::Frugal")
        .build_server(cfg!(feature = "gateway"))
        .compile_fds(files)?;
    Ok(())
}
