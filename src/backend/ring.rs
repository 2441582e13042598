//! Messages from sessions to the background worker of their database, through shared memory: one ring of bytes for each
//! database that `tally.worker_databases` listed when the server started. A writer never waits for the reader: what doesn't fit
//! is refused; what never comes again is counted.

use super::{session, worker};
use core::ffi::CStr;
use core::ptr;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

const NAME: &CStr = c"pg_tally audit";
/// Bytes of a database's name, with the NUL that ends it.
const NAME_BYTES: usize = 64;
/// Of each message, in front of it.
const LENGTH_BYTES: usize = 4;

/// The databases with a ring, and how many bytes each has.
struct Wanted {
    databases: Vec<String>,
    bytes: usize,
    request: pg_sys::shmem_request_hook_type,
    startup: pg_sys::shmem_startup_hook_type,
}

static WANTED: OnceLock<Wanted> = OnceLock::new();
/// The first ring; in the postmaster and everything that it starts.
static RINGS: AtomicPtr<Ring> = AtomicPtr::new(ptr::null_mut());

/// A ring in shared memory; its bytes follow.
#[repr(C)]
struct Ring {
    /// Protects everything below.
    lock: *mut pg_sys::LWLock,
    database: [u8; NAME_BYTES],
    /// Bytes ever written, and ever taken away.
    head: u64,
    tail: u64,
    /// Messages that didn't fit, and won't come again.
    refused: u64,
    /// Since when something waits and nothing is taken away, in microseconds since 2000.
    since: i64,
    /// The latch of the worker, null while there is none.
    latch: *mut pg_sys::Latch,
}

thread_local! {
    /// This session's ring, once it was looked for; null where its database has none.
    static OWN: Cell<Option<*mut Ring>> = const { Cell::new(None) };
}

/// Asks for rings while the server starts.
pub fn request(databases: Vec<String>, bytes: usize) {
    if databases.is_empty() || !worker::is_preloading() {
        return;
    }
    // SAFETY: the postmaster has one thread; the hooks that were there are called by ours.
    unsafe {
        let wanted = Wanted {
            databases,
            bytes: bytes.next_multiple_of(64),
            request: pg_sys::shmem_request_hook,
            startup: pg_sys::shmem_startup_hook,
        };
        if WANTED.set(wanted).is_ok() {
            pg_sys::shmem_request_hook = Some(on_request);
            pg_sys::shmem_startup_hook = Some(on_startup);
        }
    }
}

fn size_of_ring(wanted: &Wanted) -> usize {
    size_of::<Ring>().next_multiple_of(64) + wanted.bytes
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    let Some(wanted) = WANTED.get() else { return };
    // SAFETY: called by the postmaster when memory is asked for.
    unsafe {
        if let Some(next) = wanted.request {
            next();
        }
        pg_sys::RequestAddinShmemSpace(size_of_ring(wanted) * wanted.databases.len());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), wanted.databases.len() as i32);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    let Some(wanted) = WANTED.get() else { return };
    // SAFETY: called by the postmaster, alone, with the memory and locks that were asked for; also after a crash, with new memory.
    unsafe {
        if let Some(next) = wanted.startup {
            next();
        }
        let mut found = false;
        let size = size_of_ring(wanted);
        let rings = pg_sys::ShmemInitStruct(NAME.as_ptr(), size * wanted.databases.len(), &raw mut found)
            .cast::<u8>();
        let locks = pg_sys::GetNamedLWLockTranche(NAME.as_ptr());
        for (place, database) in wanted.databases.iter().enumerate() {
            let mut name = [0; NAME_BYTES];
            let length = database.len().min(NAME_BYTES - 1);
            name[..length].copy_from_slice(&database.as_bytes()[..length]);
            let ring = Ring {
                lock: &raw mut (*locks.add(place)).lock,
                database: name,
                head: 0,
                tail: 0,
                refused: 0,
                since: 0,
                latch: ptr::null_mut(),
            };
            rings.add(place * size).cast::<Ring>().write(ring);
        }
        RINGS.store(rings.cast(), Ordering::Release);
    }
}

