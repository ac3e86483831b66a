//! Recordings of real runtimes through the engine: `data/NAME.rec` gives `data/NAME.jsonl`, whole and
//! byte for byte. `TRACER_BLESS=1` writes what comes out as what is expected; read the difference
//! before it is committed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tracer_tests::{Context, Result, check, command::run, ensure, record::Record, tracer::binary};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn recordings() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rec") {
            found.push(path);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no recordings in {}", data().display());
    Ok(found)
}

fn replay(file: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["replay", "--format", "json"])
        .arg(file)
        .stdin(Stdio::null());
    command
}

#[test]
fn recordings_replay_to_what_was_told() -> Result<()> {
    for recording in recordings()? {
        let told = run(&mut replay(&recording))?.ended(0)?.stdout;
        let expected = recording.with_extension("jsonl");
        if std::env::var_os("TRACER_BLESS").is_some() {
            fs::write(&expected, &told)?;
        }
        let expected = fs::read_to_string(&expected)
            .with_context(|| format!("read {}", expected.display()))?;
        for (number, (told, expected)) in told.lines().zip(expected.lines()).enumerate() {
            ensure!(
                told == expected,
                "{} line {}:\n   told {told}\nexpected {expected}",
                recording.display(),
                number + 1
            );
        }
        ensure!(told == expected, "{}: one is longer", recording.display());
        let mut rules = check::Checker::new(check::Schema::of(&binary())?);
        for line in told.lines() {
            rules.check_record(&Record::parse(line)?)?;
        }
    }
    Ok(())
}

/// What is whole is told, what is not is an error; nothing else happens.
#[test]
fn a_recording_cut_anywhere_tells_what_was_before_the_cut() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let cut_file = directory.path().join("cut.rec");
    for recording in recordings()? {
        let whole = fs::read(&recording)?;
        let told = run(&mut replay(&recording))?.ended(0)?.stdout;
        // Every length would take minutes; these fall everywhere within entries.
        for part in 1..24 {
            let len = whole.len() * part / 24 + part % 7;
            fs::write(&cut_file, whole.get(..len).unwrap_or(&whole))?;
            let done = run(&mut replay(&cut_file))?;
            ensure!(
                told.starts_with(&done.stdout),
                "cut at {len}: {}",
                done.stdout
            );
            let clear = done.code == 0 || done.stderr.contains("ends within an entry");
            ensure!(clear, "cut at {len}: {} {}", done.code, done.stderr);
        }
    }
    Ok(())
}
