//! A [`World`] as Cedar reads it.

use crate::question::{Label, Target};
use crate::world::{Actor, ActorKind, Class, World};
use crate::{Error, policies};
use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression as Value};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The types of the schema, read once.
#[derive(Clone, Debug)]
pub struct Types {
    site: EntityTypeName,
    organisation: EntityTypeName,
    workspace: EntityTypeName,
    key: EntityTypeName,
    user: EntityTypeName,
    agent: EntityTypeName,
    artifact: EntityTypeName,
    destination: EntityTypeName,
    grant: EntityTypeName,
    action: EntityTypeName,
}

impl Types {
    pub fn new() -> Result<Self, Error> {
        let named = |name: &str| name.parse().map_err(|error| Error::World(format!("{error}")));
        Ok(Self {
            site: named("Site")?,
            organisation: named("Organisation")?,
            workspace: named("Workspace")?,
            key: named("Key")?,
            user: named("User")?,
            agent: named("Agent")?,
            artifact: named("Artifact")?,
            destination: named("Destination")?,
            grant: named("Grant")?,
            action: named("Action")?,
        })
    }

    pub fn site(&self, id: &str) -> EntityUid {
        uid(&self.site, id)
    }

    pub fn action(&self, word: &str) -> EntityUid {
        uid(&self.action, word)
    }

    pub fn grant(&self, id: &str) -> EntityUid {
        uid(&self.grant, id)
    }

    pub fn actor(&self, kind: ActorKind, id: &str) -> EntityUid {
        let of = match kind {
            ActorKind::Key => &self.key,
            ActorKind::User => &self.user,
            ActorKind::Agent => &self.agent,
        };
        uid(of, id)
    }

    pub fn target(&self, target: &Target, site: &str) -> EntityUid {
        match target {
            Target::Artifact(id) => uid(&self.artifact, id),
            Target::Workspace(id) => uid(&self.workspace, id),
            Target::Organisation(id) => uid(&self.organisation, id),
            Target::Destination(id) => uid(&self.destination, id),
            Target::Site => self.site(site),
        }
    }

    /// All of `world`, checked against the schema.
    pub fn entities(&self, world: &World) -> Result<Entities, Error> {
        let mut all = Vec::new();
        let mut add = |uid: EntityUid, attributes: Vec<(&str, Value)>, parents: Vec<EntityUid>| {
            let attributes: HashMap<String, Value> =
                attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let parents: HashSet<EntityUid> = parents.into_iter().collect();
            all.push(Entity::new(uid, attributes, parents).map_err(|error| Error::World(error.to_string()))?);
            Ok::<(), Error>(())
        };
        let site = &world.site;
        add(
            self.site(&site.id),
            vec![
                ("operator", entity(uid(&self.organisation, &site.operator))),
                ("country", text(&site.country)),
                ("operator_country", text(&site.operator_country)),
                ("assurance", Value::new_long(i64::from(site.assurance))),
                ("energy_grade", text(&site.energy_grade)),
                ("grams_per_kwh", Value::new_long(i64::from(site.grams_per_kwh))),
            ],
            vec![],
        )?;
        for (id, it) in &world.organisations {
            add(uid(&self.organisation, id), vec![("country", text(&it.country))], vec![self.site(&site.id)])?;
        }
        for (id, it) in &world.workspaces {
            let organisation = uid(&self.organisation, &it.organisation);
            add(uid(&self.workspace, id), vec![("organisation", entity(organisation.clone()))], vec![organisation])?;
        }
        for (id, it) in &world.actors {
            let (attributes, parents) = self.acting(world, it);
            add(self.actor(it.kind, id), attributes, parents)?;
        }
        for (id, it) in &world.artifacts {
            let attributes = vec![
                ("owner", entity(uid(&self.organisation, &it.owner))),
                ("kind", text(&it.kind)),
                ("class", class(it.class)),
                ("clearance", class(it.clearance)),
                ("country", text(&it.country)),
            ];
            add(uid(&self.artifact, id), attributes, vec![])?;
        }
        for (id, it) in &world.destinations {
            add(
                uid(&self.destination, id),
                vec![("country", text(&it.country)), ("clearance", class(it.clearance))],
                vec![],
            )?;
        }
        for (id, it) in &world.grants {
            let attributes = vec![
                ("everyone", Value::new_bool(it.everyone)),
                ("organisations", self.set(&self.organisation, &it.organisations)),
                ("workspaces", self.set(&self.workspace, &it.workspaces)),
                ("artifacts", self.set(&self.artifact, &it.artifacts)),
                ("actions", Value::new_set(it.actions.iter().map(|action| text(action.word())))),
                ("any_purpose", Value::new_bool(it.purposes.is_none())),
                ("purposes", words(it.purposes.as_ref())),
                ("class", class(it.class)),
                ("anywhere", Value::new_bool(it.countries.is_none())),
                ("countries", words(it.countries.as_ref())),
                ("assurance", Value::new_long(i64::from(it.assurance))),
            ];
            add(self.grant(id), attributes, vec![])?;
        }
        Entities::from_entities(all, Some(policies::schema()?)).map_err(|error| Error::World(format!("{error}")))
    }

    fn acting(&self, world: &World, it: &Actor) -> (Vec<(&'static str, Value)>, Vec<EntityUid>) {
        let workspace = uid(&self.workspace, &it.workspace);
        // INVARIANT: `World::check` found the workspace.
        let organisation = world.workspaces.get(&it.workspace).map_or("", |of| of.organisation.as_str());
        let attributes = vec![
            ("organisation", entity(uid(&self.organisation, organisation))),
            ("workspace", entity(workspace.clone())),
            ("can", Value::new_set(it.can.iter().map(|action| text(action.word())))),
            ("class", class(it.class)),
        ];
        (attributes, vec![workspace])
    }

    fn set(&self, of: &EntityTypeName, ids: &BTreeSet<String>) -> Value {
        Value::new_set(ids.iter().map(|id| entity(uid(of, id))))
    }
}

/// As the context holds it.
pub fn label(label: &Label) -> Result<Value, Error> {
    let fields = [
        ("anywhere", Value::new_bool(label.countries.is_none())),
        ("countries", words(label.countries.as_ref())),
        ("any_purpose", Value::new_bool(label.purposes.is_none())),
        ("purposes", words(label.purposes.as_ref())),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::new_record(fields).map_err(|error| Error::Evaluation(error.to_string()))
}

pub fn class(class: Class) -> Value {
    Value::new_long(class as i64)
}

pub fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

pub fn entity(uid: EntityUid) -> Value {
    Value::new_entity_uid(uid)
}

fn words(words: Option<&BTreeSet<String>>) -> Value {
    Value::new_set(words.into_iter().flatten().map(|word| text(word)))
}

fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
}
