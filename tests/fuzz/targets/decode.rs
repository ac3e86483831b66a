//! Any bytes as a record of the ring: an error or an event whose texts lie in those bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::decode::{What, decode};

fuzz_target!(|record: &[u8]| {
    let Ok(event) = decode(record) else { return };
    let within = |text: &[u8]| record.as_ptr_range().contains(&text.as_ptr()) || text.is_empty();
    match event.what {
        What::Mkdir(mkdir) | What::Rename(mkdir) => {
            assert!(within(mkdir.path) && mkdir.leaf.is_none_or(within));
        }
        What::Exec(exec) => {
            assert!(within(exec.filename) && within(exec.args) && within(exec.process.comm));
        }
        What::Fork { child: task, .. } | What::Exit { process: task, .. } => {
            assert!(within(task.comm))
        }
        What::Oom(oom) => assert!(within(oom.victim.comm)),
        What::Rmdir { .. } | What::Populated { .. } | What::Frozen { .. } => {}
    }
    // What is only told by longer records is not told by shorter ones, and nothing panics on the way.
    for len in 0..record.len() {
        let _ = decode(&record[..len]);
    }
});
