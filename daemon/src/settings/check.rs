//! Reads a configuration file's text and says what is wrong with it: line, key, reason, nearest word.

use std::fmt;
use std::path::PathBuf;

use icbd_export::WantedNetwork;
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::File;
use super::quantity::ByteCount;
use crate::near;

/// Less than four of the longest runs keeps no line busy.
const IN_FLIGHT_BYTES_MIN: u64 = 16 << 20;

/// What this version reads, by section; the first are the keys outside any section.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "role", "source", "trust", "store", "mount", "window", "memory", "serve", "export", "ganesha", "clone",
            "network", "netboot", "master", "sign", "retain", "log",
        ],
    ),
    ("source", &["url", "codec"]),
    ("trust", &["keys", "require", "ca"]),
    ("store", &["path", "min_free", "quota", "seal_when"]),
    ("mount", &["path", "offline_wait"]),
    ("window", &["hours", "outside"]),
    ("memory", &["in_flight"]),
    ("serve", &["listen", "allow"]),
    ("export", &["nfs", "iscsi"]),
    ("ganesha", &["exports", "pid_file"]),
    ("clone", &["reserve", "per_client", "hook", "hook_timeout"]),
    ("network", &["interface", "dhcp", "subnet", "pool", "gateway", "dns"]),
    ("netboot", &["default", "menu_timeout", "secure_boot"]),
    ("master", &["repo", "listen", "allow", "tls_cert", "tls_key", "keep_packed"]),
    ("sign", &["key"]),
    ("retain", &["last", "younger_than"]),
    ("log", &["level", "boots_keep"]),
];

/// Of these there may be several.
const LISTS: [&str; 2] = ["source", "network"];

/// What the documentation of icbd names and this version cannot do yet: silence would be a broken promise.
const LATER: &[(&str, &[&str])] = &[("source", &["limit"]), ("log", &["audit_keep"])];

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with which key, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// The file that `text` is, or everything that is wrong with it.
pub(crate) fn read(text: &str) -> Result<File, Vec<Problem>> {
    let document = DeTable::parse(text).map_err(|error| vec![syntax(text, &error)])?;
    let mut problems = Vec::new();
    unknown_keys(text, "", document.get_ref(), &mut problems);
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.line);
        return Err(problems);
    }
    let file = toml::from_str(text).map_err(|error| vec![value(text, document.get_ref(), &error)])?;
    let problems = unusable_values(text, document.get_ref(), &file);
    if problems.is_empty() { Ok(file) } else { Err(problems) }
}

/// Values that are of the right kind, and of no use.
fn unusable_values(text: &str, document: &DeTable<'_>, file: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |section: &str, nth: usize, key: &str, wrong: Option<String>| {
        if let Some(message) = wrong {
            let line = line_of_key(text, document, section, nth, key);
            problems.push(Problem { line, message: format!("{section}.{key}: {message}") });
        }
    };
    let relative = |path: &PathBuf| {
        let message = || format!("{:?} begins nowhere; write the whole path, from / on", path.display());
        path.is_relative().then(message)
    };
    for (nth, source) in file.source.iter().enumerate() {
        check("source", nth, "url", super::check_url(&source.url).err().map(|failure| failure.message));
    }
    check("store", 0, "path", file.store.path.as_ref().and_then(relative));
    check("mount", 0, "path", file.mount.path.as_ref().and_then(relative));
    check("ganesha", 0, "exports", file.ganesha.exports.as_ref().and_then(relative));
    check("ganesha", 0, "pid_file", file.ganesha.pid_file.as_ref().and_then(relative));
    check("clone", 0, "hook", file.clone.hook.as_ref().and_then(relative));
    check("master", 0, "repo", file.master.repo.as_ref().and_then(relative));
    check("sign", 0, "key", file.sign.key.as_ref().and_then(relative));
    check("trust", 0, "keys", file.trust.keys.iter().flatten().find_map(relative));
    let too_little = |bytes: &ByteCount| {
        (bytes.0 < IN_FLIGHT_BYTES_MIN)
            .then(|| format!("{} bytes are too few for a cache to work with; give it 16MiB or more", bytes.0))
    };
    check("memory", 0, "in_flight", file.memory.in_flight.as_ref().and_then(too_little));
    let host = |net: &IpNet| {
        (*net != net.trunc())
            .then(|| format!("{net} lets in all of {}; write that, or {}", net.trunc(), IpNet::from(net.addr())))
    };
    let hosts = |nets: &Option<Vec<IpNet>>| nets.iter().flatten().find_map(host);
    check("serve", 0, "allow", hosts(&file.serve.allow));
    check("master", 0, "allow", hosts(&file.master.allow));
    let networks = super::netboot(&file.network, &file.netboot).networks;
    // The first that is not right: those before it are.
    let wrong = (0..networks.len()).find_map(|nth| Some((nth, WantedNetwork::check_all(&networks[..=nth]).err()?)));
    if let Some((nth, error)) = wrong {
        let line = line_of_key(text, document, "network", nth, "interface");
        problems.push(Problem { line, message: format!("[[network]] {error}") });
    }
    problems.sort_by_key(|problem| problem.line);
    problems
}

