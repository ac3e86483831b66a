//! The gateway's page, as a browser shows it: what there is, what changes, keyboard, a phone's width.
//!
//! Pictures are left below `target/page`, for eyes.

use std::{fs, path::PathBuf};

use tokio::runtime::Runtime;
use tracer_tests::{
    Result,
    browser::{self, Browser},
    ensure, need, this_test,
    tracer::binary,
    upstream::{
        gateway::Gateway,
        wire::{self, Wire, line},
    },
};

const NODE: &str = "edge-7";
const STREAM: &str = "s";

const TAB: (&str, u32, &str) = ("Tab", 9, "");
const ENTER: (&str, u32, &str) = ("Enter", 13, "\r");
const ESCAPE: (&str, u32, &str) = ("Escape", 27, "");

/// A gateway that knows three containers of a node, two of them running.
struct Stage {
    gateway: Gateway,
    runtime: Runtime,
    wire: Wire,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut gateway = Gateway::new(binary(), directory.path().join("store"), None)?;
        gateway.start()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let wire = runtime.block_on(async {
            let channel = wire::plain(gateway.address()).await?;
            let (mut wire, _) = Wire::greet(channel, None, NODE, STREAM).await?;
            let states = [("aaaa", "running"), ("bbbb", "running"), ("cccc", "exited")];
            let lines = (1..).zip(states);
            let lines = lines.map(|(seq, (name, state))| line(STREAM, seq, name, state));
            wire.records(1, lines.collect()).await?;
            wire.acked(3).await?;
            anyhow::Ok(wire)
        })?;
        Ok(Self {
            gateway,
            runtime,
            wire,
            _directory: directory,
        })
    }

    fn tell(&mut self, seq: u64, container: &str, state: &str) -> Result<()> {
        let line = line(STREAM, seq, container, state);
        self.runtime
            .block_on(self.wire.deliver(seq, line))
            .map(drop)
    }
}

fn pictures() -> Result<PathBuf> {
    let binary = binary();
    let target = binary.ancestors().nth(2).unwrap_or(&binary);
    let directory = target.join("page");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn press(browser: &mut Browser, (key, code, text): (&str, u32, &str)) -> Result<()> {
    browser.press(key, code, text)
}

const ROWS: &str = "document.querySelectorAll('#rows tbody tr').length";
const FOCUS: &str = "document.activeElement.closest('#rows') !== null";

#[test]
fn the_page_shows_what_there_is_to_keyboards_and_phones() -> Result<()> {
    let Some(program) = browser::program() else {
        return need::skip(this_test!(), "no Chromium is installed");
    };
    let mut stage = Stage::new()?;
    let pictures = pictures()?;
    let mut browser = Browser::start(program)?;
    browser.resize(1280, 900, false)?;
    browser.open(&format!("http://{}/", stage.gateway.address()))?;
    browser.until(&format!("{ROWS} === 3"))?;
    browser.until("document.querySelectorAll('#nodes tbody tr').length === 1")?;
    browser.until("document.getElementById('link').dataset.state === 'live'")?;

    // What happens is there by itself: in the table, and first in the timeline.
    stage.tell(4, "bbbb", "exited")?;
    browser.until("[...document.querySelectorAll('#rows [data-state=exited]')].length === 2")?;
    browser.until("document.querySelector('#timeline li').textContent.includes('exited')")?;
    browser.picture(&pictures.join("wide.png"))?;

    // By keyboard alone: search, the row, its record, back.
    browser.press("/", 191, "/")?;
    browser.until("document.activeElement.id === 'q'")?;
    browser.write("aaaa")?;
    browser.until(&format!("{ROWS} === 1"))?;
    for _ in 0..8 {
        if browser.eval(FOCUS)? == true {
            break;
        }
        press(&mut browser, TAB)?;
    }
    browser.until(FOCUS)?;
    press(&mut browser, ENTER)?;
    browser.until("document.getElementById('detail').open")?;
    browser.until("document.getElementById('detail-record').textContent.includes('b:1:aaaa')")?;
    browser.picture(&pictures.join("record.png"))?;
    press(&mut browser, ESCAPE)?;
    browser.until("!document.getElementById('detail').open")?;
    browser.until(FOCUS)?;

    // A phone: nothing is wider than it, whatever there is.
    browser.resize(360, 780, true)?;
    browser.until("document.documentElement.scrollWidth <= 360")?;
    browser.eval("document.getElementById('q').value = ''; document.getElementById('filters').dispatchEvent(new Event('input'))")?;
    browser.until(&format!("{ROWS} === 3"))?;
    browser.until("document.documentElement.scrollWidth <= 360")?;
    browser.eval("document.activeElement.blur(); scrollTo(0, 0)")?;
    browser.picture(&pictures.join("phone.png"))?;
    browser.eval("document.getElementById('containers').scrollIntoView()")?;
    browser.picture(&pictures.join("phone-containers.png"))?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "{complaints:?}");
    Ok(())
}
