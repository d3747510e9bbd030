//! Workstations as the cache server knows them: by a list that somebody imported, and by what answers at an address.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BootTarget, CacheServer, CacheSettings, LAN, Lab, Lan, LanMachine, MIB, Master, Output, SERVER, Tgtd, boot_script,
    get, icbd, icbd_path, listens, run_bounded, solid, wait_for,
};
use serde_json::Value;

const DISK: u64 = 8 * MIB;
const USAGE: i32 = 2;
const ABSENT: i32 = 3;
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: &str = "127.0.0.0/8";
const UUID: &str = "4c4c4544-0051-3510-8052-b4c04f4d3132";
const UUID_2: &str = "4c4c4544-0051-3510-8052-b4c04f4d3133";
/// Two workstations, the second of which has two network cards.
const SHEET: &str = "name,mac,uuid,lab\n\
    pc-1,52:54:00:00:00:02,4C4C4544-0051-3510-8052-B4C04F4D3132,R2.04\n\
    pc-2,52-54-00-00-00-03 5254.0000.0013,,R2.04\n";

struct Site {
    lab: Lab,
    // Ends before its tgtd, or it would say in its log that this is gone.
    cache: CacheServer,
    _tgtd: Tgtd,
    master: Master,
}

impl Site {
    fn new() -> Result<Site> {
        Site::at([127, 0, 0, 1].into(), LOOPBACK)
    }

    /// `lab@1`, deployed, exported to a network with a clone for each client; its cache serves at an address.
    fn at(address: std::net::Ipv4Addr, network: &str) -> Result<Site> {
        let lab = Lab::new()?;
        let (tree, repo) = (lab.folder("tree")?, lab.path("repo"));
        fs::write(tree.join("disk.raw"), solid(1, DISK))?;
        Master::publish_offline(&repo, "lab", &tree, &["--deploy"])?;
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &[])?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = format!("[serve]\nlisten = [\"{address}:0\"]\nallow = [\"{network}\"]\n");
        let settings = CacheSettings { env, config, ..CacheSettings::default() };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        let site = Site { lab, _tgtd: tgtd, master, cache };
        site.cache.daemon.allow_log("gets no boot script");
        site.cache.command(&["export", "add", "lab", "--iscsi", "--clients", network, "--clone"])?.ok()?;
        Ok(site)
    }

    fn import(&self, sheet: &str, args: &[&str]) -> Result<Output> {
        let file = self.lab.path("clients.csv");
        fs::write(&file, sheet)?;
        self.cache.command(&[&["client", "import", file.to_str().context("a path of text")?], args].concat())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.cache.command(&[args, &["--json"]].concat())?.ok()?)?)
    }

    /// The list as it is shown, and as it is kept.
    fn list(&self) -> Result<(Value, Vec<u8>)> {
        Ok((self.json(&["client", "list"])?, fs::read(self.cache.store().join("clients.json"))?))
    }

    /// Whose clones there are, and how much is written to each.
    fn clones(&self) -> Result<Vec<(String, u64)>> {
        let report = self.json(&["clone", "list"])?;
        let of = |clone: &Value| {
            (clone["client"].as_str().unwrap_or("?").to_owned(), clone["written_bytes"].as_u64().unwrap_or(0))
        };
        Ok(report["clones"].as_array().into_iter().flatten().map(of).collect())
    }

    fn boot(&self, query: &str) -> Result<BootTarget> {
        let (status, script) = boot_script(&self.cache, &format!("lab?{query}"))?;
        ensure!(status == 200, "{query}: {status}: {script}");
        BootTarget::of(&script)
    }

    /// Waits until `client explain pc-1` says something.
    fn wait_explains(&self, says: &str) -> Result<()> {
        let explain = || self.cache.command(&["client", "explain", "pc-1"])?.ok();
        wait_for(says, || Ok(explain()?.contains(says).then_some(()))).with_context(|| explain().unwrap_or_default())
    }
}

