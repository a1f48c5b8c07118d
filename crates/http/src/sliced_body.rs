//! Bodies of responses in slices, so that what a connection buffers does not grow with them.
//!
//! The server copies a chunk of a body into the buffer of its connection as a whole, and asks for the next one when that buffer has room.
//! A body that is one chunk, as every document is, would be copied once for each client that reads slowly.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

/// Most bytes of one chunk: what the server buffers before it waits for the client (`h1_write_buffer_size` of actix-http).
const SLICE: usize = 32 * 1_024;

/// The body in chunks of at most [`SLICE`] bytes.
pub(crate) fn sliced(body: BoxBody) -> BoxBody {
    let size = body.size();
    match size {
        BodySize::Sized(bytes) if bytes > SLICE as u64 => BoxBody::new(SlicedBody {
            size,
            body,
            rest: Bytes::new(),
        }),
        _ => body,
    }
}

struct SlicedBody {
    /// Of the whole.
    size: BodySize,
    body: BoxBody,
    /// Of the chunk that was read last.
    rest: Bytes,
}

impl MessageBody for SlicedBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        while self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.rest = chunk,
                ended => return ended,
            }
        }
        let size = self.rest.len().min(SLICE);
        Poll::Ready(Some(Ok(self.rest.split_to(size))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_large_body_comes_whole_in_slices() {
        let text: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut body = sliced(BoxBody::new(text.clone()));
        assert_eq!(body.size(), BodySize::Sized(100_000));
        let mut sizes = Vec::new();
        let mut whole = Vec::new();
        while let Some(chunk) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            let chunk = chunk.expect("the bytes of a document do not fail");
            sizes.push(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        assert_eq!(sizes, [SLICE, SLICE, SLICE, 100_000 - 3 * SLICE]);
        assert!(whole == text, "the slices are the body");
    }

    #[tokio::test]
    async fn a_small_body_stays_as_it_is() {
        let body = sliced(BoxBody::new("small"));
        assert_eq!(to_bytes(body).await.expect("it is there"), "small");
    }
}
