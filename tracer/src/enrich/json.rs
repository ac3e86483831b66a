//! JSON as hostile input: one visitor that takes a value if it is of the expected type and within
//! its bounds, and else skips it. A wrong field costs that field, not the file; only broken syntax
//! is an error. What is not asked for is skipped without being stored.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::MapAccessDeserializer,
    },
};

/// Longest name, image reference, id, key of a label.
pub(super) const MAX_NAME: usize = 256;
/// Longest value of a label; a longer one is left out, for a cut value would be a wrong one.
const MAX_VALUE: usize = 4 << 10;
/// Most labels of one container.
const MAX_LABELS: usize = 256;
/// Most bytes of keys and values of one container's labels.
const MAX_LABEL_BYTES: usize = 64 << 10;
/// Longest path.
pub(super) const MAX_PATH: usize = 4 << 10;
/// Longest annotation that a runtime writes for itself (CRI-O's hold JSON of their own).
const MAX_KNOWN_VALUE: usize = 64 << 10;
/// Most annotations that runtimes write for themselves.
const MAX_KNOWN: usize = 256;
/// Most entries of a list.
const MAX_LIST: usize = 1024;

/// A value if it is what `T` expects.
#[derive(Debug)]
pub(super) struct Maybe<T>(pub Option<T>);

/// What can be taken from JSON. Each method is one type of JSON; those not defined refuse it.
pub(super) trait Value: Sized {
    fn of_text(_: &str) -> Option<Self> {
        None
    }

    fn of_number(_: u64) -> Option<Self> {
        None
    }

    fn of_bool(_: bool) -> Option<Self> {
        None
    }

    fn of_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Text of 1 to `MAX` bytes.
#[derive(Debug)]
pub(super) struct Text<const MAX: usize>(pub String);

/// An object with fields of its own.
#[derive(Debug)]
pub(super) struct Object<T>(pub T);

/// The good elements of a list, up to a bound.
#[derive(Debug)]
pub(super) struct List<T>(pub Vec<T>);

/// Labels within all bounds. Which ones are kept where there are too many is the order of adding.
#[derive(Debug, Default)]
pub(super) struct Labels {
    map: BTreeMap<String, String>,
    bytes: usize,
}

/// Annotations or labels, those of runtimes apart from those of users: runtimes write them in
/// alphabetical order, so that a user's many could otherwise push out the identity.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    known: BTreeMap<String, String>,
    rest: Labels,
}

/// What runtimes and orchestrators put before the keys that are read as facts.
const KNOWN: &[&str] = &[
    "io.kubernetes.",
    "annotation.io.kubernetes.",
    "io.container.manager",
    "io.containerd.",
    "io.podman.",
    "nerdctl/",
    "org.opencontainers.image.",
];

pub(super) type Name = Maybe<Text<MAX_NAME>>;
pub(super) type PathText = Maybe<Text<MAX_PATH>>;

impl<T> Default for Maybe<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<const MAX: usize> Maybe<Text<MAX>> {
    pub(super) fn text(self) -> Option<String> {
        self.0.map(|text| text.0)
    }
}

impl<T> Maybe<Object<T>> {
    pub(super) fn object(self) -> Option<T> {
        self.0.map(|object| object.0)
    }
}

impl<T> Maybe<List<T>> {
    pub(super) fn list(self) -> Vec<T> {
        self.0.map(|list| list.0).unwrap_or_default()
    }
}

impl<const MAX: usize> Value for Text<MAX> {
    fn of_text(text: &str) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX).then(|| Self(text.to_owned()))
    }
}

impl Value for u64 {
    fn of_number(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl<T: DeserializeOwned> Value for Object<T> {
    fn of_map<'de, A: MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|object| Some(Self(object)))
    }
}

impl<T: Value> Value for List<T> {
    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut taken = Vec::new();
        while let Some(Maybe(element)) = list.next_element::<Maybe<T>>()? {
            if taken.len() < MAX_LIST {
                taken.extend(element);
            }
        }
        Ok(Some(Self(taken)))
    }
}

impl Value for Annotations {
    fn of_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut taken = Self::default();
        while let Some((key, value)) =
            map.next_entry::<Maybe<Text<MAX_NAME>>, Maybe<Text<MAX_KNOWN_VALUE>>>()?
        {
            if let (Some(key), Some(value)) = (key.text(), value.text()) {
                taken.add(key, value);
            }
        }
        Ok(Some(taken))
    }
}

impl Labels {
    pub(super) fn add(&mut self, key: String, value: String) {
        let bytes = key.len() + value.len();
        let fits = key.len() <= MAX_NAME
            && value.len() <= MAX_VALUE
            && self.map.len() < MAX_LABELS
            && self.bytes + bytes <= MAX_LABEL_BYTES;
        if fits && !key.is_empty() {
            self.bytes += bytes;
            self.map.insert(key, value);
        }
    }

    pub(super) fn into_map(self) -> BTreeMap<String, String> {
        self.map
    }
}

