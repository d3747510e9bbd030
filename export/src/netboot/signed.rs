//! What UEFI loads that enforces Secure Boot: shim, which Microsoft signed, then GRUB and the kernel, which the distribution did.
//!
//! Debian's GRUB speaks no HTTP: its menu and the kernels are files that are served by TFTP. Nor does it go on to iPXE where nothing
//! is enforced: it keeps the network card to itself.

use std::fmt::Write;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::loaders::{LoadersError, failed, put};

/// What firmware asks for first, by the name under which it finds the next.
pub(super) const SHIM: &str = "shimx64.efi";
/// By name, from where, and of which package.
const FILES: [(&str, &str, &str); 2] = [
    (SHIM, "/usr/lib/shim/shimx64.efi.signed", "shim-signed"),
    ("grubx64.efi", "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "grub-efi-amd64-signed"),
];
/// Where GRUB looks for its menu.
pub const GRUB_MENU: &str = "grub/grub.cfg";

/// A version that can be booted so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEntry {
    /// The server that workstations see.
    pub server: SocketAddr,
    pub image: String,
    pub title: String,
    /// The folder of its `vmlinuz` and `initrd.img`, below what is served by TFTP.
    pub folder: String,
    pub cmdline: String,
}

/// Fails if one of them is not here.
pub fn check_signed() -> Result<(), LoadersError> {
    let absent = FILES.into_iter().find(|(_, from, _)| !Path::new(from).exists());
    absent.map_or(Ok(()), |(_, from, package)| Err(LoadersError::Absent { path: from.into(), package }))
}

/// Has all be in a folder, with a menu of nothing as long as there is no other.
pub fn put_signed(folder: &Path) -> Result<(), LoadersError> {
    check_signed()?;
    FILES.into_iter().try_for_each(|(name, from, _)| put(Path::new(from), &folder.join(name)))?;
    let menu = folder.join(GRUB_MENU);
    let above = folder.join("grub");
    std::fs::create_dir_all(&above).map_err(failed("make", &above))?;
    std::fs::set_permissions(&above, Permissions::from_mode(0o755)).map_err(failed("open", &above))?;
    if !menu.exists() {
        std::fs::write(&menu, "echo 'Nothing can be booted yet'\nsleep 10\nreboot\n")
            .map_err(failed("write", &menu))?;
        std::fs::set_permissions(&menu, Permissions::from_mode(0o644)).map_err(failed("open", &menu))?;
    }
    Ok(())
}

/// GRUB's menu.
pub fn grub_menu(entries: &[SignedEntry], default: Option<&str>, timeout_s: u64) -> String {
    let timeout = if timeout_s > 0 { timeout_s.to_string() } else { "-1".to_owned() };
    let mut text = format!("set timeout={timeout}\n");
    // Firmware goes on with the next that it boots from.
    let _ = writeln!(text, "set default={}", default.unwrap_or("local"));
    for SignedEntry { server, image, title, folder, cmdline } in entries {
        let address = server.ip();
        let _ = writeln!(text, "if [ \"$net_default_server\" = {address} ]; then");
        let _ = writeln!(text, "  menuentry '{}' --id {image} {{", words(title));
        let _ = writeln!(text, "    linux /{folder}/vmlinuz {} BOOTIF=01-$net_default_mac", words(cmdline));
        let _ = writeln!(text, "    initrd /{folder}/initrd.img\n  }}\nfi");
    }
    text.push_str("menuentry 'Boot from the local disk' --id local {\n  exit\n}\n");
    text
}

/// Without what GRUB takes for more than words.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !"'\"\\${};|&<>".contains(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_is_told_of_its_own_server() {
        let entry = |address: &str| SignedEntry {
            server: address.parse().unwrap(),
            image: "lab".to_owned(),
            title: "lab@3; reboot".to_owned(),
            folder: "kernels/7".to_owned(),
            cmdline: "boot=icbd quiet; ${x}".to_owned(),
        };
        let text = grub_menu(&[entry("10.1.2.1:7071"), entry("10.1.3.1:7071")], Some("lab"), 10);
        for line in [
            "set timeout=10",
            "set default=lab",
            "if [ \"$net_default_server\" = 10.1.3.1 ]; then",
            "  menuentry 'lab@3 reboot' --id lab {",
            "    linux /kernels/7/vmlinuz boot=icbd quiet x BOOTIF=01-$net_default_mac",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} in\n{text}");
        }
        let none = grub_menu(&[], None, 0);
        assert!(none.contains("set timeout=-1\nset default=local\n"), "{none}");
    }
}
