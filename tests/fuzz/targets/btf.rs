//! Any bytes as a kernel's type information, asked for all that tracer asks for.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::kernel::{
    btf::Btf,
    needs::{self, PROGRAMS},
};

fuzz_target!(|blob: &[u8]| {
    let Ok(btf) = Btf::parse(blob, |_| true) else {
        return;
    };
    let _ = needs::resolve(&btf);
    for program in PROGRAMS {
        let _ = btf.tracepoint(program.name);
        let _ = needs::check_prototype(&btf, program);
    }
    for (name, member) in [
        ("task_struct", "pid"),
        ("upid", "nr"),
        ("cgroup_subsys_id", "memory_cgrp_id"),
    ] {
        let _ = btf.member_offset(name, member);
        let _ = btf.struct_size(name);
        let _ = btf.enum_value(name, member);
    }
});
