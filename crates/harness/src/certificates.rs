//! Certificates for servers and clients that speak TLS.

use std::fs::{Permissions, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// A folder with `ca`, `other`, `server` and `client`, each a `.pem` and a `.key`, in a format that `openssl` writes: the
/// authorities `ca` and `other` signed themselves; `ca` signed the certificate of the server, which is for 127.0.0.1 and
/// `localhost`, and that of the client. Everybody may read them, since servers run as other users.
///
/// # Errors
/// When `openssl` isn't on this machine, or fails.
pub fn certificates() -> Result<TempDir> {
    let io = |failure| Error::io("openssl", "can't make certificates", failure);
    let folder = tempfile::tempdir().map_err(io)?;
    set_permissions(folder.path(), Permissions::from_mode(0o755)).map_err(io)?;
    for (name, ca) in [("ca", None), ("other", None), ("server", Some("ca")), ("client", Some("ca"))] {
        certificate(folder.path(), name, ca)?;
        set_permissions(folder.path().join(format!("{name}.key")), Permissions::from_mode(0o644))
            .map_err(io)?;
    }
    Ok(folder)
}

/// An authority, or a certificate that `ca` signed.
fn certificate(folder: &Path, name: &str, ca: Option<&str>) -> Result<()> {
    let io = |failure| Error::io("openssl", "can't be run", failure);
    let config = format!(
        "[req]\ndistinguished_name=dn\n[dn]\n[own]\nbasicConstraints=critical,CA:{}\n{}",
        if ca.is_none() { "TRUE" } else { "FALSE" },
        if ca.is_none() { "" } else { "subjectAltName=IP:127.0.0.1,DNS:localhost\n" },
    );
    write(folder.join("openssl.cnf"), config).map_err(io)?;
    let mut openssl = Command::new("openssl");
    openssl.current_dir(folder).args(["req", "-x509", "-config", "openssl.cnf", "-extensions", "own"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={name}")]);
    openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    if let Some(ca) = ca {
        openssl.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
    }
    let output = openssl.output().map_err(io)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new("openssl", String::from_utf8_lossy(&output.stderr)))
}
