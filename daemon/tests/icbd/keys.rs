//! Keys, and the configuration.

use std::os::unix::fs::PermissionsExt;

use crate::lab::Lab;

#[test]
fn a_key_is_made_trusted_used_and_revoked() {
    let lab = Lab::new();
    let id = lab.ok(&["key", "create", "sign.key", "--comment", "alice"]);
    let mode = lab.path("sign.key").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    lab.fails(&["key", "create", "sign.key"], 4, &["sign.key.pub exists already"]);
    assert_eq!(lab.ok(&["key", "list"]), "no key is trusted; `icbd key trust FILE.pub` adds one");
    lab.fails(&["key", "trust", "sign.key"], 2, &["sign.key is a secret key", "sign.key.pub"]);
    lab.fails(&["key", "trust", "none.pub"], 3, &["none.pub"]);
    assert_eq!(lab.ok(&["key", "trust", "sign.key.pub"]), id);
    assert!(lab.ok(&["key", "list"]).contains(&format!("{id}  alice")));

    lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo", "--sign", "sign.key"]);
    let master = lab.master("repo");
    assert!(lab.ok(&["image", "show", "lab@1", "--socket", &master.socket]).contains(&format!("signed by  {id}")));
    assert!(lab.ok(&["image", "verify", "lab@1", "--socket", &master.socket]).ends_with(&format!("signed by {id}")));

    // What everybody can read signs nothing.
    let open_to_all = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(lab.path("sign.key"), open_to_all).unwrap();
    let publish = ["image", "publish", "lab", "tree", "--sign", "sign.key", "--socket", &master.socket];
    lab.fails(&publish, 4, &["everybody on this machine can read", "chmod 600"]);

    lab.fails(&["key", "revoke", "0000000000000000"], 3, &["icbd key list"]);
    lab.ok(&["key", "revoke", &id]);
    assert!(lab.ok(&["key", "list"]).starts_with("no key"));
}

#[test]
fn a_configuration_is_checked_and_shown() {
    let lab = Lab::new();
    std::fs::write(lab.path("bad.toml"), "role = \"master\"\n[master]\nrepo = \"/srv\"\nlisen = []\n").unwrap();
    let says = ["bad.toml:4: unknown key \"lisen\" in [master]; did you mean \"listen\"?"];
    lab.fails(&["config", "check", "--config", "bad.toml"], 2, &says);
    // A daemon that is well is asked all the same; where none answers, both are said.
    lab.fails(&["status", "--config", "bad.toml"], 6, &[says[0], "no icbd daemon answers"]);
    lab.ok(&["image", "publish", "lab", "tree", "--repo", "repo"]);
    let master = lab.master("repo");
    let beside = lab.run(&["status", "--config", "bad.toml", "--socket", &master.socket]);
    assert!(beside.code == 0 && beside.out.contains("  master of ") && beside.err.contains(says[0]), "{beside:?}");
    // What is asked for help is given, and holds what is wrong.
    let bundle = lab.run(&["support-bundle", "bundle.tar", "--config", "bad.toml", "--socket", &master.socket]);
    assert!(bundle.code == 0 && bundle.err.contains(says[0]), "{bundle:?}");
    let bundle = std::fs::read(lab.path("bundle.tar")).unwrap();
    assert!(bundle.windows(8).any(|text| text == b"lisen = "), "the file is not in it");
    lab.fails(
        &["netboot", "disable", "--config", "bad.toml", "--socket", "none.sock"],
        6,
        &[says[0], "no icbd daemon answers"],
    );
    lab.fails(&["config", "check", "--config", "none.toml"], 2, &["none.toml"]);
    std::fs::write(lab.path("poor.toml"), "role = \"cache\"\n").unwrap();
    lab.fails(&["config", "check", "--config", "poor.toml"], 2, &["no source is named"]);
    lab.ok(&["config", "check"]);
    let trust =
        "role = \"cache\"\n[[source]]\nurl = \"http://a:1\"\n[trust]\nrequire = true\nkeys = [\"/nowhere/*.pub\"]\n";
    std::fs::write(lab.path("trust.toml"), trust).unwrap();
    lab.fails(&["config", "check", "--config", "trust.toml"], 2, &["no key is trusted (/nowhere/*.pub)"]);
    std::fs::write(lab.path("sign.toml"), "role = \"master\"\n[master]\nrepo = \"/srv\"\n[sign]\nkey = \"/nowhere\"\n")
        .unwrap();
    lab.fails(&["config", "check", "--config", "sign.toml"], 3, &["cannot read the key /nowhere"]);
    // For scripts, what is wrong is JSON as well.
    for (args, code) in
        [(vec!["--json", "config", "check", "--config", "poor.toml"], 2), (vec!["--json", "status", "--nonsense"], 2)]
    {
        let ran = lab.run(&args);
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap_or_else(|_| panic!("{ran:?}"));
        assert_eq!((ran.code, error["error"]["code"].as_i64(), &*ran.out), (code, Some(code.into()), ""), "{args:?}");
        assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert!(lab.ok(&["config", "show", "--effective"]).contains("offline_wait = \"120s\""));
}
