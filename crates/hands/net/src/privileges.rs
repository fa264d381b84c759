//! Giving up root once the ports are bound.

use nix::unistd::{Gid, Group, Uid, User};
use std::ffi::CString;
use std::fmt;

/// Why privileges were not dropped. The server must not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivilegesError(Box<str>);

impl fmt::Display for PrivilegesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PrivilegesError {}

fn failed(what: impl fmt::Display) -> PrivilegesError {
    PrivilegesError(what.to_string().into())
}

/// True if this process runs as root.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `user` and `group` (the user's own group when absent) for good: supplementary groups, group, user,
/// then no new privileges; and checks that none of it can be undone.
///
/// Call it before any thread is started: `no_new_privs` holds for the calling thread and those it starts
/// later. When the process already runs as that user, only `no_new_privs` is set.
pub fn drop_to(user: &str, group: Option<&str>) -> Result<(), PrivilegesError> {
    let entry = User::from_name(user)
        .map_err(|e| failed(format_args!("user {user}: {e}")))?
        .ok_or_else(|| failed(format_args!("user {user} does not exist")))?;
    let gid = match group {
        None => entry.gid,
        Some(group) => {
            Group::from_name(group)
                .map_err(|e| failed(format_args!("group {group}: {e}")))?
                .ok_or_else(|| failed(format_args!("group {group} does not exist")))?
                .gid
        }
    };
    if entry.uid.is_root() {
        return Err(failed(format_args!("user {user} is root: name an ordinary one")));
    }
    if Uid::effective() != entry.uid || Uid::current() != entry.uid {
        become_user(user, entry.uid, gid)?;
    }
    no_new_privileges()
}

fn become_user(user: &str, uid: Uid, gid: Gid) -> Result<(), PrivilegesError> {
    let name = CString::new(user).map_err(|_| failed("the user's name holds a NUL"))?;
    nix::unistd::initgroups(&name, gid).map_err(|e| failed(format_args!("groups of {user}: {e}")))?;
    nix::unistd::setgid(gid).map_err(|e| failed(format_args!("group {gid}: {e}")))?;
    nix::unistd::setuid(uid).map_err(|e| failed(format_args!("user {user}: {e}")))?;

    let uids = nix::unistd::getresuid().map_err(failed)?;
    let gids = nix::unistd::getresgid().map_err(failed)?;
    if [uids.real, uids.effective, uids.saved] != [uid; 3]
        || [gids.real, gids.effective, gids.saved] != [gid; 3]
    {
        return Err(failed(format_args!("the change to user {user} did not stick")));
    }
    if nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
        return Err(failed(format_args!("root can be taken back after the change to user {user}")));
    }
    Ok(())
}

fn no_new_privileges() -> Result<(), PrivilegesError> {
    nix::sys::prctl::set_no_new_privs().map_err(|e| failed(format_args!("no_new_privs: {e}")))?;
    match nix::sys::prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(failed("no_new_privs did not stick")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_nobody_are_refused_before_anything_changes() {
        let user = "no-such-user-of-tuma";
        assert_eq!(drop_to(user, None).unwrap_err().to_string(), format!("user {user} does not exist"));
        assert!(drop_to("nobody", Some(user)).unwrap_err().to_string().starts_with("group "));
        assert_eq!(drop_to("root", None).unwrap_err().to_string(), "user root is root: name an ordinary one");
    }

    /// Runs the ignored test `name` in a process of its own, since what it does cannot be undone.
    fn in_a_child(name: &str) {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--test-threads=1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn root_is_given_up_for_good() {
        if is_root() {
            in_a_child("privileges::tests::child_becomes_nobody");
        }
        in_a_child("privileges::tests::child_gains_no_privileges");
    }

    #[test]
    #[ignore = "run by root_is_given_up_for_good"]
    fn child_becomes_nobody() {
        let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        drop_to("nobody", None).unwrap();
        let user = User::from_name("nobody").unwrap().unwrap();
        assert!(!is_root());
        assert_eq!((Uid::current(), nix::unistd::getegid()), (user.uid, user.gid));
        assert!(nix::unistd::getgroups().unwrap().iter().all(|gid| *gid == user.gid));
        assert!(std::fs::File::open("/etc/shadow").is_err());
        // What was opened before stays.
        assert!(bound.local_addr().is_ok());
        // Once more changes nothing.
        drop_to("nobody", None).unwrap();
    }

    #[test]
    #[ignore = "run by root_is_given_up_for_good"]
    fn child_gains_no_privileges() {
        no_new_privileges().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("NoNewPrivs:\t1"));
    }
}
