//! Network boot in networks that are not icbd's alone: other DHCP servers, relays, several networks.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{CacheServer, CacheSettings, Dnsmasq, Lab, Lan, LanMachine, SERVER, Vm, files_below, wait_for};

/// A machine is at its menu within this, or it does not come there.
const MENU_DEADLINE: Duration = Duration::from_secs(120);
/// Of iPXE for BIOS.
const LOADER: &str = "undionly.kpxe";
const PROXY: &str = "[[network]]\ninterface = \"lan\"\ndhcp = \"proxy\"\n";
const FULL: &str = "[[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"10.88.0.100-10.88.0.150\"\n";

/// A cache server without images, which workstations ask all the same.
fn cache_server(lab: &Lab, networks: &str) -> Result<CacheServer> {
    // Who serves loaders by TFTP is nobody.
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let config = format!("[serve]\nlisten = [\"0.0.0.0:7071\"]\n[netboot]\nmenu_timeout = \"0s\"\n{networks}");
    let settings = CacheSettings { config, ..CacheSettings::default() };
    let cache = CacheServer::start_with(lab, &["http://127.0.0.1:1"], &settings)?;
    cache.daemon.allow_log("source is offline");
    Ok(cache)
}

/// What a workstation gets from the URL that it was told to boot, once it has its address.
fn boots(machine: &LanMachine, url: &str) -> Result<String> {
    let (server, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no URL")?;
    let answer = machine.get(server.parse()?, &format!("/{path}?mac={}", machine.mac))?;
    let script = String::from_utf8(answer.body)?;
    ensure!(answer.status == 200, "{}: {script}", answer.status);
    Ok(script)
}

/// Beside a DHCP server of somebody else's, a workstation has its address from that one, and what it boots from icbd: also by
/// firmware that has yet to load iPXE.
#[test]
fn beside_another_dhcp_server_icbd_only_says_what_to_boot() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let cache = cache_server(&lab, PROXY)?;
    let gives = ["--interface=card", "--dhcp-range=10.88.0.200,10.88.0.220", "--dhcp-option=option:router,10.88.0.5"];
    let other = Dnsmasq::start(&lab, Some(&lan.machine(5)?), &gives)?;
    cache.command(&["netboot", "enable"])?.prints(&["beside the server that gives addresses"])?;
    let (bios, efi) = (lan.card(17)?, lan.card(18)?);
    let mut machines = [
        (Vm::boot_network(&lab, &bios.0, &bios.1, 128)?, bios.1),
        (Vm::boot_network_by_uefi(&lab, &efi.0, &efi.1)?, efi.1),
    ];
    for (vm, mac) in &mut machines {
        vm.wait_for("Machine images for 10.88.0.2", MENU_DEADLINE)?;
        let given = other.given()?;
        let address = given.get(mac).with_context(|| format!("{mac} has no address of the other's: {given:?}"))?;
        ensure!((200..=220).contains(&address.octets()[3]), "{address} is not of its pool");
        vm.wait_for(&format!("Machine images for {address}"), MENU_DEADLINE)?;
    }
    ensure!(fs::read(cache.store().join("netboot.leases"))?.is_empty(), "icbd gave addresses, too");
    Ok(())
}

