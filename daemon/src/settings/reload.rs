//! A configuration that was changed while a daemon runs: which keys differ, and which of them hold only after a
//! restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{File, Role};

/// What each role takes over while it runs. The rest of its sections needs a restart.
const AT_ONCE: &[(Role, &[&str])] = &[
    (
        Role::Cache,
        &[
            "trust.keys",
            "trust.require",
            "trust.ca",
            "store.seal_when",
            "mount.offline_wait",
            "serve.allow",
            "export.nfs",
            "export.iscsi",
            "clone.reserve",
            "clone.per_client",
            "clone.hook",
            "clone.hook_timeout",
            "network",
            "netboot.default",
            "netboot.menu_timeout",
            "netboot.secure_boot",
            "log.level",
        ],
    ),
    (
        Role::Master,
        &[
            "trust.keys",
            "trust.require",
            "trust.ca",
            "master.allow",
            "master.keep_packed",
            "sign.key",
            "retain.last",
            "retain.younger_than",
            "log.level",
        ],
    ),
];
/// What each role reads.
const SECTIONS: &[(Role, &[&str])] = &[
    (
        Role::Cache,
        &[
            "role", "source", "trust", "store", "mount", "window", "memory", "serve", "export", "ganesha", "clone",
            "network", "netboot", "log",
        ],
    ),
    (Role::Master, &["role", "trust", "master", "sign", "retain", "log"]),
];

/// What is said when the content of trusted keys' files changed, and the configuration did not.
pub(crate) const TRUST_KEYS: &str = "trust.keys";
/// The same of a certificate that was renewed.
pub(crate) const TLS_CERT: &str = "master.tls_cert";
/// And of who vouches for sources.
pub(crate) const TRUST_CA: &str = "trust.ca";

/// What came of a reload, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Changed, and in force now.
    pub applied: Vec<String>,
    /// Changed, and in force after a restart.
    pub restart: Vec<String>,
}

impl Reloaded {
    /// Adds a key whose meaning changed without its value.
    pub(crate) fn also(&mut self, key: &str) {
        if !self.applied.iter().any(|applied| applied == key) {
            self.applied.push(key.to_owned());
        }
    }

    /// How `after` differs from `before` for a daemon of `role`.
    pub(crate) fn between(role: Role, before: &File, after: &File) -> Reloaded {
        let (before, after) = (values(before), values(after));
        let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differs = |key: &&String| before.get(*key) != after.get(*key);
        let is_ours = |key: &&String| of(SECTIONS, role).contains(&key.split('.').next().unwrap_or(key));
        let changed = keys.into_iter().filter(differs).filter(is_ours).cloned();
        let (applied, restart) = changed.partition(|key| of(AT_ONCE, role).contains(&key.as_str()));
        Reloaded { applied, restart }
    }
}

fn of(table: &'static [(Role, &[&str])], role: Role) -> &'static [&'static str] {
    table.iter().find(|(of, _)| *of == role).map_or(&[], |(_, words)| words)
}

/// Every value, defaults included, by `section.key`.
fn values(file: &File) -> BTreeMap<String, toml::Value> {
    let mut values = BTreeMap::new();
    for (section, value) in toml::Table::try_from(file.clone().with_defaults()).unwrap_or_default() {
        match value {
            toml::Value::Table(table) => {
                values.extend(table.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
            value => drop(values.insert(section, value)),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::check;

    #[test]
    fn changed_keys_are_told_by_what_they_need() {
        let check = |role, before: &str, after: &str, applied: &[&str], restart: &[&str]| {
            let found = Reloaded::between(role, &check::read(before).unwrap(), &check::read(after).unwrap());
            assert_eq!((&found.applied[..], &found.restart[..]).0, applied, "{after}");
            assert_eq!(found.restart, restart, "{after}");
        };
        let cache = "[mount]\npath = \"/a\"\noffline_wait = \"3s\"\n";
        check(Role::Cache, cache, cache, &[], &[]);
        // The default, spelled out.
        check(Role::Cache, "", "[log]\nlevel = \"info\"\n", &[], &[]);
        let all = "[mount]\npath = \"/b\"\n[log]\nlevel = \"debug\"\n[trust]\nrequire = true\n[memory]\nin_flight = \"1GiB\"\n";
        let at_once = ["log.level", "mount.offline_wait", "trust.require"];
        check(Role::Cache, cache, all, &at_once, &["memory.in_flight", "mount.path"]);
        check(Role::Cache, "", "[[source]]\nurl = \"http://a\"\n", &[], &["source"]);
        check(Role::Cache, "", "[master]\nrepo = \"/r\"\n", &[], &[]);
        let master =
            "[master]\nrepo = \"/r\"\nallow = [\"10.0.0.0/8\"]\n[mount]\npath = \"/x\"\n[sign]\nkey = \"/k\"\n";
        check(Role::Master, "", master, &["master.allow", "sign.key"], &["master.repo"]);
    }

    #[test]
    fn every_key_is_known_to_the_file() {
        // What has no default.
        let without = "[sign]\nkey = \"/k\"\n[trust]\nca = \"/c\"\n[clone]\nreserve = \"1GiB\"\nper_client = \"1GiB\"\n\
             hook = \"/h\"\n[netboot]\ndefault = \"lab\"\n";
        let known = values(&check::read(without).unwrap());
        for (role, keys) in AT_ONCE {
            for key in *keys {
                assert!(
                    known.contains_key(*key) && of(SECTIONS, *role).contains(&key.split('.').next().unwrap()),
                    "{key}"
                );
            }
        }
    }
}
