//! What can be wrong with policies and with what they are asked about.

/// Why policies or a world were refused, or a question could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the policies cannot be read: {0}")]
    Syntax(String),
    #[error("the policies do not fit the schema: {0}")]
    Invalid(String),
    #[error("a policy has no name: write @id(\"name\") above `{0}`")]
    Unnamed(String),
    #[error("two policies are called `{0}`; the second one may be in another file")]
    Twice(String),
    #[error("policies with slots are not used here; write the values out: `{0}`")]
    Template(String),
    #[error("{what} `{id}` names {other} `{missing}`, which does not exist")]
    Dangling { what: &'static str, id: String, other: &'static str, missing: String },
    #[error("the world cannot be given to the policies: {0}")]
    World(String),
    #[error("the policies could not be evaluated: {0}")]
    Evaluation(String),
    #[error("it was made under other policies, those of SHA-256 {recorded}; name these to make it again")]
    OtherPolicies { recorded: String },
}