/// Who asks through a relay gets an address of its own network, with the gateway and the boot script of that network.
#[test]
fn a_network_behind_a_relay_has_its_own_addresses() -> Result<()> {
    const FAR: &str = "[[network]]\ninterface = \"lan\"\nsubnet = \"10.88.7.0/24\"\ndhcp = \"full\"\n\
                       pool = \"10.88.7.100-10.88.7.150\"\ngateway = \"10.88.7.254\"\ndns = [\"10.88.0.53\"]\n";
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    lan.bridge("beyond", None)?;
    let gateway = Ipv4Addr::new(10, 88, 7, 254);
    let router = lan.router(9, "beyond", gateway)?;
    let cache = cache_server(&lab, &[FULL, FAR].concat())?;
    cache.command(&["netboot", "enable"])?.prints(&["10.88.7.0/24, behind a relay"])?;
    let _relay = Dnsmasq::start(&lab, Some(&router), &[&format!("--dhcp-relay={gateway},{SERVER}")])?;
    let (far, near) = (lan.machine_on("beyond", Ipv4Addr::new(10, 88, 7, 2))?, lan.machine_on("lan", SERVER_SIDE)?);
    let lease = far.ask_for_address(&lab, false)?;
    ensure!(lease.address()?.octets()[..3] == [10, 88, 7] && (100..=150).contains(&lease.address()?.octets()[3]));
    let said = (lease.get("router"), lease.get("dns"), lease.get("subnet"));
    ensure!(said == (Some("10.88.7.254"), Some("10.88.0.53"), Some("255.255.255.0")), "{lease:?}");
    ensure!(lease.boot_file() == LOADER && lease.next_server()? == SERVER, "{lease:?}");
    let here = near.ask_for_address(&lab, false)?;
    ensure!(here.address()?.octets()[..3] == [10, 88, 0] && here.get("router").is_none(), "{here:?}");
    // Behind its router it finds what it was told of.
    far.take("card", lease.address()?)?;
    far.route_by(gateway)?;
    ensure!(far.load(&lab, lease.next_server()?, LOADER)? == fs::read(format!("/usr/lib/ipxe/{LOADER}"))?);
    let ipxe = far.ask_for_address(&lab, true)?;
    ensure!(ipxe.address()? == lease.address()?, "another address: {ipxe:?}");
    ensure!(boots(&far, ipxe.boot_file())?.contains(&format!("menu Machine images for {}", lease.address()?)));
    Ok(())
}

/// A machine that has no address yet, next to the server.
const SERVER_SIDE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);

/// Two networks at once have addresses, loaders and boot scripts of their own, each from icbd's address there.
#[test]
fn two_networks_are_told_of_their_own_server() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    // As Linux calls the interface of a VLAN.
    let server = Ipv4Addr::new(10, 88, 204, 1);
    lan.bridge("lan.204", Some(server))?;
    let vlan = "[[network]]\ninterface = \"lan.204\"\ndhcp = \"full\"\npool = \"10.88.204.20-10.88.204.90\"\n";
    let cache = cache_server(&lab, &[FULL, vlan].concat())?;
    cache.command(&["netboot", "enable"])?.prints(&["lan, 10.88.0.0/24", "lan.204, 10.88.204.0/24"])?;
    for (bridge, server, hosts) in [("lan", SERVER, 100..=150), ("lan.204", server, 20..=90)] {
        let [a, b, c, _] = server.octets();
        let machine = lan.machine_on(bridge, Ipv4Addr::new(a, b, c, 3))?;
        let lease = machine.ask_for_address(&lab, false)?;
        let address = lease.address()?.octets();
        ensure!(address[..3] == [a, b, c] && hosts.contains(&address[3]), "{bridge}: {lease:?}");
        ensure!((lease.server()?, lease.next_server()?) == (server, server), "{bridge}: {lease:?}");
        machine.take("card", lease.address()?)?;
        ensure!(machine.load(&lab, server, lease.boot_file())? == fs::read(format!("/usr/lib/ipxe/{LOADER}"))?);
        let ipxe = machine.ask_for_address(&lab, true)?;
        ensure!(ipxe.boot_file() == format!("http://{server}:7071/boot"), "{bridge}: {ipxe:?}");
        ensure!(boots(&machine, ipxe.boot_file())?.contains(&format!("http://{server}:7071/boot/${{image}}")));
    }
    Ok(())
}

