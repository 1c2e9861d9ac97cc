//! The program on real containers, as root with a static busybox.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod checkpoint;
#[cfg(test)]
mod clocks;
#[cfg(test)]
#[path = "../../../../tests/machine/company.rs"]
mod company;
#[cfg(test)]
mod endurance;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idmap;
#[cfg(test)]
mod interfaces;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod labels;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod notification;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod scheduling;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod unified;
