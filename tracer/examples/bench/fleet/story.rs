//! What a simulated node tells: lives of containers in turn, as text, and the table that follows
//! from them.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// What comes after what in a container's life; the state that it leads to.
const LIFE: [(&str, &str); 5] = [
    ("started", "running"),
    ("exited", "exited"),
    ("emptied", "exited"),
    ("removed", "removed"),
    ("created", "created"),
];

/// One container.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Of its cgroup: one per life.
    life: u64,
    step: usize,
    /// Its part of the table's hash; `None` where it is removed.
    hash: Option<u64>,
}

/// One node.
#[derive(Debug)]
pub struct Story {
    pub name: String,
    pub stream: String,
    boot_id: String,
    /// Of the containers; over all their lives.
    ids: Vec<String>,
    seq: u64,
    slots: Vec<Slot>,
    next_slot: usize,
    hash: u64,
    containers: u64,
}

impl Story {
    /// A node that has told nothing yet.
    pub fn new(number: u64, containers: usize) -> Self {
        let slot = Slot {
            life: 0,
            step: 0,
            hash: None,
        };
        Self {
            name: format!("node-{number:05}"),
            stream: format!("01a20000-0000-7000-8000-{number:012x}"),
            boot_id: format!("00000000-0000-4000-8000-{number:012x}"),
            ids: (0..containers).map(|slot| id(number, slot)).collect(),
            seq: 0,
            slots: vec![slot; containers],
            next_slot: 0,
            hash: 0,
            containers: 0,
        }
    }

    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// How many containers are not removed, and the hash over them.
    pub const fn table(&self) -> (u64, u64) {
        (self.containers, self.hash)
    }

    /// The start: every container is found running.
    pub fn prologue(&mut self) -> Vec<Bytes> {
        let mut lines = vec![self.of_node("started")];
        for slot in 0..self.slots.len() {
            lines.push(self.of_container(slot, "discovered", "running"));
        }
        lines.push(self.of_node("synced"));
        lines
    }

    /// The next thing in somebody's life.
    pub fn next(&mut self) -> Bytes {
        let at = self.next_slot;
        self.next_slot = (at + 1) % self.slots.len().max(1);
        let Some(slot) = self.slots.get_mut(at) else {
            return self.of_node("clock");
        };
        slot.step = (slot.step + 1) % LIFE.len();
        let (kind, state) = LIFE.get(slot.step).copied().unwrap_or(("oom", "running"));
        if kind == "created" {
            slot.life += 1;
        }
        self.of_container(at, kind, state)
    }

    fn of_node(&mut self, kind: &str) -> Bytes {
        self.seq += 1;
        let mut line = self.head("node.", kind);
        line.push('}');
        line.into()
    }

    fn of_container(&mut self, at: usize, kind: &str, state: &str) -> Bytes {
        self.seq += 1;
        let Some(slot) = self.slots.get_mut(at) else {
            return Bytes::new();
        };
        let cgroup = 1_000_000 * slot.life + at as u64 + 1;
        if let Some(old) = slot.hash.take() {
            self.hash = self.hash.wrapping_sub(old);
            self.containers -= 1;
        }
        let instance = format!("{}:0:{cgroup}", self.boot_id);
        if state != "removed" {
            let part = xxh3_64(format!("{instance} {}", self.seq).as_bytes());
            slot.hash = Some(part);
            self.hash = self.hash.wrapping_add(part);
            self.containers += 1;
        }
        let mut line = self.head("container.", kind);
        self.body(&mut line, at, &instance, state);
        line.into()
    }

    /// Put together from pieces: the load must cost less than what it loads.
    fn head(&self, of: &str, kind: &str) -> String {
        let mut number = itoa::Buffer::new();
        let seq = number.format(self.seq);
        let mut line = String::with_capacity(LINE);
        let zeros = "000000000".get(seq.len().min(9)..).unwrap_or_default();
        for piece in [
            "{\"id\":\"",
            &self.stream,
            "/",
            seq,
            "\",\"seq\":",
            seq,
            ",\"time\":\"2026-11-22T00:11:45.",
            zeros,
            seq,
            "Z\",\"type\":\"",
            of,
            kind,
            "\",\"origin\":\"kernel\",\"host\":{\"name\":\"",
            &self.name,
            "\",\"id\":\"0123456789abcdef0123456789abcdef\",\"boot_id\":\"",
            &self.boot_id,
            "\"}",
        ] {
            line.push_str(piece);
        }
        line
    }

    fn body(&self, line: &mut String, at: usize, instance: &str, state: &str) {
        let mut numbers = [itoa::Buffer::new(), itoa::Buffer::new()];
        let [seq, slot] = &mut numbers;
        let (seq, slot) = (seq.format(self.seq), slot.format(at));
        let id = self.ids.get(at).map_or("", String::as_str);
        let cgroup = instance.rsplit(':').next().unwrap_or_default();
        for piece in [
            ",\"container\":{\"id\":\"",
            id,
            "\",\"instance\":\"",
            instance,
            "\",\"name\":\"shop-",
            slot,
            "\",\"runtime\":{\"name\":\"docker\"},\"image\":{\"name\":\"registry.example/shop/frontend\",\
             \"tags\":[\"1.27.3\"]},\"label\":{\"app\":\"shop\",\"tier\":\"frontend\"},\"state\":\"",
            state,
            "\",\"version\":",
            seq,
            ",\"parents\":[]},\"cgroup\":{\"hierarchy\":\"unified\",\"id\":\"",
            cgroup,
            "\",\"path\":\"/docker/",
            id,
            "\"},\"process\":{\"pid\":1",
            slot,
            ",\"vpid\":1,\"parent_pid\":4690,\"executable\":{\"name\":\"nginx\",\
             \"path\":\"/usr/sbin/nginx\"}},\"enrichment\":\"full\",\"emit_latency_ns\":42588}",
        ] {
            line.push_str(piece);
        }
    }
}

/// About as long as a line gets, bytes.
const LINE: usize = 960;

/// The id of a node's container.
fn id(node: u64, slot: usize) -> String {
    format!("{node:08x}{slot:08x}{:048x}", node * 1000 + slot as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_records_and_the_table_follows_from_them() {
        let mut story = Story::new(7, 3);
        let mut lines = story.prologue();
        lines.extend((0..40).map(|_| story.next()));
        let mut table = std::collections::BTreeMap::new();
        for (line, seq) in lines.iter().zip(1..) {
            let record: tracer::record::Record = serde_json::from_slice(line).expect("a record");
            assert_eq!(record.seq, seq);
            let Some(container) = record.container else {
                continue;
            };
            let instance = container.instance.to_string();
            match container.state {
                tracer::record::State::Removed => drop(table.remove(&instance)),
                _ => drop(table.insert(instance, container.version)),
            }
        }
        let hash = table.iter().fold(0_u64, |sum, (instance, version)| {
            sum.wrapping_add(tracer::uplink::state_hash(instance, *version))
        });
        assert_eq!(story.table(), (table.len() as u64, hash));
    }
}
