//! A function's code: a component, as it is or in a zip file.

use std::io::{Cursor, Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;
use zip::ZipArchive;

use super::{super::Error, Refusal};
use crate::{service::Service, store::Blobs};

/// What every WebAssembly binary begins with.
const WASM: &[u8] = b"\0asm";
/// What every zip file with an entry begins with.
const ZIP: &[u8] = b"PK\x03\x04";

/// Where code is, as Lambda's clients say it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Code {
    /// Base64.
    pub(super) zip_file: Option<String>,
    s3_bucket: Option<String>,
    image_uri: Option<String>,
}

/// The component of some code, in a file that may become a blob.
pub(super) async fn upload(service: &Service, code: Code) -> Result<NamedTempFile, Refusal> {
    if code.s3_bucket.is_some() || code.image_uri.is_some() {
        return Err(Refusal::invalid("code comes as ZipFile; this node has no buckets and no images"));
    }
    let Some(text) = code.zip_file else { return Err(Refusal::invalid("code has no ZipFile")) };
    let (blobs, max) = (service.store.blobs.clone(), service.config.deploy.component_bytes_max);
    let saved = spawn_blocking(move || {
        let bytes = STANDARD.decode(text).map_err(|error| Refusal::invalid(format!("ZipFile: {error}")))?;
        save(&blobs, &component(bytes, max)?)
    });
    saved.await.map_err(Error::internal)?
}

/// Bytes in a file that may become a blob. Blocks.
pub(super) fn save(blobs: &Blobs, bytes: &[u8]) -> Result<NamedTempFile, Refusal> {
    let save = || {
        let mut upload = blobs.upload()?;
        upload.write_all(bytes)?;
        Ok(upload)
    };
    save().map_err(|error: std::io::Error| Error::internal(format!("saving an upload: {error}")).into())
}

/// The component that bytes are, or that is in the zip file that they are.
fn component(bytes: Vec<u8>, max: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal::from(super::super::body::too_large(max));
    if bytes.starts_with(WASM) {
        return if bytes.len() > max { Err(too_large()) } else { Ok(bytes) };
    }
    if !bytes.starts_with(ZIP) {
        return Err(Refusal::invalid("ZipFile is neither a zip file nor a component"));
    }
    let broken = |error: zip::result::ZipError| Refusal::invalid(format!("ZipFile: {error}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut components = Vec::new();
    for at in 0..archive.len() {
        let file = archive.by_index(at).map_err(broken)?;
        let is_component = file.name().map_err(broken)?.ends_with(".wasm");
        if is_component {
            components.push(at);
        }
    }
    let [at] = *components else {
        let message = format!("ZipFile has {} files that end in .wasm, it needs one", components.len());
        return Err(Refusal::invalid(message));
    };
    let mut component = Vec::new();
    let file = archive.by_index(at).map_err(broken)?;
    // What a file says of its length is not believed.
    let read = file.take(max as u64 + 1).read_to_end(&mut component);
    read.map_err(|error| Refusal::invalid(format!("ZipFile: {error}")))?;
    if component.len() > max { Err(too_large()) } else { Ok(component) }
}

#[cfg(test)]
mod tests {
    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[track_caller]
    fn refused(bytes: Vec<u8>, part: &str) {
        let message = component(bytes, 100).unwrap_err().error.message;
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn a_component_is_found_bare_or_in_a_zip_file() {
        assert_eq!(component(b"\0asm1".to_vec(), 100).unwrap(), b"\0asm1");
        let zipped = zip(&[("README.md", b"hi"), ("lib/f.wasm", b"\0asm2")]);
        assert_eq!(component(zipped, 100).unwrap(), b"\0asm2");
    }

    #[test]
    fn what_is_no_component_is_refused() {
        refused(b"#!/bin/sh".to_vec(), "neither a zip file nor a component");
        refused(b"PK\x03\x04broken".to_vec(), "ZipFile: ");
        refused(zip(&[("index.js", b"")]), "has 0 files");
        refused(zip(&[("a.wasm", b""), ("b.wasm", b"")]), "has 2 files");
    }

    #[test]
    fn a_component_beyond_the_bound_is_refused_however_small_its_zip_file() {
        refused(zip(&[("f.wasm", &[0; 101])]), "larger than 100 bytes");
        let mut bare = b"\0asm".to_vec();
        bare.resize(101, 0);
        refused(bare, "larger than 100 bytes");
    }
}
