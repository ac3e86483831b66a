//! A call's body, cut where its messages begin.
//!
//! ```text
//!  frames of HTTP/2   ├──────16 KiB──────┼──────16 KiB──────┼───
//!  messages           ├5┼────────────46 KiB────────────┼5┼─100─┼5┼
//!  what tonic gets    ├5┼─────────────┼───────────────┼5┼─100─┼5┼
//! ```
//!
//! Tonic makes room for a message when it has read its five bytes of head, beside whatever came with
//! them; so its buffer is up to a frame larger than the message, and what is over is used for the next
//! ones. A node that once said a lot and then sends a heartbeat every five seconds so kept its 60 KiB
//! for a quarter of an hour. Cut like this the room is as large as the message, and the next one gets
//! room of its own.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};

/// Bytes of a message's head: whether it is compressed, and its length.
const HEAD: usize = 5;

/// The body.
#[derive(Debug)]
pub struct Cut<B> {
    inner: B,
    /// Came, and was not handed on.
    rest: Bytes,
    /// Of the head that is coming in.
    head: [u8; HEAD],
    head_len: usize,
    /// Of the message, still to come.
    left: usize,
}

impl<B> Cut<B> {
    #[must_use]
    pub const fn new(inner: B) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            head: [0; HEAD],
            head_len: 0,
            left: 0,
        }
    }

    /// The next piece of what came: at most up to the end of a head, or of a message.
    fn piece(&mut self) -> Bytes {
        if self.left > 0 {
            let piece = self.rest.split_to(self.left.min(self.rest.len()));
            self.left -= piece.len();
            return piece;
        }
        let room = self.head.get_mut(self.head_len..).unwrap_or_default();
        let piece = self.rest.split_to(room.len().min(self.rest.len()));
        for (to, from) in room.iter_mut().zip(&piece) {
            *to = *from;
        }
        self.head_len += piece.len();
        if self.head_len == HEAD {
            let [_, length @ ..] = self.head;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            self.head_len = 0;
        }
        piece
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Cut<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        while self.rest.is_empty() {
            let came = ready!(Pin::new(&mut self.inner).poll_frame(context));
            match came.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, task::Waker};

    use super::*;

    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn cut(bytes: &[u8], frame: usize) -> Vec<Bytes> {
        let frames = bytes.chunks(frame).map(Bytes::copy_from_slice);
        let mut body = Cut::new(Frames(frames.collect()));
        let mut context = Context::from_waker(Waker::noop());
        let mut pieces = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
            pieces.push(frame.into_data().expect("data"));
        }
        pieces
    }

    #[test]
    fn pieces_end_with_heads_and_messages_however_they_come() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for length in [0_u32, 1, 3, 700, 0, 20] {
            bytes.push(0);
            bytes.extend_from_slice(&length.to_be_bytes());
            ends.push(bytes.len());
            bytes.resize(bytes.len() + usize::try_from(length).expect("few"), 7);
            ends.push(bytes.len());
        }
        for frame in [1, 2, 5, 6, 64, 10_000] {
            let pieces = cut(&bytes, frame);
            assert_eq!(pieces.concat(), bytes);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
            let mut at = 0;
            for piece in pieces {
                let (from, to) = (at, at + piece.len());
                at = to;
                assert!(!ends.iter().any(|end| from < *end && *end < to), "{frame}");
            }
        }
    }

    #[test]
    fn what_is_no_message_goes_on_as_it_is() {
        let bytes = [0xff; 100];
        assert_eq!(cut(&bytes, 9).concat(), bytes);
    }
}