/// A list of workstations takes the place of the one before whole, or not at all: of one that is wrong all is told with line and
/// column, and nothing is changed.
#[test]
fn a_list_is_imported_whole_or_not_at_all() -> Result<()> {
    let mut site = Site::new()?;
    site.cache.command(&["client", "list"])?.prints(&["no list of workstations is imported"])?.ok()?;
    site.import(SHEET, &["--dry-run"])?.prints(&["would be: 2 added", "nothing was changed"])?.ok()?;
    ensure!(!site.cache.store().join("clients.json").exists(), "a look changed something");
    let first = site.import(SHEET, &["-m", "term begins"])?;
    first.prints(&["2 added, 0 changed, 0 removed", "only workstations on the list get clones"])?.ok()?;
    site.cache.command(&["log"])?.prints(&["client import", "2 added, 0 changed, 0 removed", "term begins"])?.ok()?;
    let before = site.list()?;
    for (sheet, says) in [
        (
            "name,mac\npc-1,52:54\npc-3,52:54:00:00:00:04\n",
            &["line 2, column 2 (mac): \"52:54\" is no MAC", "52:54:00:12:34:56"][..],
        ),
        ("name,mak\npc-1,52:54:00:00:00:02\n", &["line 1, column 2 (mak)", "did you mean \"mac\"?"]),
        (
            "name,mac\npc-1,52:54:00:00:00:02\npc-3,5254.0000.0002\n",
            &["line 3, column 2", "52:54:00:00:00:02 is on line 2, too"],
        ),
        ("name;mac\npc-1;\"52:54:00:00:00:02\npc-3;\n", &["line 2, character 6", "never closed"]),
        (
            "name,mac\nPC-1,x\n,y\n",
            &["write pc-1", "line 2, column 2", "line 3, column 1 (name): no name", "line 3, column 2"],
        ),
    ] {
        site.import(sheet, &[])?
            .failed_with(USAGE)?
            .says(&["clients.csv is not imported, and nothing was changed"])?
            .says(says)?;
        ensure!(site.list()? == before, "{sheet:?} was half imported");
    }
    let missing = site.cache.command(&["client", "import", "/nowhere.csv"])?;
    missing.failed_with(ABSENT)?.says(&["cannot read /nowhere.csv"])?;
    fs::write(site.lab.path("latin.csv"), b"name,mac,lab\npc-1,52:54:00:00:00:02,Geb\xe4ude\n")?;
    let latin = site.cache.command(&["client", "import", site.lab.path("latin.csv").to_str().context("text")?])?;
    latin.failed_with(USAGE)?.says(&["line 2, character 27", "UTF-8"])?;
    let on_master = icbd(["client", "list", "--socket", site.master.socket()])?;
    on_master.failed_with(USAGE)?.says(&["on a cache server"])?;
    ensure!(site.list()? == before, "something was half imported");
    let mut piped = Command::new("sh");
    piped.args(["-c", "\"$0\" client import - --dry-run --socket \"$1\" < \"$2\""]).arg(icbd_path()?);
    piped.arg(site.cache.socket()).arg(site.lab.path("same.csv"));
    fs::write(site.lab.path("same.csv"), SHEET)?;
    run_bounded(piped, TOOL_DEADLINE)?.prints(&["0 added, 0 changed, 0 removed, 2 as before"])?.ok()?;
    // Kept across restarts and kills.
    site.cache.kill_worker()?;
    ensure!(site.list()? == before, "it was forgotten");
    // What a spreadsheet of another country saves, and one workstation less, that has a clone.
    site.boot("client=pc-2")?;
    let second = "\u{feff}Lab;Name;MAC\r\nR3;pc-1;52-54-00-00-00-02\r\n;;\r\n";
    site.import(second, &[])?
        .prints(&["0 added, 1 changed, 1 removed", "pc-2", "clone of lab@1", "icbd clone remove pc-2 lab@1"])?
        .ok()?;
    let list = site.cache.command(&["client", "list"])?;
    list.prints(&["pc-1", "R3", "! pc-2 is not on the list"])?.ok()?;
    ensure!(site.clones()? == [("pc-2".to_owned(), 0)], "{:?}", site.clones());
    site.cache.command(&["client", "show", "pc-1"])?.prints(&["52:54:00:00:00:02", "R3"])?.ok()?;
    site.cache.command(&["client", "show", "pc-11"])?.failed_with(ABSENT)?.says(&["did you mean \"pc-1\"?"]).map(drop)
}

