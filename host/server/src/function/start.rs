//! How a revision's predictions begin: as its `setup` left an instance at deploy, or with `setup`.

use super::{Digest, Effective};

/// What came of `setup` at deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// Its state was copied: the blob of this digest is a component that begins there.
    Image(Digest),
    /// It runs in each prediction's instance, for this reason.
    Setup(String),
}

impl Start {
    /// What two revisions must share for one's image to be the other's: all that `setup` sees.
    pub(crate) fn key(component: &Digest, effective: &Effective) -> Digest {
        let seen = (component.as_str(), &*effective.models, &*effective.env, effective.limits.memory_bytes);
        Digest::of(&serde_json::to_vec(&seen).expect("strings and numbers are JSON"))
    }

    /// Of a revision that needs a model which isn't on the node.
    pub(crate) fn without(model: &str) -> Self {
        Self::Setup(format!("model \"{model}\" was not on this node when it was deployed"))
    }

    /// Whether copying was tried under these settings, so that trying again comes to the same.
    pub(crate) fn was_tried(&self, effective: &Effective) -> bool {
        *self != Self::default() && effective.models.iter().all(|model| *self != Self::without(model))
    }

    pub(crate) fn image(&self) -> Option<&Digest> {
        match self {
            Self::Image(digest) => Some(digest),
            Self::Setup(_) => None,
        }
    }

    /// Why `setup` runs in each prediction.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Image(_) => None,
            Self::Setup(reason) => Some(reason),
        }
    }
}

impl Default for Start {
    fn default() -> Self {
        Self::Setup("it was deployed by a version that made no images".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Config,
        function::{Manifest, Settings, minimal_manifest},
    };

    #[test]
    fn what_was_tried_is_not_tried_again_unless_a_model_may_have_come() {
        let config = Config::new("");
        let manifest = Manifest::read(minimal_manifest(), &config.deploy).unwrap();
        let settings = Settings { models: vec!["m".to_owned()], ..Settings::default() };
        let effective = settings.resolve(&manifest, &config);
        assert!(Start::Image(Digest::of(b"")).was_tried(&effective));
        assert!(Start::Setup("it has a nested component".to_owned()).was_tried(&effective));
        assert!(!Start::without("m").was_tried(&effective));
        assert!(!Start::default().was_tried(&effective));
    }
}
