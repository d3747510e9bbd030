//! `icbd generate`: what a package brings beside the program, made from the command line itself.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;

/// Manual pages, one a command, into `man` below `folder`, and completions into `completions`.
pub(crate) fn run(folder: &Path) -> Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    // Long lines are the reader's terminal's to break.
    let command = || Args::command().term_width(0);
    clap_mangen::generate_to(command(), &man).with_context(|| format!("cannot write into {}", man.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command(), "icbd", &completions)
            .with_context(|| format!("cannot write into {}", completions.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("man/icbd.1").contains("Exit codes"));
        assert!(read("man/icbd-image-publish.1").contains("next version"));
        for name in ["icbd.bash", "_icbd", "icbd.fish"] {
            assert!(read(&format!("completions/{name}")).contains("prefetch"), "{name}");
        }
        assert!(!folder.path().join("man/icbd-generate.1").exists(), "what is hidden has none");
    }
}
