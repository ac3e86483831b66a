//! Any bytes as a configuration file: an error that says something, or a configuration.

#![no_main]

use std::{fs::File, io::Write as _, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::os::fd::AsRawFd as _;
use tracer::{cli::RunArgs, config::Config};

fuzz_target!(|text: &[u8]| {
    static FILE: OnceLock<File> = OnceLock::new();
    let mut file = FILE.get_or_init(|| {
        File::from(memfd_create("config", MemfdFlags::CLOEXEC).expect("a file in memory"))
    });
    ftruncate(file, 0).expect("a file that can be emptied");
    std::io::Seek::rewind(&mut file).expect("a file with a beginning");
    file.write_all(text).expect("a file that can be written");
    let args = RunArgs {
        config: Some(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))),
        ..RunArgs::default()
    };
    if let Err(error) = Config::new(args) {
        assert!(!format!("{error:#}").is_empty());
    }
});
