//! `icbd image boot-package` as it is typed.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use icbd_image::ImageName;

#[derive(Debug, Args)]
pub(crate) struct BootPackageArgs {
    pub image: ImageName,
    /// Where workstations write that have no clone: ram, ram:SIZE as tmpfs takes it (2G, 50%), or local, which is a file
    /// system of theirs with the label icbd-local
    #[arg(long, default_value = "ram", value_name = "WHERE")]
    pub rw: Space,
    /// More for the kernel's command line, such as console=ttyS0
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT", value_parser = cmdline)]
    pub cmdline: String,
    /// Which kernel of the image [default: the newest]
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<String>,
    /// Fail unless this driver of a network card is in it, such as e1000e; may be repeated
    #[arg(long, value_name = "MODULE", value_parser = module)]
    pub driver: Vec<String>,
    /// A note about the version
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
}

/// Where a workstation without a clone writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Space {
    /// As much as tmpfs takes, if a size is named.
    Ram(Option<String>),
    Local,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Space::Ram(None) => f.write_str("ram"),
            Space::Ram(Some(size)) => write!(f, "ram:{size}"),
            Space::Local => f.write_str("local"),
        }
    }
}

impl FromStr for Space {
    type Err = String;

    fn from_str(text: &str) -> Result<Space, String> {
        let is_size = |text: &str| {
            let digits = text.trim_end_matches(['k', 'm', 'g', 'K', 'M', 'G', '%']);
            text.len() <= digits.len() + 1 && digits.parse::<u64>().is_ok_and(|number| number > 0)
        };
        match text.split_once(':') {
            None if text == "ram" => Ok(Space::Ram(None)),
            None if text == "local" => Ok(Space::Local),
            Some(("ram", size)) if is_size(size) => Ok(Space::Ram(Some(size.to_owned()))),
            _ => Err("write ram, ram:SIZE such as ram:2G or ram:50%, or local".to_owned()),
        }
    }
}

/// What a boot script and a kernel pass on as they are.
fn cmdline(text: &str) -> Result<String, String> {
    match text.chars().find(|c| c.is_control() || "|&;$\"'\\".contains(*c)) {
        Some(bad) => Err(format!("{bad:?} cannot stand in a kernel's command line here")),
        None => Ok(text.to_owned()),
    }
}

fn module(text: &str) -> Result<String, String> {
    let is_good = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if is_good { Ok(text.to_owned()) } else { Err("write the name of a kernel module, such as e1000e".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_memory_or_a_disk() {
        for text in ["ram", "ram:2G", "ram:50%", "ram:512m", "local"] {
            assert_eq!(text.parse::<Space>().unwrap().to_string(), text);
        }
        for text in ["", "ram:", "ram:0", "ram:2GG", "ram:a", "nfs", "local:2G", "disk"] {
            assert!(text.parse::<Space>().unwrap_err().contains("ram:2G"), "{text}");
        }
        assert!(cmdline("console=ttyS0 quiet").is_ok() && cmdline("a ${b}").is_err());
    }
}
