//! Small machines without a disk are switched on: many at once, and such as have yet to load iPXE.

use std::fs;

use anyhow::{Context, Result, ensure};
use icbd_tests::{BOOT_DEADLINE, CacheServer, Ganesha, Lab, Lan, Master, Vm, small_image, wait_for};

const CLIENTS: u8 = 16;
/// What all may fetch, in what one does.
const RATIO_MAX: f64 = 1.02;
const MEMORY_MB: u32 = 192;
const CONFIG: &str = "[serve]\nlisten = [\"10.88.0.1:7071\"]\n\
                      [[network]]\ninterface = \"lan\"\ndhcp = \"full\"\npool = \"10.88.0.100-10.88.0.150\"\n\
                      [netboot]\ndefault = \"small\"\nmenu_timeout = \"1s\"\n";

/// A cache server that knows nothing yet, from which machines boot by the folder `small@1`.
struct Site {
    cache: CacheServer,
    /// What it was told.
    config: String,
    _ganesha: Ganesha,
    lab: Lab,
}

impl Site {
    fn new(lan: &Lan, master: &Master) -> Result<Site> {
        let lab = Lab::new()?;
        // Who serves loaders by TFTP is nobody.
        fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let ganesha = Ganesha::start_in(&lab, "", lan)?;
        ganesha.set(&ganesha.include())?;
        let mut settings = ganesha.cache_settings();
        settings.config += CONFIG;
        let cache = CacheServer::start_with(&lab, &[&master.url()], &settings)?;
        cache.command(&["export", "add", "small", "--nfs", "--clients", "10.88.0.0/24"])?.ok()?;
        cache.command(&["netboot", "enable"])?.ok()?;
        Ok(Site { cache, config: settings.config, _ganesha: ganesha, lab })
    }

    /// What came from the master, in bytes unpacked: what is sent packed differs from boot to boot.
    fn fetched(&self) -> Result<f64> {
        let status = self.cache.wait_idle()?;
        status["fetched_bytes"].as_f64().with_context(|| format!("no fetched bytes in {status}"))
    }
}

fn master(lab: &Lab) -> Result<Master> {
    let repo = lab.path("repo");
    Master::publish_offline(&repo, "small", &small_image(lab)?, &["--deploy"])?;
    let master = Master::start(lab, &repo)?;
    // Sites end before it.
    master.daemon.allow_log("a boot profile that was offered is ignored");
    Ok(master)
}

/// Sixteen machines that are switched on at once boot from a cold cache, all of them, and what comes from the master is no more
/// than a fiftieth above what one takes.
#[test]
fn sixteen_boot_at_once_and_each_byte_comes_once() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let master = master(&lab)?;
    let cards = (20..20 + CLIENTS).map(|number| lan.card(number)).collect::<Result<Vec<_>>>()?;
    let fetch = |cards: &[(String, String)]| -> Result<f64> {
        let site = Site::new(&lan, &master)?;
        let boot = |(card, mac): &(String, String)| Vm::boot_network(&site.lab, card, mac, MEMORY_MB);
        let mut machines = cards.iter().map(boot).collect::<Result<Vec<_>>>()?;
        for vm in &mut machines {
            vm.wait_for("small login:", BOOT_DEADLINE)?;
            ensure!(vm.said().contains("icbd.version=small@1"), "{}", vm.said());
        }
        site.fetched()
    };
    let (one, all) = (fetch(&cards[..1])?, fetch(&cards)?);
    println!("{one} bytes came for one, {all} for {CLIENTS}");
    ensure!(one > 0.0 && all <= RATIO_MAX * one, "{CLIENTS} took {all} bytes, one takes {one}");
    Ok(())
}

/// UEFI without iPXE loads it from the cache server, and boots the kernel of a folder to its login.
#[test]
fn uefi_boots_to_its_login() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let master = master(&lab)?;
    let site = Site::new(&lan, &master)?;
    let (card, mac) = lan.card(17)?;
    wait_for("that it can be booted", || Ok(fs::exists(site.cache.path("small/current/icbd/vmlinuz"))?.then_some(())))?;
    let mut vm = Vm::boot_network_by_uefi(&site.lab, &card, &mac)?;
    vm.wait_for("small login:", BOOT_DEADLINE)?;
    ensure!(vm.said().contains(&format!("BOOTIF=01-{}", mac.replace(':', "-"))), "{}", vm.said());
    Ok(())
}

/// Firmware that enforces Secure Boot refuses iPXE, which nobody signed; where it is asked for it boots a folder to its login by
/// what is signed, as firmware does that enforces nothing.
#[test]
fn secure_boot_is_enforced_and_boots() -> Result<()> {
    let (lan, lab) = (Lan::new()?, Lab::new()?);
    let master = master(&lab)?;
    let site = Site::new(&lan, &master)?;
    let (card, mac) = lan.card(17)?;
    let mut refused = Vm::boot_network_by_secure_boot(&site.lab, &card, &mac)?;
    refused.wait_for("Access Denied", BOOT_DEADLINE)?;
    drop(refused);
    let config = format!("{}secure_boot = true\n", site.config);
    site.cache.set_config(&config)?;
    site.cache.command(&["config", "reload"])?.prints(&["netboot.secure_boot"])?;
    let menu = site.lab.path("cache.sock.netboot/tftp/grub/grub.cfg");
    wait_for("what GRUB boots", || {
        Ok(fs::read_to_string(&menu).unwrap_or_default().contains("small@1").then_some(()))
    })?;
    let (other, other_mac) = lan.card(18)?;
    let mut enforcing = Vm::boot_network_by_secure_boot(&site.lab, &card, &mac)?;
    let mut plain = Vm::boot_network_by_uefi(&site.lab, &other, &other_mac)?;
    for (vm, mac) in [(&mut enforcing, &mac), (&mut plain, &other_mac)] {
        vm.wait_for("small login:", BOOT_DEADLINE)?;
        let said = vm.said();
        ensure!(said.contains(&format!("BOOTIF=01-{mac}")), "{said}");
        ensure!(said.contains("icbd.version=small@1") && said.contains("icbd.root=nfs:10.88.0.2:2049:"), "{said}");
    }
    ensure!(enforcing.said().contains("Secure boot enabled"), "{}", enforcing.said());
    site.cache.command(&["netboot", "disable"])?.ok()?;
    ensure!(!site.lab.path("cache.sock.netboot").exists(), "something is left");
    Ok(())
}
