//! Attacks that worked on a runtime once, one test for each CVE, each played to the end.
//!
//! `STRATA_TEST_RUNTIME=/usr/sbin/runc cargo test -p runc-layer attacks` plays them against another
//! runtime: those that it has no defence against succeed, which a test reports as its failure.

mod console;
mod descriptors;
mod identity;
mod masks;
mod paths;
mod proc;
mod program;
