//! What the image is told to do, by its command line: `seed=` and `steps=` for the hostile guest.

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Orders {
    /// What the hostile guest's accesses are made up from.
    pub(crate) seed: u64,
    /// How many things it does.
    pub(crate) steps: u64,
    /// To call a function until the stack overflows: `overflow`.
    pub(crate) overflow: bool,
}

/// Why nobody knows what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum OrdersError<'a> {
    /// A word means nothing, or has no number.
    #[error("what is '{0}'?")]
    Word(&'a str),
    /// A number is missing.
    #[error("there is no {0}")]
    Missing(&'static str),
}

impl Orders {
    /// Parses a command line.
    pub(crate) fn parse(text: &str) -> Result<Self, OrdersError<'_>> {
        let (mut seed, mut steps, mut overflow) = (None, None, false);
        for word in text.split_ascii_whitespace() {
            let number = |value: &str| value.parse().map_err(|_| OrdersError::Word(word));
            match word.split_once('=') {
                Some(("seed", value)) => seed = Some(number(value)?),
                Some(("steps", value)) => steps = Some(number(value)?),
                None if word == "overflow" => overflow = true,
                _ => return Err(OrdersError::Word(word)),
            }
        }
        let seed = seed.ok_or(OrdersError::Missing("seed="))?;
        Ok(Self { seed, steps: steps.ok_or(OrdersError::Missing("steps="))?, overflow })
    }
}
