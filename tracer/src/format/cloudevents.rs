//! `CloudEvents` 1.0, structured mode: one JSON object per line, the record itself as `data`.
//!
//! | attribute | from |
//! | --- | --- |
//! | `id` | the record's `id`: unique for ever, the same if the record is sent again |
//! | `source` | `/nodes/<host.id>`, `/nodes/<host.name>` for a host without a machine id |
//! | `type` | [`TYPE_PREFIX`] and the record's `type` |
//! | `subject` | the container's id, where the record is about one |
//! | `time` | the record's `time` |
//! | `sequence` | the record's `seq`, zero-padded so that it orders as text (an extension of the spec) |
//!
//! A host's name is whatever somebody set it to, and a source is a URI reference: what is not plain
//! there is percent-encoded.

use serde::Serialize;

use crate::{record::Record, time::Timestamp};

/// What stands before the record's type.
pub const TYPE_PREFIX: &str = "dev.tracer.";

/// Digits of `sequence`: those of the largest u64.
const SEQUENCE_DIGITS: usize = 20;

/// A record in its envelope.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: Timestamp,
    datacontenttype: &'static str,
    sequence: String,
    data: &'a Record,
}

impl<'a> Event<'a> {
    /// The envelope of `record`.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        let host = record.host.id.as_deref().unwrap_or(&record.host.name);
        let subject = record.container.as_ref().map(|container| &*container.id);
        Self {
            specversion: "1.0",
            id: &record.id,
            source: format!("/nodes/{}", percent_encode(host)),
            kind: format!("{TYPE_PREFIX}{}", record.kind.as_str()),
            subject: subject.filter(|id| !id.is_empty()),
            time: record.time,
            datacontenttype: "application/json",
            sequence: format!("{:0SEQUENCE_DIGITS$}", record.seq),
            data: record,
        }
    }
}

/// One segment of a path (RFC 3986, 2.3): everything but unreserved characters encoded.
fn percent_encode(segment: &str) -> String {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::percent_encode;

    #[test]
    fn a_name_stays_one_segment() {
        for (name, encoded) in [
            ("edge-7.example_a~", "edge-7.example_a~"),
            ("a/../b", "a%2F..%2Fb"),
            ("50% of #1?", "50%25%20of%20%231%3F"),
            ("k\u{fc}che\n", "k%C3%BCche%0A"),
        ] {
            assert_eq!(percent_encode(name), encoded);
        }
    }
}
