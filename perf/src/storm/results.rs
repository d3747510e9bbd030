//! What was measured, kept in a file between the pieces of a long run.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::duties::Duty;
use super::run::{Case, Round};
use crate::kept;
use crate::stats::Samples;

/// All cells of the comparison that were measured so far.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The blocks of a boot in 64 KiB zstd clusters, in bytes.
    pub(crate) boot_set_bytes: u64,
    pub(crate) cells: Vec<Cell>,
    #[serde(default)]
    pub(crate) duties: Vec<Duty>,
    #[serde(skip)]
    path: PathBuf,
}

/// A tool on a line with some clients.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) link: String,
    pub(crate) case: Case,
    pub(crate) tool: String,
    pub(crate) rounds: Vec<Round>,
    /// Why a round is missing.
    pub(crate) trouble: Option<String>,
}

impl Cell {
    /// The median over the rounds of what `of` takes from one.
    pub(crate) fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let mut samples = Samples::default();
        self.rounds.iter().for_each(|round| samples.push(of(round)));
        samples.median()
    }
}

impl Results {
    /// What `path` holds; nothing if it is missing.
    pub(crate) fn load(path: &Path) -> Result<Results> {
        Ok(Results { path: path.to_owned(), ..kept::load(path)? })
    }

    pub(crate) fn save(&self) -> Result<()> {
        kept::save(&self.path, self)
    }

    /// Adds a round; round 0 replaces what an earlier run left.
    pub(crate) fn keep(&mut self, link: &str, case: Case, tool: &str, round: usize, outcome: Result<Round, String>) {
        let at = self.cells.iter().position(|cell| (&*cell.link, cell.case, &*cell.tool) == (link, case, tool));
        let at = at.unwrap_or_else(|| {
            let cell = Cell { link: link.to_owned(), case, tool: tool.to_owned(), rounds: Vec::new(), trouble: None };
            self.cells.push(cell);
            self.cells.len() - 1
        });
        let cell = &mut self.cells[at];
        if round == 0 {
            cell.rounds.clear();
            cell.trouble = None;
        }
        match outcome {
            Ok(round) => cell.rounds.push(round),
            Err(trouble) => cell.trouble = Some(trouble),
        }
    }

    pub(crate) fn cell(&self, link: &str, case: Case, tool: &str) -> Option<&Cell> {
        let is_it = |cell: &&Cell| (&*cell.link, cell.case, &*cell.tool) == (link, case, tool);
        self.cells.iter().find(is_it).filter(|cell| !cell.rounds.is_empty())
    }
}
