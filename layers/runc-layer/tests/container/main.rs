//! The program on real containers, as root with a static busybox.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod bundle;
#[cfg(test)]
mod endurance;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod unified;
