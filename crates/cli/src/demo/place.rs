//! Where a run keeps its databases.

use std::path::{Path, PathBuf};

use linchpin::bus::dead_topic;
use linchpin::url::EngineUrl;
use linchpin::{Bus, Error, Kind, Result};
use tempfile::TempDir;

use super::worker::Role;

/// A folder for the application's database, and, unless another bus was named, for the bus.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) url: String,
    pub(super) topic: String,
    pub(super) shop: PathBuf,
    /// Removed with everything in it; none if the folder is kept.
    temporary: Option<TempDir>,
    /// Whether the bus isn't in the folder.
    elsewhere: bool,
}

impl Place {
    /// Prepares a folder: `keep`, or a temporary one.
    ///
    /// # Errors
    /// `Config` if the folder can't be made, `AlreadyExists` if it holds a run.
    pub(super) fn prepare(bus: Option<&str>, keep: Option<&Path>) -> Result<Self> {
        let unusable = |e| Error::new(Kind::Config, "can't make a folder for the databases").source(e);
        let (folder, temporary) = match keep {
            Some(folder) => {
                let shown = folder.display();
                std::fs::create_dir_all(folder).map_err(|e| unusable(e).with("folder", shown))?;
                (folder.to_owned(), None)
            }
            None => {
                let made = tempfile::Builder::new().prefix("linchpin-demo-").tempdir().map_err(unusable)?;
                (made.path().to_owned(), Some(made))
            }
        };
        let shop = folder.join("shop.db");
        let file = folder.join("bus.db");
        for file in [&shop, &file] {
            if file.exists() {
                let message = format!("{} is there already", file.display());
                return Err(
                    Error::new(Kind::AlreadyExists, message).help("name a folder without a demo in it")
                );
            }
        }
        // On a bus that is in use for other things the topic must not be theirs.
        let topic = match bus {
            None => "orders".to_owned(),
            Some(_) => format!("demo-orders-{:08x}", fastrand::u32(..)),
        };
        let url = bus.map_or_else(|| sqlite_url(&file), str::to_owned);
        Ok(Self { url, topic, shop, temporary, elsewhere: bus.is_some() })
    }

    /// Whether the databases stay.
    pub(super) fn stays(&self) -> bool {
        self.temporary.is_none()
    }

    /// The URL of the bus, without secrets.
    pub(super) fn shown(&self) -> String {
        match self.url.parse::<EngineUrl>() {
            Ok(url) if self.elsewhere => url.to_string(),
            _ => self.url.clone(),
        }
    }

    /// Removes the topics from a bus that isn't in the folder, unless everything is kept. The folder goes with `self`.
    pub(super) async fn clean(&self, bus: &Bus) {
        if self.stays() || !self.elsewhere {
            return;
        }
        let dead = Role::ALL.map(|role| dead_topic(&self.topic, role.group()));
        for topic in dead.iter().chain([&self.topic]) {
            match bus.remove(topic, None).await {
                Err(error) if error.kind() != Kind::NotFound => {
                    tracing::warn!(%error, topic, "the demo's topic could not be removed");
                }
                _ => {}
            }
        }
    }
}

fn sqlite_url(file: &Path) -> String {
    let path = file.to_string_lossy().replace('%', "%25").replace('?', "%3F");
    if file.is_absolute() { format!("sqlite://{path}") } else { format!("sqlite:{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_run_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keep = folder.path().join("a%20b?");
        let place = Place::prepare(None, Some(&keep)).unwrap();
        assert!(place.stays() && place.url.ends_with("/a%2520b%3F/bus.db"), "{}", place.url);
        std::fs::write(&place.shop, "").unwrap();
        let error = Place::prepare(None, Some(&keep)).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
    }

    #[test]
    fn another_bus_gets_a_topic_of_its_own() {
        let place = Place::prepare(Some("sqlite:other.db"), None).unwrap();
        assert_eq!(place.url, "sqlite:other.db");
        assert!(place.topic.starts_with("demo-orders-") && !place.stays());
        let folder = place.shop.parent().unwrap().to_owned();
        assert!(folder.is_dir());
        drop(place);
        assert!(!folder.exists());
    }
}
