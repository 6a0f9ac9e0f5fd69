//! The service from start to drain.

use std::{future::Future, net::SocketAddr};

use crate::{Config, Error};

/// Runs the service until `shutdown` completes, then drains: running predictions get
/// `http.drain_timeout` to finish. `on_listening` is called once, with the bound address, when
/// requests are answered.
pub async fn serve(
    config: Config,
    shutdown: impl Future<Output = ()>,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    let _ = (config, shutdown, on_listening);
    unimplemented!()
}
