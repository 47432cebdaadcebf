//! Copies of checkpoints in an object store, for a run whose disk is lost.
//!
//! ```text
//! step-000100/
//!   model/… optimizer-… state.json    the checkpoint
//!   records/journal.jsonl …           the run's records as of that checkpoint
//!   RECORDS.json                      sizes and digests of the records
//!   MANIFEST.json                     written last, removed first: with it the copy is complete
//! ```

mod download;
mod error;
mod hooks;
mod records;
mod restore;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, ObjectStoreScheme};
use prospect_core::Step;
use tokio_stream::StreamExt as _;
use url::Url;

pub(crate) use error::MirrorError;
pub(crate) use hooks::{MirrorHandle, next_event, start};
pub(crate) use restore::restore_if_empty;

use crate::run_dir::checkpoints::MANIFEST;

/// Variables of the environment that say how to reach a store, and with which credentials.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// A place in an object store that holds copies of one run's checkpoints.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// The place as messages name it.
    name: String,
}

impl Mirror {
    /// Opens the place that `url` names, with the credentials of the environment. Nothing is
    /// asked of the store yet.
    ///
    /// # Errors
    /// A URL that names no store that is known, or settings of a store that do not do.
    pub(crate) fn open(url: &str) -> Result<Self, MirrorError> {
        Self::open_with(
            url,
            std::env::vars_os().filter_map(|(key, value)| {
                Some((key.into_string().ok()?, value.into_string().ok()?))
            }),
        )
    }

    /// The same with these variables.
    fn open_with(
        url: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, MirrorError> {
        let refuse = |problem: String| MirrorError::Url { url: url.to_owned(), problem };
        let parsed = Url::parse(url).map_err(|error| refuse(error.to_string()))?;
        let (scheme, root) =
            ObjectStoreScheme::parse(&parsed).map_err(|error| refuse(error.to_string()))?;
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                Arc::new(LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true))
            }
            ObjectStoreScheme::AmazonS3
            | ObjectStoreScheme::GoogleCloudStorage
            | ObjectStoreScheme::MicrosoftAzure => {
                // An earlier choice of the process, if there is one, does as well.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let is_setting = |(key, _): &(String, String)| {
                    VARIABLES.iter().any(|prefix| key.starts_with(prefix))
                };
                let (store, _) =
                    object_store::parse_url_opts(&parsed, variables.filter(is_setting)).map_err(
                        |source| MirrorError::Settings {
                            url: url.to_owned(),
                            source: source.into(),
                        },
                    )?;
                Arc::from(store)
            }
            _ => return Err(refuse(format!("no store is known by {:?}", parsed.scheme()))),
        };
        // Without what may be secret in it.
        let host = parsed.host_str().unwrap_or_default();
        let name = format!("{}://{host}{}", parsed.scheme(), parsed.path());
        Ok(Self { store, root, name })
    }

    /// Steps of complete copies up to `at_most`, the newest first.
    ///
    /// # Errors
    /// A store that cannot be reached or refuses.
    pub(crate) async fn complete(&self, at_most: Option<Step>) -> Result<Vec<Step>, MirrorError> {
        let mut complete = Vec::new();
        for step in self.steps().await? {
            let is_wanted = at_most.is_none_or(|last| step <= last);
            if is_wanted && self.is_complete(step).await? {
                complete.push(step);
            }
        }
        Ok(complete)
    }

    /// Step of the newest complete copy up to `recorded_at_most`.
    ///
    /// # Errors
    /// As [`Mirror::complete`].
    pub(crate) async fn newest(
        &self,
        recorded_at_most: Option<Step>,
    ) -> Result<Option<Step>, MirrorError> {
        Ok(self.complete(recorded_at_most).await?.first().copied())
    }

    /// Removes all but the newest `keep` complete copies, none for 0, and what is left of
    /// uploads before them that were cut short. The last complete copy never goes. Returns the
    /// steps that were removed.
    ///
    /// # Errors
    /// As [`Mirror::complete`].
    pub(crate) async fn prune(&self, keep: u32) -> Result<Vec<Step>, MirrorError> {
        let mut removed = Vec::new();
        let mut num_complete = 0;
        for step in self.steps().await? {
            if keep == 0 || (num_complete == 0 && !self.is_complete(step).await?) {
                continue;
            }
            if num_complete >= keep || !self.is_complete(step).await? {
                self.remove(step).await?;
                removed.push(step);
            } else {
                num_complete += 1;
            }
        }
        Ok(removed)
    }

    /// Steps of all copies, complete or not, the newest first.
    async fn steps(&self) -> Result<Vec<Step>, MirrorError> {
        let listed = self.store.list_with_delimiter(Some(&self.root)).await;
        let listed = listed.map_err(self.failed("listing", &self.root))?;
        let step_of = |place: &Path| {
            let name = place.filename()?;
            let step = Step(name.strip_prefix("step-")?.parse().ok()?);
            (step.directory_name() == name).then_some(step)
        };
        let mut steps: Vec<Step> = listed.common_prefixes.iter().filter_map(step_of).collect();
        steps.sort_unstable_by(|left, right| right.cmp(left));
        Ok(steps)
    }

    async fn is_complete(&self, step: Step) -> Result<bool, MirrorError> {
        let place = self.place(step, MANIFEST);
        match self.store.head(&place).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(self.failed("looking for", &place)(source)),
        }
    }

    /// Removes a copy, its manifest first: from then on it is not complete.
    async fn remove(&self, step: Step) -> Result<(), MirrorError> {
        self.delete(&self.place(step, MANIFEST)).await?;
        let place = self.root.clone().join(step.directory_name());
        let mut objects = self.store.list(Some(&place));
        while let Some(object) = objects.next().await {
            let object = object.map_err(self.failed("listing", &place))?;
            self.delete(&object.location).await?;
        }
        Ok(())
    }

    /// Removes an object; none is no error.
    async fn delete(&self, place: &Path) -> Result<(), MirrorError> {
        match self.store.delete(place).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(self.failed("removing", place)(source)),
        }
    }

    /// Where a file of a copy lies. `name` has `/` between its parts.
    fn place(&self, step: Step, name: &str) -> Path {
        let copy = self.root.clone().join(step.directory_name());
        name.split('/').fold(copy, |place, part| place.join(part))
    }

    /// Puts the place and the action on an error of the store.
    fn failed(
        &self,
        action: &'static str,
        place: &Path,
    ) -> impl FnOnce(object_store::Error) -> MirrorError + use<> {
        let (mirror, place) = (self.name.clone(), place.to_string());
        move |source| MirrorError::Store { mirror, action, place, source: source.into() }
    }
}