/// Where a key of the `nth` table of a section is.
fn line_of_key(text: &str, document: &DeTable<'_>, section: &str, nth: usize, key: &str) -> usize {
    let tables = document.get(section).map(tables).unwrap_or_default();
    let place = tables.get(nth).and_then(|table| table.get_key_value(key));
    place.map_or(1, |(key, _)| line_of(text, key.span().start))
}

fn keys_of(table: &'static [(&str, &[&str])], section: &str) -> &'static [&'static str] {
    table.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

fn unknown_keys(text: &str, section: &str, table: &DeTable<'_>, problems: &mut Vec<Problem>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let line = line_of(text, key.span().start);
        let place = if section.is_empty() { String::new() } else { format!(" in [{section}]") };
        if keys_of(LATER, section).contains(&name) {
            let message = format!("{name:?}{place} is not supported by this version of icbd; remove it");
            problems.push(Problem { line, message });
        } else if !keys_of(KNOWN, section).contains(&name) {
            let hint = near::hint(name, keys_of(KNOWN, section).iter().copied());
            problems.push(Problem { line, message: format!("unknown key {name:?}{place}{hint}") });
        } else if section.is_empty() && LISTS.contains(&name) && matches!(value.get_ref(), DeValue::Table(_)) {
            let message = format!("write [[{name}]], with two brackets on each side: there may be several");
            problems.push(Problem { line, message });
        } else if section.is_empty() {
            for table in tables(value) {
                unknown_keys(text, name, table, problems);
            }
        }
    }
}

/// The tables that a section's value is: one, or for `[[section]]` several.
fn tables<'a, 'i>(value: &'a Spanned<DeValue<'i>>) -> Vec<&'a DeTable<'i>> {
    match value.get_ref() {
        DeValue::Table(table) => vec![table],
        DeValue::Array(items) => items.iter().flat_map(tables).collect(),
        _ => Vec::new(),
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let line = line_of(text, error.span().map_or(0, |span| span.start));
    Problem { line, message: format!("not TOML: {}", error.message().trim()) }
}

fn value(text: &str, document: &DeTable<'_>, error: &toml::de::Error) -> Problem {
    let at = error.span().map_or(0, |span| span.start);
    let key = key_at(document, at).map_or(String::new(), |key| format!("{key}: "));
    let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    Problem { line: line_of(text, at), message: format!("{key}{}", words(error.message().trim(), found)) }
}

/// What a parser says, in the words of whoever writes a configuration; `found` is what it found.
fn words(said: &str, found: &str) -> String {
    let mut quoted = said.split('`').skip(1).step_by(2);
    match said {
        _ if said.contains("expected a sequence") => format!("a list is wanted; write [{found}]"),
        _ if said.contains("socket address syntax") => {
            format!("{found} is no address with a port, such as \"0.0.0.0:7071\"")
        }
        _ if said.contains("IP address syntax") => format!("{found} is no network, such as \"10.1.2.0/24\""),
        _ if said.contains("IPv4 address syntax") => format!("{found} is no IPv4 address, such as \"10.1.2.1\""),
        _ if said.starts_with("missing field") => {
            format!("`{}` is missing", quoted.next().unwrap_or_default())
        }
        _ if said.starts_with("unknown variant") => {
            let (wrong, known) = (quoted.next().unwrap_or_default(), quoted.collect::<Vec<_>>());
            format!("{wrong:?} is none of {}{}", known.join(", "), near::hint(wrong, known.iter().copied()))
        }
        _ => said.to_owned(),
    }
}

/// The key, with its section, whose value byte `at` is part of.
fn key_at(document: &DeTable<'_>, at: usize) -> Option<String> {
    for (section, value) in document {
        let section: &str = section.get_ref();
        for table in tables(value) {
            if let Some((key, _)) = table.iter().find(|(_, value)| value.span().contains(&at)) {
                return Some(format!("{section}.{}", key.get_ref()));
            }
        }
        if value.span().contains(&at) {
            return Some(section.to_owned());
        }
    }
    None
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        read(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_problem_names_line_key_and_remedy() {
        let check = |text: &str, says: &[&str]| assert_eq!(problems(text), says, "{text}");
        check("[master]\nlisen = []\n", &["2: unknown key \"lisen\" in [master]; did you mean \"listen\"?"]);
        check("role = \"cache\"\n[windows]\n", &["2: unknown key \"windows\"; did you mean \"window\"?"]);
        check(
            "[network]\ninterface = \"\"\n",
            &["1: write [[network]], with two brackets on each side: there may be several"],
        );
        check(
            "[window]\nhours = \"19-7\"\n",
            &["2: window.hours: \"19-7\" is not hours of the day such as \"19:00-07:00\", or \"always\""],
        );
        check(
            "[store]\npath = \"/x\"\nquota = \"180%\"\n",
            &["3: store.quota: \"180%\" is not a share such as \"80%\" (1 to 100), or a size such as \"400GiB\""],
        );
        check(
            "[mount]\noffline_wait = \"soon\"\n",
            &["2: mount.offline_wait: \"soon\" is not a length of time such as \"120s\" or \"5m\" (ms, s, m, h or d)"],
        );
        check(
            "[[source]]\nurl = \"http://a\"\n[[source]]\nur = \"\"\nx = 1\n",
            &["4: unknown key \"ur\" in [source]; did you mean \"url\"?", "5: unknown key \"x\" in [source]"],
        );
    }

    #[test]
    fn values_that_are_of_no_use_are_named() {
        let check = |text: &str, says: &[&str]| assert_eq!(problems(text), says, "{text}");
        check(
            "[[source]]\nurl = \"http://a:1\"\n[[source]]\ncodec = \"lz4\"\nurl = \"ftp://b\"\n",
            &["5: source.url: source \"ftp://b\" does not begin with http:// or https://; \
                write http://HOST:PORT or https://HOST:PORT"],
        );
        check(
            "[trust]\nkeys = [\"/a/*.pub\", \"b.pub\"]\n[mount]\n# here\npath = \"icbd\"\n",
            &[
                "2: trust.keys: \"b.pub\" begins nowhere; write the whole path, from / on",
                "5: mount.path: \"icbd\" begins nowhere; write the whole path, from / on",
            ],
        );
        check(
            "[serve]\nallow = [\"10.0.0.0/8\", \"10.1.2.7/24\"]\n",
            &["2: serve.allow: 10.1.2.7/24 lets in all of 10.1.2.0/24; write that, or 10.1.2.7/32"],
        );
        check(
            "[[network]]\ninterface = \"a\"\n[[network]]\n# here\ninterface = \"b\"\ngateway = \"10.1.2.1\"\n",
            &["5: [[network]] b: `gateway` is for dhcp = \"full\" alone: another server says that here"],
        );
        check(
            "[memory]\nin_flight = \"1B\"\n",
            &["2: memory.in_flight: 1 bytes are too few for a cache to work with; give it 16MiB or more"],
        );
    }

    #[test]
    fn other_errors_name_the_line() {
        assert!(problems("role = \n")[0].starts_with("1: not TOML: "));
        assert!(problems("\nrole = \"boss\"\n")[0].starts_with("2: role: \"boss\" is none of "));
        assert!(problems("[master]\nallow = [\"10.0.0.0/99\"]\n")[0].starts_with("2: master.allow: "));
        assert!(problems("[[source]]\n")[0].contains("`url` is missing"));
        let check = |text: &str, says: &str| assert!(problems(text)[0].contains(says), "{:?}", problems(text));
        check("[serve]\nlisten = \"0.0.0.0:7071\"\n", "2: serve.listen: a list is wanted; write [\"0.0.0.0:7071\"]");
        check("[serve]\nlisten = [\"0.0.0.0\"]\n", "is no address with a port, such as \"0.0.0.0:7071\"");
        check("[serve]\nallow = [\"10.0.0.10/99\"]\n", "is no network, such as \"10.1.2.0/24\"");
        check(
            "[[network]]\ninterface = \"a\"\ndhcp = \"ful\"\n",
            "3: network.dhcp: \"ful\" is none of full, proxy, off; did you mean \"full\"?",
        );
    }

    #[test]
    fn everything_known_is_read() {
        let text = toml::to_string(&File::default().with_defaults()).unwrap();
        let mut file = read(&text).unwrap();
        assert_eq!(file, File::default().with_defaults());
        let all = "role = \"cache\"\nsource = [{ url = \"http://a\" }]\nsign = { key = \"/k\" }\n";
        file = read(all).unwrap();
        assert_eq!(file.source[0].url, "http://a");
        for (section, keys) in KNOWN.iter().filter(|(section, _)| !section.is_empty()) {
            for key in *keys {
                let message = problems(&format!("[{section}]\n{key} = {{ x = 1, x = 2 }}\n")).join("");
                assert!(!message.contains("unknown key"), "{section}.{key}: {message}");
            }
        }
    }
}
