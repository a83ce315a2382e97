//! Policies made ready to be evaluated straight over a [`World`], in a tenth of the time that Cedar's own evaluator takes.
//!
//! Not another language: Cedar parses and validates, and whatever is outside the part that is read here, or fails as it runs, is left
//! to Cedar ([`Verdict`] of `None`). Records are always decided again by Cedar, so that each is a check of this file; tests compare
//! the two on every kind of question.

mod reading;
mod value;

use crate::Error;
use crate::question::{Action, Question, Target};
use crate::world::{Actor, Grant, World};
use cedar_policy::PolicySet;
use value::{Attribute, EntityRef, Kind, Set, Value};

/// All policies of a set.
#[derive(Debug)]
pub struct Compiled {
    /// By action and kind of target, the policies whose scope can match: (effect and name, scope and conditions).
    policies: Vec<Policy>,
    /// A policy that is not read here: everything is left to Cedar.
    whole: bool,
}

#[derive(Debug)]
struct Policy {
    name: String,
    permits: bool,
    /// None: any.
    actions: Option<Vec<String>>,
    conditions: Vec<Expression>,
}

/// What is read of Cedar's expressions.
#[derive(Debug)]
enum Expression {
    Bool(bool),
    Long(i64),
    Text(String),
    Entity(Kind, String),
    Variable(Variable),
    Not(Box<Expression>),
    And(Box<(Expression, Expression)>),
    Or(Box<(Expression, Expression)>),
    Equal(Box<(Expression, Expression)>),
    /// Strictly, or not.
    Less(bool, Box<(Expression, Expression)>),
    In(Box<(Expression, Expression)>),
    Contains(Box<(Expression, Expression)>),
    Is(Box<Expression>, Kind),
    Has(Box<Expression>, Attribute),
    Get(Box<Expression>, Attribute),
    If(Box<(Expression, Expression, Expression)>),
}

#[derive(Clone, Copy, Debug)]
enum Variable {
    Principal,
    Action,
    Resource,
    Context,
}

/// Whether it is permitted, and the policies that say so, in the order of their names.
pub type Verdict = (bool, Vec<String>);

/// A request, its names looked up.
pub struct Asked<'a> {
    pub world: &'a World,
    pub question: &'a Question,
    pub actor: &'a Actor,
    pub grant: Option<(&'a str, &'a Grant)>,
    pub hour: i64,
    pub weekday: i64,
}

/// Left to Cedar.
struct Unread;

impl Compiled {
    /// # Errors
    /// Policies that Cedar cannot write as JSON.
    pub fn new(set: &PolicySet) -> Result<Self, Error> {
        let mut compiled = Self { policies: Vec::new(), whole: true };
        for policy in set.policies() {
            let json = policy.to_json().map_err(|error| Error::Syntax(error.to_string()))?;
            match reading::policy(policy.id().to_string(), &json) {
                Some(policy) => compiled.policies.push(policy),
                None => compiled.whole = false,
            }
        }
        compiled.policies.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(compiled)
    }

    /// Whether no policy is left to Cedar.
    #[cfg(test)]
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// None where Cedar has to be asked.
    pub fn verdict(&self, asked: &Asked<'_>) -> Option<Verdict> {
        if !self.whole || !goes_with(asked.question.action, &asked.question.target) {
            return None;
        }
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        for policy in &self.policies {
            let word = asked.question.action.word();
            if policy.actions.as_ref().is_some_and(|actions| !actions.iter().any(|action| action == word)) {
                continue;
            }
            let mut matches = true;
            for condition in &policy.conditions {
                if !asked.truth(condition).ok()? {
                    matches = false;
                    break;
                }
            }
            if matches {
                let into = if policy.permits { &mut permits } else { &mut forbids };
                into.push(policy.name.clone());
            }
        }
        let permitted = forbids.is_empty() && !permits.is_empty();
        Some((permitted, if forbids.is_empty() { permits } else { forbids }))
    }
}

