//! Users and groups, by name or number, as `/etc/passwd` and `/etc/group` list them.
//!
//! The C library's look-up loads a shared library for each source that `/etc/nsswitch.conf` names,
//! which takes longer than the exec of a program, and cannot be done by a static binary. So it is
//! asked only where these files do not decide; a static build then refuses. What may be done as
//! whom is left to the callers: `launch`, `preflight` and `instance`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

const NSSWITCH: &str = "/etc/nsswitch.conf";
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

#[cfg(not(target_feature = "crt-static"))]
mod nss;

/// Where users are looked up, for messages.
pub const USER_DATABASE: &str = if cfg!(target_feature = "crt-static") {
    "/etc/passwd, the only user database that a static build asks"
} else {
    "the user database"
};
/// Where groups are looked up, for messages.
pub const GROUP_DATABASE: &str = if cfg!(target_feature = "crt-static") {
    "/etc/group, the only group database that a static build asks"
} else {
    "the group database"
};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// The home directory.
    pub home: OsString,
    /// The login shell; may be empty.
    pub shell: OsString,
}

/// Why nobody can tell whether there is such a user or group.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// A file or a service does not answer.
    #[error("{what}: {error}")]
    Failed {
        /// What was asked.
        what: String,
        /// What the system said.
        error: io::Error,
    },
    /// Something else decides, which a static build cannot ask.
    #[error(
        "/etc/nsswitch.conf: {0}, which a static build cannot ask: use a dynamically linked one"
    )]
    OutOfReach(String),
}

/// The files, as they were at one moment.
#[derive(Debug)]
pub struct Databases {
    passwd: Vec<u8>,
    group: Vec<u8>,
    /// What decides besides these files.
    other: Option<String>,
}

impl Databases {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// One of them cannot be read, or this build cannot ask what else decides.
    pub fn read() -> Result<Self, Unanswered> {
        let (nsswitch, passwd, group) = (read(NSSWITCH)?, read(PASSWD)?, read(GROUP)?);
        let other = other_source(&nsswitch, &passwd, &group);
        match other {
            Some(other) if cfg!(target_feature = "crt-static") => {
                Err(Unanswered::OutOfReach(other))
            }
            other => Ok(Self { passwd, group, other }),
        }
    }

    /// The user of this name or number.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    pub fn user(&self, wanted: &str) -> Result<Option<User>, Unanswered> {
        let listed = self.listed(wanted);
        #[cfg(not(target_feature = "crt-static"))]
        if listed.is_none() {
            return nss::user(wanted);
        }
        Ok(listed)
    }

    /// The number of the group of this name; a number stands for itself.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    pub fn group(&self, wanted: &str) -> Result<Option<u32>, Unanswered> {
        if let Ok(number) = wanted.parse() {
            return Ok(Some(number));
        }
        let listed = self.other.is_none().then(|| find_group(&self.group, wanted)).flatten();
        #[cfg(not(target_feature = "crt-static"))]
        if listed.is_none() {
            return nss::group(wanted);
        }
        Ok(listed)
    }

    /// All groups of `user` where `primary` is its primary group, each once.
    ///
    /// # Errors
    ///
    /// Nobody can tell.
    pub fn groups(&self, user: &User, primary: u32) -> Result<Vec<u32>, Unanswered> {
        #[cfg(not(target_feature = "crt-static"))]
        if self.listed(&user.name).as_ref() != Some(user) {
            return nss::groups(user, primary);
        }
        Ok(groups_of(&self.group, &user.name, primary))
    }

    fn listed(&self, wanted: &str) -> Option<User> {
        self.other.is_none().then(|| find_user(&self.passwd, wanted)).flatten()
    }
}

/// The number of the group of this name in `/etc/group`; no other source is asked, so that it never
/// waits.
///
/// # Errors
///
/// The file cannot be read.
pub fn listed_group(name: &str) -> Result<Option<u32>, Unanswered> {
    Ok(find_group(&read(GROUP)?, name))
}

/// The name of the user of this number in `/etc/passwd`; no other source is asked, so that it never
/// waits.
///
/// # Errors
///
/// The file cannot be read.
pub fn listed_user(uid: u32) -> Result<Option<String>, Unanswered> {
    Ok(find_user(&read(PASSWD)?, &uid.to_string()).map(|user| user.name))
}

fn read(path: &str) -> Result<Vec<u8>, Unanswered> {
    match std::fs::read(path) {
        // As the C library has it: no such file, no entries; and files alone where nothing is said.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Unanswered::Failed { what: format!("reading {path}"), error }),
        Ok(bytes) => Ok(bytes),
    }
}