/// A workstation is known by name, MAC or UUID; whoever is not on the list, or says what contradicts it, gets no clone.
#[test]
fn a_workstation_is_known_by_what_is_on_the_list() -> Result<()> {
    let site = Site::new()?;
    let refused = |query: &str, says: &str| -> Result<()> {
        let (status, text) = boot_script(&site.cache, &format!("lab?{query}"))?;
        ensure!(status == 403 && text.contains(says), "{query}: {status} {text}");
        Ok(())
    };
    // Without a list whoever boots is believed its name, and nobody is known by anything else.
    refused("mac=52:54:00:00:00:02", "icbd client import")?;
    refused(&format!("client=pc-1&uuid={UUID}"), "icbd client import")?;
    site.boot("client=pc-9&mac=&uuid=")?;
    site.import(SHEET, &[])?.ok()?;
    for (query, says) in [
        ("client=pc-9", "pc-9 is not on the list"),
        ("mac=52:54:00:00:00:99", "the MAC 52:54:00:00:00:99 is not on the list"),
        ("client=pc-1&mac=52:54:00:00:00:03", "the MAC 52:54:00:00:00:03 is pc-2's"),
        ("client=pc-1&mac=52:54:00:00:00:99", "is not what the list of workstations has for pc-1"),
        ("client=pc-2&uuid=4c4c4544-0051-3510-8052-b4c04f4d3132", "is pc-1's"),
    ] {
        refused(query, says)?;
    }
    for (query, status, says) in
        [("mac=52:54", 400, "no MAC address"), ("uuid=4c", 400, "no UUID"), ("", 400, "?mac=MAC")]
    {
        let (found, text) = boot_script(&site.cache, &format!("lab?{query}"))?;
        ensure!(found == status && text.contains(says), "{query}: {found} {text}");
    }
    ensure!(site.clones()? == [("pc-9".to_owned(), 0)], "{:?}", site.clones());
    for (query, client) in [
        ("mac=52-54-00-00-00-02", "pc-1"),
        ("uuid=4C4C4544-0051-3510-8052-B4C04F4D3132", "pc-1"),
        ("client=pc-1&mac=525400000002&uuid=4c4c4544-0051-3510-8052-b4c04f4d3132", "pc-1"),
        ("mac=52:54:00:00:00:13", "pc-2"),
        ("client=pc-2&uuid=00000000-0000-0000-0000-000000000001", "pc-2"),
    ] {
        let target = site.boot(query)?;
        ensure!(target.name.ends_with(&format!(":lab.1.{client}")), "{query}: {}", target.name);
    }
    // A list that cannot be read is no list that anybody is on.
    site.cache.daemon.allow_log("clients.json cannot be read");
    fs::write(site.cache.store().join("clients.json"), "{")?;
    let mut site = site;
    site.cache.kill_worker()?;
    let (status, text) = boot_script(&site.cache, "lab?client=pc-1")?;
    ensure!(status == 503 && text.contains("icbd client import"), "{status} {text}");
    site.cache.command(&["check"])?.prints(&["clients.json cannot be read"])?;
    site.import(SHEET, &[])?.ok()?;
    site.boot("client=pc-1").map(drop)
}

