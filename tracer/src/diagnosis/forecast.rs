//! When a destination runs out of ports.
