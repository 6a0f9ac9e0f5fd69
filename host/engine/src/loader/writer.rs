//! The thread that writes ready images, while the model is already in use.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    catalog::Digest,
    ready::{Matrices, Store},
};

/// Writes one image at a time. Dropping it gives up the one under way.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The image under way: of which model's file.
    thread: Option<(Digest, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts to write an image; while another is being written, does nothing: it is written when the
    /// model next wakes or goes to sleep.
    pub(super) fn start(&mut self, store: &Store, digest: &Digest, layout: String, matrices: Matrices) {
        if self.thread.as_ref().is_some_and(|(_, thread)| !thread.is_finished()) {
            return;
        }
        self.wait();
        let under_way = digest.clone();
        let (store, digest, stop) = (store.clone(), digest.clone(), self.stop.clone());
        let body = move || {
            let began = Instant::now();
            match store.write_image(&digest, &layout, &matrices, &stop) {
                Ok(()) => tracing::info!(%digest, took = ?began.elapsed(), "wrote a ready image"),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    tracing::debug!(%digest, %error, "gave up a ready image");
                }
                Err(error) => tracing::warn!(%digest, %error, "can't write a ready image"),
            }
        };
        match thread::Builder::new().name("image".into()).spawn(body) {
            Ok(thread) => self.thread = Some((under_way, thread)),
            Err(error) => tracing::warn!(%error, "can't start a thread to write a ready image"),
        }
    }

    /// Whether this model's image is under way.
    pub(super) fn is_writing(&self, digest: &Digest) -> bool {
        self.thread.as_ref().is_some_and(|(of, _)| of == digest)
    }

    /// Waits until the image under way is written.
    pub(super) fn wait(&mut self) {
        if let Some((_, thread)) = self.thread.take() {
            // A panic was reported within the thread.
            drop(thread.join());
        }
    }

    /// Gives up the image under way.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wait();
        self.stop.store(false, Ordering::Relaxed);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}