/// What is listened at, and by whom: protocol, address and port, and the process ids of dnsmasq.
fn listened() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for protocol in ["udp", "udp6", "tcp", "tcp6", "raw", "raw6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{protocol}"))?;
        let words = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // Of TCP, what waits for connections: those that end are there for a while.
        let waits = words.filter(|words| !protocol.starts_with("tcp") || words[3] == "0A");
        all.extend(waits.map(|words| format!("{protocol} {}", words[1])));
    }
    for entry in fs::read_dir("/proc")?.map_while(Result::ok) {
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let space = fs::read_link(entry.path().join("ns/net")).ok();
        if comm.trim() == "dnsmasq" && space == fs::read_link("/proc/thread-self/ns/net").ok() {
            all.insert(format!("dnsmasq {}", entry.file_name().display()));
        }
    }
    Ok(all)
}

/// A dnsmasq of somebody else's on the same machine, as of libvirt, serves its own network before, while and after icbd serves
/// others; of network boot that is ended nothing is left but who was given which address.
#[test]
fn network_boot_leaves_others_alone() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    lan.bridge("virbr0", Some(Ipv4Addr::new(10, 88, 122, 1)))?;
    lan.bridge("lan2", Some(Ipv4Addr::new(10, 88, 2, 1)))?;
    let tftp = lab.folder("tftp")?;
    fs::write(tftp.join("guest"), "what a guest boots")?;
    let root = format!("--tftp-root={}", tftp.display());
    let args = ["--interface=virbr0", "--dhcp-range=10.88.122.2,10.88.122.20", "--enable-tftp", &root];
    let second = "[[network]]\ninterface = \"lan2\"\ndhcp = \"full\"\npool = \"10.88.2.20-10.88.2.90\"\n";
    let cache = cache_server(&lab, &[FULL, second].concat())?;
    let mut other = Dnsmasq::start(&lab, None, &args)?;
    let guest = lan.machine_on("virbr0", Ipv4Addr::new(10, 88, 122, 99))?;
    guest.take("card", guest.address)?;
    let workstation = lan.machine_on("lan2", Ipv4Addr::new(10, 88, 2, 3))?;
    let mut others_serves = |when: &str| -> Result<()> {
        let lease = guest.ask_for_address(&lab, false).with_context(|| when.to_owned())?;
        ensure!(lease.server()? == Ipv4Addr::new(10, 88, 122, 1) && lease.boot_file().is_empty(), "{when}: {lease:?}");
        ensure!(guest.load(&lab, lease.server()?, "guest")? == b"what a guest boots", "{when}");
        ensure!(other.is_running()?, "{when} it has ended");
        Ok(())
    };
    others_serves("before")?;
    // All that is the daemon's is in its store, or beside its socket.
    let files = || -> Result<BTreeSet<_>> {
        let of_daemon =
            |path: &PathBuf| path.starts_with("store.0") || path.to_string_lossy().starts_with("cache.sock");
        Ok(files_below(lab.dir())?.into_iter().filter(of_daemon).collect())
    };
    let (files_before, listened_before) = (files()?, listened()?);
    cache.command(&["netboot", "enable"])?.ok()?;
    ensure!(listened()?.difference(&listened_before).count() > 1, "icbd listens nowhere");
    ensure!(workstation.ask_for_address(&lab, false)?.boot_file() == LOADER);
    others_serves("while icbd serves")?;
    cache.command(&["netboot", "disable"])?.ok()?;
    others_serves("after")?;
    wait_for("that nothing more is listened at", || Ok((listened()? == listened_before).then_some(())))
        .with_context(|| format!("{listened_before:?} before, {:?} after", listened()))?;
    // Who has which address, and what boots were seen, are records of what was.
    let is_record = |path: &&PathBuf| ["netboot.leases", "boots.open.json"].iter().any(|name| path.ends_with(name));
    let left: Vec<_> = files()?.difference(&files_before).filter(|path| !is_record(path)).cloned().collect();
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

