//! The maps that user space writes and reads: what is watched, what was lost.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use tracer_common::{CgroupKey, Followed, MAX_HIERARCHIES, Tracked, flags, loss};

use super::load::LoadError;

/// The maps that user space writes.
pub struct Tables {
    tracked: HashMap<MapData, [u8; 16], [u32; 2]>,
    procs: HashMap<MapData, u32, [u8; 24]>,
    dropped: Array<MapData, u64>,
    lost: PerCpuArray<MapData, u64>,
    reader_idle: Array<MapData, u32>,
    /// Slot of each hierarchy.
    slots: Vec<u32>,
    /// Own removals per slot, as in the map. Every handle on the maps counts here.
    removals: Arc<Mutex<[u64; MAX_HIERARCHIES]>>,
    fds: BTreeMap<&'static str, OwnedFd>,
}

/// `BPF_NOEXIST`: what a program entered first stays.
const NO_EXIST: u64 = 1;

/// Whether an insertion under [`NO_EXIST`] found the key free.
fn inserted(result: Result<(), aya::maps::MapError>) -> Result<bool, LoadError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if kind_of(&error) == Some(io::ErrorKind::AlreadyExists) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the kernel answered to a map operation.
fn kind_of(error: &aya::maps::MapError) -> Option<io::ErrorKind> {
    match error {
        aya::maps::MapError::KeyNotFound => Some(io::ErrorKind::NotFound),
        aya::maps::MapError::SyscallError(error) => Some(error.io_error.kind()),
        _ => None,
    }
}

impl Tables {
    /// Over maps that `take` gives by their names; `slots` has the hierarchy of each.
    pub(super) fn new(
        take: impl FnMut(&'static str) -> Result<Map, LoadError>,
        slots: &[u32],
    ) -> Result<Self, LoadError> {
        let tables = Self::over(take, slots, Arc::default())?;
        // Those of a process before this one count on.
        for (index, count) in (0..).zip(&mut *tables.removals()) {
            *count = tables.dropped.get(&index, 0)?;
        }
        Ok(tables)
    }

    /// The same maps for another thread.
    ///
    /// # Errors
    ///
    /// Those of duplicating descriptors.
    pub fn duplicate(&self) -> Result<Self, LoadError> {
        let again = |name| {
            let fd = self.fds.get(name).ok_or(LoadError::Object(name))?;
            let fd = fd.try_clone().map_err(|_error| LoadError::Object(name))?;
            Ok(Map::from_map_data(MapData::from_fd(fd)?)?)
        };
        Self::over(again, &self.slots, Arc::clone(&self.removals))
    }

    fn over(
        mut take: impl FnMut(&'static str) -> Result<Map, LoadError>,
        slots: &[u32],
        removals: Arc<Mutex<[u64; MAX_HIERARCHIES]>>,
    ) -> Result<Self, LoadError> {
        let mut fds = BTreeMap::new();
        let mut take = |name| {
            let map = take(name)?;
            if let Map::HashMap(data) | Map::Array(data) | Map::PerCpuArray(data) = &map {
                let fd = data.fd().as_fd().try_clone_to_owned();
                fds.insert(name, fd.map_err(|_error| LoadError::Object(name))?);
            }
            Ok::<_, LoadError>(map)
        };
        Ok(Self {
            tracked: HashMap::try_from(take("TRACKED")?)?,
            procs: HashMap::try_from(take("PROCS")?)?,
            dropped: Array::try_from(take("DROPPED")?)?,
            lost: PerCpuArray::try_from(take("LOST")?)?,
            reader_idle: Array::try_from(take("READER_IDLE")?)?,
            slots: slots.to_vec(),
            removals,
            fds,
        })
    }

    /// Watches the tasks of a cgroup that was there before the programs were, `level` deep in its
    /// hierarchy.
    ///
    /// # Errors
    ///
    /// The map's, when it is full.
    pub fn track(&mut self, cgroup: CgroupKey, level: u32) -> Result<(), LoadError> {
        let Some(slot) = self.slot(cgroup) else {
            return Ok(());
        };
        let Tracked { slot, level } = Tracked { slot, level };
        if !inserted(
            self.tracked
                .insert(cgroup.to_bytes(), [slot, level], NO_EXIST),
        )? {
            return Ok(());
        }
        // The programs count only what they enter themselves: one less was taken out than it seems.
        self.count_removals(slot, -1)
    }

    /// Stops watching a cgroup that is no container's, or is known by another hierarchy.
    ///
    /// # Errors
    ///
    /// The map's.
    pub fn forget(&mut self, cgroup: CgroupKey) -> Result<(), LoadError> {
        let Some(slot) = self.slot(cgroup) else {
            return Ok(());
        };
        match self.tracked.remove(&cgroup.to_bytes()) {
            Ok(()) => self.count_removals(slot, 1),
            // Its rmdir came first.
            Err(error) if kind_of(&error) == Some(io::ErrorKind::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Follows a process that came in before the programs were there, `landed` or still on its way.
    ///
    /// # Errors
    ///
    /// The map's, when it is full.
    pub fn follow(&mut self, pid: u32, cgroup: CgroupKey, landed: bool) -> Result<(), LoadError> {
        let value = Followed {
            cgroup,
            flags: if landed {
                flags::LANDED
            } else {
                flags::ENTRANT
            },
            reserved: 0,
        };
        inserted(self.procs.insert(pid, value.to_bytes(), NO_EXIST))?;
        Ok(())
    }

    /// What each CPU has lost, by index of [`tracer_common::loss`].
    ///
    /// # Errors
    ///
    /// The map's.
    pub fn lost(&self, index: u32) -> Result<Vec<u64>, LoadError> {
        Ok(self.lost.get(&index, 0)?.iter().copied().collect())
    }

    /// What was lost since the start, by name of the counter.
    ///
    /// # Errors
    ///
    /// The map's.
    pub fn losses(&self) -> Result<BTreeMap<&'static str, u64>, LoadError> {
        let mut losses = BTreeMap::new();
        for index in 1..loss::COUNT {
            let count = self.lost(index)?.iter().sum();
            if count != 0 {
                losses.insert(loss::name(index), count);
            }
        }
        Ok(losses)
    }

    /// Asks to be woken by the next bulk record.
    ///
    /// # Errors
    ///
    /// The map's.
    pub fn announce_idle(&mut self) -> Result<(), LoadError> {
        Ok(self.reader_idle.set(0, 1, 0)?)
    }

    fn slot(&self, cgroup: CgroupKey) -> Option<u32> {
        let slot = self.slots.iter().position(|id| *id == cgroup.hierarchy)?;
        u32::try_from(slot).ok()
    }

    /// Slot 0 is always looked up and needs no count; index 0 sums the others.
    fn count_removals(&mut self, slot: u32, by: i64) -> Result<(), LoadError> {
        if slot == 0 {
            return Ok(());
        }
        let removals = Arc::clone(&self.removals);
        let mut removals = removals.lock().unwrap_or_else(PoisonError::into_inner);
        for index in [slot, 0] {
            let Some(count) = removals.get_mut(index as usize) else {
                continue;
            };
            *count = count.wrapping_add_signed(by);
            // Within the lock: no handle may set an older count after a newer one.
            self.dropped.set(index, *count, 0)?;
        }
        Ok(())
    }

    fn removals(&self) -> MutexGuard<'_, [u64; MAX_HIERARCHIES]> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
