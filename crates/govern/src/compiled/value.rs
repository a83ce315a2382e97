//! What expressions come to, borrowed from the world, and the attributes of the schema.

use crate::question::{Action, Label};
use crate::world::{Actor, ActorKind, Artifact, Destination, Grant, Organisation, Site, Workspace};
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Bool(bool),
    Long(i64),
    Text(&'a str),
    Entity(EntityRef<'a>),
    Set(Set<'a>),
    Label(&'a Label),
    /// The context.
    Circumstances,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntityRef<'a> {
    pub kind: Kind,
    pub id: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub enum Set<'a> {
    Nothing,
    Texts(&'a BTreeSet<String>),
    Entities(Kind, &'a BTreeSet<String>),
    /// Their words.
    Actions(&'a BTreeSet<Action>),
}

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($name:ident $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($name,)* }

        impl $type {
            pub fn named(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$name),)* _ => None }
            }
        }
    };
}

named! {
    /// Of entities, as the schema has them.
    Kind {
        Site "Site", Organisation "Organisation", Workspace "Workspace", Key "Key", User "User", Agent "Agent",
        Artifact "Artifact", Destination "Destination", Grant "Grant", Action "Action",
    }
}

named! {
    /// Of entities, labels and the context, as the schema has them.
    Attribute {
        Action "action", Actions "actions", AnyPurpose "any_purpose", Anywhere "anywhere", Artifacts "artifacts",
        Assurance "assurance", Can "can", Class "class", Clearance "clearance", Countries "countries", Country "country",
        EnergyGrade "energy_grade", Everyone "everyone", GramsPerKwh "grams_per_kwh", Grant "grant", Hour "hour", Kind "kind",
        Label "label", Operator "operator", OperatorCountry "operator_country", Organisation "organisation",
        Organisations "organisations", Owner "owner", Purpose "purpose", Purposes "purposes", Site "site", Weekday "weekday",
        Workspace "workspace", Workspaces "workspaces",
    }
}

impl Kind {
    pub fn of_actor(kind: ActorKind) -> Self {
        match kind {
            ActorKind::Key => Self::Key,
            ActorKind::User => Self::User,
            ActorKind::Agent => Self::Agent,
        }
    }
}

impl Value<'_> {
    /// None of what is not compared here.
    pub fn equals(&self, other: &Value<'_>) -> Option<bool> {
        Some(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Long(a), Value::Long(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Entity(a), Value::Entity(b)) => a == b,
            _ => return None,
        })
    }
}

impl Set<'_> {
    /// None of what is not looked for here.
    pub fn contains(&self, value: &Value<'_>) -> Option<bool> {
        Some(match (self, value) {
            (Set::Nothing, _) => false,
            (Set::Texts(all), Value::Text(text)) => all.contains(*text),
            (Set::Actions(all), Value::Text(text)) => all.iter().any(|action| action.word() == *text),
            (Set::Entities(kind, all), Value::Entity(entity)) => entity.kind == *kind && all.contains(entity.id),
            _ => return None,
        })
    }
}

pub fn of_site(it: &Site, attribute: Attribute) -> Option<Value<'_>> {
    Some(match attribute {
        Attribute::Operator => organisation(&it.operator),
        Attribute::Country => Value::Text(&it.country),
        Attribute::OperatorCountry => Value::Text(&it.operator_country),
        Attribute::Assurance => Value::Long(i64::from(it.assurance)),
        Attribute::EnergyGrade => Value::Text(&it.energy_grade),
        Attribute::GramsPerKwh => Value::Long(i64::from(it.grams_per_kwh)),
        _ => return None,
    })
}

pub fn of_organisation(it: &Organisation, attribute: Attribute) -> Option<Value<'_>> {
    (attribute == Attribute::Country).then_some(Value::Text(&it.country))
}

pub fn of_workspace(it: &Workspace, attribute: Attribute) -> Option<Value<'_>> {
    (attribute == Attribute::Organisation).then(|| organisation(&it.organisation))
}

pub fn of_actor<'a>(it: &'a Actor, its: &'a str, attribute: Attribute) -> Option<Value<'a>> {
    Some(match attribute {
        Attribute::Organisation => organisation(its),
        Attribute::Workspace => Value::Entity(EntityRef { kind: Kind::Workspace, id: &it.workspace }),
        Attribute::Can => Value::Set(Set::Actions(&it.can)),
        Attribute::Class => Value::Long(it.class as i64),
        _ => return None,
    })
}

pub fn of_artifact(it: &Artifact, attribute: Attribute) -> Option<Value<'_>> {
    Some(match attribute {
        Attribute::Owner => organisation(&it.owner),
        Attribute::Kind => Value::Text(&it.kind),
        Attribute::Class => Value::Long(it.class as i64),
        Attribute::Clearance => Value::Long(it.clearance as i64),
        Attribute::Country => Value::Text(&it.country),
        _ => return None,
    })
}

pub fn of_destination(it: &Destination, attribute: Attribute) -> Option<Value<'_>> {
    Some(match attribute {
        Attribute::Country => Value::Text(&it.country),
        Attribute::Clearance => Value::Long(it.clearance as i64),
        _ => return None,
    })
}

pub fn of_grant(it: &Grant, attribute: Attribute) -> Option<Value<'_>> {
    Some(match attribute {
        Attribute::Everyone => Value::Bool(it.everyone),
        Attribute::Organisations => Value::Set(Set::Entities(Kind::Organisation, &it.organisations)),
        Attribute::Workspaces => Value::Set(Set::Entities(Kind::Workspace, &it.workspaces)),
        Attribute::Artifacts => Value::Set(Set::Entities(Kind::Artifact, &it.artifacts)),
        Attribute::Actions => Value::Set(Set::Actions(&it.actions)),
        Attribute::AnyPurpose => Value::Bool(it.purposes.is_none()),
        Attribute::Purposes => texts(it.purposes.as_ref()),
        Attribute::Class => Value::Long(it.class as i64),
        Attribute::Anywhere => Value::Bool(it.countries.is_none()),
        Attribute::Countries => texts(it.countries.as_ref()),
        Attribute::Assurance => Value::Long(i64::from(it.assurance)),
        _ => return None,
    })
}

pub fn of_label(it: &Label, attribute: Attribute) -> Option<Value<'_>> {
    Some(match attribute {
        Attribute::Anywhere => Value::Bool(it.countries.is_none()),
        Attribute::Countries => texts(it.countries.as_ref()),
        Attribute::AnyPurpose => Value::Bool(it.purposes.is_none()),
        Attribute::Purposes => texts(it.purposes.as_ref()),
        _ => return None,
    })
}

fn organisation(id: &str) -> Value<'_> {
    Value::Entity(EntityRef { kind: Kind::Organisation, id })
}

fn texts(of: Option<&BTreeSet<String>>) -> Value<'_> {
    Value::Set(of.map_or(Set::Nothing, Set::Texts))
}
