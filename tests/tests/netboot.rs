//! Workstations without a disk are switched on, and boot by the network: real DHCP, a real iPXE, a real Debian.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    BOOT_DEADLINE, BootTarget, CacheServer, CacheSettings, Dnsmasq, FileSystem, Ganesha, Lab, Lan, Master, SERVER,
    Tgtd, Vm, Volume, icbd, netboot_image, set_address, wait_for,
};
use serde_json::Value;

const NETWORK: &str = "10.88.0.0/24";
const REFUSED: i32 = 4;
const STORE_BYTES: u64 = 4 << 30;
/// Longer than somebody may be silent who is logged in.
const WAITS_SECONDS: u32 = 45;
const SERVE: &str = "[serve]\nlisten = [\"10.88.0.1:7071\"]\n";
const FULL: &str = "[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"10.88.0.100-10.88.0.150\"\n";
const MENU: &str = "[netboot]\ndefault = \"debian\"\nmenu_timeout = \"1s\"\n";

struct Site {
    cache: CacheServer,
    _tgtd: Tgtd,
    ganesha: Option<Ganesha>,
    master: Master,
    _store: Volume,
    lab: Lab,
    lan: Lan,
}

/// What the image is published from.
enum Of {
    Disk,
    Tree,
}

impl Site {
    /// `debian@1`, deployed, at a cache server that workstations of a network of its own reach.
    fn new(of: Of) -> Result<Site> {
        let lan = Lan::new()?;
        let lab = Lab::new()?;
        let ganesha = matches!(of, Of::Tree).then(|| Ganesha::start_in(&lab, "", &lan)).transpose()?;
        let (image, repo) = (netboot_image()?, lab.path("repo"));
        Master::publish_offline(&repo, "debian", &published(&image, of), &["--deploy"])?;
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &[])?;
        let tgtd = Tgtd::start_on(&lab, SERVER)?;
        let settings = ganesha.as_ref().map_or_else(CacheSettings::default, Ganesha::cache_settings);
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let config = format!("{}{SERVE}{FULL}{MENU}", settings.config);
        // What a version can be sealed on.
        let volume = Volume::new(&lab, FileSystem::Btrfs, STORE_BYTES)?;
        let settings = CacheSettings { env, config, store: Some(volume.path().join("store")), ..settings };
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        Ok(Site { cache, _tgtd: tgtd, ganesha, master, _store: volume, lab, lan })
    }

    fn export(&self, by: &[&str]) -> Result<()> {
        self.cache.command(&[&["export", "add", "debian", "--clients", NETWORK], by].concat())?.ok().map(drop)
    }

    /// Has the workstation with this network card, pc-17, get a disk of its own.
    fn export_to(&self, mac: &str) -> Result<()> {
        let list = self.lab.path("clients.csv");
        fs::write(&list, format!("name,mac\npc-17,{mac}\n"))?;
        self.cache.command(&["client", "import", list.to_str().context("a path of text")?])?.ok()?;
        self.export(&["--iscsi", "--clone"])
    }

    fn enable(&self) -> Result<()> {
        self.cache.command(&["netboot", "enable"])?.ok()?;
        Ok(())
    }

    /// Has the next version be one with a boot package, deployed here.
    fn make_package(&self, more: &[&str]) -> Result<()> {
        let cmdline = ["image", "boot-package", "debian", "--cmdline", "console=ttyS0 quiet no_timer_check"];
        let made = self.master.command(&[&cmdline, more].concat())?;
        ensure!(made.ok()?.trim() == "debian@2", "not the next version");
        self.master.command(&["image", "deploy", "debian@2"])?.ok()?;
        wait_for("that it is deployed here", || {
            Ok(fs::exists(self.cache.path("debian/current/icbd/vmlinuz"))?.then_some(()))
        })
    }

    /// Waits until a boot has come as far as it can, and by what way.
    fn wait_up(&self, mac: &str) -> Result<()> {
        let boots = || self.cache.command(&["client", "boots", mac])?.ok();
        wait_for("that it is known to be up", || Ok(boots()?.contains(" up ").then_some(())))
            .with_context(|| boots().unwrap_or_default())?;
        let boots = boots()?;
        let stages = ["address", "menu", "script", "kernel", "root", "up"];
        ensure!(stages.iter().all(|stage| boots.contains(&format!("{stage} "))), "{boots}");
        Ok(())
    }

    /// Has a workstation boot from what the cache server keeps, and then from a snapshot of it. The master is away.
    fn boots_without_master(mut self, version: &str, (card, mac): (&str, &str), memory_mb: u32) -> Result<()> {
        self.cache.prefetch_all(version)?;
        drop(self.master);
        self.cache.daemon.allow_log("source is offline");
        for is_sealed in [false, true] {
            if is_sealed {
                self.cache.command(&["image", "seal", version])?.ok()?;
                if let Some(ganesha) = &mut self.ganesha {
                    ganesha.speak_only("4", &ganesha.include())?;
                    ganesha.hide_rpcbind()?;
                }
            }
            let mut vm = Vm::boot_network(&self.lab, card, mac, memory_mb)?;
            vm.wait_for("login:", BOOT_DEADLINE).with_context(|| format!("sealed: {is_sealed}"))?;
        }
        Ok(())
    }

    fn clones(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cache.command(&["clone", "list", "--json"])?.ok()?)?)
    }
}

