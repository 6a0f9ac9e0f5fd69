//! Standard output and error of a guest: lines of its log.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{LogSource, outbox::Outbox};

/// Bytes that a guest may write before it asks again.
const WRITE_BYTES_MAX: usize = 8 << 10;

/// One of the two streams; every handle that a guest gets for it writes to the same lines.
#[derive(Clone)]
pub(crate) struct Stdio {
    outbox: Outbox,
    source: LogSource,
}

impl Stdio {
    pub(crate) fn new(outbox: Outbox, source: LogSource) -> Self {
        Self { outbox, source }
    }
}

#[async_trait]
impl Pollable for Stdio {
    /// Ready when the caller has taken the lines written before; this is where a slow reader makes the
    /// guest wait.
    async fn ready(&mut self) {
        // That the caller went away comes out of `check_write`, which has a way to say so.
        let _ = self.outbox.flush().await;
    }
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.outbox.write(self.source, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.outbox.try_flush() {
            Ok(true) => Ok(WRITE_BYTES_MAX),
            Ok(false) => Ok(0),
            Err(stop) => Err(StreamError::Trap(stop.into())),
        }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

/// What the trait asks for besides; WASI 0.2 writes by [`OutputStream`] only.
impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outbox.write(self.source, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
