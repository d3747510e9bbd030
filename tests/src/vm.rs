//! A virtual machine in QEMU, watched over its serial line.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Lab;

/// Emulation, whatever /dev/kvm promises: stock kernels hang under it on some machines.
const MACHINE: &[&str] = &[
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
    "-machine",
    "pc",
    "-accel",
    "tcg,thread=multi,tb-size=64",
    "-cpu",
    "max",
    "-m",
    "512",
    "-serial",
    "stdio",
];

/// For busy machines: QEMU 7.2 emulates cmpxchg16b so that it spoils the flags when it is interrupted.
const CPU: &str = "max,cx16=off";

/// A running machine; dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    serial: ChildStdout,
    said: Vec<u8>,
    errors: PathBuf,
    started: Instant,
}

impl Vm {
    /// Boots by BIOS from `disk`, a path or a QEMU block URL of raw format. What the machine writes is thrown away.
    pub fn boot(lab: &Lab, disk: &str) -> Result<Vm> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(arguments(disk));
        Vm::spawn(lab, command)
    }

    /// Boots by BIOS from a disk that it may write to: QEMU's options for a block device, such as `driver=iscsi,…`.
    pub fn boot_writable(lab: &Lab, options: &str) -> Result<Vm> {
        let mut command = Command::new("qemu-system-x86_64");
        let drive = format!(
            "format=raw,if=virtio,{}",
            options.split(',').map(|option| format!("file.{option}")).collect::<Vec<_>>().join(",")
        );
        command.args(MACHINE).args(["-drive", &drive]);
        Vm::spawn(lab, command)
    }

    /// Starts the kernel of a folder, with its initrd, from its disk and a second one. What the machine writes is thrown away.
    pub fn boot_kernel(lab: &Lab, folder: &Path, settings: &str, second: &Path) -> Result<Vm> {
        Vm::spawn(lab, kernel(folder, settings, second))
    }

    /// The same with a machine that may start anew, and finds then what it wrote before.
    pub fn boot_server(lab: &Lab, folder: &Path, settings: &str, second: &Path) -> Result<Vm> {
        let mut command = kernel(folder, settings, second);
        // The later word is meant.
        command.args(["-action", "reboot=reset"]);
        Vm::spawn(lab, command)
    }

    /// Boots by BIOS from the network card of a tap interface: QEMU's has iPXE in it.
    pub fn boot_network(lab: &Lab, interface: &str, mac: &str, memory_mb: u32) -> Result<Vm> {
        Vm::boot_network_by(lab, "virtio-net-pci", (interface, mac), memory_mb)
    }

    /// The same with another network card.
    pub fn boot_network_by(lab: &Lab, card: &str, (interface, mac): (&str, &str), memory_mb: u32) -> Result<Vm> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(MACHINE).args(["-machine", "graphics=off", "-m", &memory_mb.to_string(), "-boot", "n"]);
        command.args(["-cpu", CPU]);
        command.args(["-netdev", &format!("tap,id=card,ifname={interface},script=no,downscript=no")]);
        command.args(["-device", &format!("{card},netdev=card,mac={mac}")]);
        Vm::spawn(lab, command)
    }

    /// The same by UEFI, whose own drivers load what they are told by TFTP.
    pub fn boot_network_by_uefi(lab: &Lab, interface: &str, mac: &str) -> Result<Vm> {
        Vm::boot_by_firmware(lab, ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"], &["-machine", "graphics=off"], interface, mac)
    }

    /// The same by one that enforces Secure Boot, as machines do that are sold: with Microsoft's keys.
    pub fn boot_network_by_secure_boot(lab: &Lab, interface: &str, mac: &str) -> Result<Vm> {
        let firmware = ["OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"];
        let machine =
            ["-machine", "q35,smm=on,graphics=off", "-global", "driver=cfi.pflash01,property=secure,value=on"];
        Vm::boot_by_firmware(lab, firmware, &machine, interface, mac)
    }

    fn boot_by_firmware(
        lab: &Lab,
        [code, variables]: [&str; 2],
        machine: &[&str],
        interface: &str,
        mac: &str,
    ) -> Result<Vm> {
        const FIRMWARE: &str = "/usr/share/OVMF";
        let settings = lab.unique("uefi");
        std::fs::copy(format!("{FIRMWARE}/{variables}"), &settings)
            .context("copying OVMF; install the package ovmf")?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(MACHINE).args(machine).args(["-cpu", CPU]);
        command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}/{code}")]);
        command.args(["-drive", &format!("if=pflash,format=raw,file={}", disk_argument(&settings))]);
        command.args(["-netdev", &format!("tap,id=card,ifname={interface},script=no,downscript=no")]);
        // Without the iPXE of its ROM, which would need nothing loaded.
        command.args(["-device", &format!("virtio-net-pci,netdev=card,mac={mac},romfile=,bootindex=1")]);
        Vm::spawn(lab, command)
    }

    /// Runs `command`, which starts a machine with its serial line as standard output.
    pub(crate) fn spawn(lab: &Lab, mut command: Command) -> Result<Vm> {
        let errors = lab.unique("qemu.err");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .process_group(0)
            .spawn()
            .context("starting QEMU")?;
        let serial = child.stdout.take().expect("it was asked for");
        Ok(Vm { child, serial, said: Vec::new(), errors, started: Instant::now() })
    }

    /// Waits until the serial line has said `words`; returns how long that took since the start.
    pub fn wait_for(&mut self, words: &str, deadline: Duration) -> Result<Duration> {
        let mut chunk = [0; 4096];
        while !self.said.windows(words.len()).any(|window| window == words.as_bytes()) {
            let left = deadline.saturating_sub(self.started.elapsed());
            let mut fds = [PollFd::new(self.serial.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))? == 0 {
                bail!("the machine did not say {words:?} within {deadline:?}; {}", self.last_words());
            }
            match self.serial.read(&mut chunk)? {
                0 => bail!("the machine ended before it said {words:?}; {}", self.last_words()),
                count => self.said.extend(&chunk[..count]),
            }
        }
        Ok(self.started.elapsed())
    }

    /// Everything that the serial line has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said).replace('\r', "")
    }

    fn last_words(&self) -> String {
        let said = String::from_utf8_lossy(&self.said);
        let tail: Vec<&str> = said.lines().rev().take(20).collect();
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        format!("its last lines: {}\n{errors}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        drop(self.child.wait());
    }
}

/// QEMU's arguments for a machine that boots from `disk`.
pub(crate) fn arguments(disk: &str) -> Vec<String> {
    let drive = format!("file={disk},format=raw,if=virtio,snapshot=on");
    MACHINE.iter().map(|arg| arg.to_string()).chain(["-drive".to_owned(), drive]).collect()
}

/// A machine that starts the kernel of a folder.
fn kernel(folder: &Path, settings: &str, second: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // The later size of memory is meant. One processor: with two, a kernel of this age dies now and then of how QEMU emulates them.
    command.args(arguments(&disk_argument(&folder.join("disk.raw")))).args(["-m", "768", "-cpu", CPU]);
    command.arg("-kernel").arg(folder.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd.img"));
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check {settings}")]);
    command.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", disk_argument(second))]);
    command
}

/// The path of a disk as QEMU wants it.
pub fn disk_argument(path: &Path) -> String {
    // A comma would end the option's value.
    path.display().to_string().replace(',', ",,")
}
