//! The service inside the test's own process.

use std::{net::SocketAddr, path::Path, sync::mpsc, thread};

use dormouse::Config;
use tempfile::TempDir;
use tokio::{runtime::Builder, sync::oneshot};

use crate::Client;

/// Instances that a test's server has room for; each reserves address space.
const INSTANCES_MAX: usize = 64;

/// A running service with a data folder of its own. Dropping it drains it.
pub struct Server {
    data: TempDir,
    client: Client,
    running: Option<Running>,
}

struct Running {
    shutdown: oneshot::Sender<()>,
    thread: thread::JoinHandle<Result<(), dormouse::Error>>,
}

impl Server {
    /// A server with the defaults.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// A server with settings changed by `configure`.
    pub fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().expect("a temporary folder");
        let (running, client) = start(data.path(), configure);
        Self { data, client, running: Some(running) }
    }

    /// A client of it.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its data folder.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// Tells it to stop, and returns at once; [`Server::stop`] waits.
    pub fn begin_drain(&mut self) -> Drain {
        Drain(self.running.take().map(|running| {
            // A server that has failed is told of when it is joined.
            let _ = running.shutdown.send(());
            running.thread
        }))
    }

    /// Drains it and waits for its end.
    pub fn stop(&mut self) {
        self.begin_drain().wait();
    }

    /// Drains it and starts it again on the same data, perhaps on another port.
    pub fn restart(&mut self) {
        self.stop();
        let (running, client) = start(self.data.path(), |_| {});
        (self.running, self.client) = (Some(running), client);
    }
}

/// A server that has been told to stop.
#[must_use = "a drain may fail"]
pub struct Drain(Option<thread::JoinHandle<Result<(), dormouse::Error>>>);

impl Drain {
    /// Waits for the server's end, which must be a good one.
    pub fn wait(self) {
        if let Some(thread) = self.0 {
            thread.join().expect("the server doesn't panic").expect("the server ends well");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let drain = self.begin_drain();
        // In a test that has failed, a second panic would abort and hide the first.
        if !thread::panicking() {
            drain.wait();
        }
    }
}

fn start(data: &Path, configure: impl FnOnce(&mut Config)) -> (Running, Client) {
    let mut config = Config::new(data);
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.runtime.instances_max = INSTANCES_MAX;
    configure(&mut config);

    let (shutdown, stopped) = oneshot::channel();
    let (listening, address) = mpsc::channel();
    let thread = thread::spawn(move || {
        let tokio = Builder::new_multi_thread().enable_all().build().expect("a tokio runtime");
        let stopped = async {
            // Stops too when the test is gone.
            let _ = stopped.await;
        };
        tokio.block_on(dormouse::serve(config, stopped, move |address| {
            listening.send(address).expect("the test waits for the address");
        }))
    });
    match address.recv() {
        Ok(address) => (Running { shutdown, thread }, Client::new(format!("http://{address}"))),
        Err(_) => panic!("the server did not start: {:?}", thread.join()),
    }
}
