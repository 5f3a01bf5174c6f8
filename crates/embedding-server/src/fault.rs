//! What can go wrong with an answer.

/// A fault that a server is told to have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Another status, with a header line such as `retry-after: 1` or none, and a message.
    Status(u16, &'static str),
    /// The connection stays open, and nothing comes.
    Hang,
    /// The answer comes one byte at a time, each after a tenth of a second.
    Drip,
    /// The connection closes in the middle of the body.
    Truncated,
    /// The body is whole as a message of HTTP, and breaks off as JSON.
    HalfJson,
    /// The connection is reset before there is an answer.
    Reset,
    /// The body never ends.
    Huge,
    /// One vector less than there are texts.
    TooFew,
    /// One vector more than there are texts.
    TooMany,
    /// The last vector is one number shorter.
    OneShort,
    /// All vectors are one number shorter.
    AllShort,
    /// The last vector has null for its first number.
    Null,
    /// The last vector has NaN for its first number, which is not JSON.
    NotANumber,
    /// All vectors have the index 0.
    SameIndex,
    /// The vectors come last first, with the right index each. This is allowed.
    Shuffled,
    /// Not JSON at all.
    Nonsense,
}