/// A workstation is told to wake on every network on which workstations boot, also when one of these cannot be reached.
#[test]
fn a_workstation_is_woken_wherever_it_is() -> Result<()> {
    // What lies behind no router is not reached.
    const NOWHERE: &str = "[[network]]\ninterface = \"lan\"\nsubnet = \"10.99.0.0/24\"\n";
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    lan.bridge("lan2", Some(Ipv4Addr::new(10, 88, 2, 1)))?;
    let cache = cache_server(&lab, &[NOWHERE, PROXY, "[[network]]\ninterface = \"lan2\"\n"].concat())?;
    let list = lab.path("clients.csv");
    fs::write(&list, "name,mac,uuid\npc-1,02:00:00:00:0a:0b,\npc-2,,4c4c4544-0051-3510-8052-b4c04f4d3132\n")?;
    cache.command(&["client", "import", list.to_str().context("a path of text")?])?.ok()?;
    let (one, two) = (lan.machine(7)?, lan.machine_on("lan2", Ipv4Addr::new(10, 88, 2, 7))?);
    two.take("card", two.address)?;
    let ears = [one.listen(9)?, two.listen(9)?];
    let wanted = [vec![0xff; 6], [2, 0, 0, 0, 10, 11].repeat(16)].concat();
    for is_enabled in [false, true] {
        if is_enabled {
            cache.command(&["netboot", "enable"])?.ok()?;
        }
        cache.command(&["client", "wake", "pc-1"])?.prints(&["pc-1 was told to wake"])?;
        for ear in &ears {
            let mut heard = [0; 200];
            let bytes = ear.recv(&mut heard).with_context(|| format!("nothing was heard, {is_enabled}"))?;
            ensure!(heard[..bytes] == wanted, "{:?}", &heard[..bytes]);
        }
    }
    cache.command(&["client", "wake", "pc-2"])?.failed_with(4)?.says(&["no MAC of pc-2"])?;
    cache.command(&["client", "wake", "pc-3"])?.failed_with(3)?.says(&["pc-3 is not on the list"])?;
    // Nobody was woken by mistake.
    for ear in &ears {
        ear.set_read_timeout(Some(Duration::from_millis(1)))?;
        ensure!(ear.recv(&mut [0; 200]).is_err(), "something else was sent");
    }
    Ok(())
}

/// Where icbd gives addresses, a machine that looks for a router of IPv6 is told at once that there is none, unless there is one; on
/// other networks it is told nothing.
#[test]
fn nobody_waits_for_a_router_that_there_is_not() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    lan.bridge("lan2", Some(Ipv4Addr::new(10, 88, 2, 1)))?;
    let networks = [FULL, "[[network]]\ninterface = \"lan2\"\ndhcp = \"proxy\"\n"].concat();
    let cache = cache_server(&lab, &networks)?;
    let (own, others) = (lan.machine(7)?, lan.machine_on("lan2", Ipv4Addr::new(10, 88, 2, 7))?);
    others.take("card", others.address)?;
    ensure!(own.ask_for_router()?.is_none(), "somebody else answers");
    cache.command(&["netboot", "enable"])?.ok()?;
    // It begins a moment later.
    let seconds = wait_for("an answer", || own.ask_for_router())?;
    ensure!(seconds == 0, "it is one for {seconds} s");
    ensure!(others.ask_for_router()?.is_none(), "it answers on a network of others");
    lan.machine(8)?.advertise(1800)?;
    wait_for("that it is silent", || Ok(own.ask_for_router()?.is_none().then_some(())))
}

/// What a workstation says by syslog while it boots is shown with its boot, and the boot is known also to the next daemon.
#[test]
fn what_a_boot_says_last_is_known() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let mut cache = cache_server(&lab, FULL)?;
    cache.command(&["netboot", "enable"])?.ok()?;
    let workstation = lan.machine(7)?;
    boots(&workstation, "http://10.88.0.1:7071/boot")?;
    let socket = workstation.listen(5140)?;
    let shown = |cache: &CacheServer| cache.command(&["client", "boots", &workstation.mac])?.ok();
    wait_for("what it says", || {
        socket.send_to(b"<13>icbd: no network card", (SERVER, 514))?;
        Ok(shown(&cache)?.contains("  icbd: no network card").then_some(()))
    })?;
    cache.kill_worker()?;
    ensure!(shown(&cache)?.contains("menu "), "{}", shown(&cache)?);
    Ok(())
}
