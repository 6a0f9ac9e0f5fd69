//! A JavaScript or TypeScript project, by the JavaScript SDK's build on Node.

use std::path::Path;
use std::process::{Command, Stdio};

use super::workshop::{self, Plan, Workshop};
use super::{Built, Told, driver};
use crate::scaffold::Error;

/// The SDK's files, by path.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/javascript.rs"));

/// The oldest Node that runs the SDK's build.
const VERSION_MIN: u32 = 18;

/// Builds the JavaScript project in `folder`.
pub(super) fn build(folder: &Path, tools_dir: &Path, tell: &mut dyn FnMut(Told)) -> Result<Built, Error> {
    let version = version()?;
    let plan = Plan { language: "javascript", sources: SDK, depends_on: &version };
    let workshop = Workshop::open(tools_dir, &plan, |path| {
        tell(Told::Step("installing componentize-qjs and esbuild (once)".to_owned()));
        let mut npm = Command::new("npm");
        npm.args(["install", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]);
        npm.current_dir(path.join("sdk"));
        workshop::install(npm)
    })?;
    let wasm = driver::output(folder)?;
    let mut command = Command::new("node");
    command.arg(workshop.sdk("build/main.js")).arg(folder).arg("--output").arg(&wasm);
    driver::run(command, wasm, tell)
}

/// The version of Node, if it is new enough.
fn version() -> Result<String, Error> {
    let missing = |here: &str| {
        let text = format!("a JavaScript project needs Node {VERSION_MIN} or newer to be built, and {here}");
        Error::NoTool(text)
    };
    let output = Command::new("node").arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|_| missing("none is installed"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match major(&version) {
        Some(major) if major >= VERSION_MIN => Ok(version),
        _ => Err(missing(&format!("here is {version}"))),
    }
}

/// `v20.20.2` as 20.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_whole() {
        let has = |path: &str| SDK.iter().any(|(name, _)| *name == path);
        assert!(has("package.json") && has("build/main.js") && has("src/worker.js") && has("wit/guest.wit"));
        assert!(!SDK.iter().any(|(name, _)| name.contains("node_modules")));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!((major("v20.20.2"), major("v9.1.0"), major("20")), (Some(20), Some(9), None));
    }
}