/// This database's ring. Looks it up at first, inside a transaction.
fn own(may_look_up: bool) -> Option<*mut Ring> {
    if OWN.get().is_none() && may_look_up {
        let first = RINGS.load(Ordering::Acquire);
        let found = WANTED.get().filter(|_| !first.is_null()).and_then(|wanted| {
            let name = worker::database_name();
            let place = wanted.databases.iter().position(|database| *database == name)?;
            // SAFETY: the rings lie one behind the other, as many as databases are listed.
            Some(unsafe { first.cast::<u8>().add(place * size_of_ring(wanted)).cast::<Ring>() })
        });
        OWN.set(Some(found.unwrap_or(ptr::null_mut())));
    }
    OWN.get().filter(|ring| !ring.is_null())
}

/// Whether this database has a ring. The first call of a session is inside a transaction.
pub fn is_there() -> bool {
    own(true).is_some()
}

/// Runs `work` with the ring locked, its bytes and their number.
///
/// # Safety
/// `work` neither fails nor allocates without bounds.
unsafe fn locked<T>(
    ring: *mut Ring,
    mode: pg_sys::LWLockMode::Type,
    work: impl FnOnce(&mut Ring, *mut u8, usize) -> T,
) -> T {
    // SAFETY: the ring is in shared memory, and its lock is taken while it is looked at.
    unsafe {
        let lock = (*ring).lock;
        pg_sys::LWLockAcquire(lock, mode);
        let bytes = WANTED.get().map_or(0, |wanted| wanted.bytes);
        let data = ring.cast::<u8>().add(size_of::<Ring>().next_multiple_of(64));
        let result = work(&mut *ring, data, bytes);
        pg_sys::LWLockRelease(lock);
        result
    }
}

/// Copies bytes in or out, around the end of the ring.
///
/// # Safety
/// `data` has `capacity` bytes, and `bytes` at most as many.
unsafe fn copy_in(data: *mut u8, capacity: usize, at: u64, bytes: &[u8]) {
    let start = (at % capacity as u64) as usize;
    let first = bytes.len().min(capacity - start);
    // SAFETY: both pieces lie within the ring.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(start), first);
        ptr::copy_nonoverlapping(bytes.as_ptr().add(first), data, bytes.len() - first);
    }
}

/// # Safety
/// As for `copy_in`.
unsafe fn copy_out(data: *const u8, capacity: usize, at: u64, bytes: &mut [u8]) {
    let start = (at % capacity as u64) as usize;
    let first = bytes.len().min(capacity - start);
    // SAFETY: both pieces lie within the ring.
    unsafe {
        ptr::copy_nonoverlapping(data.add(start), bytes.as_mut_ptr(), first);
        ptr::copy_nonoverlapping(data, bytes.as_mut_ptr().add(first), bytes.len() - first);
    }
}

/// Hands a message over; says whether it fitted. What may be refused leaves a quarter of the ring to what should not be.
/// Can be called at the end of a transaction, once `is_there` was asked inside one.
pub fn put(message: &[u8], should_fit: bool) -> bool {
    let Some(ring) = own(false) else { return false };
    let now = session::clock();
    // SAFETY: nothing here fails: it copies what was found to fit.
    let (fits, latch) = unsafe {
        locked(ring, pg_sys::LWLockMode::LW_EXCLUSIVE, |ring, data, capacity| {
            let needed = LENGTH_BYTES + message.len();
            let used = (ring.head - ring.tail) as usize;
            let room = if should_fit { capacity } else { capacity - capacity / 4 };
            if used + needed > room {
                return (false, ring.latch);
            }
            // Also where it was written by a clock that was ahead: else nobody would be told that these wait.
            if used == 0 || ring.since > now {
                ring.since = now;
            }
            copy_in(data, capacity, ring.head, &(message.len() as u32).to_ne_bytes());
            copy_in(data, capacity, ring.head + LENGTH_BYTES as u64, message);
            ring.head += needed as u64;
            (true, if used + needed > capacity / 2 { ring.latch } else { ptr::null_mut() })
        })
    };
    if !latch.is_null() {
        // SAFETY: a latch of a process' own place in shared memory, which stays; setting it for nobody does no harm.
        unsafe { pg_sys::SetLatch(latch) };
    }
    fits
}

