//! What the host tells outside eBPF.

#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(not(target_os = "linux"))]
pub mod cgroup {
    //! There are none here.

    pub fn path(_: u64) -> Option<String> {
        None
    }
}
pub mod container;
#[cfg(target_os = "linux")]
pub mod home;
#[cfg(target_os = "linux")]
pub mod memory;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod process;
