//! What was measured: figures of ours, and beside them somebody else's.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What, as a title above rows of a kind.
    pub(crate) group: String,
    /// What.
    pub(crate) name: String,
    /// Of what the figures are so many.
    pub(crate) unit: String,
    /// Whose figures stand beside ours; empty where nobody's do.
    pub(crate) beside: String,
    /// One figure a run.
    pub(crate) ours: Vec<f64>,
    /// The same of whoever stands beside.
    pub(crate) theirs: Vec<f64>,
    /// What ours is to be.
    pub(crate) goal: Option<Goal>,
    /// Whether more is better.
    #[serde(default)]
    pub(crate) more_is_better: bool,
}

/// What a figure is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// At most this part of the other's.
    RatioAtMost(f64),
    /// At least this part of the other's.
    RatioAtLeast(f64),
    /// No more than this.
    AtMost(f64),
}

impl Row {
    /// A row whose figures are to be as low as can be.
    pub(crate) fn new(group: &str, name: impl Into<String>, unit: &str) -> Self {
        Self {
            group: group.into(),
            name: name.into(),
            unit: unit.into(),
            beside: String::new(),
            ours: Vec::new(),
            theirs: Vec::new(),
            goal: None,
            more_is_better: false,
        }
    }

    /// Our figures.
    pub(crate) fn ours(mut self, ours: Vec<f64>) -> Self {
        self.ours = rounded(ours);
        self
    }

    /// Theirs.
    pub(crate) fn beside(mut self, who: &str, theirs: Vec<f64>) -> Self {
        (self.beside, self.theirs) = (who.into(), rounded(theirs));
        self
    }

    /// What it is to be.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// More is better.
    pub(crate) fn more_is_better(mut self) -> Self {
        self.more_is_better = true;
        self
    }

    /// Our figure as a part of theirs; none where there is nothing to compare with. Figures that were taken by turns are
    /// compared pair by pair, and the middle one counts: a machine whose speed changes is the same for both of a pair.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let ratio = median(&self.ratios());
        ratio.is_finite().then_some(ratio)
    }

    /// Our figures as parts of theirs: pair by pair, or, where there are not as many of them, of their median. Two that
    /// are nothing are equal.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let middle = median(&self.theirs);
        let paired = self.ours.len() == self.theirs.len();
        let pair = |(place, ours): (usize, &f64)| {
            let theirs = if paired { self.theirs[place] } else { middle };
            if *ours == theirs { 1.0 } else { ours / theirs }
        };
        self.ours.iter().enumerate().map(pair).filter(|ratio| !ratio.is_nan()).collect()
    }

    /// Where the middle of all such pairs' ratios is likely to be; none where fewer than two were taken by turns.
    pub(crate) fn interval(&self) -> Option<Interval> {
        (self.ours.len() == self.theirs.len()).then(|| Interval::of_median(&self.ratios())).flatten()
    }

    /// Whether the goal is reached; none without one. What was not measured has reached none.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        let holds = |value: Option<f64>, holds: &dyn Fn(f64) -> bool| value.is_some_and(holds);
        Some(match self.goal? {
            Goal::RatioAtMost(limit) => holds(self.ratio(), &|ratio| ratio <= limit),
            Goal::RatioAtLeast(limit) => holds(self.ratio(), &|ratio| ratio >= limit),
            Goal::AtMost(limit) => median(&self.ours) <= limit,
        })
    }

    /// The row with all that follows from its figures.
    pub(crate) fn json(&self) -> Value {
        let spread = |values: &[f64]| {
            let (low, high) = spread(values);
            json!({"median": median(values), "lowest": low, "highest": high})
        };
        let mut value = json!(self);
        value["ours_spread"] = spread(&self.ours);
        value["theirs_spread"] = spread(&self.theirs);
        value["ratio"] = json!(self.ratio());
        value["ratio_interval"] = json!(self.interval());
        value["goal_reached"] = json!(self.is_reached());
        value
    }
}

/// Two of the measured values, between which the median of all that could have been measured lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// In what part of all such measurements it does.
    pub(crate) confidence: f64,
}

impl Interval {
    /// How often the median is to be in the interval, where there are values enough for that.
    const CONFIDENCE: f64 = 0.95;

