//! Transitions in the midst of a transition.
//!
//! The kernel skips a program that is running on this CPU already (`__bpf_trace_run`, kernel/trace/bpf_trace.c,
//! since 5.12): when a softirq interrupts it, with all that this softirq does, or, since 7.0, when its task is
//! preempted. So there are two programs on the tracepoint. The second one does nothing unless the first one is in
//! the midst of something, which means that it has been skipped. It must be attached after it: before 5.12 the
//! first one is not skipped, and is through when the second one looks.

use crate::{emit::count, maps::BUSY};

/// The first program.
#[inline(always)]
pub(crate) fn outer(run: impl FnOnce()) {
    let Some(busy) = BUSY.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's value, which only the first program writes, that never runs twice at once.
    unsafe { busy.write_volatile(1) };
    run();
    // SAFETY: as above.
    unsafe { busy.write_volatile(0) };
}

/// The second program.
#[inline(always)]
pub(crate) fn inner(run: impl FnOnce()) {
    if BUSY.get(0).is_some_and(|busy| *busy == 1) {
        count(|counters| counters.nested += 1);
        run();
    }
}
