//! From Cedar's JSON of a policy. None is what is not read here: the policy is then left to Cedar.
//!
//! Source: the Cedar policy language reference, JSON policy format.

use super::{Expression, Policy, Variable};
use crate::compiled::value::{Attribute, Kind};
use serde_json::Value as Json;

pub fn policy(name: String, json: &Json) -> Option<Policy> {
    let permits = match json.get("effect")?.as_str()? {
        "permit" => true,
        "forbid" => false,
        _ => return None,
    };
    let mut conditions = Vec::new();
    for (variable, of) in [(Variable::Principal, "principal"), (Variable::Resource, "resource")] {
        conditions.extend(scope(variable, json.get(of)?)?);
    }
    for condition in json.get("conditions")?.as_array()? {
        let body = expression(condition.get("body")?)?;
        conditions.push(match condition.get("kind")?.as_str()? {
            "when" => body,
            "unless" => Expression::Not(Box::new(body)),
            _ => return None,
        });
    }
    Some(Policy { name, permits, actions: actions(json.get("action")?)?, conditions })
}

/// Some(None): any action.
fn actions(json: &Json) -> Option<Option<Vec<String>>> {
    let id = |json: &Json| (entity(json)?.0 == Kind::Action).then(|| entity(json).map(|(_, id)| id))?;
    match json.get("op")?.as_str()? {
        "All" => Some(None),
        "==" => Some(Some(vec![id(json.get("entity")?)?])),
        // The schema has no groups of actions, so that being in one is being it.
        "in" => match (json.get("entity"), json.get("entities")) {
            (Some(one), None) => Some(Some(vec![id(one)?])),
            (None, Some(all)) => Some(Some(all.as_array()?.iter().map(id).collect::<Option<_>>()?)),
            _ => None,
        },
        _ => None,
    }
}

fn scope(variable: Variable, json: &Json) -> Option<Option<Expression>> {
    let variable = || Box::new(Expression::Variable(variable));
    let named = |json: &Json| entity(json).map(|(kind, id)| Expression::Entity(kind, id));
    Some(Some(match json.get("op")?.as_str()? {
        "All" => return Some(None),
        "==" => Expression::Equal(Box::new((*variable(), named(json.get("entity")?)?))),
        "in" => Expression::In(Box::new((*variable(), named(json.get("entity")?)?))),
        "is" if json.get("in").is_none() => {
            Expression::Is(variable(), Kind::named(json.get("entity_type")?.as_str()?)?)
        }
        _ => return None,
    }))
}

fn expression(json: &Json) -> Option<Expression> {
    let object = json.as_object()?;
    let (word, of) = object.iter().next().filter(|_| object.len() == 1)?;
    let sides = || Some(Box::new((expression(of.get("left")?)?, expression(of.get("right")?)?)));
    let turned = || Some(Box::new((expression(of.get("right")?)?, expression(of.get("left")?)?)));
    let left = || expression(of.get("left")?).map(Box::new);
    let attribute = || Attribute::named(of.get("attr")?.as_str()?);
    Some(match word.as_str() {
        "Value" => literal(of)?,
        "Var" => Expression::Variable(match of.as_str()? {
            "principal" => Variable::Principal,
            "action" => Variable::Action,
            "resource" => Variable::Resource,
            "context" => Variable::Context,
            _ => return None,
        }),
        "!" => Expression::Not(Box::new(expression(of.get("arg")?)?)),
        "&&" => Expression::And(sides()?),
        "||" => Expression::Or(sides()?),
        "==" => Expression::Equal(sides()?),
        "!=" => Expression::Not(Box::new(Expression::Equal(sides()?))),
        "<" => Expression::Less(true, sides()?),
        "<=" => Expression::Less(false, sides()?),
        ">" => Expression::Less(true, turned()?),
        ">=" => Expression::Less(false, turned()?),
        "in" => Expression::In(sides()?),
        "contains" => Expression::Contains(sides()?),
        "is" if of.get("in").is_none() => Expression::Is(left()?, Kind::named(of.get("entity_type")?.as_str()?)?),
        "has" => Expression::Has(left()?, attribute()?),
        "." => Expression::Get(left()?, attribute()?),
        "if-then-else" => Expression::If(Box::new((
            expression(of.get("if")?)?,
            expression(of.get("then")?)?,
            expression(of.get("else")?)?,
        ))),
        _ => return None,
    })
}

fn literal(json: &Json) -> Option<Expression> {
    Some(match json {
        Json::Bool(truth) => Expression::Bool(*truth),
        Json::Number(number) => Expression::Long(number.as_i64()?),
        Json::String(text) => Expression::Text(text.clone()),
        Json::Object(_) => {
            let (kind, id) = entity(json)?;
            Expression::Entity(kind, id)
        }
        _ => return None,
    })
}

fn entity(json: &Json) -> Option<(Kind, String)> {
    let it = json.get("__entity").unwrap_or(json);
    Some((Kind::named(it.get("type")?.as_str()?)?, it.get("id")?.as_str()?.to_owned()))
}
