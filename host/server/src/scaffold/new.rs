//! A new project: template, and the SDK beside it, so that it builds wherever cargo does.

use std::fs;
use std::path::Path;

use super::{Error, write};

/// The SDK's files, by their path below `sdk/`.
const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The project's own files. `{name}` stands for the project's name.
const TEMPLATE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.in")),
    ("README.md", include_str!("template/README.md.in")),
    (".gitignore", "/target\n"),
    ("src/lib.rs", include_str!("template/lib.rs.in")),
];

/// Writes a project for the predictor `name` into `folder`, which must be empty or not there.
pub fn new(name: &str, folder: &Path) -> Result<(), Error> {
    if !is_name(name) {
        return Err(Error::BadName(name.to_owned()));
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::NotEmpty(folder.to_owned()));
    }
    for (path, text) in TEMPLATE {
        write(&folder.join(path), &text.replace("{name}", name))?;
    }
    for (path, text) in SDK {
        write(&folder.join("sdk").join(path), text)?;
    }
    Ok(())
}

/// A function's name that is a package's too: a DNS label that starts with a letter.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_its_name_and_the_sdk() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("p");
        new("my-predictor", &project).unwrap();
        let manifest: toml::Table = fs::read_to_string(project.join("Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("my-predictor"));
        let sdk = manifest["dependencies"]["dormouse-guest"]["path"].as_str().unwrap();
        assert!(project.join(sdk).join("src/lib.rs").is_file());
        assert!(project.join(sdk).join("wit").is_dir(), "the SDK needs the interface it is made for");
        assert!(project.join("sdk/rust-macros/src/lib.rs").is_file());
        assert!(matches!(new("my-predictor", &project), Err(Error::NotEmpty(_))));
    }

    #[test]
    fn the_first_predictor_is_short() {
        let (_, code) = TEMPLATE.iter().find(|(path, _)| *path == "src/lib.rs").unwrap();
        assert!(code.lines().count() < 25);
    }

    #[test]
    fn names_are_dns_labels_that_start_with_a_letter() {
        for name in ["a", "hello", "a-1", &"x".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "1a", "A", "a_b", "a/b", "../a", &"x".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
