//! What is to be mounted where, and what that asks of icbd. Pure: nothing is looked up.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::options::Options;

/// Where a master listens, unless it is said.
const PORT: u16 = 7070;

/// A mount that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The masters' URLs, in order of preference.
    pub masters: Vec<String>,
    /// Where, as the mount table writes it.
    pub mount: PathBuf,
    pub options: Options,
}

/// Why a daemon that runs already is not the one that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Differs {
    #[error("a master answers at {0}, no cache server; name another control socket with -o socket=PATH")]
    Role(PathBuf),
    #[error(
        "the icbd that answers at {} mounts {}; for a second mount name another control socket and another store: \
         -o socket=PATH,store=DIR",
        socket.display(),
        there.display()
    )]
    Mount { socket: PathBuf, there: PathBuf },
    #[error(
        "the icbd that serves {} fetches from {there}, not from {asked}; name what it has, or unmount first and mount anew",
        mount.display()
    )]
    Master { mount: PathBuf, there: String, asked: String },
    #[error(
        "the icbd that serves {} keeps blocks in {}, not in {}; leave `store` away, or unmount first and mount anew",
        mount.display(),
        there.display(),
        asked.display()
    )]
    Store { mount: PathBuf, there: PathBuf, asked: PathBuf },
}

/// What `icbd status --json` says of a daemon, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub(crate) enum Running {
    Master {},
    Cache { pid: i32, sources: Vec<Source>, store: Place, mount: Place },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Source {
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Place {
    pub path: PathBuf,
}

/// The URLs in the first field of fstab: `HOST[:PORT]` or a URL, several with commas; a message if it is none.
pub(crate) fn masters(spec: &str) -> Result<Vec<String>, String> {
    spec.split(',').map(master).collect()
}

fn master(spec: &str) -> Result<String, String> {
    let refuse = |why: &str| {
        Err(format!("{spec:?} names no master: {why}; write HOST:PORT, or a URL such as https://HOST:PORT"))
    };
    let (scheme, place) = spec.split_once("://").unwrap_or(("", spec));
    let place = place.strip_suffix('/').filter(|_| !scheme.is_empty()).unwrap_or(place);
    match (scheme, place) {
        ("" | "http" | "https", "") => return refuse("it is empty"),
        ("" | "http" | "https", _) => {}
        _ => return refuse("it begins neither with http:// nor with https://"),
    }
    if let Some(odd) = place.chars().find(|letter| letter.is_whitespace() || "/@?#\\".contains(*letter)) {
        return refuse(&format!("it contains {odd:?}"));
    }
    // An IPv6 address has its colons in brackets.
    let after = place.rsplit_once(']').map_or(place, |(_, after)| after);
    if place.starts_with('[') != place.contains(']') || !place.starts_with('[') && after.matches(':').count() > 1 {
        return refuse("an IPv6 address stands in brackets");
    }
    match after.split_once(':') {
        Some((_, port)) if !port.parse::<u16>().is_ok_and(|port| port > 0) => {
            refuse("its port is none from 1 to 65535")
        }
        Some(_) if scheme.is_empty() => Ok(format!("http://{place}")),
        None if scheme.is_empty() => Ok(format!("http://{place}:{PORT}")),
        _ => Ok(format!("{scheme}://{place}")),
    }
}

impl Plan {
    /// The words after `icbd` that start its daemon.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let options = &self.options;
        let mut words: Vec<OsString> = vec!["cache".into()];
        let mut add = |name: &str, value: &Path| words.extend([OsString::from(name), value.into()]);
        self.masters.iter().for_each(|url| add("--master", url.as_ref()));
        add("--mount", &self.mount);
        add("--socket", options.socket());
        options.store.iter().for_each(|path| add("--store", path));
        options.config.iter().for_each(|path| add("--config", path));
        options.codec.iter().for_each(|codec| add("--codec", codec.as_ref()));
        options.listen.iter().for_each(|address| add("--listen", address.to_string().as_ref()));
        options.allow.iter().for_each(|network| add("--allow", network.as_ref()));
        words.extend(options.no_passthrough.then(|| "--no-passthrough".into()));
        words
    }

    /// Whether a daemon that runs is the one that is asked for.
    pub(crate) fn is_served_by(&self, running: &Running) -> Result<(), Differs> {
        let Running::Cache { sources, store, mount, .. } = running else {
            return Err(Differs::Role(self.options.socket().to_owned()));
        };
        if mount.path != self.mount {
            return Err(Differs::Mount { socket: self.options.socket().to_owned(), there: mount.path.clone() });
        }
        // One that has more of them has those that are asked for.
        let lacks = self.masters.iter().any(|asked| !sources.iter().any(|source| source.url == *asked));
        if lacks {
            let there: Vec<&str> = sources.iter().map(|source| &*source.url).collect();
            let (there, asked) = (there.join(", "), self.masters.join(", "));
            return Err(Differs::Master { mount: self.mount.clone(), there, asked });
        }
        match &self.options.store {
            Some(asked) if *asked != store.path => {
                let (there, asked) = (store.path.clone(), asked.clone());
                Err(Differs::Store { mount: self.mount.clone(), there, asked })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Unknown;

    fn plan(options: &str) -> Plan {
        let options = Options::parse(options, Unknown::Refuse).unwrap();
        Plan { masters: masters("img:7070").unwrap(), mount: "/icbd".into(), options }
    }

    fn running(mount: &str, url: &str, store: &str) -> Running {
        let json = format!(
            r#"{{"role": "cache", "pid": 7, "sources": [{{"url": "{url}", "online": true}}, {{"url": "http://b:1"}}],
                "store": {{"path": "{store}", "state": "ok"}}, "mount": {{"path": "{mount}", "mounted": true}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn masters_are_named_as_hosts_or_urls() {
        let check = |spec: &str, urls: &[&str]| assert_eq!(masters(spec).unwrap(), urls);
        check("img", &["http://img:7070"]);
        check("img:7171", &["http://img:7171"]);
        check("[::1]", &["http://[::1]:7070"]);
        check("[::1]:80", &["http://[::1]:80"]);
        check("https://img.example/", &["https://img.example"]);
        check("a,https://b:7", &["http://a:7070", "https://b:7"]);
        let refuse = |spec: &str, says: &str| {
            let message = masters(spec).unwrap_err();
            assert!(message.contains(says) && message.contains("HOST:PORT"), "{message}");
        };
        refuse("", "empty");
        refuse("a,", "empty");
        refuse("https://", "empty");
        refuse("nfs://img", "neither with http://");
        refuse("img:/export", "contains '/'");
        refuse("img:0", "port");
        refuse("img:port", "port");
        refuse("::1", "brackets");
        refuse("[::1", "brackets");
        refuse("alice@img", "'@'");
        refuse("/dev/sda", "contains '/'");
        refuse("img/", "contains '/'");
    }

    #[test]
    fn a_daemon_is_started_with_what_was_said() {
        let words = |options: &str| {
            let words: Vec<String> =
                plan(options).arguments().iter().map(|word| word.to_str().unwrap().to_owned()).collect();
            words.join(" ")
        };
        let always = "cache --master http://img:7070 --mount /icbd --socket";
        assert_eq!(words("rw,_netdev"), format!("{always} /run/icbd/cache.sock"));
        assert_eq!(
            words("store=/s,socket=/c,config=/f,codec=lz4,listen=[::1]:1,allow=10.0.0.0/8,nopassthrough,log=/l"),
            format!(
                "{always} /c --store /s --config /f --codec lz4 --listen [::1]:1 --allow 10.0.0.0/8 --no-passthrough"
            )
        );
    }

    #[test]
    fn a_running_daemon_is_the_one_or_is_told_apart() {
        let same = running("/icbd", "http://img:7070", "/var/lib/icbd");
        assert_eq!(plan("").is_served_by(&same), Ok(()));
        assert_eq!(plan("store=/var/lib/icbd").is_served_by(&same), Ok(()));
        let check = |running: &Running, says: &[&str]| {
            let message = plan("store=/var/lib/icbd").is_served_by(running).unwrap_err().to_string();
            assert!(says.iter().all(|word| message.contains(word)), "{message}");
        };
        check(&running("/other", "http://img:7070", "/var/lib/icbd"), &["mounts /other", "socket=PATH,store=DIR"]);
        check(
            &running("/icbd", "http://c:1", "/var/lib/icbd"),
            &["from http://c:1, http://b:1, not from http://img:7070"],
        );
        check(&running("/icbd", "http://img:7070", "/srv/s"), &["in /srv/s, not in /var/lib/icbd"]);
        check(&serde_json::from_str(r#"{"role": "master", "pid": 1}"#).unwrap(), &["a master answers"]);
    }
}
