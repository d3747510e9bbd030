//! Letting go of what is held of a file.

use std::io;
use std::sync::Arc;

use super::{File, is_lost};

impl File {
    /// Forgets all blocks, durably, and frees their bytes; not while programs read the file past the daemon. Blocks.
    pub(crate) fn let_go(self: &Arc<Self>) -> io::Result<()> {
        let Some(filling) = self.version.filling() else { return Ok(()) };
        let all = 0..self.blocks();
        let _guard = self.guard.write().expect("no panic under this lock");
        if self.passthrough_count() > 0 {
            return Ok(());
        }
        filling.resident.clear(self.index, all.clone())?;
        self.unmark_zeros(&all);
        match self.backing().and_then(|backing| backing.punch(0, self.size)) {
            // What somebody took away takes no room.
            Err(error) if is_lost(&error) => Ok(()),
            result => result,
        }
    }
}