fn published(image: &std::path::Path, of: Of) -> PathBuf {
    match of {
        Of::Disk => image.join("disk.raw"),
        Of::Tree => image.join("tree"),
    }
}

/// A diskless workstation that is switched on gets its address, its menu and its own disk, and boots to its login: from a cold
/// cache, from a warm one, and from a sealed version.
#[test]
fn a_workstation_boots_by_the_network_from_its_clone() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    let (card, mac) = site.lan.card(17)?;
    site.export_to(&mac)?;
    site.enable()?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 512)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    ensure!(vm.said().contains("Machine images for pc-17"), "no menu: {}", vm.said());
    let clones = site.clones()?;
    ensure!(
        clones["clones"][0]["client"] == "pc-17" && clones["clones"][0]["written_bytes"].as_u64() > Some(0),
        "{clones}"
    );
    drop(vm);
    site.boots_without_master("debian@1", (&card, &mac), 512)
}

/// A diskless workstation boots from a folder that nobody can write to, with a boot package that was made of it: from a cold cache,
/// from a warm one, and from a sealed version. By version 3 of NFS, and by version 4 where nobody answers for version 3. A network
/// card that the package has no driver for is named.
#[test]
fn a_workstation_boots_by_the_network_from_a_folder() -> Result<()> {
    let mut site = Site::new(Of::Tree)?;
    let refused = site.cache.command(&["export", "add", "debian", "--nfs", "--clients", NETWORK])?;
    refused.failed_with(REFUSED)?.says(&["%include"])?;
    let ganesha = site.ganesha.as_mut().context("it was started")?;
    ganesha.speak_only("3", &ganesha.include())?;
    site.export(&["--nfs"])?;
    site.make_package(&["--rw", "ram:300M"])?;
    site.enable()?;
    let (card, mac) = site.lan.card(17)?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 768)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    ensure!(vm.said().contains("boot.d runs for debian@2"), "{}", vm.said());
    // It goes on with the address that its boot loader was given, and asks nobody again.
    ensure!(vm.said().contains("IP-Config") && !vm.said().contains(" DHCP"), "{}", vm.said());
    site.wait_up(&mac)?;
    drop(vm);
    // The kernel of this image is one for virtual machines of our days.
    let (other_card, other_mac) = site.lan.card(18)?;
    let mut vm = Vm::boot_network_by(&site.lab, "e1000", (&other_card, &other_mac), 768)?;
    vm.wait_for("icbd: no driver here for the network card 8086:100e", BOOT_DEADLINE)?;
    vm.wait_for(&format!("icbd: no network card with the address {other_mac}"), BOOT_DEADLINE)?;
    drop(vm);
    site.boots_without_master("debian@2", (&card, &mac), 768)
}

/// A diskless workstation boots its kernel by HTTP, and has its root on its own clone by iSCSI, with a boot package that was made of
/// the disk: from a cold cache, from a warm one, and from a sealed version.
#[test]
fn a_workstation_has_its_root_on_its_clone() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    let (card, mac) = site.lan.card(17)?;
    site.export_to(&mac)?;
    site.make_package(&[])?;
    site.enable()?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 512)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    ensure!(!vm.said().contains("can't create"), "{}", vm.said());
    site.wait_up(&mac)?;
    let clones = site.clones()?;
    ensure!(clones["clones"][0]["written_bytes"].as_u64() > Some(0), "{clones}");
    drop(vm);
    site.boots_without_master("debian@2", (&card, &mac), 512)
}

