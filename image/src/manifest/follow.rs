//! Paths with symbolic links in them.

use super::{FileIndex, Head};

/// As many symbolic links as Linux follows in one path.
const LINKS_MAX: usize = 40;

impl Head {
    /// The node that `path` means, `None` if it means nothing. Symbolic links are followed as if the version were the root of
    /// a machine, and never out of it.
    pub fn follow(&self, path: &[u8]) -> Option<FileIndex> {
        let mut names: Vec<Vec<u8>> = split(path);
        // The directories walked into, from the root on.
        let mut stack = vec![FileIndex::ROOT];
        let mut links = 0;
        while let Some(name) = names.pop() {
            let directory = *stack.last()?;
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let index = self.lookup(directory, &name)?;
            let node = self.node(index)?;
            match node.target() {
                Some(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    names.extend(split(target));
                }
                None if names.is_empty() => return Some(index),
                None => stack.push(index),
            }
        }
        stack.pop()
    }
}

/// The names of a path, the first one last.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.reverse();
    names
}
