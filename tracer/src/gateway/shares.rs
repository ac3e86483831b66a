//! How much of what there is for all one may have.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Places, so many for each.
#[derive(Debug)]
pub struct Shares {
    each: usize,
    taken: Mutex<BTreeMap<String, usize>>,
}

/// A place; given back when it goes.
#[derive(Debug)]
pub struct Share {
    of: Arc<Shares>,
    who: String,
}

impl Shares {
    #[must_use]
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self {
            each,
            taken: Mutex::default(),
        })
    }

    /// A place for `who`; `None` where he has all that he may have.
    #[must_use]
    pub fn take(self: &Arc<Self>, who: String) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(who.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Share {
            of: Arc::clone(self),
            who,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cannot_take_all_and_leaves_nothing_behind() {
        let shares = Shares::new(2);
        let take = |who: &str| shares.take(who.to_owned());
        let (one, two) = (take("a"), take("a"));
        assert!(one.is_some() && two.is_some() && take("a").is_none());
        assert!(take("b").is_some());
        drop(one);
        assert!(take("a").is_some());
        drop(two);
        assert!(shares.taken.lock().expect("a lock").is_empty());
    }
}
