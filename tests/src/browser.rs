//! A headless Chromium, driven over its own protocol.
//!
//! ```text
//!  test ── commands, JSON, NUL at the end ──▶ descriptor 3 ─┐
//!       ◀── answers, events ───────────────── descriptor 4 ─┴ chromium --remote-debugging-pipe
//! ```
//!
//! A shell puts standard input and output there: nothing else has to be agreed upon, no port is open.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{command::Keep, need::on_path, wait::DEADLINE};

/// Debian's smaller one first.
const PROGRAMS: [&str; 2] = ["chromium-headless-shell", "chromium"];

/// The program, where one is installed.
#[must_use]
pub fn program() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| on_path(program))
}

/// What waits in the test at most.
const HELD: usize = 1 << 12;

/// A browser with one page; killed when dropped.
#[derive(Debug)]
pub struct Browser {
    /// Ends with this.
    _process: Keep,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    next: u64,
    /// What scripts and the page complained of.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it, with an empty page.
    pub fn start(program: &str) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args([
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let to = child.stdin.take().context("no pipe")?;
        let out = child.stdout.take().context("no pipe")?;
        let (told, from) = sync_channel(HELD);
        thread::Builder::new()
            .name("browser".to_owned())
            .spawn(move || {
                for message in BufReader::new(out).split(0).map_while(Result::ok) {
                    let Ok(message) = serde_json::from_slice(&message) else {
                        return;
                    };
                    if told.send(message).is_err() {
                        return;
                    }
                }
            })?;
        let mut browser = Self {
            _process: Keep::new(child, "chromium")?,
            to,
            from,
            session: None,
            next: 1,
            complaints: Vec::new(),
            _profile: profile,
        };
        let page = browser.ask("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": page.get("targetId"), "flatten": true});
        let attached = browser.ask("Target.attachToTarget", &attach)?;
        let session = attached.get("sessionId").and_then(Value::as_str);
        browser.session = Some(session.context("a session")?.to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.ask(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        // Without one it is the browser that is asked, not the page.
        let command = match &self.session {
            None => json!({"id": id, "method": method, "params": params}),
            Some(session) => {
                json!({"id": id, "method": method, "params": params, "sessionId": session})
            }
        };
        let text = format!("{command}\0");
        self.to.write_all(text.as_bytes()).context("the browser")?;
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.from.recv_timeout(left);
            let message = message.with_context(|| format!("{method} is not answered"))?;
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                self.note(&message);
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(message.get("result").cloned().unwrap_or_default());
        }
    }

    /// An event: what is a complaint is kept.
    fn note(&mut self, event: &Value) {
        let method = event.get("method").and_then(Value::as_str);
        let is_bad = match method {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event.pointer("/params/entry/level") == Some(&json!("error")),
            Some("Runtime.consoleAPICalled") => {
                event.pointer("/params/type") == Some(&json!("error"))
            }
            _ => false,
        };
        if is_bad {
            self.complaints.push(event.to_string());
        }
    }

    /// What scripts and the page complained of so far.
    pub fn complaints(&mut self) -> Result<&[String]> {
        // Behind all that came before the answer.
        self.eval("0")?;
        Ok(&self.complaints)
    }

    /// A window of this size, in CSS pixels.
    pub fn resize(&mut self, width: u32, height: u32, is_phone: bool) -> Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone});
        self.ask("Emulation.setDeviceMetricsOverride", &size)
            .map(drop)
    }

    /// Goes to a page.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.ask("Page.navigate", &json!({"url": url}))?;
        ensure!(answer.get("errorText").is_none(), "{url}: {answer}");
        Ok(())
    }

    /// What an expression is worth.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", &asked)?;
        let thrown = answer.get("exceptionDetails");
        ensure!(thrown.is_none(), "{expression}: {thrown:?}");
        let value = answer.pointer("/result/value");
        Ok(value.cloned().unwrap_or_default())
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        while self.eval(expression)? != json!(true) {
            if Instant::now() > end {
                let page = self.eval("document.body.innerText")?;
                bail!(
                    "not true in time: {expression}\n{page}\n{:?}",
                    self.complaints
                );
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Presses a key and lets it go; `text` is what it types.
    pub fn press(&mut self, key: &str, code: u32, text: &str) -> Result<()> {
        let kind = if text.is_empty() {
            "rawKeyDown"
        } else {
            "keyDown"
        };
        let down = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text});
        self.ask("Input.dispatchKeyEvent", &down)?;
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.ask("Input.dispatchKeyEvent", &up).map(drop)
    }

    /// Types a text into what has the focus.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.ask("Input.insertText", &json!({"text": text}))
            .map(drop)
    }

    /// A picture of the window, as PNG.
    pub fn picture(&mut self, path: &Path) -> Result<()> {
        let shot = self.ask("Page.captureScreenshot", &json!({"format": "png"}))?;
        let data = shot.get("data").and_then(Value::as_str);
        let bytes = BASE64_STANDARD.decode(data.context("a picture")?)?;
        std::fs::write(path, bytes).with_context(|| path.display().to_string())
    }
}
