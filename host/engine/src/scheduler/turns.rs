//! Whose prompt comes next: fairness between functions (virtual token counters, arXiv 2401.00588).
//!
//! Each function has an account of what it was served. Of two of the same class, the one whose account
//! is lower comes first; what it gets is added, so functions that always want more get equal shares. A
//! function that comes back after a pause starts no lower than those that are there, so it can't have
//! saved up.

use std::{collections::HashMap, sync::Arc};

use super::sequence::{Class, Sequence, SequenceId};

/// What a generated token costs, in tokens of a prompt: the time of a step that reads all weights for it,
/// divided by that of a prompt's row.
const DECODE_COST: u64 = 4;

/// Accounts kept of functions that want nothing now; beyond it the least served is forgotten.
const IDLE_MAX: usize = 1024;

/// A sequence's place in the order of turns: smaller is sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    class: Class,
    served: u64,
    pub(super) id: SequenceId,
}

/// A function's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AccountId(usize);

/// The accounts of all functions that want something, and of some that did.
#[derive(Debug, Default)]
pub(super) struct Turns {
    accounts: Vec<Account>,
    by_name: HashMap<Arc<str>, AccountId>,
}

#[derive(Debug)]
struct Account {
    name: Arc<str>,
    served: u64,
    /// Its sequences, waiting and running.
    sequences: usize,
}

impl Turns {
    /// Counts a function's new sequence.
    pub(super) fn enter(&mut self, name: &Arc<str>) -> AccountId {
        let least = self.accounts.iter().filter(|account| account.sequences > 0);
        let least = least.map(|account| account.served).min().unwrap_or(0);
        let id = match self.by_name.get(name) {
            Some(id) => *id,
            None => self.open(name.clone()),
        };
        let account = &mut self.accounts[id.0];
        if account.sequences == 0 {
            account.served = account.served.max(least);
        }
        account.sequences += 1;
        id
    }

    /// Counts the end of a function's sequence.
    pub(super) fn leave(&mut self, id: AccountId) {
        self.accounts[id.0].sequences -= 1;
        if self.accounts.iter().all(|account| account.sequences == 0) {
            // No one has waited for anyone.
            self.accounts.clear();
            self.by_name.clear();
        }
    }

    /// Adds tokens that were computed to an account.
    pub(super) fn charge(&mut self, id: AccountId, tokens: usize, is_decode: bool) {
        self.accounts[id.0].served += tokens as u64 * if is_decode { DECODE_COST } else { 1 };
    }

    /// When it is a sequence's turn. The favoured, and who is first of its class, don't yield to who was
    /// served less.
    pub(super) fn of(&self, sequence: &Sequence, is_first: bool) -> Turn {
        let class = sequence.class();
        let yields = class != Class::Favoured && !is_first;
        let served = if yields { self.accounts[sequence.account.0].served } else { 0 };
        Turn { class, served, id: sequence.id }
    }

    fn open(&mut self, name: Arc<str>) -> AccountId {
        let idle = || (0..).zip(&self.accounts).filter(|(_, account)| account.sequences == 0);
        let account = Account { name: name.clone(), served: 0, sequences: 0 };
        let id = match idle().min_by_key(|(_, account)| account.served) {
            Some((index, _)) if idle().count() >= IDLE_MAX => {
                let forgotten = std::mem::replace(&mut self.accounts[index], account);
                self.by_name.remove(&forgotten.name);
                AccountId(index)
            }
            _ => {
                self.accounts.push(account);
                AccountId(self.accounts.len() - 1)
            }
        };
        self.by_name.insert(name, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_comes_back_has_saved_up_nothing() {
        let mut turns = Turns::default();
        let (busy, idle) = (turns.enter(&"busy".into()), turns.enter(&"idle".into()));
        turns.leave(idle);
        turns.charge(busy, 100, false);
        let back = turns.enter(&"idle".into());
        assert_eq!(turns.accounts[back.0].served, 100);
    }

    #[test]
    fn a_function_that_comes_back_at_once_still_owes_what_it_got() {
        let mut turns = Turns::default();
        let (_, greedy) = (turns.enter(&"other".into()), turns.enter(&"greedy".into()));
        turns.charge(greedy, 10, true);
        turns.leave(greedy);
        let back = turns.enter(&"greedy".into());
        assert_eq!(turns.accounts[back.0].served, 10 * DECODE_COST);
    }

    #[test]
    fn accounts_of_functions_that_are_gone_are_bounded() {
        let mut turns = Turns::default();
        let stays = turns.enter(&"stays".into());
        for function in 0..3 * IDLE_MAX {
            let id = turns.enter(&function.to_string().into());
            turns.charge(id, 1, false);
            turns.leave(id);
        }
        assert!(turns.accounts.len() <= IDLE_MAX + 1 && turns.by_name.len() == turns.accounts.len());
        turns.leave(stays);
        assert!(turns.accounts.is_empty() && turns.by_name.is_empty());
    }
}
