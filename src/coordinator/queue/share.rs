//! What projects have had of the mesh: virtual time, and what a task will take.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-Time Fair Queuing", IEEE/ACM ToN 5(5), 1997), with CPU time for
//! packets: a project's virtual time is the CPU time it was charged over the weight it was charged at, and the project
//! with the least of it is next.

use std::time::Duration;

use crate::types::Priority;

/// Virtual time: nanoseconds of CPU at the weight of priority 0.
pub type VirtualTime = u128;

/// The weight of priority 0. A power of two, so that the weights of others are exact to a millionth.
const UNIT: u64 = 1 << 20;

/// The least that a task is charged: choosing, sending and recording it takes the mesh about as long, and work that is
/// charged nothing would always be first.
pub const LEAST_CHARGE: Duration = Duration::from_millis(1);

/// The weight of a priority: `UNIT * 1.25^priority`.
const fn weight(priority: Priority) -> u64 {
    let steps = priority.get().unsigned_abs() as u32;
    match priority.get() {
        0.. => UNIT * 5_u64.pow(steps) / 4_u64.pow(steps),
        _ => UNIT * 4_u64.pow(steps) / 5_u64.pow(steps),
    }
}

/// What CPU time costs at a priority.
pub fn charge(cpu: Duration, priority: Priority) -> VirtualTime {
    cpu.as_nanos() * u128::from(UNIT) / u128::from(weight(priority))
}

/// One charge, to be corrected when the task has ended.
#[derive(Debug, Clone, Copy)]
pub struct Charged {
    amount: VirtualTime,
    era: u64,
}

/// One project's virtual time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Account {
    time: VirtualTime,
    /// Counts how often it was moved up.
    era: u64,
    /// How far it was moved the last time, less what charges of before have grown by since.
    slack: i128,
}

impl Account {
    /// Its virtual time.
    pub const fn time(&self) -> VirtualTime {
        self.time
    }

    /// Moves it up to the clock if it is behind: it did not ask for its share, or could not use it, and must not get it
    /// later at the cost of others.
    pub fn move_up(&mut self, clock: VirtualTime) {
        if self.time < clock {
            self.slack = i128::try_from(clock - self.time).unwrap_or(i128::MAX);
            self.time = clock;
            self.era += 1;
        }
    }

    /// Charges it for a task that starts.
    pub fn charge(&mut self, amount: VirtualTime) -> Charged {
        self.time = self.time.saturating_add(amount);
        Charged { amount, era: self.era }
    }

    /// Replaces a charge by what the task took.
    pub fn correct(&mut self, charged: Charged, taken: VirtualTime) {
        if charged.era == self.era {
            self.time = self.time.saturating_sub(charged.amount).saturating_add(taken);
            return;
        }
        // It was moved up since: that stands for all it had been charged before, unless that becomes more.
        let counted = |slack: i128| u128::try_from(slack.saturating_neg()).unwrap_or(0);
        let before = counted(self.slack);
        let signed = |amount: VirtualTime| i128::try_from(amount).unwrap_or(i128::MAX);
        self.slack = self.slack.saturating_sub(signed(taken).saturating_sub(signed(charged.amount)));
        self.time = self.time.saturating_sub(before).saturating_add(counted(self.slack));
    }
}

/// CPU time for a unit of cost, learnt from the tasks that ended.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    nanos: u128,
    cost: u128,
    longest: Duration,
}

impl Pace {
    /// Knows only that costs are in hundreds of nanoseconds of the machine that they were measured on, and believes it
    /// as much as a second of experience. No estimate is over `longest`: then a task is ended.
    pub const fn new(longest: Duration) -> Self {
        Self { nanos: 1_000_000_000, cost: 10_000_000, longest }
    }

    /// The CPU time that a task of this cost is expected to take.
    pub fn estimate(&self, cost: u64) -> Duration {
        let nanos = u128::from(cost).saturating_mul(self.nanos) / self.cost.max(1);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(self.longest).max(LEAST_CHARGE)
    }

    /// Takes in what a task took. Older experience counts less with each quarter of an hour of CPU time.
    pub fn learn(&mut self, cost: u64, taken: Duration) {
        const MEMORY: u128 = Duration::from_secs(900).as_nanos();
        // Costs are a node's word; one beyond all reason would spoil the estimates of the others.
        if self.estimate(cost) >= self.longest {
            return;
        }
        self.nanos += taken.as_nanos();
        self.cost += u128::from(cost);
        if self.nanos > MEMORY || self.cost > MEMORY {
            (self.nanos, self.cost) = (self.nanos.div_ceil(2), self.cost.div_ceil(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: i32) -> Priority {
        Priority::new(number).expect("on the scale")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_step_of_priority_is_a_quarter_more() {
        for number in -10..10 {
            let (low, high) = (weight(at(number)), weight(at(number + 1)));
            assert!((high as f64 / low as f64 - 1.25).abs() < 1e-4, "{number}: {low} {high}");
        }
        assert_eq!(charge(SECOND, at(0)), SECOND.as_nanos());
        assert!(charge(LEAST_CHARGE, at(10)) > 0);
    }

    #[test]
    fn a_corrected_charge_is_as_if_it_had_been_right_from_the_start() {
        for (estimate, taken) in [(10, 3), (3, 10), (5, 5)] {
            let mut account = Account::default();
            let charged = account.charge(estimate);
            account.charge(7);
            account.correct(charged, taken);
            assert_eq!(account.time(), taken + 7);
        }
    }

    #[test]
    fn a_correction_of_before_a_move_up_counts_only_where_it_goes_beyond() {
        for (estimate, taken, expected) in [(10, 3, 50), (10, 49, 50), (10, 51, 51), (10, 80, 80)] {
            let mut account = Account::default();
            let charged = account.charge(estimate);
            account.move_up(50);
            account.correct(charged, taken);
            assert_eq!(account.time(), expected, "as if {taken} had been charged before it was moved to 50");
        }
        let mut account = Account::default();
        let (first, second) = (account.charge(10), account.charge(10));
        account.move_up(50);
        account.correct(first, 60);
        account.correct(second, 4);
        assert_eq!(account.time(), 64, "one correction takes back what the other added");
        account.correct(Charged { amount: 60, era: 0 }, 0);
        assert_eq!(account.time(), 50);
    }

    #[test]
    fn estimates_follow_what_tasks_took_and_are_bounded() {
        let mut pace = Pace::new(Duration::from_secs(600));
        assert_eq!(pace.estimate(10_000_000), SECOND);
        for _ in 0..2000 {
            pace.learn(10_000_000, SECOND * 3);
        }
        assert!(pace.estimate(10_000_000).abs_diff(SECOND * 3) < SECOND / 100);
        pace.learn(u64::MAX, Duration::ZERO);
        assert!(pace.estimate(10_000_000).abs_diff(SECOND * 3) < SECOND / 100, "a lie changes nothing");
        assert_eq!(pace.estimate(u64::MAX), Duration::from_secs(600));
        assert_eq!(pace.estimate(0), LEAST_CHARGE);
    }
}
