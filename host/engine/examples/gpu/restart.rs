//! The first token after a restart: another process opens the device and wakes the model from its ready image, once
//! where the driver has compiled none of its kernels before, and once where it keeps them on disk.

use std::{
    ffi::OsStr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dormouse_engine::{Config, Engine};

use super::{NAME, first_token};

/// Where drivers keep compiled kernels: Mesa's, NVIDIA's.
const CACHES: [&str; 2] = ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"];
/// What tells this program to be the other process.
pub(crate) const FLAG: &str = "--restarted";

/// Prints both times.
pub(crate) fn print(index: usize, models_dir: &Path) -> Result<()> {
    let cache = tempfile::tempdir()?;
    let [cold, warm] = [(); 2].map(|()| restart(index, models_dir, cache.path().as_os_str()));
    let [(_, cold), (wake, warm)] = [cold?, warm?];
    println!(
        "first token after a restart: {} ms with no kernel compiled before, {} ms with the driver's cache, {} of them \
         the wake",
        cold.as_millis(),
        warm.as_millis(),
        wake.as_millis()
    );
    Ok(())
}

/// The other process: prints its wake and its time from the start to the first token, in microseconds.
pub(crate) async fn answer(config: Config) -> Result<()> {
    let began = Instant::now();
    let engine = Engine::start(config)?;
    let model = engine.open(NAME).await?;
    first_token(&model).await?;
    println!("{} {}", model.wake().as_micros(), began.elapsed().as_micros());
    Ok(())
}

/// Its wake, and its time to the first token.
fn restart(index: usize, models_dir: &Path, cache: &OsStr) -> Result<(Duration, Duration)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(FLAG).arg(models_dir).arg(index.to_string());
    let output = command.envs(CACHES.map(|name| (name, cache))).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut times = text.split_whitespace().map(|word| word.parse().map(Duration::from_micros));
    let mut time = || times.next().context("two times")?.context("a time in microseconds");
    Ok((time()?, time()?))
}
