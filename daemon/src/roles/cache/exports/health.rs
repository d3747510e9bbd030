//! Whether what is exported could be served, asked before anything is started.

use std::os::unix::fs::PermissionsExt;

use icbd_export::{Protocol, ServerError};

use super::Exports;
use crate::doctor::{Finding, Verdict};
use crate::settings::{CacheSettings, IscsiServer, NfsServer};

/// Looks at the servers that exports need, and at what they are told. Blocks.
pub(in super::super) fn examine(settings: &CacheSettings) -> Vec<Finding> {
    let exports = Exports::open(&settings.store, settings.iscsi, &settings.nfs);
    let declared = match exports.all() {
        Ok(declared) => declared,
        Err(failure) => return vec![Finding::error("exports", Verdict::Wrong, failure)],
    };
    let is_wanted = |protocol| declared.iter().any(|declaration| declaration.protocol == protocol);
    let disks = exports.server().and_then(|server| server.offered().map(|_| server.name()));
    let folders = exports.nfs.check(&[]);
    let mut findings = vec![
        of(Protocol::Iscsi, settings.iscsi == IscsiServer::Off, is_wanted(Protocol::Iscsi), disks.map(Some)),
        of(Protocol::Nfs, settings.nfs.which == NfsServer::Off, is_wanted(Protocol::Nfs), folders.map(|()| None)),
    ];
    if (is_wanted(Protocol::Http) || declared.iter().any(|declaration| declaration.clone)) && settings.listen.is_empty()
    {
        findings.push(Finding::wrong(
            "exports",
            "serve.listen names no address, so no workstation gets a boot script or a file by HTTP",
            "write listen = [\"0.0.0.0:7071\"] under [serve], and restart the cache",
        ));
    }
    findings.extend(hook(settings));
    findings
}

fn of(protocol: Protocol, is_off: bool, is_wanted: bool, server: Result<Option<&'static str>, ServerError>) -> Finding {
    match server {
        Ok(name) => {
            let by = name.map_or_else(String::new, |name| format!(" ({name})"));
            Finding::ok("exports", format!("the server of {protocol} answers{by}"))
        }
        Err(error) if is_wanted => Finding::error("exports", Verdict::Wrong, format!("{protocol}: {error}")),
        Err(_) if is_off => Finding::note("exports", format!("export.{protocol} is off")),
        Err(error) => Finding::note("exports", format!("nothing is exported by {protocol}, nor could be: {error}")),
    }
}

/// The program that makes clones their workstations' own.
fn hook(settings: &CacheSettings) -> Option<Finding> {
    let program = &settings.clone_hook.as_ref()?.program;
    let shown = program.display();
    let why = match std::fs::metadata(program) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
            return Some(Finding::ok("exports", format!("clone.hook {shown} can be run")));
        }
        Ok(_) => "is no program".to_owned(),
        Err(error) => format!("cannot be run: {error}"),
    };
    let what = format!("clone.hook {shown} {why}: no workstation gets a new clone");
    Some(Finding::wrong("exports", what, format!("chmod 755 {shown}, or remove the key")))
}