/// Counts messages that didn't fit and that nobody will hand over again.
pub fn count_refused(messages: u64) {
    let Some(ring) = own(false) else { return };
    // SAFETY: a number is set.
    unsafe { locked(ring, pg_sys::LWLockMode::LW_EXCLUSIVE, |ring, _, _| ring.refused += messages) };
}

/// Messages that wait.
pub struct Waiting {
    pub messages: Vec<Vec<u8>>,
    /// How many didn't fit before.
    pub refused: u64,
    /// Where the ring is taken up to by them.
    upto: u64,
}

/// Since when messages wait and none is taken away, in microseconds since 2000; `None` where none waits.
pub fn waits_since() -> Option<i64> {
    let ring = own(true)?;
    // SAFETY: numbers are read.
    unsafe {
        locked(ring, pg_sys::LWLockMode::LW_SHARED, |ring, _, _| {
            (ring.head > ring.tail).then_some(ring.since)
        })
    }
}

/// Messages that wait, about `most` bytes of them, and at least one where one waits. They stay until they are taken away.
pub fn waiting(most: usize) -> Option<Waiting> {
    let ring = own(true)?;
    let mut bytes = vec![0; most];
    let (copied, tail, refused) = loop {
        // SAFETY: the buffer was made before, and only as much is copied as it has room for.
        let (copied, tail, refused, first) = unsafe {
            locked(ring, pg_sys::LWLockMode::LW_SHARED, |ring, data, capacity| {
                let waiting = ((ring.head - ring.tail) as usize).min(capacity);
                let mut first = [0; LENGTH_BYTES];
                if waiting > 0 {
                    copy_out(data, capacity, ring.tail, &mut first);
                }
                let copied = waiting.min(bytes.len());
                copy_out(data, capacity, ring.tail, &mut bytes[..copied]);
                (copied, ring.tail, ring.refused, u32::from_ne_bytes(first) as usize + LENGTH_BYTES)
            })
        };
        if copied == 0 || first <= copied {
            break (copied, tail, refused);
        }
        // The first one is longer than the buffer: none would ever be taken away.
        bytes.resize(first, 0);
    };
    let (mut rest, mut messages) = (&bytes[..copied], Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>()
        && let Some((message, after)) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)
    {
        messages.push(message.to_vec());
        rest = after;
    }
    Some(Waiting { messages, refused, upto: tail + (copied - rest.len()) as u64 })
}

impl Waiting {
    /// Takes the messages away, once they are safe elsewhere.
    pub fn take_away(&self) {
        let Some(ring) = own(false) else { return };
        let now = session::clock();
        // SAFETY: numbers are set.
        unsafe {
            locked(ring, pg_sys::LWLockMode::LW_EXCLUSIVE, |ring, _, _| {
                if self.upto > ring.tail {
                    (ring.tail, ring.since) = (self.upto, now);
                }
                ring.refused -= self.refused.min(ring.refused);
            });
        }
    }
}

/// Has writers wake this process when half of the ring is full.
pub fn wake_me() {
    let Some(ring) = own(true) else { return };
    // SAFETY: the latch lies in this process' place in shared memory.
    unsafe {
        let latch = &raw mut (*pg_sys::MyProc).procLatch;
        locked(ring, pg_sys::LWLockMode::LW_EXCLUSIVE, |ring, _, _| ring.latch = latch);
    }
}
