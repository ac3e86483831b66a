//! A long line of lives leaves nothing behind. `TRACER_SOAK=100000` for the long one.

use tracer_tests::{Context, Result, ensure, live, soak::Soak};

/// Lives, where `TRACER_SOAK` does not say.
const LIVES: u64 = 2_000;
/// Memory is measured after each of so many parts.
const PARTS: u64 = 10;
/// Growth of the memory from the middle to the end that counts as flat, KiB. Queues keep the size
/// that the worst moment gave them: on a busy machine that may come late.
const FLAT_KIB: u64 = 512;

#[test]
fn a_long_line_of_lives_leaves_nothing_behind() -> Result<()> {
    let _live = live!("cc");
    let lives = match std::env::var("TRACER_SOAK") {
        Ok(number) => number.parse().context("TRACER_SOAK is no number")?,
        Err(_) => LIVES,
    };
    ensure!(lives >= 1000, "TRACER_SOAK is less than 1000");
    let begin = std::time::Instant::now();
    let mut soak = Soak::start()?;
    let mut memory = Vec::new();
    for part in 1..=PARTS {
        soak.live(lives * part / PARTS - lives * (part - 1) / PARTS)?;
        memory.push(soak.memory()?);
    }
    soak.left_in_kernel()?;
    let took = begin.elapsed();
    let prefix = soak.prefix().to_owned();
    let table = soak.stop()?.to_string();
    // Ids are in the table as text, paths as bytes.
    ensure!(!table.contains(&prefix), "a container is left: {table}");
    let bytes: Vec<String> = prefix.bytes().map(|byte| byte.to_string()).collect();
    ensure!(!table.contains(&bytes.join(",")), "a path is left: {table}");
    println!("{lives} lives in {took:.1?}, RssAnon after each tenth: {memory:?} KiB");
    let (middle, last) = (memory[4], memory[9]);
    ensure!(last <= middle + FLAT_KIB, "it grows: {memory:?} KiB");
    Ok(())
}
