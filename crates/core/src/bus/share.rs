//! Who owns which partition of an ordered group.

use std::cmp::Reverse;

/// A living member of a group that wants partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its number: rises with the time it joined.
    pub id: i64,
    /// The partitions it restricts itself to; `None` takes any.
    pub only: Option<Vec<u32>>,
}

impl Candidate {
    fn takes(&self, partition: u32) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&partition))
    }

    fn choice(&self) -> usize {
        self.only.as_ref().map_or(usize::MAX, Vec::len)
    }
}

/// The fair owner of each partition, given the present owners (0 for none).
///
/// A pure function of what every member reads from the engine, so all come to the same answer; applied to its own
/// answer it changes nothing. Each partition goes to the member that has the fewest so far; among those to the one with
/// the least choice, then to its present owner, then to the eldest.
pub fn shares(owners: &[i64], members: &[Candidate]) -> Vec<i64> {
    let mut load = vec![0_u32; members.len()];
    let assign = |(partition, owner): (u32, &i64)| {
        let eligible = members.iter().zip(load.iter_mut()).filter(|(member, _)| member.takes(partition));
        let rank = |(member, load): &(&Candidate, &mut u32)| {
            (**load, member.choice(), Reverse(member.id == *owner), member.id)
        };
        eligible.min_by_key(rank).map_or(0, |(member, load)| {
            *load += 1;
            member.id
        })
    };
    (0..).zip(owners).map(assign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[i64]) -> Vec<Candidate> {
        ids.iter().map(|id| Candidate { id: *id, only: None }).collect()
    }

    #[test]
    fn shares_are_fair_and_stable() {
        for (partitions, count) in [(4, 1), (4, 2), (4, 3), (4, 9), (7, 3), (1024, 5)] {
            let members = members(&(1..=count).collect::<Vec<_>>());
            let first = shares(&vec![0; partitions], &members);
            assert_eq!(shares(&first, &members), first, "a fixed point");
            let held = |m: &Candidate| first.iter().filter(|o| **o == m.id).count();
            let (least, most) = (members.iter().map(held).min(), members.iter().map(held).max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{partitions} over {count}");
        }
    }

    #[test]
    fn who_comes_and_goes_moves_what_must_move() {
        let two = shares(&[1, 1, 1, 1], &members(&[1, 2]));
        assert_eq!(two, [1, 2, 1, 2]);
        assert_eq!(shares(&two, &members(&[2])), [2, 2, 2, 2]);
        assert_eq!(shares(&two, &[]), [0, 0, 0, 0]);
    }

    #[test]
    fn a_restricted_member_gets_what_it_can_take() {
        let members = [Candidate { id: 1, only: None }, Candidate { id: 2, only: Some(vec![0]) }];
        assert_eq!(shares(&[1, 1, 1], &members), [2, 1, 1]);
        assert_eq!(shares(&[0, 0], &members[1..]), [2, 0]);
    }
}
