//! The user that tracer is to go on as.

use nix::unistd;

/// Whom to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// A name or number of the user database; a number that is not in it stands for itself, and for its group. An error
/// is a sentence.
pub fn user(text: &str) -> Result<User, String> {
    let unreadable = |error| format!("the user database can't be read: {error}");
    let found = match text.parse() {
        // (uid_t) -1 stands for "no change" in system calls.
        Ok(u32::MAX) => None,
        Ok(uid) => {
            let known = unistd::User::from_uid(uid.into()).map_err(unreadable)?;
            let gid = known.map_or(uid, |user| user.gid.as_raw());
            Some(User { uid, gid })
        }
        Err(_) => unistd::User::from_name(text)
            .map_err(unreadable)?
            .map(|user| User {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            }),
    };
    found.ok_or_else(|| "there is no such user: give a name of /etc/passwd or a number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_and_numbers() {
        let root = User { uid: 0, gid: 0 };
        assert_eq!(user("root"), Ok(root));
        assert_eq!(user("0"), Ok(root));
        let number = 4_000_000_001;
        let unknown = User {
            uid: number,
            gid: number,
        };
        assert_eq!(user("4000000001"), Ok(unknown));
    }

    #[test]
    fn says_what_to_give() {
        for bad in [
            "",
            "no such user",
            "-1",
            "4294967295",
            "99999999999",
            "a\0b",
        ] {
            let error = user(bad).unwrap_err();
            assert!(error.contains("user"), "{bad}: {error}");
        }
    }
}
