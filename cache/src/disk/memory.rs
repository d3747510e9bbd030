//! A disk in memory that can lose everything that was not synced, as a power cut does, and worse.
//!
//! At a crash each sector that was written since its last sync is, at random, what was synced or any
//! of what was written later; so are sizes, names and attributes. A sync that fails leaves them so, too, and
//! later syncs do not know of them: that is what Linux does.

mod content;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use content::Content;
use icbd_image::Head;

use super::{Barrier, Disk, DiskFile, FileState, Missing, Space, Tree, Wait};

/// The disk; clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug, Clone)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    nodes: BTreeMap<u64, Node>,
    /// Files that never change again.
    sealed: BTreeSet<u64>,
    dice: u64,
    faults: Faults,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// No reflinks.
    pub(crate) no_reflink: bool,
    /// Files cannot be opened, with this errno.
    pub(crate) opens: Option<i32>,
    /// Syncs of files wait while this is set.
    pub(crate) held_syncs: bool,
    /// Reads from files fail.
    pub(crate) reads: bool,
    /// Writes fail so.
    pub(crate) writes: Option<io::ErrorKind>,
    /// There is room for small things, and none for a block.
    pub(crate) no_room: bool,
    /// So much room there is; unset, plenty.
    pub(crate) free_bytes: Option<u64>,
    /// So many of the next syncs fail.
    pub(crate) failing_syncs: u32,
    /// After so many syncs nothing can be changed any more: the power is gone.
    pub(crate) syncs_left: Option<u64>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory { xattrs: BTreeMap<String, Vec<u8>>, durable: BTreeMap<String, Vec<u8>> },
    File(Content),
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    node: u64,
}

impl MemoryDisk {
    pub(crate) fn new(seed: u64) -> MemoryDisk {
        let root = Node::Directory { xattrs: BTreeMap::new(), durable: BTreeMap::new() };
        let names = BTreeMap::from([(PathBuf::new(), 0)]);
        let nodes = BTreeMap::from([(0, root)]);
        let (durable_names, dice) = (names.clone(), seed * 2 + 1);
        MemoryDisk(Arc::new(Mutex::new(State {
            names,
            durable_names,
            nodes,
            sealed: BTreeSet::new(),
            dice,
            faults: Faults::default(),
        })))
    }

    pub(crate) fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    pub(crate) fn faults(&self) -> Faults {
        self.lock().faults
    }

    /// Changes a byte behind everybody's back.
    pub(crate) fn corrupt(&self, path: &Path, offset: usize) {
        let mut state = self.lock();
        let node = state.names[path];
        if let Some(Node::File(content)) = state.nodes.get_mut(&node) {
            content.now[offset] ^= 1;
            content.durable = content.now.clone();
        }
    }

    /// Takes a file or a tree away behind everybody's back, for good.
    pub(crate) fn lose(&self, path: &Path) {
        let mut state = self.lock();
        state.names.retain(|name, _| !name.starts_with(path));
        state.durable_names.retain(|name, _| !name.starts_with(path));
    }

    /// Cuts a file short behind everybody's back, for good.
    pub(crate) fn cut(&self, path: &Path, bytes: usize) {
        let mut state = self.lock();
        let node = state.names[path];
        let content = state.content(node);
        content.now.truncate(bytes);
        content.durable = content.now.clone();
    }

    /// What the disk holds after a power cut; this one stays as it is.
    pub(crate) fn crash(&self) -> MemoryDisk {
        let mut state = self.lock().clone();
        let mut paths: Vec<PathBuf> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        let mut names = BTreeMap::new();
        for path in paths {
            let (now, durable) = (state.names.get(&path).copied(), state.durable_names.get(&path).copied());
            let node = if now == durable || state.roll(2) == 0 { now } else { durable };
            let parent_is_there = path.parent().is_none_or(|parent| names.contains_key(parent));
            names.extend(node.filter(|_| parent_is_there).map(|node| (path, node)));
        }
        let mut nodes = std::mem::take(&mut state.nodes);
        for node in nodes.values_mut() {
            match node {
                Node::Directory { xattrs, durable } => {
                    if state.roll(2) == 0 {
                        *xattrs = durable.clone();
                    }
                    *durable = xattrs.clone();
                }
                Node::File(content) => {
                    content.settle_at_random(&mut state);
                    content.now = content.durable.clone();
                }
            }
        }
        (state.nodes, state.durable_names, state.names) = (nodes, names.clone(), names);
        state.faults = Faults { no_reflink: state.faults.no_reflink, ..Faults::default() };
        MemoryDisk(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 20) % sides
    }

