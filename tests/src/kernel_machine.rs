//! A virtual machine whose kernel has servers of NFS and iSCSI and clients of both, for tests that run in it: few kernels of test machines have them.
//!
//! A test runs twice: outside it starts the machine and has it run the very same test, which then finds itself inside. What the
//! machine says is the test's output, and its failure is the test's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Lab, Vm, icbd_path, run_bounded, wait_for};

/// Building takes two or three minutes on an idle machine, most of it downloads.
const BUILD_DEADLINE: Duration = Duration::from_secs(900);
/// What a test does in a machine takes this on a busy one.
const RUN_DEADLINE: Duration = Duration::from_secs(480);
const TOOL_DEADLINE: Duration = Duration::from_secs(60);
/// Says to a test that it is inside.
const INSIDE: &str = "ICBD_KERNEL_MACHINE";
/// What the machine says last.
const END: &str = "the machine ends";
const PASSED: &str = "test result: ok. 1 passed";
/// A space in all paths, for those who have to quote them.
const TMPDIR: &str = "/var/tmp/a lab";

pub fn is_in_kernel_machine() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a test of this very executable inside of a machine.
pub fn run_in_kernel_machine(test: &str) -> Result<()> {
    let lab = Lab::new()?;
    let machine = machine()?;
    let programs = programs(&lab, test)?;
    let mut vm = Vm::boot_kernel(&lab, &machine, "root=/dev/vda rw init=/sbin/lab-init", &programs)?;
    let ended = vm.wait_for(END, RUN_DEADLINE);
    println!("{}", vm.said());
    println!("the machine took {:.1} s", ended?.as_secs_f64());
    // A test that was not found has not failed either.
    ensure!(vm.said().contains(PASSED), "{test} failed in the machine, which says why above");
    Ok(())
}

fn machine() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let machine = tests.parent().context("the tests lie in a workspace")?.join("target/lab/kernel");
    let mut build = Command::new(tests.join("lab/build-kernel-machine.sh"));
    build.arg(&machine);
    run_bounded(build, BUILD_DEADLINE)?.ok()?;
    Ok(machine)
}

/// A disk with this executable, the program under test, and what is to be done with them.
fn programs(lab: &Lab, test: &str) -> Result<PathBuf> {
    let folder = lab.folder("programs")?;
    for (name, from) in [("test", std::env::current_exe()?), ("icbd", icbd_path()?)] {
        // Of symbols it would have to read more than of code.
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(folder.join(name)).arg(from);
        run_bounded(strip, TOOL_DEADLINE)?.ok()?;
    }
    let run = format!(
        "#!/bin/sh\nmount --make-rshared /\nmkdir -p '{TMPDIR}'\nexport {INSIDE}=1 ICBD_BIN=/mnt/icbd TMPDIR='{TMPDIR}'\n\
         /mnt/test --exact '{test}' --nocapture --test-threads=1 2>&1\n"
    );
    fs::write(folder.join("run"), run)?;
    fs::set_permissions(folder.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let disk = lab.path("programs.raw");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(folder).arg(&disk).arg("256M");
    run_bounded(make, TOOL_DEADLINE)?.ok()?;
    Ok(disk)
}

/// The kernel's NFS server of a network namespace, with the programs that belong to it.
#[derive(Debug)]
pub struct NfsServer {
    /// Its namespaces are the server's.
    rpcbind: Child,
}

impl NfsServer {
    /// The one of the machine itself.
    pub fn start() -> Result<NfsServer> {
        NfsServer::start_by(Command::new("sh"))
    }

    /// One that has nothing in common with the machine's but its mounts.
    pub fn start_apart() -> Result<NfsServer> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--net", "--mount", "--uts", "--propagation", "slave", "sh"]);
        NfsServer::start_by(unshare)
    }

    fn start_by(mut shell: Command) -> Result<NfsServer> {
        shell.args([
            "-ec",
            "mount -t tmpfs tmpfs /var/lib/nfs; mount -t tmpfs tmpfs /run; mkdir /run/rpcbind; exec rpcbind -f -w",
        ]);
        let mut rpcbind = shell.stdin(Stdio::null()).spawn().context("starting rpcbind")?;
        // Until then its namespaces are not its own.
        let comm = format!("/proc/{}/comm", rpcbind.id());
        wait_for("rpcbind runs", || {
            ensure!(rpcbind.try_wait()?.is_none(), "rpcbind has ended");
            Ok((fs::read_to_string(&comm)?.trim() == "rpcbind").then_some(()))
        })?;
        let server = NfsServer { rpcbind };
        server.run("mount -t nfsd nfsd /proc/fs/nfsd; cd /var/lib/nfs; mkdir v4recovery; touch etab rmtab")?;
        server.run("ip link set lo up; hostname \"nfs-$$\"")?;
        wait_for("rpcbind answers", || Ok(server.run("rpcinfo").is_ok().then_some(())))?;
        // It remembers who has what open, and that nobody has anything to claim again: then nobody waits for it.
        server.run("mkdir /run/rpc_pipefs /var/lib/nfs/nfsdcld; mount -t rpc_pipefs rpc /run/rpc_pipefs; nfsdcld")?;
        // What is looked after once a lease is not to take a minute and a half.
        server.run("echo 10 > /proc/fs/nfsd/nfsv4leasetime; rpc.mountd --port 20048; rpc.nfsd 8; grep -q Y /proc/fs/nfsd/v4_end_grace")?;
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.rpcbind.id()
    }

    /// Runs a script in its namespaces.
    pub fn run(&self, script: &str) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--uts", &format!("--target={}", self.pid()), "sh", "-ec", script]);
        run_bounded(command, TOOL_DEADLINE)?.ok()
    }

    /// Does something in its namespaces.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let spaces = ["net", "mnt"].map(|name| fs::File::open(format!("/proc/{}/ns/{name}", self.pid())));
        let enter = || -> Result<()> {
            // A thread that shares its working directory with others cannot have another mount namespace.
            unshare(CloneFlags::CLONE_FS)?;
            for space in spaces {
                setns(space?, CloneFlags::empty())?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| enter().context("entering the server's namespaces").and_then(|()| act()));
            thread.join().map_err(|_| anyhow!("what was done in the server's namespaces panicked"))?
        })
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        let _ = self.run("rpc.nfsd 0; exportfs -f");
        let _ = self.rpcbind.kill();
        let _ = self.rpcbind.wait();
    }
}
