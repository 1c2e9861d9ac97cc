//! Where strata-runc's words are meant to be others than runc 1.1's, and why.

/// What a table's line has in front, whether the exit code may be another as well, and the reason.
pub(crate) const ALLOWED: [(&str, bool, &str); 20] = [
    ("field", false, "the document and the path of the field stand before runc's words"),
    ("early", false, "what cannot work is refused before anything is made for it"),
    ("mount", false, "runc mounts through a descriptor whose number it tells"),
    ("directory", false, "`is a directory` is what runc built with Go 1.20 or newer says"),
    ("hooks", false, "a hook writes to the runtime's streams, not to a buffer for the error"),
    ("leftovers", false, "runc warns of what its own stages leave"),
    ("rollback", false, "runc warns that the old limits could not be written back either"),
    ("descriptors", false, "runc takes descriptors of its own for the caller's"),
    ("go", false, "the errors of Go's number parser"),
    ("help", false, "the help is in words of its own"),
    ("features", false, "the fields are those of a newer version, as the features are"),
    ("stats", false, "the statistics that the kernel's old interfaces have and no client reads"),
    ("rootless", true, "a value that is none is refused by every command"),
    ("terminal", true, "a foreground container with a terminal runs without one of the caller's"),
    ("newer", true, "refused as by the specification and by runc 1.2 and newer"),
    ("ids", true, "ids go up to the kernel's 2^32-2, as in runc 1.3"),
    ("strict", true, "the specification has absolute paths and timeouts above zero only"),
    ("oom", true, "the limit is there before the process, which the kernel kills"),
    ("weight", true, "a weight that the specification does not have is refused"),
    ("bind", true, "a mount of type bind without options is a bind mount"),
];
