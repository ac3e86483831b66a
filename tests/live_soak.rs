//! A long line of lives leaves nothing behind. `TRACER_SOAK=100000` for the long one.

use tracer_tests::{Context, Result, ensure, live, soak::Soak};

/// Lives, where `TRACER_SOAK` does not say.
const LIVES: u64 = 2_000;
/// Growth of the memory from the first tenth to the end that counts as flat, KiB: a page here and
/// there that the allocator has not given back.
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
    for part in [lives / 10, lives * 4 / 10, lives - lives / 2] {
        soak.live(part)?;
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
    println!("{lives} lives in {took:.1?}, RssAnon at 10, 50, 100 %: {memory:?} KiB");
    let (first, last) = (memory[0], memory[2]);
    ensure!(last <= first + FLAT_KIB, "from {first} to {last} KiB");
    Ok(())
}