/// A boot script that is fetched in somebody else's name resets nothing: another network card answers at the address from which it
/// was asked for.
#[test]
fn a_spoofed_boot_script_resets_nothing() -> Result<()> {
    let lan = Lan::new()?;
    let site = Site::at(SERVER, LAN)?;
    let (one, two, stranger) = (lan.machine(2)?, lan.machine(3)?, lan.machine(4)?);
    let server = listens(&site.cache)?;
    let boot = |machine: &LanMachine, query: &str| boot_from(machine, server, query);
    site.import(SHEET, &[])?.ok()?;
    let (status, script) = boot(&one, &format!("mac={}", one.mac))?;
    ensure!(status == 200, "{status} {script}");
    let target = BootTarget::of(&script)?;
    target.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    let before = site.clones()?;
    ensure!(before == [("pc-1".to_owned(), 64 << 10)], "{before:?}");
    // Once nobody uses it, its own boot script would reset it.
    site.wait_explains("its clone is reset")?;
    for (machine, query, says) in [
        (&two, "client=pc-1".to_owned(), "52:54:00:00:00:03, which is pc-2's"),
        (&two, format!("mac={}", one.mac), "10.88.0.3 is spoofed or pc-1 has a network card"),
        (&two, format!("uuid={UUID}"), "10.88.0.3 is spoofed"),
        (&two, format!("client=pc-1&mac={}", one.mac), "10.88.0.3 is spoofed"),
        (&stranger, "client=pc-1".to_owned(), "at this address answers 52:54:00:00:00:04"),
    ] {
        let (status, text) = boot(machine, &query)?;
        ensure!(status == 403 && text.contains(says), "{query}: {status} {text}");
        ensure!(site.clones()? == before, "{:?}", site.clones());
    }
    let log = site.cache.daemon.log();
    ensure!(log.contains("10.88.0.3 is spoofed") && log.contains("gets no boot script"), "{log}");
    // Nor is one that runs, by whomever its script is fetched, nor by a new connection.
    site.cache.daemon.allow_log("boots what it wrote before");
    let mut running = target.log_in()?;
    site.wait_explains("is logged in to it")?;
    let (status, text) = boot(&two, "client=pc-1")?;
    ensure!(status == 403, "{status} {text}");
    let (status, script) = boot(&one, "client=pc-1")?;
    ensure!(status == 200 && BootTarget::of(&script)?.name == target.name, "{status} {script}");
    ensure!(running.goes_on()? && site.clones()? == before, "{:?}", site.clones());
    drop(running);
    target.io(&["read -P 0x11 0 64k"])?.ok()?;
    ensure!(site.clones()? == before, "{:?}", site.clones());
    // The real ones get what is theirs.
    let (status, script) = boot(&two, "client=pc-2")?;
    ensure!(status == 200 && BootTarget::of(&script)?.name.ends_with("lab.1.pc-2"), "{status} {script}");
    let (status, script) = boot(&one, "client=pc-1")?;
    ensure!(status == 200, "{status} {script}");
    ensure!(site.clones()? == [("pc-1".to_owned(), 0), ("pc-2".to_owned(), 0)], "{:?}", site.clones());
    Ok(())
}

fn boot_from(machine: &LanMachine, server: SocketAddr, query: &str) -> Result<(u16, String)> {
    let answer = machine.get(server, &format!("/boot/lab?{query}"))?;
    Ok((answer.status, String::from_utf8(answer.body)?))
}

/// What `icbd client explain` says is what the next boot does: a clone is made, taken as it is, kept, reset, or not while somebody
/// is logged in.
#[test]
fn what_is_explained_is_what_the_next_boot_does() -> Result<()> {
    let site = Site::new()?;
    site.import(SHEET, &[])?.ok()?;
    let explain = || site.cache.command(&["client", "explain", "pc-1"])?.ok();
    let expect = |says: &[&str]| -> Result<()> {
        let text = explain()?;
        ensure!(says.iter().all(|says| text.contains(says)), "{says:?} is not in {text}");
        Ok(())
    };
    let name = "iqn.2026-01.net.icbd:lab.1.pc-1";
    expect(&[
        "52:54:00:00:00:02",
        "lab R2.04",
        "lab: lab@1, the deployed version, by iscsi",
        name,
        "a disk of its own is made",
    ])?;
    ensure!(site.clones()?.is_empty(), "to ask made something");
    let target = site.boot("client=pc-1")?;
    ensure!(target.name == name && site.clones()?.len() == 1, "{target:?}");
    expect(&["its clone as it is: nothing was written"])?;
    target.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    let mut running = target.log_in()?;
    site.wait_explains("is logged in to it")?;
    expect(&["its clone cannot be reset now: 127.0.0.1", "a boot gets it with 64.0 KiB written"])?;
    let list = site.cache.command(&["client", "list"])?;
    list.prints(&["lab@1 from 127.0.0.1", "lab@1 64.0 KiB"])?.ok()?;
    site.cache
        .command(&["client", "show", "pc-1"])?
        .prints(&["runs   lab@1 from 127.0.0.1", UUID, "reset at boot"])?
        .ok()?;
    ensure!(running.goes_on()?, "it had an error");
    drop(running);
    site.wait_explains("it can be reset in")?;
    site.cache.command(&["clone", "keep", "pc-1", "lab"])?.ok()?;
    expect(&["it is kept, until `icbd clone keep pc-1 lab@1 --no`", "64.0 KiB written"])?;
    site.boot("client=pc-1")?.io(&["read -P 0x11 0 64k"])?.ok()?;
    site.cache.command(&["clone", "keep", "pc-1", "lab", "--no"])?.ok()?;
    site.wait_explains("its clone is reset: nobody uses it, and it is not kept; 64.0 KiB")?;
    site.boot("client=pc-1")?;
    ensure!(site.clones()? == [("pc-1".to_owned(), 0)], "{:?}", site.clones());
    // Of another version, a new one; and what was written over the first goes once that has booted.
    target.io(&["write -P 0x11 0 64k", "flush"])?.ok()?;
    let running = target.log_in()?;
    site.wait_explains("is logged in to it")?;
    fs::write(site.lab.path("tree/disk.raw"), solid(2, DISK))?;
    site.master.publish("lab", &site.lab.path("tree"), &["--deploy"])?;
    site.wait_explains("it has no clone of lab@2 yet")?;
    expect(&["its clone of lab@1, with 64.0 KiB written, stays until nobody uses it any more"])?;
    drop(running);
    site.wait_explains("goes once it has booted lab@2")?;
    let explained = site.cache.command(&["client", "explain", "pc-9"])?;
    explained.failed_with(ABSENT)?.says(&["pc-9 is not on the list", "icbd client import"])?;
    let json = site.json(&["client", "explain", "pc-1"])?;
    ensure!(json["images"][0]["version"] == "lab@2" && json["images"][0]["clone"]["outlook"] == "made", "{json}");
    Ok(())
}

