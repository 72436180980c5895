//! What to change, and what not.
