//! nginx, which serves the files of its folder: something plain that speaks HTTP. It keeps no data.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::http;

/// One server, with a page at `/`.
pub(crate) const ENGINE: Engine = Engine {
    name: "nginx",
    needs: Needs { program: &["nginx"], packages: &["nginx"], jars: None, version: &["nginx", "-v"] },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let url = format!("http://127.0.0.1:{}", port.number());
    let pages = site.subfolder("pages")?;
    site.file(pages.join("index.html"), "kept\n")?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = temporary.iter().map(|kind| format!("  {kind}_temp_path {kind};\n")).collect();
    let owner = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let settings = format!(
        "{owner}daemon off;\npid nginx.pid;\nevents {{}}\nhttp {{\n{temporary}  access_log off;\n\
         server {{ listen 127.0.0.1:{}; root \"{}\"; }}\n}}\n",
        port.number(),
        pages.display()
    );
    let settings = site.file("nginx.conf", &settings)?;
    let launch = Launch::new(locate("nginx").unwrap_or_default())
        .arg("-p")
        .arg(site.folder)
        .arg("-c")
        .arg(settings)
        .words("-e stderr");
    Ok(Plan::single(url, NodePlan::new(port, launch, |port| http(port, "GET", "/", "").map(drop))))
}
