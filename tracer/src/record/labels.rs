//! Labels, in one piece.
//!
//! Thousands of containers are kept, with labels that hardly any event asks for. A tree of texts takes
//! a node with room for eleven and two allocations for each; this takes two in all.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor},
};

/// Values by names, in the order of the names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Labels {
    /// Each name, and its value behind it.
    text: Box<str>,
    /// Where each of the two ends, in turns.
    ends: Box<[u32]>,
}

impl Labels {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let (pairs, _) = self.ends.as_chunks();
        let mut start = 0;
        pairs.iter().map(move |[name_end, end]| {
            let (name_end, end) = (*name_end as usize, *end as usize);
            let text = |from, to| self.text.get(from..to).unwrap_or_default();
            let pair = (text(start, name_end), text(name_end, end));
            start = end;
            pair
        })
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.iter();
        pairs.find_map(|(found, value)| (found == name).then_some(value))
    }
}

/// Of two values of one name the last.
impl<N: AsRef<str> + Ord, V: AsRef<str>> FromIterator<(N, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut making = Making::default();
        for (name, value) in pairs.into_iter().collect::<BTreeMap<N, V>>() {
            making.push(name.as_ref());
            making.push(value.as_ref());
        }
        making.labels()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Making::default())
    }
}

impl JsonSchema for Labels {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        BTreeMap::<String, String>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, String>::json_schema(generator)
    }
}

/// Labels that grow.
#[derive(Default)]
struct Making {
    text: String,
    ends: Vec<u32>,
}

impl Making {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.end();
    }

    fn end(&mut self) {
        // What is read is bounded far below.
        self.ends
            .push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    fn labels(self) -> Labels {
        Labels {
            text: self.text.into(),
            ends: self.ends.into(),
        }
    }
}

impl<'de> Visitor<'de> for Making {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts by names")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Labels, A::Error> {
        while map.next_key_seed(Text(&mut self.text))?.is_some() {
            self.end();
            map.next_value_seed(Text(&mut self.text))?;
            self.end();
        }
        let labels = self.labels();
        // Tracer's own are in order.
        Ok(if labels.iter().is_sorted_by(|(a, _), (b, _)| a < b) {
            labels
        } else {
            labels.iter().collect()
        })
    }
}

/// A text that is appended.
struct Text<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_what_a_tree_of_texts_is() {
        for json in [
            "{}",
            r#"{"":""}"#,
            r#"{"b":"","":"x","a\n":"\u0000é"}"#,
            r#"{"a":"1","b":"2","a":"3"}"#,
        ] {
            let labels: Labels = serde_json::from_str(json).expect("labels");
            let tree: BTreeMap<String, String> = serde_json::from_str(json).expect("a tree");
            let pairs = tree.iter().map(|(name, value)| (&**name, &**value));
            assert!(labels.iter().eq(pairs), "{labels:?}");
            assert_eq!(format!("{labels:?}"), format!("{tree:?}"));
            assert_eq!(labels.is_empty(), tree.is_empty());
            assert_eq!(labels, tree.iter().collect());
            for name in ["", "a", "a\n", "b", "c"] {
                assert_eq!(labels.get(name), tree.get(name).map(String::as_str));
            }
            let written = serde_json::to_string(&labels).expect("JSON");
            assert_eq!(written, serde_json::to_string(&tree).expect("JSON"));
            let bytes = postcard::to_stdvec(&tree).expect("bytes");
            assert_eq!(postcard::from_bytes::<Labels>(&bytes), Ok(labels));
        }
        assert!(serde_json::from_str::<Labels>(r#"{"a":1}"#).is_err());
    }
}