/// A workstation may be told on the list what it boots if nobody chooses, and to try a version before others do.
#[test]
fn a_workstation_tries_a_version_before_others() -> Result<()> {
    let site = Site::new()?;
    fs::write(site.lab.path("tree/disk.raw"), solid(2, DISK))?;
    site.master.publish("lab", &site.lab.path("tree"), &[])?;
    let sheet = |boots: &str| format!("name,uuid,boots\npc-1,{UUID},{boots}\npc-2,{UUID_2},\n");
    let refused = site.import(&sheet("lab@x"), &[])?.failed_with(USAGE)?;
    refused.says(&["line 2, column 3 (boots)", "such as debian-lab@4"])?;
    for (boots, why) in [("lob@2", "there is no image lob"), ("lab@9", "there is no version lab@9")] {
        let said = format!("! pc-1 is to boot {boots} by the list of workstations: {why}");
        site.import(&sheet(boots), &[])?.prints(&[&said])?.ok()?;
        site.cache.command(&["client", "explain", "pc-1"])?.prints(&[&said, "the deployed version"])?.ok()?;
    }
    site.import(&sheet("lab@2"), &[])?.prints(&["pc-1", "boots lab@2"])?.ok()?;
    site.wait_explains("lab@2, which the list of workstations has it boot")?;
    let met = site.import(&sheet("lab@2"), &[])?.ok()?;
    ensure!(!met.contains("! "), "{met}");
    site.cache.command(&["client", "show", "pc-1"])?.prints(&["boots  lab@2"])?.ok()?;
    let tries = || Ok(Some(site.boot("client=pc-1")?).filter(|target| target.name.ends_with("lab.2.pc-1")));
    let target = wait_for("the version to try", tries)?;
    ensure!(target.read(&site.lab)? == solid(2, DISK), "it is another version");
    ensure!(site.boot("client=pc-2")?.name.ends_with("lab.1.pc-2"), "another one tries it, too");
    let default = |client: &str| -> Result<String> {
        let menu = String::from_utf8(get(listens(&site.cache)?, &format!("/boot?client={client}"))?.body)?;
        let line = menu.lines().find(|line| line.starts_with("choose ")).context("a menu")?;
        Ok(line.to_owned())
    };
    ensure!(default("pc-1")?.contains("--default lab image"), "{}", default("pc-1")?);
    ensure!(default("pc-2")?.contains("--default local image"), "{}", default("pc-2")?);
    // With an image alone it is the deployed version as for all others.
    site.import(&sheet("lab"), &[])?.ok()?;
    ensure!(site.boot("client=pc-1")?.name.ends_with("lab.1.pc-1"), "it tries on");
    ensure!(default("pc-1")?.contains("--default lab image"), "{}", default("pc-1")?);
    Ok(())
}
