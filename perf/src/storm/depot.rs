//! What the master's side holds for everybody: the image, in the forms that each tool wants, and the servers.
//!
//! Each form is made when it is first asked for; the servers are started anew for each round.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use icbd_tests::{Lab, Master};

use crate::network::{MASTER, Network, Side};
use crate::process::{Process, run};

pub(crate) const IMAGE: &str = "lab";
/// Where in the lab the recorded boot lies.
pub(crate) const TRACE: &str = "boot.trace";
pub(crate) const WEB_PORT: u16 = 8080;
const MASTER_PORT: u16 = 7070;

/// Folders of one run. The lab outlives it.
#[derive(Debug)]
pub(crate) struct Depot<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) disk: PathBuf,
    /// What the web server and the rsync daemon offer.
    pub(crate) offered: PathBuf,
    repository: PathBuf,
}

impl Depot<'_> {
    /// Publishes the folder of `disk`.
    pub(crate) fn new<'lab>(lab: &'lab Lab, disk: &Path) -> Result<Depot<'lab>> {
        let (offered, repository) = (lab.folder("offered")?, lab.path("repository"));
        let tree = disk.parent().context("the disk lies in a folder")?;
        Master::publish_offline(&repository, IMAGE, tree, &["--deploy"])?;
        Ok(Depot { lab, disk: disk.to_owned(), offered, repository })
    }

    /// The disk's name in the published version.
    pub(crate) fn name(&self) -> Result<&str> {
        self.disk.file_name().and_then(|name| name.to_str()).context("the disk has a plain name")
    }

    /// Offers the image as it is, as `disk.raw`.
    pub(crate) fn offer_raw(&self) -> Result<()> {
        let offered = self.offered.join("disk.raw");
        if !offered.exists() && fs::hard_link(&self.disk, &offered).is_err() {
            let mut copy = Command::new("cp");
            copy.arg("--sparse=always").arg(&self.disk).arg(offered);
            run(copy)?;
        }
        Ok(())
    }

    /// Offers the image as compressed QEMU image with clusters of `kib` KiB; the name it has.
    pub(crate) fn offer_qcow2(&self, kib: u32) -> Result<String> {
        let name = format!("{kib}k.qcow2");
        let offered = self.offered.join(&name);
        if !offered.exists() {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o"]);
            convert.arg(format!("compression_type=zstd,cluster_size={kib}k")).arg(&self.disk).arg(offered);
            run(convert)?;
        }
        Ok(name)
    }

    /// Offers the image compressed in one piece, as `disk.raw.zst`.
    pub(crate) fn offer_zst(&self) -> Result<()> {
        let offered = self.offered.join("disk.raw.zst");
        if !offered.exists() {
            let mut compress = Command::new("zstd");
            compress.args(["-q", "-3", "-T0"]).arg(&self.disk).arg("-o").arg(offered);
            run(compress)?;
        }
        Ok(())
    }

    /// icbd's own master.
    pub(crate) fn master(&self, network: &Network) -> Result<Master> {
        network.inside(Side::Master, || {
            let listen = (MASTER, MASTER_PORT).into();
            let master = Master::start_at(self.lab, &self.repository, listen, &["--allow", "10.77.0.0/24"])?;
            // What is logged here is no scenario of the tests.
            master.daemon.allow_log("");
            Ok(master)
        })
    }

    /// A web server with the image in every form.
    pub(crate) fn web(&self, network: &Network) -> Result<Process> {
        let home = self.lab.folder("nginx")?;
        let config = home.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; worker_processes 1; user root; pid {home}/pid; error_log stderr;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 600;\n\
             keepalive_requests 1000000; client_body_temp_path {home}/b; proxy_temp_path {home}/p;\n\
             fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             server {{ listen {MASTER}:{WEB_PORT}; root {offered}; autoindex on; }} }}\n",
            home = home.display(),
            offered = self.offered.display(),
        );
        fs::write(&config, text)?;
        let mut nginx = network.command(Side::Master, "nginx");
        nginx.arg("-c").arg(&config).arg("-p").arg(&home).args(["-e", "stderr"]);
        self.server(network, nginx, WEB_PORT)
    }

    /// Starts `command`, which is of the master's side, and waits until it listens on `port`.
    pub(crate) fn server(&self, network: &Network, command: Command, port: u16) -> Result<Process> {
        let mut server = Process::start(command, &self.lab.path(format!("server-{port}.log")))?;
        server.wait_ready(|| network.inside(Side::Master, || Ok(TcpStream::connect((MASTER, port))?)).is_ok())?;
        Ok(server)
    }
}
