//! What the documents have administrators type.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use icbd_tests::{
    CacheServer, CacheSettings, Lab, MIB, Master, Output, Tgtd, fill, icbd, icbd_path, listens, run_bounded,
};

const USAGE: i32 = 2;
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
/// The images that the documents speak of, and how many versions each has there.
const IMAGES: [(&str, u32); 4] = [("debian-lab", 4), ("debian-tree", 1), ("space", 1), ("win11", 3)];

/// A page, and the blocks of one kind in it, each with its first line's number.
struct Page {
    name: String,
    text: String,
}

impl Page {
    fn blocks(&self, kind: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut open: Option<(bool, Vec<&str>)> = None;
        for line in self.text.lines().map(str::trim_start) {
            open = match (open.take(), line.strip_prefix("```")) {
                (None, Some(info)) => Some((info == kind, Vec::new())),
                (Some((is_meant, lines)), Some(_)) => {
                    blocks.extend(is_meant.then(|| lines.join("\n")));
                    None
                }
                (Some((is_meant, mut lines)), None) => {
                    lines.push(line);
                    Some((is_meant, lines))
                }
                (None, None) => None,
            };
        }
        blocks
    }

    /// What is typed, line by line.
    fn commands(&self) -> Vec<String> {
        let blocks = self.blocks("sh").join("\n");
        let lines = blocks.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        lines.filter(|line| line.starts_with("icbd ")).map(str::to_owned).collect()
    }
}

fn pages() -> Result<Vec<Page>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut pages = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let name = name.to_string_lossy().into_owned();
        pages.push(Page { text: fs::read_to_string(path)?, name });
    }
    pages.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(pages)
}

/// A master and a cache server as the documents have them, and what leads a command typed there to them.
struct Site {
    lab: Lab,
    cache: CacheServer,
    master: Master,
    _tgtd: Tgtd,
    places: Vec<(&'static str, String)>,
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path of text")?.to_owned())
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new()?;
        let (repo, etc) = (lab.path("repo"), lab.folder("etc")?);
        for (image, versions) in IMAGES {
            let tree = lab.folder(image)?;
            for version in 1..=versions {
                fill(&tree.join("disk.raw"), u64::from(version), 2 * MIB)?;
                Master::publish_offline(&repo, image, &tree, &["--deploy"])?;
            }
        }
        fs::write(lab.path("clients.csv"), "name,mac,lab\npc-17,52:54:00:00:00:11,room-2\n")?;
        fs::write(lab.path("win11.vmdk"), "no disk")?;
        let config = lab.path("master.toml");
        fs::write(&config, format!("[trust]\nkeys = [\"{}/trusted/*.pub\"]\n", etc.display()))?;
        let master = Master::start_at(&lab, &repo, ([127, 0, 0, 1], 0).into(), &["--config", &text(&config)?])?;
        let tgtd = Tgtd::start(&lab)?;
        let env = vec![("TGT_IPC_SOCKET", tgtd.socket().to_owned())];
        let trust = format!("[trust]\nkeys = [\"{}/trusted/*.pub\"]\n", etc.display());
        let config = format!("[serve]\nlisten = [\"127.0.0.1:0\"]\n{trust}");
        let cache =
            CacheServer::start_with(&lab, &[&master.url()], &CacheSettings { env, config, ..Default::default() })?;
        let places = vec![
            ("http://img:7070", master.url()),
            ("http://cache1:7071", format!("http://{}", listens(&cache)?)),
            ("/etc/icbd", text(&etc)?),
            ("/srv/icbd", text(&repo)?),
            ("/var/lib/icbd", text(cache.store())?),
            (" /icbd/", format!(" {}/", text(cache.mount())?)),
            ("/root/", format!("{}/", text(&lab.path(""))?)),
        ];
        let site = Site { lab, cache, master, _tgtd: tgtd, places };
        site.program("on-master", site.master.socket(), &text(&lab_config(&site.lab))?)?;
        site.program("on-cache", site.cache.socket(), site.cache.config()?)?;
        Ok(site)
    }

    /// `icbd` as it is found by its name on one of the two machines.
    fn program(&self, folder: &str, socket: &str, config: &str) -> Result<()> {
        let path = self.lab.folder(folder)?.join("icbd");
        let program =
            format!("#!/bin/sh\nexec {} \"$@\" --socket {socket} --config {config}\n", icbd_path()?.display());
        fs::write(&path, program)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    fn typed(&self, command: &str, on: &str) -> Result<Output> {
        let mut command = self.places.iter().fold(command.to_owned(), |line, (from, to)| line.replace(from, to));
        command.push('\n');
        let mut shell = Command::new("sh");
        let path = std::env::var("PATH").unwrap_or_default();
        shell.arg("-c").arg(command).current_dir(self.lab.path(""));
        shell.env("PATH", format!("{}:{path}", text(&self.lab.path(on))?));
        run_bounded(shell, COMMAND_DEADLINE)
    }
}

fn lab_config(lab: &Lab) -> PathBuf {
    lab.path("master.toml")
}

/// Every command in the documents is one of this release: typed on a master or a cache server it does what it says, or says why not.
#[test]
fn what_the_documents_have_one_type_is_understood() -> Result<()> {
    let site = Site::new()?;
    ["offline", "WARN", "ERROR"].iter().for_each(|words| site.cache.daemon.allow_log(words));
    ["WARN", "ERROR"].iter().for_each(|words| site.master.daemon.allow_log(words));
    let (mut typed, mut done) = (0, 0);
    for page in pages()? {
        for command in page.commands() {
            let on_master = site.typed(&command, "on-master")?;
            let is_elsewhere = on_master.code == USAGE && on_master.stderr.contains("cache");
            let output = if is_elsewhere { site.typed(&command, "on-cache")? } else { on_master };
            ensure!(output.code != USAGE && output.code != 101, "{}: {command}\n{}", page.name, output.stderr);
            typed += 1;
            done += u32::from(output.code == 0);
        }
    }
    ensure!(typed > 100 && done * 3 > typed * 2, "{done} of {typed} were done");
    Ok(())
}

/// Every whole configuration in the documents is one that this release takes.
#[test]
fn configurations_in_the_documents_are_right() -> Result<()> {
    let lab = Lab::new()?;
    let mut whole = 0;
    for page in pages()? {
        for block in page.blocks("toml").into_iter().filter(|block| block.starts_with("# /etc/icbd/icbd.toml")) {
            let file = lab.path("icbd.toml");
            fs::write(&file, &block)?;
            let checked = icbd(["config", "check", "--config", &text(&file)?])?;
            ensure!(checked.code == 0, "{}: {}\n{block}", page.name, checked.stderr);
            whole += 1;
        }
    }
    ensure!(whole >= 3, "only {whole} were found");
    Ok(())
}
