//! What a user gave and we cannot use. Apart from the configuration, because the
//! flags below it make mistakes too.

/// Something that the user gave and that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong, and where.
    pub what: String,
    /// What to do about it.
    pub help: String,
}
