//! Texts that come with the program: completions, manual pages, the systemd unit.

use std::{fs, io, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::generate;
use clap_mangen::Man;

use super::{Failure, print};
use crate::cli::{Cli, CompletionsArgs, ManArgs};

/// The unit for systemd, hardened as far as tracer's work allows.
const UNIT: &str = include_str!("../../dist/tracer.service");

const NAME: &str = "tracer";

/// Prints the completions for a shell.
///
/// # Errors
///
/// Those of standard output.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    generate(args.shell, &mut Cli::command(), NAME, &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints a manual page, or writes all of them.
///
/// # Errors
///
/// A command that does not exist; those of the directory and of standard output.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    if let Some(directory) = &args.directory {
        return Ok(write_pages(directory)?);
    }
    let mut all = Cli::command();
    all.build();
    let command = match &args.command {
        None => all,
        Some(name) => all
            .find_subcommand(name)
            .filter(|command| !command.is_hide_set())
            .cloned()
            .with_context(|| format!("there is no command '{name}'"))
            .map_err(Failure::Usage)?,
    };
    let mut page = Vec::new();
    render(command, &mut page).context("cannot make the page")?;
    print(&String::from_utf8_lossy(&page))
}

/// One page per command: `tracer.1`, `tracer-run.1`, ….
fn write_pages(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut all = Cli::command();
    all.build();
    let shown = all.get_subcommands().filter(|one| !one.is_hide_set());
    let pages: Vec<clap::Command> = shown.cloned().chain([all.clone()]).collect();
    for command in pages {
        let name = command
            .get_display_name()
            .unwrap_or_else(|| command.get_name());
        let file = directory.join(format!("{name}.1"));
        let mut page = Vec::new();
        render(command, &mut page)?;
        fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn render(command: clap::Command, to: &mut impl io::Write) -> io::Result<()> {
    Man::new(command)
        .manual("tracer")
        .source(concat!("tracer ", env!("CARGO_PKG_VERSION")))
        .render(to)
}

/// Prints the unit.
///
/// # Errors
///
/// Those of standard output.
pub fn unit() -> Result<(), Failure> {
    print(UNIT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let mut all = Cli::command();
        all.build();
        for command in all.get_subcommands().filter(|one| !one.is_hide_set()) {
            let mut page = Vec::new();
            render(command.clone(), &mut page).expect("a page");
            let page = String::from_utf8(page).expect("text");
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"));
            assert!(
                page.contains(&format!("tracer\\-{}", command.get_name()))
                    || command.get_name() == "help",
                "{page}"
            );
        }
    }

    #[test]
    fn the_unit_starts_what_exists() {
        let line = UNIT
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let words = line.expect("a command").split(' ').skip(1);
        let command = std::iter::once(NAME).chain(words);
        assert!(Cli::command().try_get_matches_from(command).is_ok());
        // The capabilities that tracer keeps must be among those that it is given.
        let set = UNIT
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .expect("a bounding set");
        let given: BTreeSet<&str> = set.split(' ').collect();
        for kept in crate::sandbox::KEPT {
            assert!(given.contains(kept.to_string().as_str()), "{kept}");
        }
    }
}