/// Lines with something to say, of any of the three files.
fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// What `nsswitch` asks about users and groups besides the two files, in words. `systemd` is not
/// counted: it adds users that the files do not have.
fn other_source(nsswitch: &[u8], passwd: &[u8], group: &[u8]) -> Option<String> {
    let redirects = |line: &[u8]| line.starts_with(b"+") || line.starts_with(b"-");
    let mut asked = lines(nsswitch).filter_map(|line| {
        let text = String::from_utf8_lossy(line).to_ascii_lowercase();
        let (database, sources) = text.split_once(':')?;
        let database = database.trim_end();
        if !["passwd", "group", "initgroups"].contains(&database) {
            return None;
        }
        let sources = sources.split('#').next().unwrap_or_default();
        let mut words = sources.split_ascii_whitespace().enumerate();
        let other = words.find(|&(at, word)| match word {
            "files" => false,
            "compat" => lines(passwd).chain(lines(group)).any(redirects),
            // Behind the files only: what they list stands.
            "systemd" | "[success=merge]" | "[notfound=return]" | "[!unavail=return]" => at == 0,
            _ => true,
        });
        other.map(|(_, word)| format!("{database} comes from {word}"))
    });
    asked.next()
}

/// The fields of an entry; lines that the C library would not take for one are none.
fn entry(line: &[u8]) -> Option<Vec<&[u8]>> {
    let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
    let is_entry = !fields[0].is_empty() && !line.starts_with(b"+") && !line.starts_with(b"-");
    is_entry.then_some(fields)
}

fn number(field: &[u8]) -> Option<u32> {
    let digits = field.iter().all(u8::is_ascii_digit);
    str::from_utf8(field).ok().filter(|_| digits)?.parse().ok()
}

/// `name:password:uid:gid:comment:home:shell`; the first that fits counts.
fn find_user(passwd: &[u8], wanted: &str) -> Option<User> {
    let by_number: Option<u32> = wanted.parse().ok();
    lines(passwd).filter_map(entry).find_map(|fields| {
        let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
        let (uid, gid) = (number(uid)?, number(gid)?);
        let fits = by_number.map_or_else(|| name == wanted.as_bytes(), |number| number == uid);
        let owned = |field: &[u8]| OsString::from_vec(field.to_vec());
        let name = str::from_utf8(name).ok().filter(|_| fits)?.to_owned();
        Some(User { name, uid, gid, home: owned(home), shell: owned(shell) })
    })
}

/// `name:password:gid:member,member`; the first that fits counts.
fn find_group(group: &[u8], wanted: &str) -> Option<u32> {
    lines(group).filter_map(entry).find_map(|fields| {
        let [name, _, gid, _] = fields[..] else { return None };
        number(gid).filter(|_| name == wanted.as_bytes())
    })
}