impl Annotations {
    fn add(&mut self, key: String, value: String) {
        if !KNOWN.iter().any(|prefix| key.starts_with(prefix)) {
            self.rest.add(key, value);
        } else if self.known.len() < MAX_KNOWN {
            self.known.insert(key, value);
        }
    }

    /// A runtime's own annotation.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.known.get(key).map(String::as_str)
    }

    /// [`Self::get`] of what may not be longer than a name.
    pub(super) fn name(&self, key: &str) -> Option<String> {
        self.get(key)
            .filter(|name| name.len() <= MAX_NAME)
            .map(str::to_owned)
    }

    /// Takes the users' away.
    pub(super) fn take_rest(&mut self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.rest).into_map()
    }

    /// All of them as labels.
    pub(super) fn into_labels(self) -> BTreeMap<String, String> {
        let Self { known, rest } = self;
        let mut labels = Labels::default();
        for (key, value) in known.into_iter().chain(rest.map) {
            labels.add(key, value);
        }
        labels.into_map()
    }
}

/// Reads a whole file. Bytes that are no UTF-8 become U+FFFD.
///
/// # Errors
///
/// Broken syntax, or a top level of another type.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    match serde_json::from_slice(bytes) {
        Err(_) if std::str::from_utf8(bytes).is_err() => {
            serde_json::from_str(&String::from_utf8_lossy(bytes))
        }
        read => read,
    }
}

impl<'de, T: Value> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any(PhantomData)).map(Self)
    }
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for Any<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::of_bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(T::of_number(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(T::of_text(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::of_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        T::of_list(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Sample {
        name: Name,
        count: Maybe<u64>,
        inner: Maybe<Object<Inner>>,
        list: Maybe<List<Text<4>>>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        deep: Name,
    }

    #[track_caller]
    fn check(
        json: &str,
        name: Option<&str>,
        count: Option<u64>,
        deep: Option<&str>,
        list: &[&str],
    ) {
        let sample: Sample = parse(json.as_bytes()).expect(json);
        let inner = sample.inner.object().unwrap_or_default();
        assert_eq!(sample.name.text().as_deref(), name, "{json}");
        assert_eq!(sample.count.0, count, "{json}");
        assert_eq!(inner.deep.text().as_deref(), deep, "{json}");
        let found: Vec<String> = sample.list.list().into_iter().map(|text| text.0).collect();
        assert_eq!(found, list, "{json}");
    }

    #[test]
    fn a_wrong_type_costs_one_fact() {
        check("{}", None, None, None, &[]);
        check(
            r#"{"name":"a","count":7,"inner":{"deep":"b","x":[{}]},"list":["c",1,"long1",{},"d"]}"#,
            Some("a"),
            Some(7),
            Some("b"),
            &["c", "d"],
        );
        for wrong in ["null", "true", "-1", "1.5", "\"\"", "[[1]]", "{\"a\":{}}"] {
            check(
                &format!(r#"{{"name":{wrong},"count":7,"inner":{wrong},"list":{wrong}}}"#),
                None,
                Some(7),
                None,
                &[],
            );
        }
        check(r#"{"name":"a","count":"7"}"#, Some("a"), None, None, &[]);
        check(r#"{"count":18446744073709551616}"#, None, None, None, &[]);
    }

    #[test]
    fn depth_is_bounded_where_it_is_kept_and_free_where_it_is_skipped() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        check(
            &format!(r#"{{"other":{deep},"name":"a"}}"#),
            Some("a"),
            None,
            None,
            &[],
        );
        let kept = format!(r#"{{"list":{deep}}}"#);
        check(&kept, None, None, None, &[]);
    }

    #[test]
    fn labels_are_bounded() {
        let labels = |pairs: &[(String, String)]| {
            let map: BTreeMap<_, _> = pairs.iter().cloned().collect();
            let json = serde_json::to_vec(&map).expect("json");
            let Maybe(taken) = parse::<Maybe<Annotations>>(&json).expect("a map");
            taken.expect("a map").into_labels()
        };
        let pair = |key: usize, len: usize| (format!("k{key:04}"), "v".repeat(len));
        let many: Vec<_> = (0..1_000).map(|key| pair(key, 1)).collect();
        assert_eq!(labels(&many).len(), MAX_LABELS);
        let large: Vec<_> = (0..100).map(|key| pair(key, MAX_VALUE)).collect();
        assert!(labels(&large).len() < 16);
        assert_eq!(labels(&[pair(0, MAX_VALUE + 1), pair(1, 1)]).len(), 1);
        assert_eq!(labels(&[("k".repeat(MAX_NAME + 1), "v".into())]).len(), 0);
        let mut pushed = many;
        pushed.push(("nerdctl/name".into(), "web".into()));
        assert_eq!(
            labels(&pushed).get("nerdctl/name").map(String::as_str),
            Some("web")
        );
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        let sample: Sample = parse(b"{\"name\":\"a\xffb\"}").expect("json");
        assert_eq!(sample.name.text().as_deref(), Some("a\u{fffd}b"));
    }
}
