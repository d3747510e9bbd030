//! A temporary folder, the binary, and a master that ends with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with something to publish in it.
pub(crate) struct Lab {
    dir: TempDir,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A running master.
pub(crate) struct Master {
    child: Child,
    pub(crate) socket: String,
    pub(crate) address: SocketAddr,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        let lab = Lab { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(lab.path("tree")).unwrap();
        std::fs::write(lab.path("tree/disk.raw"), Lab::content()).unwrap();
        std::fs::write(lab.path("tree/empty"), "").unwrap();
        lab
    }

    /// What `disk.raw` holds: 20 blocks and a bit, no two alike.
    pub(crate) fn content() -> Vec<u8> {
        (0u32..330_000).flat_map(u32::to_le_bytes).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Runs `icbd ARGS` in the lab, on a configuration of its own.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Runs and expects success; what was printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out.trim_end().to_owned()
    }

    /// Runs and expects this exit code, and a message with all of `says`.
    pub(crate) fn fails(&self, args: &[&str], code: i32, says: &[&str]) {
        let ran = self.run(args);
        assert!(ran.code == code && says.iter().all(|part| ran.err.contains(part)), "{args:?}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{ran:?}");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let config = self.path("icbd.toml");
        if !config.exists() {
            let keys = self.text("trusted/*.pub");
            std::fs::write(&config, format!("[trust]\nkeys = [{keys:?}]\n")).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_icbd"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        if !args.contains(&"--config") {
            command.arg("--config").arg(config);
        }
        command
    }

    /// Starts a master of `repo` and waits until it listens.
    pub(crate) fn master(&self, repo: &str) -> Master {
        let socket = self.text("master.sock");
        let args = ["master", "--repo", repo, "--listen", "127.0.0.1:0", "--socket", &socket];
        let mut child = self.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening")));
        let line = line.expect("the master ended before it listened").unwrap();
        // The rest is drained, or the master would stop at a full pipe.
        std::thread::spawn(move || log.for_each(drop));
        let address = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        Master { child, socket, address }
    }
}

impl Master {
    /// Asks for `path` with these header lines; GET unless they begin with another method.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = bytes[end + 4..].to_vec();
        let body = if head.contains("transfer-encoding: chunked") { unchunk(&body) } else { body };
        Answer { status, head, body }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[])
    }

    pub(crate) fn status(&self, lab: &Lab) -> Value {
        serde_json::from_str(&lab.ok(&["status", "--json", "--socket", &self.socket])).unwrap()
    }

    /// Ends it by SIGTERM; its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
        let count = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if count == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + count]);
        bytes = &bytes[end + 4 + count..];
    }
}

/// Whether a folder has nothing in it.
pub(crate) fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).unwrap().next().is_none()
}
