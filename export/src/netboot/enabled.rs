//! Whether workstations are to boot by the network, kept across restarts.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::kept::{Kept, KeptError};

const FORMAT: u32 = 1;
const FILE: &str = "netboot.json";

#[derive(Debug)]
pub struct NetbootEnabled(Kept);

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    enabled: bool,
}

impl NetbootEnabled {
    pub fn in_folder(folder: &Path) -> NetbootEnabled {
        NetbootEnabled(Kept::new(folder, FILE, FORMAT, "move it away and run `icbd netboot enable` again"))
    }

    /// Not, where nothing was ever said.
    pub fn get(&self) -> Result<bool, KeptError> {
        Ok(self.0.read::<OnDisk>()?.is_some_and(|on_disk| on_disk.enabled))
    }

    pub fn set(&self, enabled: bool) -> Result<(), KeptError> {
        // As it was before it was ever said.
        if enabled { self.0.write(&OnDisk { format: FORMAT, enabled }) } else { self.0.remove() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let enabled = || NetbootEnabled::in_folder(folder.path());
        assert!(!enabled().get().unwrap());
        for is in [true, false] {
            enabled().set(is).unwrap();
            assert_eq!((enabled().get().unwrap(), folder.path().join(FILE).exists()), (is, is));
        }
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(enabled().get().unwrap_err().to_string().contains("netboot enable"));
    }
}
