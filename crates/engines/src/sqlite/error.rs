//! The one mapping of rusqlite's errors.

use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};
use rusqlite::ErrorCode as Code;

use super::NAME;

/// What a failed operation inside a transaction ends with: the driver's error, or one of ours.
#[derive(Debug)]
pub(super) enum Failure {
    Driver(rusqlite::Error),
    Said(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<rusqlite::types::FromSqlError> for Failure {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Driver(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl Failure {
    pub(super) fn into_error(self, op: &'static str) -> Error {
        match self {
            Self::Driver(error) => map(error, op),
            Self::Said(error) => error.engine(NAME).op(op),
        }
    }
}

/// Whether another connection holds the lock.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(Code::DatabaseBusy | Code::DatabaseLocked))
}

/// An error of the driver as ours. Transactions roll back on any error, so what fails before the commit is not applied.
pub(crate) fn map(error: rusqlite::Error, op: &'static str) -> Error {
    use rusqlite::Error as E;
    let (kind, retry, message, help) = match &error {
        E::SqliteFailure(failure, _) => by_code(failure.code),
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..) => (Kind::Corrupt, Retry::Never, "a stored value has the wrong type", RESTORE),
        E::QueryReturnedNoRows => {
            (Kind::Corrupt, Retry::Never, "a row that must be there is missing", RESTORE)
        }
        E::NulError(_) | E::InvalidPath(_) => (Kind::Config, Retry::Never, "the path can't be used", PATH),
        _ => (Kind::Unexpected, Retry::Never, "SQLite was used wrongly", BUG),
    };
    Error::new(kind, message).retry_as(retry).engine(NAME).op(op).help(help).source(error)
}

const RESTORE: &str = "restore the file from a copy; `PRAGMA integrity_check` shows what is damaged";
const PATH: &str = "check the path, and that the user may write the file and its folder";
const ROOM: &str = "free space on the disk or raise max_size, then try again";
const WAIT: &str = "another process holds the file; try again, or raise the busy option of the URL";
const BUG: &str = "this is a bug; please report it";

fn by_code(code: Code) -> (Kind, Retry, &'static str, &'static str) {
    let safe = Retry::Safe { after: Duration::from_millis(100) };
    let room = Retry::Safe { after: Duration::from_secs(1) };
    match code {
        Code::DatabaseBusy | Code::DatabaseLocked => {
            (Kind::Unavailable, safe, "the database is locked", WAIT)
        }
        Code::FileLockingProtocolFailed => (Kind::Unavailable, safe, "the file's locks are contended", WAIT),
        Code::SchemaChanged => (Kind::Unavailable, safe, "the tables changed meanwhile", "try again"),
        Code::OperationInterrupted | Code::OperationAborted => {
            (Kind::Unavailable, safe, "the operation was interrupted", "try again")
        }
        Code::DiskFull => (Kind::Limited, room, "the disk or the database is full", ROOM),
        Code::OutOfMemory => (Kind::Limited, safe, "out of memory", "free memory, then try again"),
        Code::TooBig => (Kind::Invalid, Retry::Never, "a value is too large for SQLite", "stay below 1 GiB"),
        Code::ReadOnly => (Kind::Denied, Retry::Never, "the database can't be written", PATH),
        Code::PermissionDenied | Code::AuthorizationForStatementDenied => {
            (Kind::Denied, Retry::Never, "access was denied", PATH)
        }
        Code::CannotOpen => (Kind::Config, Retry::Never, "the file can't be opened", PATH),
        Code::NotADatabase => {
            (Kind::Corrupt, Retry::Never, "the file isn't an SQLite database", "name another file")
        }
        Code::DatabaseCorrupt => (Kind::Corrupt, Retry::Never, "the database is damaged", RESTORE),
        // A failed write or fsync of the commit may have reached the disk all the same.
        Code::SystemIoFailure => {
            (Kind::Unavailable, Retry::Unknown, "reading or writing the file failed", "check the disk")
        }
        Code::NoLargeFileSupport => {
            (Kind::Limited, Retry::Never, "the host can't hold files this large", ROOM)
        }
        Code::ConstraintViolation | Code::TypeMismatch => {
            (Kind::Corrupt, Retry::Never, "the stored data contradicts itself", RESTORE)
        }
        Code::InternalMalfunction | Code::NotFound | Code::ApiMisuse | Code::ParameterOutOfRange => {
            (Kind::Unexpected, Retry::Never, "SQLite was used wrongly", BUG)
        }
        _ => (Kind::Unexpected, Retry::Never, "SQLite refused the statement", BUG),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn mapped(code: i32) -> Error {
        map(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None), "publish")
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (ffi::SQLITE_BUSY, Kind::Unavailable),
            (ffi::SQLITE_FULL, Kind::Limited),
            (ffi::SQLITE_READONLY, Kind::Denied),
            (ffi::SQLITE_CANTOPEN, Kind::Config),
            (ffi::SQLITE_NOTADB, Kind::Corrupt),
            (ffi::SQLITE_CORRUPT, Kind::Corrupt),
            (ffi::SQLITE_IOERR, Kind::Unavailable),
            (ffi::SQLITE_MISUSE, Kind::Unexpected),
        ] {
            assert_eq!(mapped(code).kind(), kind, "code {code}");
            assert!(mapped(code).remedy().is_some());
        }
    }

    #[test]
    fn retry_says_what_is_proven() {
        assert!(matches!(mapped(ffi::SQLITE_BUSY).retry(), Retry::Safe { .. }));
        assert!(matches!(mapped(ffi::SQLITE_FULL).retry(), Retry::Safe { .. }));
        assert_eq!(mapped(ffi::SQLITE_IOERR).retry(), Retry::Unknown);
        assert!(mapped(ffi::SQLITE_FULL).to_string().starts_with("sqlite publish: "));
    }
}
