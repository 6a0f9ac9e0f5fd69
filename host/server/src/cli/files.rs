//! Files as they travel in JSON: `data:` URLs (RFC 2397).

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};

/// Media types of files that predictors take, by the end of their names.
const MEDIA_TYPES: [(&str, &str); 18] = [
    ("csv", "text/csv"),
    ("gif", "image/gif"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("json", "application/json"),
    ("md", "text/markdown"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("ogg", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain"),
    ("wav", "audio/wav"),
    ("webp", "image/webp"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// A file's content as a `data:` URL.
pub(super) fn to_url(path: &Path, content: &[u8]) -> String {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let known = MEDIA_TYPES.iter().find(|(name, _)| *name == ending);
    let media_type = known.map_or("application/octet-stream", |(_, media_type)| media_type);
    format!("data:{media_type};base64,{}", BASE64_STANDARD.encode(content))
}

/// The content of a base64 `data:` URL; `None` for any other text.
pub(super) fn from_url(text: &str) -> Option<Vec<u8>> {
    let (header, content) = text.strip_prefix("data:")?.split_once(',')?;
    header.strip_suffix(";base64")?;
    BASE64_STANDARD.decode(content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_there_and_back() {
        let url = to_url(Path::new("a.PNG"), b"\x89PNG");
        assert_eq!(url, "data:image/png;base64,iVBORw==");
        assert_eq!(from_url(&url).as_deref(), Some(&b"\x89PNG"[..]));
        assert!(to_url(Path::new("README"), b"").starts_with("data:application/octet-stream;"));
    }

    #[test]
    fn other_text_is_no_file() {
        for text in ["", "hello", "data:text/plain,hello", "data:;base64,*", "https://example.com"] {
            assert_eq!(from_url(text), None, "{text}");
        }
    }
}
