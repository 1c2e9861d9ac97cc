//! Null-terminated vectors of C strings for `execve`, made before clone and only read after.

use std::ffi::{CStr, CString, c_char};

/// Strings and the pointer array to them.
pub(crate) struct StringVector {
    strings: Vec<CString>,
    // `strings`' pointers, a spare slot's when it was filled, and null.
    pointers: Vec<*const c_char>,
    spare: bool,
}

// SAFETY: the pointers lead into `strings`, which the value owns and never changes.
unsafe impl Send for StringVector {}
// SAFETY: as above; nothing has interior mutability.
unsafe impl Sync for StringVector {}

impl StringVector {
    /// A vector of `strings`; `spare` reserves one slot for [`StringVector::fill_spare`].
    pub(crate) fn new(strings: Vec<CString>, spare: bool) -> StringVector {
        let mut pointers: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        if spare {
            pointers.push(std::ptr::null());
        }
        StringVector { strings, pointers, spare }
    }

    /// Puts `string` last, once; without a spare slot it does nothing.
    ///
    /// `string` must live as long as the process image: it is meant for a static or leaked buffer.
    pub(crate) fn fill_spare(&mut self, string: &'static CStr) {
        if self.spare {
            self.spare = false;
            let slot = self.pointers.len() - 2;
            self.pointers[slot] = string.as_ptr();
        }
    }

    /// The first string.
    pub(crate) fn first(&self) -> Option<&CStr> {
        self.strings.first().map(CString::as_c_str)
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

const KEPT: usize = 1280;

struct Kept(std::cell::UnsafeCell<[u8; KEPT]>);

// SAFETY: only `keep` touches it, and that is called by a child of clone, which has one thread.
unsafe impl Sync for Kept {}

static KEEP: Kept = Kept(std::cell::UnsafeCell::new([0; KEPT]));

/// Puts the two parts together where they stay until exec. For the child between clone and exec,
/// once; `None` when they are too long or hold a NUL.
pub(crate) fn keep(first: &[u8], second: &[u8]) -> Option<&'static CStr> {
    let len = first.len() + second.len();
    if len >= KEPT {
        return None;
    }
    // SAFETY: the child has one thread and keeps one string, so nobody else reads or writes it.
    let bytes = unsafe { &mut *KEEP.0.get() };
    bytes[..first.len()].copy_from_slice(first);
    bytes[first.len()..len].copy_from_slice(second);
    bytes[len] = 0;
    CStr::from_bytes_with_nul(&bytes[..=len]).ok()
}