/// As the schema's `appliesTo` says; a test compares them.
pub fn goes_with(action: Action, target: &Target) -> bool {
    use Action::{Adapt, Administer, Audit, Change, Create, Delete, Download, Infer, Operate, Read, Run, Search, Send};
    match action {
        Infer | Search | Adapt | Download | Run => matches!(target, Target::Artifact(_)),
        Read | Create | Change | Delete => matches!(target, Target::Artifact(_) | Target::Workspace(_)),
        Administer | Audit => matches!(target, Target::Workspace(_) | Target::Organisation(_) | Target::Site),
        Operate => matches!(target, Target::Site),
        Send => matches!(target, Target::Destination(_)),
    }
}

impl<'a> Asked<'a> {
    fn truth(&self, of: &'a Expression) -> Result<bool, Unread> {
        match self.value(of)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(Unread),
        }
    }

    fn value(&self, of: &'a Expression) -> Result<Value<'a>, Unread> {
        Ok(match of {
            Expression::Bool(truth) => Value::Bool(*truth),
            Expression::Long(number) => Value::Long(*number),
            Expression::Text(text) => Value::Text(text),
            Expression::Entity(kind, id) => Value::Entity(EntityRef { kind: *kind, id }),
            Expression::Variable(variable) => self.variable(*variable),
            Expression::Not(it) => Value::Bool(!self.truth(it)?),
            Expression::And(sides) => Value::Bool(self.truth(&sides.0)? && self.truth(&sides.1)?),
            Expression::Or(sides) => Value::Bool(self.truth(&sides.0)? || self.truth(&sides.1)?),
            Expression::Equal(sides) => {
                Value::Bool(self.value(&sides.0)?.equals(&self.value(&sides.1)?).ok_or(Unread)?)
            }
            Expression::Less(strictly, sides) => match (self.value(&sides.0)?, self.value(&sides.1)?) {
                (Value::Long(left), Value::Long(right)) => Value::Bool(left < right || (!strictly && left == right)),
                _ => return Err(Unread),
            },
            Expression::In(sides) => self.is_in(self.value(&sides.0)?, &self.value(&sides.1)?)?,
            Expression::Contains(sides) => match (self.value(&sides.0)?, self.value(&sides.1)?) {
                (Value::Set(set), value) => Value::Bool(set.contains(&value).ok_or(Unread)?),
                _ => return Err(Unread),
            },
            Expression::Is(it, kind) => match self.value(it)? {
                Value::Entity(entity) => Value::Bool(entity.kind == *kind),
                _ => return Err(Unread),
            },
            Expression::Has(it, attribute) => match self.value(it)? {
                Value::Circumstances => Value::Bool(self.circumstance(*attribute).is_some()),
                // The schema gives entities no attribute that may be missing; those that do not exist are Cedar's.
                _ => return Err(Unread),
            },
            Expression::Get(it, attribute) => match self.value(it)? {
                Value::Circumstances => self.circumstance(*attribute).ok_or(Unread)?,
                Value::Label(label) => value::of_label(label, *attribute).ok_or(Unread)?,
                Value::Entity(entity) => self.attribute(entity, *attribute).ok_or(Unread)?,
                _ => return Err(Unread),
            },
            Expression::If(of) => self.value(if self.truth(&of.0)? { &of.1 } else { &of.2 })?,
        })
    }

    fn variable(&self, variable: Variable) -> Value<'a> {
        let question = self.question;
        Value::Entity(match variable {
            Variable::Principal => EntityRef { kind: Kind::of_actor(self.actor.kind), id: &question.actor },
            Variable::Action => EntityRef { kind: Kind::Action, id: question.action.word() },
            Variable::Resource => match &question.target {
                Target::Artifact(id) => EntityRef { kind: Kind::Artifact, id },
                Target::Workspace(id) => EntityRef { kind: Kind::Workspace, id },
                Target::Organisation(id) => EntityRef { kind: Kind::Organisation, id },
                Target::Destination(id) => EntityRef { kind: Kind::Destination, id },
                Target::Site => EntityRef { kind: Kind::Site, id: &self.world.site.id },
            },
            Variable::Context => return Value::Circumstances,
        })
    }

    fn circumstance(&self, attribute: Attribute) -> Option<Value<'a>> {
        let question = self.question;
        Some(match attribute {
            Attribute::Site => Value::Entity(EntityRef { kind: Kind::Site, id: &self.world.site.id }),
            Attribute::Action => Value::Text(question.action.word()),
            Attribute::Purpose => Value::Text(&question.purpose),
            Attribute::Class => Value::Long(question.class as i64),
            Attribute::Hour => Value::Long(self.hour),
            Attribute::Weekday => Value::Long(self.weekday),
            Attribute::Grant => Value::Entity(EntityRef { kind: Kind::Grant, id: self.grant?.0 }),
            Attribute::Label => Value::Label(question.label.as_deref()?),
            _ => return None,
        })
    }

    fn attribute(&self, of: EntityRef<'a>, attribute: Attribute) -> Option<Value<'a>> {
        let world = self.world;
        match of.kind {
            Kind::Site => value::of_site(&world.site, attribute),
            Kind::Organisation => value::of_organisation(world.organisations.get(of.id)?, attribute),
            Kind::Workspace => value::of_workspace(world.workspaces.get(of.id)?, attribute),
            Kind::Artifact => value::of_artifact(world.artifacts.get(of.id)?, attribute),
            Kind::Destination => value::of_destination(world.destinations.get(of.id)?, attribute),
            Kind::Key | Kind::User | Kind::Agent => {
                let actor = if of.id == &*self.question.actor { self.actor } else { world.actors.get(of.id)? };
                if Kind::of_actor(actor.kind) != of.kind {
                    return None;
                }
                value::of_actor(actor, &world.workspaces.get(&actor.workspace)?.organisation, attribute)
            }
            Kind::Grant => {
                let grant = self.grant.filter(|(id, _)| *id == of.id).map(|(_, grant)| grant);
                value::of_grant(grant.or_else(|| world.grants.get(of.id))?, attribute)
            }
            Kind::Action => None,
        }
    }

    fn is_in(&self, entity: Value<'a>, of: &Value<'a>) -> Result<Value<'a>, Unread> {
        let Value::Entity(entity) = entity else { return Err(Unread) };
        let mut at = Some(entity);
        while let Some(entity) = at {
            let here = match of {
                Value::Entity(other) => entity == *other,
                Value::Set(Set::Entities(..) | Set::Nothing) => match of {
                    Value::Set(set) => set.contains(&Value::Entity(entity)).ok_or(Unread)?,
                    _ => false,
                },
                _ => return Err(Unread),
            };
            if here {
                return Ok(Value::Bool(true));
            }
            at = self.parent(entity);
        }
        Ok(Value::Bool(false))
    }

    fn parent(&self, of: EntityRef<'a>) -> Option<EntityRef<'a>> {
        let world = self.world;
        let (kind, id) = match of.kind {
            Kind::Organisation => (Kind::Site, world.organisations.get(of.id).map(|_| &world.site.id)?),
            Kind::Workspace => (Kind::Organisation, &world.workspaces.get(of.id)?.organisation),
            Kind::Key | Kind::User | Kind::Agent => {
                let actor = world.actors.get(of.id).filter(|actor| Kind::of_actor(actor.kind) == of.kind)?;
                (Kind::Workspace, &actor.workspace)
            }
            _ => return None,
        };
        Some(EntityRef { kind, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policies;

    #[test]
    fn the_policies_of_every_site_are_read_whole() {
        assert!(Policies::built_in().unwrap().compiled.is_whole());
        let like = r#"@id("x") forbid (principal, action, resource) when { context.purpose like "re*" };"#;
        assert!(!Policies::with(&[like]).unwrap().compiled.is_whole());
    }

    #[test]
    fn actions_go_with_the_targets_that_the_schema_says() {
        let schema = crate::policies::schema().unwrap();
        let targets = [
            ("Artifact", Target::Artifact("".into())),
            ("Workspace", Target::Workspace("".into())),
            ("Organisation", Target::Organisation("".into())),
            ("Destination", Target::Destination("".into())),
            ("Site", Target::Site),
        ];
        for action in Action::ALL {
            let uid = format!("Action::\"{}\"", action.word()).parse().unwrap();
            let applies: Vec<String> = schema.resources_for_action(&uid).unwrap().map(ToString::to_string).collect();
            for (name, target) in &targets {
                assert_eq!(goes_with(*action, target), applies.iter().any(|kind| kind == name), "{action:?} {name}");
            }
        }
    }
}