/// Who sits before a workstation that gets nothing reads why, and has the menu again, from which it boots once that is mended.
#[test]
fn why_nothing_is_booted_is_on_the_screen() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    let (card, mac) = site.lan.card(17)?;
    site.export_to(&mac)?;
    site.enable()?;
    site.cache.set_config(&format!("{SERVE}{FULL}{MENU}[clone]\nhook = \"/bin/false\"\n"))?;
    site.cache.command(&["config", "reload"])?.prints(&["clone.hook"])?;
    site.cache.daemon.allow_log("gets no boot script");
    let why = "pc-17 gets no disk, for clone.hook /bin/false failed";
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 512)?;
    vm.wait_for(&format!("debian cannot be booted: {why}"), BOOT_DEADLINE)?;
    vm.wait_for("Press any key for the menu", BOOT_DEADLINE)?;
    site.cache.command(&["client", "boots", &mac])?.prints(&["pc-17", "said last:", why])?;
    site.cache.set_config(&format!("{SERVE}{FULL}{MENU}"))?;
    site.cache.command(&["config", "reload"])?.ok()?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    Ok(())
}

/// Firmware that has no iPXE of its own loads it from the cache server, and comes to the same menu. UEFI does, by TFTP.
#[test]
fn firmware_loads_what_it_lacks() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    // Who serves it by TFTP is nobody.
    fs::set_permissions(site.lab.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (card, mac) = site.lan.card(18)?;
    site.export(&["--iscsi"])?;
    site.enable()?;
    let mut vm = Vm::boot_network_by_uefi(&site.lab, &card, &mac)?;
    vm.wait_for("Machine images for", BOOT_DEADLINE)?;
    let boots = site.cache.command(&["client", "boots", &mac])?.ok()?;
    ensure!(boots.contains("loader"), "{boots}");
    Ok(())
}

/// Processes of dnsmasq that were told by a lab's cache server.
fn dnsmasqs(lab: &Lab) -> Result<Vec<i32>> {
    let config = lab.path("cache.sock.netboot/dnsmasq.conf");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let told = fs::read(path.join("cmdline")).unwrap_or_default();
        let is_one = String::from_utf8_lossy(&told).contains(&format!("--conf-file={}", config.display()));
        if let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()).filter(|_| is_one) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Network boot that cannot begin is refused with the reason, and nothing is half begun; what is ended leaves nothing.
#[test]
fn network_boot_begins_whole_or_not_at_all() -> Result<()> {
    let lan = Lan::new()?;
    let lab = Lab::new()?;
    let config = |networks: &str| format!("{SERVE}{networks}");
    let settings = CacheSettings { config: config(""), ..CacheSettings::default() };
    let mut cache = CacheServer::start_with(&lab, &["http://127.0.0.1:1"], &settings)?;
    // All of it goes without the master.
    cache.daemon.allow_log("source is offline");
    let folder = lab.path("cache.sock.netboot");
    let full = |pool: &str| format!("[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"{pool}\"\n");
    for (networks, says) in [
        (String::new(), "[[network]]"),
        ("[[network]]\ninterface = \"eth9\"\n".to_owned(), "there is no interface eth9"),
        (full("10.89.0.5-10.89.0.9"), "does not lie in 10.88.0.0/24"),
        (full("10.88.0.1-10.88.0.9"), "this server's own"),
    ] {
        cache.set_config(&config(&networks))?;
        cache.command(&["config", "reload"])?.ok()?;
        cache.command(&["netboot", "enable"])?.failed_with(REFUSED)?.says(&[says])?;
        ensure!(!folder.exists() && dnsmasqs(&lab)?.is_empty(), "something was begun");
    }
    cache.set_config(&config("[[network]]\ninterfac = \"lan\"\n"))?;
    cache.command(&["config", "reload"])?.failed_with(2)?.says(&[":4: unknown key", "did you mean \"interface\"?"])?;
    // What is wrong wherever it is served.
    cache.set_config(&config("[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\n"))?;
    cache.command(&["config", "reload"])?.failed_with(2)?.says(&[":4: [[network]] lan", "name them with `pool`"])?;
    // Two of them would give the same workstation two addresses.
    cache.set_config(&config(FULL))?;
    cache.command(&["config", "reload"])?.ok()?;
    let gives = ["--interface=card", "--dhcp-range=10.88.0.200,10.88.0.220"];
    let rival = Dnsmasq::start(&lab, Some(&lan.machine(5)?), &gives)?;
    cache.command(&["netboot", "enable"])?.failed_with(REFUSED)?.says(&["10.88.0.5 gives addresses on lan already"])?;
    drop(rival);
    cache.command(&["netboot", "enable"])?.prints(&["network boot is on", "http://10.88.0.1:7071/boot"])?;
    let whole = lab.path("whole.toml");
    let sources = "role = \"cache\"\n[[source]]\nurl = \"http://127.0.0.1:1\"\n";
    fs::write(&whole, format!("{sources}{}", config(FULL)))?;
    let whole = whole.to_str().context("a path of text")?;
    icbd(["doctor", "--config", whole, "--socket", cache.socket()])?.prints(&[
        "tcp port 7071 of the cache server's HTTP is held by icbd",
        "udp port 67 of DHCP is held by icbd's dnsmasq",
    ])?;
    // What ends by itself, or with the daemon, is there again, and once.
    let is_on = || cache.command(&["netboot", "show"])?.ok().map(|shown| shown.starts_with("network boot is on\n"));
    let kill = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    let one = || -> Result<i32> {
        wait_for("one dnsmasq", || {
            Ok(dnsmasqs(&lab)?.first().copied().filter(|_| dnsmasqs(&lab).is_ok_and(|all| all.len() == 1)))
        })
    };
    cache.daemon.allow_log("the dnsmasq of network boot ended");
    cache.daemon.allow_log("network boot is not as it should be");
    let first = one()?;
    // It goes on when others are named that cannot be served.
    cache.set_config(&config(&full("10.88.0.1-10.88.0.9")))?;
    let refused = cache.command(&["config", "reload"])?;
    refused.failed_with(REFUSED)?.says(&["this server's own", "nothing of the configuration was taken over"])?;
    cache.set_config(&config(FULL))?;
    ensure!(is_on()? && one()? == first, "what ran was ended");
    kill(first)?;
    wait_for("that it serves again", || Ok((is_on()? && one()? != first).then_some(())))?;
    set_address("lan", None)?;
    let says = |words: &str| Ok(cache.command(&["check"])?.stdout.contains(words).then_some(()));
    wait_for("that it is told", || says("lan has no IPv4 address"))?;
    set_address("lan", Some(SERVER))?;
    wait_for("that it serves again", || Ok(is_on()?.then_some(())))?;
    let before = one()?;
    cache.kill_worker()?;
    let is_on = || cache.command(&["netboot", "show"])?.ok().map(|shown| shown.starts_with("network boot is on\n"));
    wait_for("that it serves again", || Ok((is_on()? && one()? != before).then_some(())))?;
    cache.command(&["netboot", "disable"])?.prints(&["network boot is off"])?;
    ensure!(!folder.exists() && dnsmasqs(&lab)?.is_empty(), "something is left");
    let snippet = cache.command(&["netboot", "snippet", "--for", "kea", "--config", cache.config()?])?;
    snippet.prints(&["http://10.88.0.1:7071/boot", "undionly.kpxe"]).map(drop)
}