    /// The narrowest such interval that leaves out as many values below as above; of five values or less the lowest
    /// and the highest, which reach it not quite. It supposes nothing of how the values are distributed: each is as
    /// likely below the median as above, so that how many are below is what a coin thrown as often would give.
    fn of_median(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        // That none, then one, two... of so many throws are heads; and that no more are.
        let mut exactly = 0.5f64.powi(i32::try_from(count).ok()?);
        let mut at_most = exactly;
        let (mut left_out, mut missed) = (0, at_most);
        for heads in 1..count / 2 {
            exactly *= (count + 1 - heads) as f64 / heads as f64;
            at_most += exactly;
            if 2.0 * at_most > 1.0 - Self::CONFIDENCE {
                break;
            }
            (left_out, missed) = (heads, at_most);
        }
        let (low, high) = (*sorted.get(left_out)?, *sorted.get(count - 1 - left_out)?);
        (count > 1).then_some(Self { low, high, confidence: 1.0 - 2.0 * missed })
    }
}

/// To six digits behind the point: what is further behind was never measured.
fn rounded(mut values: Vec<f64>) -> Vec<f64> {
    values.iter_mut().for_each(|value| *value = (*value * 1e6).round() / 1e6);
    values
}

/// The middle value; of an even number the mean of the middle two. Of none it is no number.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The lowest and the highest value.
pub(crate) fn spread(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().reduce(f64::min);
    let high = values.iter().copied().reduce(f64::max);
    (low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN))
}

/// The value that this part of all are below, by a straight line between the two next to it.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    // Both may be infinite.
    if below == above { below } else { below + (above - below) * place.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::new("group", "name", "ns").ours(vec![1.0, 3.0, 2.0]).beside("other", vec![4.0, 4.0])
    }

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert_eq!((median(&[9.0, 1.0, 3.0]), median(&[4.0, 1.0, 3.0, 2.0])), (3.0, 2.5));
    }

    #[test]
    fn the_ratio_of_figures_taken_by_turns_is_the_middle_one_of_the_pairs() {
        let row = row().beside("other", vec![2.0, 3.0, 8.0]);
        assert_eq!(row.ratio(), Some(0.5));
    }

    #[test]
    fn what_is_more_than_nothing_counts_as_worse_and_nothing_beside_nothing_as_equal() {
        let row = |ours: [f64; 3]| row().ours(ours.into()).beside("other", vec![0.0, 0.0, 2.0]).ratio();
        assert_eq!([row([0.0, 0.0, 1.0]), row([3.0, 3.0, 0.0])], [Some(1.0), None]);
    }

    #[test]
    fn unequal_numbers_of_figures_are_compared_with_the_median() {
        assert_eq!(row().ratio(), Some(0.5));
    }

    #[test]
    fn nothing_beside_is_no_ratio_and_reaches_no_goal() {
        let alone = row().beside("", Vec::new()).goal(Goal::RatioAtMost(9.0));
        assert_eq!((alone.ratio(), alone.is_reached()), (None, Some(false)));
    }

    #[test]
    fn goals_are_held_to_the_medians() {
        let reached = |goal| row().goal(goal).is_reached();
        assert_eq!(reached(Goal::RatioAtMost(0.5)), Some(true));
        assert_eq!(reached(Goal::RatioAtLeast(0.51)), Some(false));
        assert_eq!(reached(Goal::AtMost(1.9)), Some(false));
    }

    /// The ranks in the tables of the sign test: of 6 values the first and the sixth, of 10 the second and the ninth, of
    /// 25 the eighth and the eighteenth, of 40 the 14th and the 27th.
    #[test]
    fn the_interval_of_a_median_is_that_of_the_sign_test() {
        let ranks = |count: u32| {
            let interval = Interval::of_median(&(1..=count).rev().map(f64::from).collect::<Vec<_>>());
            interval.map(|it| (it.low, it.high, (it.confidence * 1e4).round() / 1e4))
        };
        let expected = [(1.0, 6.0, 0.9688), (2.0, 9.0, 0.9785), (8.0, 18.0, 0.9567), (14.0, 27.0, 0.9615)];
        assert_eq!([6, 10, 25, 40].map(ranks), expected.map(Some));
    }

    #[test]
    fn of_few_values_the_interval_is_all_of_them_and_says_how_little_that_is() {
        let interval =
            |values: &[f64]| Interval::of_median(values).map(|it| (it.low, it.high, it.confidence));
        assert_eq!(interval(&[3.0, 1.0, 2.0, 5.0, 4.0]), Some((1.0, 5.0, 0.9375)));
        assert_eq!([interval(&[1.0]), interval(&[])], [None, None]);
    }

    #[test]
    fn the_interval_is_of_the_ratios_of_pairs() {
        let row = row().beside("other", vec![2.0, 3.0, 8.0]);
        assert_eq!(row.json()["ratio_interval"], json!({"low": 0.25, "high": 1.0, "confidence": 0.75}));
        assert_eq!(super::tests::row().interval(), None);
    }

    #[test]
    fn a_row_survives_being_kept() {
        let kept = serde_json::from_value::<Row>(row().json());
        assert_eq!(kept.ok(), Some(row()));
    }
}
