//! Any bytes as a recording, replayed to its end: `seq` has no hole, every line is JSON and what
//! serde makes of the record, the same bytes give the same lines.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::{
    engine::write_line,
    lifecycle::Output,
    recording::Player,
};

fuzz_target!(|file: &[u8]| {
    let lines = replay(file);
    assert_eq!(lines, replay(file));
    let mut last = None;
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let record: serde_json::Value = serde_json::from_slice(line).expect("a line of JSON");
        let seq = record["seq"].as_u64().expect("a number");
        assert!(
            last.is_none_or(|last| seq == last + 1),
            "a hole before {seq}"
        );
        last = Some(seq);
    }
});

fn replay(file: &[u8]) -> Vec<u8> {
    let (mut lines, mut by_serde) = (Vec::new(), Vec::new());
    let Ok((mut player, header)) = Player::new(file) else {
        return lines;
    };
    let mut engine = header.into_engine();
    while let Ok(Some((now, entry))) = player.entry() {
        let stepped = engine.step(now, &entry, |renderer, output| {
            if let Output::Event(event) = output {
                renderer.line(event, now, &mut lines);
                write_line(&renderer.record(event, now), &mut by_serde).expect("JSON");
            }
        });
        // A record that cannot be read is counted and has no effect.
        let _ = stepped;
    }
    assert!(lines == by_serde, "{}", String::from_utf8_lossy(&by_serde));
    lines
}
