//! What a person can do about an error.

/// An error that knows a way out.
pub(crate) trait Help {
    /// What to do, as one sentence that follows `help:`; none if nobody can do anything.
    fn help(&self) -> Option<String>;
}
