//! The capabilities of this process, as `tracer check` shows them.

use rustix::{process::geteuid, thread::CapabilitySet};
use serde::Serialize;

use crate::privileges::{self, NEEDS, Need, When};

#[derive(Debug, Serialize)]
pub(super) struct Privileges {
    uid: u32,
    capabilities: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    capability: &'static str,
    have: bool,
    /// `start`: dropped once everything is attached.
    needed: &'static str,
    to: &'static str,
    without: &'static str,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        Self::new(geteuid().as_raw(), privileges::effective())
    }

    fn new(uid: u32, effective: CapabilitySet) -> Self {
        let row = |need: &Need| Row {
            capability: need.name,
            have: need.is_met_by(effective),
            needed: match need.when {
                When::Start => "start",
                When::Run => "run",
            },
            to: need.purpose,
            without: need.without,
        };
        Self {
            uid,
            capabilities: NEEDS.iter().map(row).collect(),
        }
    }

    /// A line for each, and one more for what is missing.
    pub(super) fn text(&self) -> String {
        let mut text = format!("\nprivileges of user {}\n", self.uid);
        for row in &self.capabilities {
            let have = if row.have { "yes" } else { "NO " };
            let until = match row.needed {
                "start" => ", and dropped then",
                _ => "",
            };
            text += &format!("  {have} {}: to {}{until}\n", row.capability, row.to);
            if !row.have {
                text += &format!("      without it {}\n", row.without);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_its_price() {
        let few = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let text = Privileges::new(1000, few).text();
        assert!(text.contains("privileges of user 1000\n"));
        assert!(text.contains("  yes CAP_BPF: to "), "{text}");
        assert!(text.contains("  NO  CAP_SYS_ADMIN: to "), "{text}");
        assert_eq!(text.matches("without it").count(), 4);
        let all = Privileges::new(0, CapabilitySet::all()).text();
        assert!(!all.contains("NO ") && !all.contains("without it"), "{all}");
    }
}