    fn node(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn add(&mut self, path: &Path, node: Node) -> u64 {
        let id = self.nodes.len() as u64;
        self.nodes.insert(id, node);
        self.names.insert(path.to_owned(), id);
        id
    }

    fn make_directories(&mut self, path: &Path) {
        let mut above: Vec<_> = path.ancestors().collect();
        above.reverse();
        for path in above {
            if !self.names.contains_key(path) {
                self.add(path, Node::Directory { xattrs: BTreeMap::new(), durable: BTreeMap::new() });
            }
        }
    }

    fn content(&mut self, node: u64) -> &mut Content {
        match self.nodes.get_mut(&node) {
            Some(Node::File(content)) => content,
            other => panic!("no file: {other:?}"),
        }
    }

    fn may_change(&self) -> io::Result<()> {
        match self.faults {
            Faults { syncs_left: Some(0), .. } => Err(io::Error::other("the power is gone")),
            Faults { writes: Some(kind), .. } => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// What is at and below `from`: its name, what that is below `to`, and what it means.
    fn below(&self, from: &Path, to: &Path) -> Vec<(PathBuf, PathBuf, u64)> {
        let inside = self.names.iter().filter_map(|(name, node)| Some((name, name.strip_prefix(from).ok()?, *node)));
        // Joined with nothing, a path would end in a slash.
        let place = |rest: &Path| if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
        inside.map(|(name, rest, node)| (name.clone(), place(rest), node)).collect()
    }

    fn may_write(&self, node: u64) -> io::Result<()> {
        if self.sealed.contains(&node) { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    /// Whether a sync happens now; else nothing of it may count.
    fn may_sync(&mut self) -> io::Result<bool> {
        match &mut self.faults.syncs_left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        match self.faults.failing_syncs {
            0 => Ok(true),
            _ => {
                self.faults.failing_syncs -= 1;
                Ok(false)
            }
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, missing: Missing) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if let Some(errno) = state.faults.opens {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if missing == Missing::Replace {
            state.may_change()?;
            state.names.remove(path);
        }
        let node = match (state.node(path), missing) {
            (Ok(node), _) => node,
            (Err(error), Missing::Fail) => return Err(error),
            (Err(_), Missing::Create | Missing::Replace) => {
                state.may_change()?;
                path.parent().into_iter().for_each(|parent| state.make_directories(parent));
                state.add(path, Node::File(Content::default()))
            }
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), node }))
    }

    fn make_tree(&self, path: &Path, tree: &Tree) -> io::Result<()> {
        let mut state = self.lock();
        state.may_change()?;
        state.make_directories(path);
        tree.directories().for_each(|index| state.make_directories(&path.join(tree.path(index))));
        for (index, size) in tree.files() {
            let path = path.join(tree.path(index));
            assert!(!state.names.contains_key(&path), "{} is there already", path.display());
            let node = state.add(&path, Node::File(Content::default()));
            state.content(node).resize(size as usize);
        }
        Ok(())
    }

    fn reflink(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.faults.no_reflink {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.may_change()?;
        let (from, to) = (state.node(from)?, state.node(to)?);
        let bytes = state.content(from).now.clone();
        state.content(to).resize(bytes.len());
        state.content(to).write(0, &bytes);
        Ok(())
    }

    fn clone_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if state.faults.no_reflink {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.may_change()?;
        state.node(from)?;
        to.parent().into_iter().for_each(|parent| state.make_directories(parent));
        for (_, place, node) in state.below(from, to) {
            let copy = match &state.nodes[&node] {
                // Of what was not synced a clone has all or nothing, too.
                Node::File(content) => Node::File(content.clone()),
                directory => directory.clone(),
            };
            state.add(&place, copy);
        }
        Ok(())
    }

    fn furnish(&self, path: &Path, _head: &Head) -> io::Result<()> {
        let state = self.lock();
        state.may_change()?;
        state.node(path).map(drop)
    }

    fn seal_tree(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.may_change()?;
        state.may_sync()?;
        state.node(from)?;
        to.parent().into_iter().for_each(|parent| state.make_directories(parent));
        for (name, place, node) in state.below(from, to) {
            state.names.remove(&name);
            match state.nodes.get_mut(&node) {
                Some(Node::File(content)) => content.sync(),
                Some(Node::Directory { xattrs, durable }) => *durable = xattrs.clone(),
                None => {}
            }
            state.sealed.insert(node);
            state.names.insert(place.clone(), node);
            // Durable with the directories it is in.
            for above in place.ancestors() {
                let node = state.names[above];
                state.durable_names.insert(above.to_owned(), node);
            }
        }
        Ok(())
    }

    fn settle(&self) -> io::Result<()> {
        self.sync(Barrier::Everything)
    }

    fn space(&self) -> io::Result<Space> {
        let size_bytes = 1 << 40;
        Ok(Space { free_bytes: self.faults().free_bytes.unwrap_or(size_bytes), size_bytes })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.may_change()?;
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.may_change()?;
        state.names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        let inside = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn xattr(&self, path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
        let state = self.lock();
        let node = state.node(path)?;
        match &state.nodes[&node] {
            Node::Directory { xattrs, .. } => Ok(xattrs.get(name).cloned()),
            Node::File(_) => Ok(None),
        }
    }

    fn set_xattr(&self, path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let node = state.node(path)?;
        state.may_change()?;
        if let Some(Node::Directory { xattrs, .. }) = state.nodes.get_mut(&node) {
            xattrs.insert(name.to_owned(), value.to_owned());
        }
        Ok(())
    }

    fn sync(&self, what: Barrier<'_>) -> io::Result<()> {
        let mut state = self.lock();
        if let Barrier::Names(path) = what {
            state.node(path)?;
        }
        if !state.may_sync()? {
            let mut nodes = std::mem::take(&mut state.nodes);
            if what == Barrier::Everything {
                for node in nodes.values_mut() {
                    if let Node::File(content) = node {
                        content.settle_at_random(&mut state);
                    }
                }
            }
            state.nodes = nodes;
            return Err(io::Error::other("a sync failed"));
        }
        let covers = |path: &Path| match what {
            Barrier::Names(directory) => path.parent() == Some(directory),
            Barrier::Everything => true,
        };
        let names = state.names.clone();
        state.durable_names.retain(|path, _| !covers(path));
        state
            .durable_names
            .extend(names.iter().filter(|(path, _)| covers(path)).map(|(path, node)| (path.clone(), *node)));
        let only = if let Barrier::Names(path) = what { Some(state.node(path)?) } else { None };
        for (id, node) in &mut state.nodes {
            match node {
                Node::Directory { xattrs, durable } if only.is_none_or(|only| only == *id) => *durable = xattrs.clone(),
                Node::File(content) if only.is_none() => content.sync(),
                _ => {}
            }
        }
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn read(&self, offset: u64, out: &mut [u8], wait: Wait) -> io::Result<usize> {
        let mut state = self.disk.lock();
        if state.faults.reads {
            return Err(if wait == Wait::No {
                io::ErrorKind::WouldBlock.into()
            } else {
                io::Error::other("bad sector")
            });
        }
        let now = &state.content(self.node).now;
        let start = now.len().min(offset as usize);
        let end = now.len().min(start + out.len());
        out[..end - start].copy_from_slice(&now[start..end]);
        Ok(end - start)
    }

    fn write(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.may_change()?;
        if state.faults.no_room && parts.iter().map(|part| part.len()).sum::<usize>() > 4096 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.may_write(self.node)?;
        let mut offset = offset as usize;
        for part in parts {
            state.content(self.node).write(offset, part);
            offset += part.len();
        }
        Ok(())
    }

    fn begin_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        self.disk.lock().may_change()
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.may_change()?;
        state.may_write(self.node)?;
        let content = state.content(self.node);
        let end = content.now.len().min((offset + len) as usize);
        let start = end.min(offset as usize);
        content.write(start, &vec![0; end - start]);
        Ok(())
    }

    fn state(&self) -> io::Result<FileState> {
        let mut state = self.disk.lock();
        let is_named = state.names.values().any(|node| *node == self.node);
        Ok(FileState { bytes: state.content(self.node).now.len() as u64, is_named })
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.disk.lock().content(self.node).allocated())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.may_change()?;
        state.may_write(self.node)?;
        state.content(self.node).resize(size as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        while self.disk.faults().held_syncs {
            std::thread::yield_now();
        }
        let mut state = self.disk.lock();
        let well = state.may_sync()?;
        let mut content = std::mem::take(state.content(self.node));
        if well {
            content.sync();
        } else {
            content.settle_at_random(&mut state);
        }
        *state.content(self.node) = content;
        if well { Ok(()) } else { Err(io::Error::other("a sync failed")) }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
