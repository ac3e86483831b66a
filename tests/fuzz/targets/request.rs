//! Any bytes as what a client of the socket says: an error, or a request that is the same once more
//! after it was written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::{
    sink::socket::protocol::{Request, Since},
    time::Timestamp,
};

fuzz_target!(|line: &[u8]| {
    let now = Timestamp(1_795_296_168_197_953_294);
    if let Ok(text) = std::str::from_utf8(line) {
        let _ = Since::parse(text, now);
    }
    let Ok(request) = serde_json::from_slice::<Request>(line) else {
        return;
    };
    if let Some(since) = &request.since {
        let _ = Since::parse(since, now);
    }
    let again = serde_json::to_vec(&request).expect("a request can be written");
    assert_eq!(
        serde_json::from_slice::<Request>(&again).expect("and read"),
        request
    );
});