/// A workstation that says nothing for a while, as its boot loader's menu waits, is taken for one that was switched off, and finds
/// its disk again when it goes on.
#[test]
fn a_workstation_that_waits_finds_its_disk_again() -> Result<()> {
    let site = Site::new(Of::Disk)?;
    site.export(&["--iscsi", "--clone"])?;
    let target = BootTarget::ask(&site.cache, "debian", "pc-17")?;
    let disk = format!("iscsi:{}::{}:1:{}", SERVER, target.portal.rsplit(':').next().context("a port")?, target.name);
    let script = format!(
        "#!ipxe\nset initiator-iqn {}\nsanhook --drive 0x80 {disk}\necho waiting\nsleep {WAITS_SECONDS}\n\
         sanboot --no-describe --drive 0x80\n",
        target.initiator
    );
    let server = TcpListener::bind((SERVER, 0))?;
    let url = format!("--dhcp-boot=http://{}/script", server.local_addr()?);
    std::thread::spawn(move || answer(&server, &script));
    let _dhcp = Dnsmasq::start(&site.lab, None, &["--interface=lan", "--dhcp-range=10.88.0.100,10.88.0.150", &url])?;
    let (card, mac) = site.lan.card(17)?;
    let mut vm = Vm::boot_network(&site.lab, &card, &mac, 512)?;
    vm.wait_for("waiting", BOOT_DEADLINE)?;
    let sessions = |count| {
        let is_so =
            move |clones: Value| clones["clones"][0]["sessions"].as_array().is_some_and(|all| all.len() == count);
        wait_for("the sessions of its clone", || Ok(is_so(site.clones()?).then_some(())))
    };
    sessions(1)?;
    sessions(0)?;
    vm.wait_for("login:", BOOT_DEADLINE)?;
    Ok(())
}

/// Gives everybody the same text by HTTP.
fn answer(server: &TcpListener, text: &str) {
    for mut connection in server.incoming().flatten() {
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
        // Its end is a line without anything.
        let mut request = BufReader::new(&connection).lines();
        while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let _ = connection.write_all(format!("{head}{text}").as_bytes());
    }
}