fn groups_of(group: &[u8], user: &str, primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for fields in lines(group).filter_map(entry) {
        let [_, _, gid, members] = fields[..] else { continue };
        let mut members = members.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if let Some(gid) = number(gid)
            && members.any(|member| member == user.as_bytes())
            && !groups.contains(&gid)
        {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use rstest::rstest;

    use super::*;

    const PASSWD: &[u8] = b"# comment:x:1:1::/:/bin/sh\n\
        root:x:0:0:root:/root:/bin/bash\n\
        \n  web:x:33:34:The Web,,,:/var/www:/usr/sbin/nologin\n\
        bare:x:40:41::/:\n\
        twice:x:50:50::/first:\n\
        twice:x:51:51::/second:\n\
        same:x:33:1::/:\n\
        short:x:60:60\n\
        long:x:61:61::/::more\n\
        +plus:x:62:62::/:\n\
        sign:x:+63:63::/:\n\
        empty:x::64::/:\n\
        huge:x:4294967296:65::/:\n\
        last:x:4294967295:66::/:\n\
        :x:67:67::/:\n\
        odd:x:68:68::/\xff:/bin/sh";

    const GROUP: &[u8] = b"root:x:0:\nweb:x:34:\nlog:x:4:bare,web\nweb2:x:70:webb, web ,x\n\
        again:x:70:web\nbad:x:-1:web\nfew:x:71\n-minus:x:72:web\nnone:x:73:we,eb,web.\n\
        own:x:34:web";

    #[rstest]
    #[case::name("web", Some((33, 34)))]
    #[case::number("33", Some((33, 34)))]
    #[case::root("root", Some((0, 0)))]
    #[case::first_of_two("twice", Some((50, 50)))]
    #[case::second_number_of_two("51", Some((51, 51)))]
    #[case::no_shell("bare", Some((40, 41)))]
    #[case::largest("last", Some((u32::MAX, 66)))]
    #[case::not_utf8_home("odd", Some((68, 68)))]
    #[case::unknown("nobody-here", None)]
    #[case::beginning_of_a_name("we", None)]
    #[case::comment("# comment", None)]
    #[case::too_few_fields("short", None)]
    #[case::too_many_fields("long", None)]
    #[case::compat_entry("+plus", None)]
    #[case::signed_number("sign", None)]
    #[case::no_number("empty", None)]
    #[case::number_too_large("huge", None)]
    #[case::no_name("", None)]
    #[case::with_a_colon("web:x", None)]
    fn user_is_found_only_by_its_whole_entry(
        #[case] wanted: &str,
        #[case] ids: Option<(u32, u32)>,
    ) {
        assert_eq!(find_user(PASSWD, wanted).map(|user| (user.uid, user.gid)), ids);
    }

    #[test]
    fn user_has_home_and_shell() {
        let web = find_user(PASSWD, "33").unwrap();
        assert_eq!((web.name.as_str(), web.home.to_str()), ("web", Some("/var/www")));
        assert_eq!(web.shell, "/usr/sbin/nologin");
        assert_eq!(find_user(PASSWD, "odd").unwrap().home, OsStr::from_bytes(b"/\xff"));
    }

    #[rstest]
    #[case::name("log", Some(4))]
    #[case::no_members("web", Some(34))]
    #[case::unknown("lo", None)]
    #[case::bad_number("bad", None)]
    #[case::too_few_fields("few", None)]
    #[case::compat_entry("-minus", None)]
    #[case::no_name("", None)]
    fn group_is_found_only_by_its_whole_entry(#[case] wanted: &str, #[case] gid: Option<u32>) {
        assert_eq!(find_group(GROUP, wanted), gid);
    }

    #[rstest]
    #[case::several("web", 34, &[34, 4, 70])]
    #[case::another_primary("web", 1, &[1, 4, 70, 34])]
    #[case::one("bare", 41, &[41, 4])]
    #[case::none("root", 0, &[0])]
    fn groups_are_the_primary_and_those_that_list_the_user(
        #[case] user: &str,
        #[case] primary: u32,
        #[case] expected: &[u32],
    ) {
        assert_eq!(groups_of(GROUP, user, primary), expected);
    }

    #[rstest]
    #[case::no_file("", None)]
    #[case::files("passwd: files\ngroup: files", None)]
    #[case::debian("passwd:\tfiles systemd\ngroup: files systemd\nhosts: files dns", None)]
    #[case::merged("group: files [SUCCESS=merge] systemd", None)]
    #[case::comment("#passwd: ldap\npasswd: files # ldap", None)]
    #[case::directory("passwd: files sss\n", Some("passwd comes from sss"))]
    #[case::before_the_files("group: ldap files", Some("group comes from ldap"))]
    #[case::systemd_first("passwd: systemd files", Some("passwd comes from systemd"))]
    #[case::groups_of_users("initgroups: files ldap", Some("initgroups comes from ldap"))]
    #[case::not_the_first(
        "passwd: files [SUCCESS=continue] systemd",
        Some("passwd comes from [success=continue]")
    )]
    #[case::blank_before_the_colon("passwd : nis", Some("passwd comes from nis"))]
    #[case::compat_that_redirects("passwd: compat", Some("passwd comes from compat"))]
    fn what_decides_besides_the_files_is_told(
        #[case] nsswitch: &str,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(other_source(nsswitch.as_bytes(), PASSWD, GROUP).as_deref(), expected);
    }

    #[test]
    fn compat_without_redirections_is_the_files() {
        assert_eq!(other_source(b"passwd: compat\ngroup: compat", b"a:x:1:1::/:", b""), None);
    }

    #[test]
    fn this_machine_s_root_is_found_as_the_c_library_finds_it() {
        let databases = Databases::read().unwrap();
        let root = databases.user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        let told = nix::unistd::getgrouplist(c"root", nix::unistd::Gid::from_raw(0)).unwrap();
        let told: Vec<u32> = told.into_iter().map(nix::unistd::Gid::as_raw).collect();
        assert_eq!(databases.groups(&root, 0).unwrap(), told);
        assert_eq!(databases.user("0").unwrap(), Some(root));
        assert_eq!(databases.user("no-such-user").unwrap(), None);
        assert_eq!(databases.group("no-such-group").unwrap(), None);
        assert_eq!(listed_user(0).unwrap().as_deref(), Some("root"));
        assert_eq!(listed_group("no-such-group").unwrap(), None);
    }
}
