//! Keeps cursors of the session from code that runs in it for somebody else.

use core::ffi::CStr;
use pgrx::pg_sys;

/// Cursors that are open, as not to be run, moved or closed.
pub struct Kept(Vec<*mut pg_sys::PortalData>);

impl Kept {
    pub fn begin() -> Self {
        // SAFETY: the portals' own memory, by whose names they are found; those that exist now are closed by nobody until this is dropped.
        unsafe {
            let kept: Vec<_> = portals()
                .into_iter()
                .filter(|&portal| (*portal).status == pg_sys::PortalStatus::PORTAL_READY)
                .collect();
            kept.iter().for_each(|&portal| (*portal).status = pg_sys::PortalStatus::PORTAL_ACTIVE);
            Self(kept)
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: see above.
        self.0.iter().for_each(|&portal| unsafe { (*portal).status = pg_sys::PortalStatus::PORTAL_READY });
    }
}

/// All portals of the session. Postgres lists them for itself alone; each has a memory context that is called by its name.
unsafe fn portals() -> Vec<*mut pg_sys::PortalData> {
    // SAFETY: contexts are linked while they exist, and their names are C strings.
    unsafe {
        let named = |context: pg_sys::MemoryContext, name: &CStr| CStr::from_ptr((*context).name) == name;
        let mut portals = Vec::new();
        for all in children(pg_sys::TopMemoryContext).filter(|&child| named(child, c"TopPortalContext")) {
            for one in
                children(all).filter(|&child| named(child, c"PortalContext") && !(*child).ident.is_null())
            {
                portals.push(pg_sys::GetPortalByName((*one).ident));
                // What the one without a name is called there, another may be called, too.
                if CStr::from_ptr((*one).ident) == c"<unnamed>" {
                    portals.push(pg_sys::GetPortalByName(c"".as_ptr()));
                }
            }
        }
        portals.retain(|portal| !portal.is_null());
        portals
    }
}

unsafe fn children(context: pg_sys::MemoryContext) -> impl Iterator<Item = pg_sys::MemoryContext> {
    // SAFETY: a context that exists, and nothing is made or deleted while they are gone through.
    unsafe {
        let some = |context: pg_sys::MemoryContext| (!context.is_null()).then_some(context);
        std::iter::successors(some((*context).firstchild), move |&child| some((*child).nextchild))
    }
}
