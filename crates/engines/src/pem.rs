//! Certificates and keys that URLs name: files in PEM form, looked at before anything is sent.

use std::path::Path;

use linchpin_core::{Error, Kind, Result};

/// What the file of a certificate has.
pub(crate) const CERTIFICATE: &str = "CERTIFICATE-----";
/// What the file of a key has.
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// What is in the file, which has `part` in the first line of a block.
///
/// # Errors
/// `Config` that names the file if it can't be read or has no such block.
pub(crate) fn pem(path: &Path, part: &str) -> Result<Vec<u8>> {
    let wrong = |message: String| {
        Error::new(Kind::Config, message).help("name PEM files in tls_ca, tls_cert and tls_key")
    };
    let text =
        std::fs::read(path).map_err(|e| wrong(format!("{} can't be read", path.display())).source(e))?;
    if text.windows(part.len()).any(|window| window == part.as_bytes()) {
        return Ok(text);
    }
    Err(wrong(format!("{} has no {}", path.display(), part.trim_end_matches('-').to_lowercase())))
}

/// Looks at the files a URL names for TLS: who vouches for the server, and the client's certificate and key.
///
/// # Errors
/// As [`pem`].
#[cfg(any(feature = "nats", feature = "mysql", feature = "postgres"))]
pub(crate) fn check(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<()> {
    for (path, part) in [(ca, CERTIFICATE), (cert, CERTIFICATE), (key, PRIVATE_KEY)] {
        path.map(|path| pem(path, part)).transpose()?;
    }
    Ok(())
}
