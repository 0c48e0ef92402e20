//! UUIDs: `uuid://v1`, `v3`, `v4`, `v5`, `v7`.

use uuid::{Builder, Uuid};

use super::one::{Batch, Id};
use crate::time::from_millis;
use crate::url::EngineUrl;
use crate::{Error, Info, Kind, Result, Timestamp};

const NAME: &str = "uuid";

/// Makes UUIDs of one version.
#[derive(Debug)]
pub(super) struct Uuids {
    pub(super) info: Info,
    version: Version,
}

#[derive(Debug, Clone, Copy)]
enum Version {
    /// Time and node; the node is drawn at random, marked as such.
    V1([u8; 6]),
    /// The MD5 of a name within a namespace.
    V3(Uuid),
    V4,
    /// The SHA-1 of a name within a namespace.
    V5(Uuid),
    V7,
}

fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine(NAME)
}

impl Uuids {
    pub(super) fn open(url: &EngineUrl) -> Result<Self> {
        let mut options = url.options(&[]);
        let named = url.file_path();
        let version = match named.trim_matches('/') {
            "v1" => Version::V1(node()),
            "v4" => Version::V4,
            "v7" => Version::V7,
            "v3" => Version::V3(namespace(options.text("namespace"))?),
            "v5" => Version::V5(namespace(options.text("namespace"))?),
            other => {
                return Err(error(Kind::Config, format!("there is no UUID version {other:?} here"))
                    .help("write uuid://v7 (sorted by time), v4 (random), v1, or v3 and v5 (of a name)"));
            }
        };
        options.finish()?;
        let durability = "made in this process: nothing is stored, and nothing asked";
        Ok(Self { info: Info { engine: NAME, url: url.to_string(), durability }, version })
    }

    pub(super) fn next(&self) -> Result<Id> {
        let uuid = match &self.version {
            Version::V1(node) => Uuid::now_v1(node),
            Version::V4 => Uuid::new_v4(),
            Version::V7 => Uuid::now_v7(),
            Version::V3(_) | Version::V5(_) => {
                let help = "give one: `Ids::of_name`, or `linchpin id next URL --name NAME`";
                return Err(error(Kind::Invalid, "these UUIDs are made of a name").help(help));
            }
        };
        Ok(Id::Uuid(uuid))
    }

    pub(super) fn many(&self, count: usize) -> Result<Batch> {
        let uuids = (0..count).map(|_| match self.next()? {
            Id::Uuid(uuid) => Ok(uuid),
            Id::Number(_) => Err(error(Kind::Unexpected, "a number among UUIDs")),
        });
        Ok(Batch::uuids(uuids.collect::<Result<_>>()?))
    }

    pub(super) fn of_name(&self, name: &str) -> Result<Id> {
        match &self.version {
            Version::V3(namespace) => Ok(Id::Uuid(Uuid::new_v3(namespace, name.as_bytes()))),
            Version::V5(namespace) => Ok(Id::Uuid(Uuid::new_v5(namespace, name.as_bytes()))),
            _ => Err(error(Kind::Unsupported, "UUIDs of this version aren't made of a name")
                .help("use uuid://v5?namespace=dns, or v3")),
        }
    }
}

/// When a UUID of version 1, 6 or 7 was made.
pub(super) fn time_of(uuid: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    let millis = i64::try_from(seconds).ok()?.checked_mul(1000)?;
    Some(from_millis(millis.saturating_add(i64::from(nanos) / 1_000_000)))
}

fn node() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = Builder::from_u128(fastrand::u128(..)).into_uuid().into_bytes();
    // The bit of a multicast address: no network card has it.
    [a | 1, b, c, d, e, f]
}

fn namespace(text: Option<&str>) -> Result<Uuid> {
    const HELP: &str = "add namespace=dns, url, oid, x500, or a UUID of your own";
    match text {
        Some("dns") => Ok(Uuid::NAMESPACE_DNS),
        Some("url") => Ok(Uuid::NAMESPACE_URL),
        Some("oid") => Ok(Uuid::NAMESPACE_OID),
        Some("x500") => Ok(Uuid::NAMESPACE_X500),
        Some(own) => Uuid::parse_str(own)
            .map_err(|e| error(Kind::Config, format!("namespace={own}")).help(HELP).source(e)),
        None => Err(error(Kind::Config, "the URL names no namespace").help(HELP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str) -> Result<Uuids> {
        Uuids::open(&url.parse()?)
    }

    fn uuid(id: Id) -> Uuid {
        Uuid::from_bytes(id.bytes().unwrap())
    }

    #[test]
    fn each_version_says_which_it_is() {
        for (url, version) in [("uuid://v1", 1), ("uuid:v4", 4), ("uuid://v7", 7)] {
            let ids: Vec<_> = open(url).unwrap().many(100).unwrap().map(uuid).collect();
            assert!(ids.iter().all(|id| id.get_version_num() == version), "{url}");
            assert!(version == 4 || ids.is_sorted() || version == 1);
            let near =
                |id: &Uuid| (time_of(*id).unwrap().as_second() - Timestamp::now().as_second()).abs() < 5;
            assert!(version == 4 || ids.iter().all(near), "{url}");
        }
    }

    /// The examples of RFC 9562.
    #[test]
    fn a_name_makes_one_uuid() {
        let name = "www.example.com";
        let v3 = open("uuid://v3?namespace=dns").unwrap().of_name(name).unwrap();
        assert_eq!(v3.to_string(), "5df41881-3aed-3515-88a7-2f4a814cf09e");
        let own = "uuid://v5?namespace=6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let v5 = open(own).unwrap().of_name(name).unwrap();
        assert_eq!(v5.to_string(), "2ed6657d-e927-568b-95e1-2665a8aea6a2");
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("uuid://v2", "version \"v2\""),
            ("uuid://", "uuid://v7"),
            ("uuid://v5", "no namespace"),
            ("uuid://v5?namespace=x", "namespace=x"),
            ("uuid://v4?namespace=dns", "unknown option \"namespace\""),
        ] {
            let error = open(url).unwrap_err();
            assert!(error.kind() == Kind::Config && error.to_string().contains(part), "{error}");
        }
        assert_eq!(open("uuid://v5?namespace=url").unwrap().next().unwrap_err().kind(), Kind::Invalid);
        assert_eq!(open("uuid://v4").unwrap().of_name("x").unwrap_err().kind(), Kind::Unsupported);
    }
}
