//! Makes sure that the eBPF object is there to be embedded; `cargo xtask build` makes it.

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
    ExitCode::SUCCESS
}
