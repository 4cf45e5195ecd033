//! The numbers that the stage is told ahead of all strings: limits, scheduling, how many strings.
//!
//! They travel as 8 bytes each, in the machine's own order, as the stage is the same binary. To
//! read a self-describing format would cost it a dozen page faults, more than its other steps take
//! together. Written and read by `spec`.

use crate::config::Resource;

/// Soft and hard limit of each resource, in the order of [`Resource::ALL`]; `None` is unlimited.
pub(super) type Limits = [(Option<u64>, Option<u64>); Resource::ALL.len()];

/// No limit, as the kernel writes it; and no list of CPUs.
const NONE: u64 = u64::MAX;

/// How the kernel schedules a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scheduling {
    /// `SCHED_OTHER` and its kin, by number.
    pub(super) policy: i32,
    /// Only of the real-time policies.
    pub(super) priority: i32,
    /// -20 to 19.
    pub(super) nice: i32,
    /// The CPUs it may use; `None` on a machine with more than this can name, where it is left
    /// as inherited.
    pub(super) cpus: Option<Vec<usize>>,
}

/// Whose account a program runs in, and so which strings tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// healer's own; no string.
    Healer,
    /// Root's; no string.
    Root,
    /// That of a user, in the primary group; one string.
    User,
    /// That of a user, in another group; two strings.
    UserAndGroup,
}

impl Account {
    const ALL: [Self; 4] = [Self::Healer, Self::Root, Self::User, Self::UserAndGroup];
}

/// The fixed part of what the stage is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) limits: Limits,
    pub(super) scheduling: Scheduling,
    pub(super) oom_score_adj: i32,
    pub(super) umask: u32,
    pub(super) account: Account,
    /// The program and its arguments.
    pub(super) arguments: usize,
}

impl Head {
    /// Appends it to `bytes`.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let Self { limits, scheduling, oom_score_adj, umask, account, arguments } = self;
        let mut unsigned = |number: u64| bytes.extend_from_slice(&number.to_ne_bytes());
        for (soft, hard) in limits {
            unsigned(soft.unwrap_or(NONE));
            unsigned(hard.unwrap_or(NONE));
        }
        for number in [scheduling.policy, scheduling.priority, scheduling.nice, *oom_score_adj] {
            unsigned(i64::from(number).cast_unsigned());
        }
        for number in [*umask as usize, *account as usize, *arguments] {
            unsigned(number as u64);
        }
        unsigned(scheduling.cpus.as_ref().map_or(NONE, |cpus| cpus.len() as u64));
        scheduling.cpus.iter().flatten().for_each(|cpu| unsigned(*cpu as u64));
    }

    /// Reads what [`Head::write`] wrote, and returns what follows it; `None` for anything else.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut numbers = Numbers(bytes);
        let mut limits = [(None, None); Resource::ALL.len()];
        for (soft, hard) in &mut limits {
            *soft = limit(numbers.unsigned()?);
            *hard = limit(numbers.unsigned()?);
        }
        let [policy, priority, nice, oom_score_adj] =
            [numbers.signed()?, numbers.signed()?, numbers.signed()?, numbers.signed()?];
        let umask = u32::try_from(numbers.unsigned()?).ok()?;
        let account = *Account::ALL.get(numbers.size()?)?;
        let arguments = numbers.size()?;
        let cpus = match numbers.unsigned()? {
            NONE => None,
            count => Some((0..count).map(|_| numbers.size()).collect::<Option<_>>()?),
        };
        let scheduling = Scheduling { policy, priority, nice, cpus };
        Some((Self { limits, scheduling, oom_score_adj, umask, account, arguments }, numbers.0))
    }
}

/// Takes numbers from the front.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn unsigned(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*number))
    }

    fn signed(&mut self) -> Option<i32> {
        i32::try_from(self.unsigned()?.cast_signed()).ok()
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.unsigned()?).ok()
    }
}

fn limit(number: u64) -> Option<u64> {
    (number != NONE).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = Head> {
        let limit = || prop::option::of(0..NONE);
        let limits = prop::array::uniform16((limit(), limit()));
        let cpus = prop::option::of(prop::collection::vec(0_usize..1024, 0..9));
        let scheduling = (any::<i32>(), any::<i32>(), -20..20_i32, cpus);
        let account = prop::sample::select(Account::ALL.to_vec());
        let rest = (any::<i32>(), any::<u32>(), account, 1_usize..9);
        (limits, scheduling, rest).prop_map(|(limits, scheduling, rest)| {
            let (policy, priority, nice, cpus) = scheduling;
            let (oom_score_adj, umask, account, arguments) = rest;
            let scheduling = Scheduling { policy, priority, nice, cpus };
            Head { limits, scheduling, oom_score_adj, umask, account, arguments }
        })
    }

    proptest! {
        #[test]
        fn head_survives_its_way(head in heads(), rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut bytes = Vec::new();
            head.write(&mut bytes);
            let end = bytes.len();
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(Head::read(&bytes), Some((head, rest.as_slice())));
            prop_assert_eq!(Head::read(&bytes[..end - 1]), None);
        }

        #[test]
        fn anything_may_be_read(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = Head::read(&bytes);
        }
    }
}
