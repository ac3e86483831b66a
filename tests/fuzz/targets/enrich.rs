//! Any bytes as one of the files that runtimes keep; the first byte says which. What comes out has
//! bounds, whatever went in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::enrich::{Alone, read_alone};

const LONGEST: usize = 4 << 10;
const ALL_LABELS: usize = 64 << 10;

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else {
        return;
    };
    let kind = match which {
        b'd' => Alone::Docker,
        b's' => Alone::Storage,
        b'r' => Alone::State,
        b'c' => Alone::Containerd,
        b'p' => Alone::StorageBundle,
        b'b' => Alone::Bundle,
        _ => return,
    };
    for id in ["x", "web"] {
        let Ok(Some(facts)) = read_alone(kind, bytes, id) else {
            continue;
        };
        let labels: usize = facts
            .label
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert!(labels <= ALL_LABELS, "{labels} bytes of labels");
        let image = facts.image.unwrap_or_default();
        let texts = [facts.name, image.name, image.id].into_iter().flatten();
        for text in texts.chain(image.tags).chain(facts.repo_digests) {
            assert!(
                !text.is_empty() && text.len() <= LONGEST,
                "{} bytes",
                text.len()
            );
        }
        if let Some(bundle) = facts.bundle {
            assert!(bundle.is_absolute() && bundle.as_os_str().len() <= LONGEST);
        }
        if let Some(created) = facts.created {
            // It is a time that can be written.
            let text = created.to_string();
            assert_eq!(text.len(), 30, "{text}");
        }
    }
});
