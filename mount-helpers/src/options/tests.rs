//! Options are read as they are meant, and what is wrong with them is said.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Options, OptionsError> {
    Options::parse(text, Unknown::Refuse)
}

fn check(text: &str, says: &str) {
    let message = parse(text).unwrap_err().to_string();
    assert!(message.contains(says), "{text}: {message}");
}

#[test]
fn what_an_administrator_writes_is_understood() {
    let options = parse("store=/var/lib/icbd").unwrap();
    assert_eq!(options.store.as_deref(), Some(Path::new("/var/lib/icbd")));
    assert_eq!(options.socket(), Path::new(SOCKET));
    let line = "defaults,_netdev,noauto,nofail,ro,x-systemd.automount,x-systemd.idle-timeout=60,comment=lab,user=alice,\
        store=\"/srv/a,b\",listen=0.0.0.0:7071,listen=[::1]:7071,allow=10.0.0.0/8,allow=fd00::/8,timeout=5,nopassthrough";
    let options = parse(line).unwrap();
    assert_eq!(options.store.as_deref(), Some(Path::new("/srv/a,b")));
    assert_eq!((options.listen.len(), options.allow.len(), options.no_passthrough), (2, 2, true));
    assert_eq!(options.timeout(), Duration::from_secs(5));
    // What mount(8) itself passes on where nothing is asked for.
    assert_eq!(parse("rw").unwrap(), Options::default());
    assert_eq!(parse("").unwrap(), Options::default());
    assert_eq!(parse("store=/a,store=/a").unwrap().store.as_deref(), Some(Path::new("/a")), "twice the same is once");
}

#[test]
fn what_is_not_known_is_named_with_near_words() {
    check("stor=/a", "no option \"stor\"; did you mean \"store\"?");
    check("_netdv", "did you mean \"_netdev\"?");
    check("ro,frobnicate=1", "no option \"frobnicate\"; `mount.icbd --help`");
    assert_eq!(
        Options::parse("frobnicate=1,store=/a", Unknown::Ignore).unwrap().store.as_deref(),
        Some(Path::new("/a"))
    );
}

#[test]
fn contradictions_name_both() {
    check("ro,noauto,rw", "\"ro\" and \"rw\" contradict");
    check("store=/a,store=/b", "\"store=/a\" and \"store=/b\" contradict");
    check("timeout=5,timeout=6", "\"timeout=5\" and \"timeout=6\"");
    check("auto,noauto", "\"auto\" and \"noauto\"");
}

#[test]
fn what_cannot_be_had_says_why() {
    check("remount,ro", "read-only for good");
    check("rw,nosuid,relatime,user_id=0,default_permissions,allow_other,remount", "read-only for good");
    check("noexec", "bind,noexec");
    assert_eq!(parse("rw,noexec,nosuid,nodev,user").unwrap(), Options::default(), "what mount(8) makes of `user`");
    check("sync", "nothing is written");
    check("store", "store=DIR");
    check("store=", "store=DIR");
    check("store=lib", "a path from the root");
    check("timeout=0", "from 1 to 86400");
    check("timeout=soon", "from 1 to 86400");
    check("listen=7071", "ADDRESS:PORT");
    check("allow=10.0.0.0/33", "ADDRESS/BITS");
    check("allow=lab", "ADDRESS/BITS");
    check("ro=1", "takes no value");
    check("store=/a\"b,c\"", "enclose a whole value");
    check("store=\"/a,ro", "enclose a whole value");
}

#[test]
fn no_option_is_in_two_lists() {
    let all = VALUED.iter().map(|(name, ..)| *name).chain(REFUSED.iter().map(|(name, _)| *name));
    let mut all: Vec<&str> = all.chain(INERT.iter().copied()).chain([NO_PASSTHROUGH]).collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count);
    let is_inert = |name: &&str| INERT.contains(name);
    assert!(OPPOSITES.iter().all(|(one, other)| is_inert(one) && is_inert(other)));
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[^\"\0]{0,20}".prop_map(PathBuf::from)
}

prop_compose! {
    fn options()(
        store in proptest::option::of(path()),
        config in proptest::option::of(path()),
        socket in proptest::option::of(path()),
        log in proptest::option::of(path()),
        codec in proptest::option::of("[a-z0-9,=]{1,8}"),
        listen in proptest::collection::vec(any::<SocketAddr>().prop_map(plain), 0..3),
        allow in proptest::collection::vec((any::<IpAddr>(), 0..=32u8).prop_map(|(ip, bits)| format!("{ip}/{bits}")), 0..3),
        timeout_seconds in proptest::option::of(1..=TIMEOUT_SECONDS_MAX),
        no_passthrough in any::<bool>(),
    ) -> Options {
        Options { store, config, socket, codec, listen, allow, log, timeout_seconds, no_passthrough }
    }
}

/// Flow labels and scopes of IPv6 are not part of an address that is listened on.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

proptest! {
    /// What is printed is read as the same, with whatever mount(8) and systemd put beside it.
    #[test]
    fn what_is_printed_is_read_as_the_same(options in options(), others in "(rw|ro|_netdev,noauto|x-systemd[.]automount|)") {
        prop_assert_eq!(&parse(&options.to_string()).unwrap(), &options);
        prop_assert_eq!(&parse(&format!("{others},{options}")).unwrap(), &options);
        prop_assert_eq!(&parse(&format!("{options},{others}")).unwrap(), &options);
    }

    /// Whatever is written there, it is understood or refused, and what is understood is printed as what is read the same.
    #[test]
    fn nothing_is_too_odd(text in "([a-z_]{0,12}(=[^,]{0,12})?,?){0,6}|.{0,60}") {
        if let Ok(options) = parse(&text) {
            let printed = options.to_string();
            prop_assert_eq!(parse(&printed).unwrap(), options, "{}", printed);
        }
    }

    /// An option in wrong letters is never taken for another one.
    #[test]
    fn unknown_options_are_refused(name in "[a-z]{1,10}") {
        let known = VALUED.iter().any(|(known, ..)| *known == name) || INERT.contains(&&*name) || name == NO_PASSTHROUGH
            || REFUSED.iter().any(|(known, _)| *known == name) || name == "comment";
        prop_assert_eq!(parse(&format!("{name}=/x")).is_err() || known, true);
    }
}
