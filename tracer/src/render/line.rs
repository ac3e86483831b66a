//! From an [`Event`] straight to its line of JSON: what every event pays.
//!
//! Byte for byte what serde makes of [`Renderer::record`], without the record in between: nothing is
//! allocated, texts are copied once, numbers are written in place, and what was written of the host
//! and of a container is kept for its next line ([`super::written`]). The types of [`crate::record`]
//! stay the schema and the parser; a property test holds this file to them, field by field and in
//! their order, over events of every type with hostile texts.
//!
//! Most bytes of a line are texts that need no escape. So a text is first judged as a whole, eight
//! bytes at a time, and then copied as a whole; only one that holds
//! a quote, a backslash, a control character or no ASCII goes the slow way, byte by byte.
//!
//! What is told seldom (the node's own records, OOM kills, pods, arguments) goes through serde.

use serde::Serialize;

use super::{Renderer, arguments, known, latency, text, written};
use crate::{
    lifecycle::{Actor, Event, Identity, Subject},
    record::{Enrichment, Exit, Host, Image, Kind, Origin, Parent, Runtime, State},
    time::{BootNs, Timestamp},
};

impl Renderer {
    /// Appends the line of `event`, as it leaves at `now`, with its line feed.
    pub fn line(&self, event: &Event<'_>, now: BootNs, to: &mut Vec<u8>) {
        let mut json = Json(to);
        let common = self.written.common(self);
        let mut digits = itoa::Buffer::new();
        let seq = digits.format(event.seq);
        json.0.extend_from_slice(&common.id);
        json.raw(seq);
        json.raw(r#"","seq":"#);
        json.raw(seq);
        json.raw(r#","time":""#);
        self.written.time(self.offset.at(event.time), json.0);
        json.0
            .extend_from_slice(common.what(event.kind, event.origin));
        self.written.keep(common);
        if let Some(subject) = &event.container {
            let identity = subject.identity;
            if let Some(parts) = subject.kept.parts() {
                let (before, after) = parts.both();
                json.0.extend_from_slice(before);
                json.progress(subject, event.seq, seq);
                json.0.extend_from_slice(after);
            } else {
                let start = json.0.len();
                json.identity(identity);
                let before = start..json.0.len();
                json.progress(subject, event.seq, seq);
                let middle = json.0.len();
                json.surroundings(identity);
                if written::is_lasting(event) {
                    let parts = [json.0.get(before), json.0.get(middle..)];
                    subject.kept.keep(|| written::parts(parts));
                }
            }
        }
        if let Some(process) = &event.process {
            json.process(process);
        }
        if let Some((pid, start)) = event.session {
            json.raw(r#","exec":{"session":""#);
            json.number(u64::from(pid));
            json.raw(":");
            json.number(start);
            json.raw(r#""}"#);
        }
        if let Some(facts) = &event.oom {
            json.raw(r#","oom":"#);
            json.value(&self.oom(facts));
        }
        if let Some(killed) = event.oom_killed {
            json.raw(r#","oom_killed":"#);
            json.truth(killed);
        }
        if let Some(ns) = event.duration_ns {
            json.raw(r#","duration_ns":"#);
            json.quoted_number(ns);
        }
        if let Some(subject) = &event.container {
            json.raw(r#","enrichment":""#);
            json.raw(enrichment(subject.enrichment));
            json.raw("\"");
        }
        if let Some(node) = &event.node {
            json.raw(r#","node":"#);
            json.value(node);
        }
        if let Some(ns) = latency(event, now) {
            json.raw(r#","emit_latency_ns":"#);
            json.number(ns);
        }
        json.raw("}\n");
    }
}

/// A line in the making.
pub(super) struct Json<'a>(pub(super) &'a mut Vec<u8>);

impl Json<'_> {
    /// What needs no escape. Inlined, a constant is stored instead of copied.
    #[inline]
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    #[inline]
    fn number(&mut self, value: u64) {
        let mut digits = itoa::Buffer::new();
        self.raw(digits.format(value));
    }

    #[inline]
    fn quoted_number(&mut self, value: u64) {
        self.raw("\"");
        self.number(value);
        self.raw("\"");
    }

    #[inline]
    fn truth(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    fn time(&mut self, time: Timestamp) {
        self.raw("\"");
        self.0.extend_from_slice(&time.text());
        self.raw("\"");
    }

    /// A text that is UTF-8, in quotes.
    #[inline]
    fn text(&mut self, text: &str) {
        self.raw("\"");
        self.escaped(text.as_bytes());
        self.raw("\"");
    }

    /// `name` is the field with its quotes, colon and the comma before it.
    #[inline]
    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.raw(name);
            self.text(text);
        }
    }

    /// A text that a container chose; absent where it is empty.
    fn hostile(&mut self, name: &str, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.raw(name);
        if is_plain(bytes) && bytes.len() <= super::MAX_TEXT {
            self.raw("\"");
            self.0.extend_from_slice(bytes);
            self.raw("\"");
        } else {
            self.text(&text(bytes).unwrap_or_default());
        }
    }

    /// UTF-8 between quotes, escaped as serde does it.
    fn escaped(&mut self, text: &[u8]) {
        if is_plain(text) {
            self.0.extend_from_slice(text);
            return;
        }
        for byte in text {
            match byte {
                b'"' => self.raw(r#"\""#),
                b'\\' => self.raw(r"\\"),
                b'\n' => self.raw(r"\n"),
                b'\r' => self.raw(r"\r"),
                b'\t' => self.raw(r"\t"),
                0x08 => self.raw(r"\b"),
                0x0c => self.raw(r"\f"),
                0..0x20 => {
                    self.raw(r"\u00");
                    self.hex(byte >> 4);
                    self.hex(byte & 15);
                }
                _ => self.0.push(*byte),
            }
        }
    }

    fn hex(&mut self, digit: u8) {
        self.0
            .push(if digit < 10 { b'0' } else { b'a' - 10 } + digit);
    }

    /// By way of serde.
    fn value(&mut self, value: &impl Serialize) {
        let start = self.0.len();
        if let Err(error) = serde_json::to_writer(&mut *self.0, value) {
            // None of the record's types can fail.
            tracing::error!(%error, "part of a record cannot be written");
            self.0.truncate(start);
            self.raw("null");
        }
    }

    /// Up to the number in the record's id.
    pub(super) fn id(&mut self, stream: &str) {
        self.raw(r#"{"id":""#);
        self.escaped(stream.as_bytes());
        self.raw("/");
    }

    /// From the end of the time to the host.
    pub(super) fn what(&mut self, kind: Kind, from: Origin, host: &Host) {
        self.raw(r#"","type":""#);
        self.raw(kind.as_str());
        self.raw(r#"","origin":""#);
        self.raw(origin(from));
        self.raw(r#"","host":{"name":"#);
        self.text(&host.name);
        self.optional(r#","id":"#, host.id.as_deref());
        self.raw(r#","boot_id":"#);
        self.text(&host.boot_id);
        self.raw("}");
    }

    /// `container` up to its state.
    pub(super) fn identity(&mut self, identity: &Identity) {
        self.raw(r#","container":{"id":"#);
        self.text(&identity.id);
        self.raw(r#","instance":"#);
        self.raw("\"");
        self.escaped(identity.boot_id.as_bytes());
        self.raw(":");
        self.number(u64::from(identity.cgroup.hierarchy));
        self.raw(":");
        self.number(identity.cgroup.id);
        self.raw("\"");
        self.optional(r#","name":"#, identity.name.as_deref());
        self.runtime(identity.runtime.as_ref());
        if let Some(image) = &identity.image {
            self.image(image);
        }
        if let Some(label) = &identity.label {
            self.raw(r#","label":{"#);
            for (index, (key, value)) in label.iter().enumerate() {
                self.raw(if index == 0 { "" } else { "," });
                self.text(key);
                self.raw(":");
                self.text(value);
            }
            self.raw("}");
        }
        if let Some(created) = identity.created {
            self.raw(r#","created":"#);
            self.time(created);
        }
        if let Some(count) = identity.restart_count {
            self.raw(r#","restart_count":"#);
            self.number(count);
        }
        if identity.sandbox {
            self.raw(r#","sandbox":true"#);
        }
    }

    /// What events change of `container`; most of them make their own number its version.
    fn progress(&mut self, subject: &Subject<'_>, seq: u64, digits: &str) {
        self.raw(r#","state":""#);
        self.raw(state(subject.state));
        self.raw(r#"","version":"#);
        if subject.version == seq {
            self.raw(digits);
        } else {
            self.number(subject.version);
        }
    }

    /// The rest of `container`, `k8s` and `cgroup`.
    pub(super) fn surroundings(&mut self, identity: &Identity) {
        self.parents(&identity.parents);
        self.raw("}");
        if let Some(k8s) = &identity.k8s {
            self.raw(r#","k8s":"#);
            self.value(k8s);
        }
        self.raw(r#","cgroup":{"hierarchy":"#);
        self.text(&identity.hierarchy);
        self.raw(r#","id":"#);
        self.quoted_number(identity.cgroup.id);
        self.hostile(r#","path":"#, &identity.path);
        self.raw("}");
    }

    fn runtime(&mut self, runtime: Option<&Runtime>) {
        if let Some(runtime) = runtime {
            self.raw(r#","runtime":{"name":"#);
            self.text(&runtime.name);
            self.raw("}");
        }
    }

    fn image(&mut self, image: &Image) {
        self.raw(r#","image":{"#);
        let first = self.0.len();
        self.optional(r#","name":"#, image.name.as_deref());
        self.texts(r#","tags":["#, &image.tags);
        self.optional(r#","id":"#, image.id.as_deref());
        self.texts(r#","repo_digests":["#, &image.repo_digests);
        // Each field came with a comma before it.
        if self.0.len() > first {
            self.0.remove(first);
        }
        self.raw("}");
    }

    /// A field of several texts; absent where there is none.
    fn texts(&mut self, name: &str, texts: &[String]) {
        for (index, text) in texts.iter().enumerate() {
            self.raw(if index == 0 { name } else { "," });
            self.text(text);
        }
        self.raw(if texts.is_empty() { "" } else { "]" });
    }

    fn parents(&mut self, parents: &[Parent]) {
        self.raw(r#","parents":["#);
        for (index, parent) in parents.iter().enumerate() {
            self.raw(if index == 0 {
                r#"{"id":"#
            } else {
                r#",{"id":"#
            });
            self.text(&parent.id);
            self.runtime(parent.runtime.as_ref());
            self.raw("}");
        }
        self.raw("]");
    }

    fn process(&mut self, actor: &Actor<'_>) {
        self.raw(r#","process":{"pid":"#);
        self.number(u64::from(actor.pid));
        for (name, value) in [
            (r#","vpid":"#, actor.vpid),
            (r#","parent_pid":"#, actor.parent_pid),
        ] {
            if let Some(value) = known(value) {
                self.raw(name);
                self.number(u64::from(value));
            }
        }
        match (actor.comm.is_empty(), actor.path.is_empty()) {
            (true, true) => {}
            (false, _) => {
                self.hostile(r#","executable":{"name":"#, actor.comm);
                self.hostile(r#","path":"#, actor.path);
                self.raw("}");
            }
            (true, false) => {
                self.hostile(r#","executable":{"path":"#, actor.path);
                self.raw("}");
            }
        }
        if !actor.args.is_empty() {
            self.raw(r#","command_args":"#);
            self.value(&arguments(actor.args));
        }
        if let Some(status) = actor.status {
            self.exit(status);
        }
        self.raw("}");
    }

    fn exit(&mut self, status: u32) {
        let exit = Exit::from_wait_status(status);
        self.raw(r#","exit":{"code":"#);
        self.number(u64::from(exit.code));
        self.optional(r#","signal":"#, exit.signal.as_deref());
        self.raw(r#","core_dumped":"#);
        self.truth(exit.core_dumped);
        self.raw(r#","status":"#);
        self.number(u64::from(exit.status));
        self.raw("}");
    }
}

/// Whether the text is ASCII that JSON takes as it is: by words, of which the last two may overlap.
fn is_plain(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk() else {
        return text.iter().copied().all(is_plain_byte);
    };
    let (words, _) = text.as_chunks::<WORD>();
    words.iter().all(|word| is_plain_word(*word)) && is_plain_word(*last)
}

const WORD: usize = size_of::<u64>();

/// All eight bytes at once. Each difference has the high bit of a byte set if that byte is below
/// 0x20, a quote or a backslash; the lowest such byte is always found, and where there is none no
/// byte borrows from the next.
const fn is_plain_word(word: [u8; WORD]) -> bool {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; WORD])
    }
    let word = u64::from_ne_bytes(word);
    let control = word.wrapping_sub(each(0x20));
    let quote = (word ^ each(b'"')).wrapping_sub(each(1));
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(1));
    (word | control | quote | backslash) & each(0x80) == 0
}

const fn is_plain_byte(byte: u8) -> bool {
    byte >= 0x20 && byte < 0x80 && byte != b'"' && byte != b'\\'
}

const fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Kernel => "kernel",
        Origin::Snapshot => "snapshot",
        Origin::Reconcile => "reconcile",
    }
}

const fn state(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Exited => "exited",
        State::Removed => "removed",
    }
}

const fn enrichment(enrichment: Enrichment) -> &'static str {
    match enrichment {
        Enrichment::None => "none",
        Enrichment::Partial => "partial",
        Enrichment::Full => "full",
    }
}

#[cfg(test)]
mod tests;
