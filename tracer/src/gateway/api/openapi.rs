//! `/v1/openapi.json`: the description, made from the types that the handlers take and give.

use axum::Json;
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{ErrorBody, containers, events, nodes};
use crate::gateway::hub::NodeView;

pub async fn serve() -> Json<Value> {
    Json(document())
}

/// `OpenAPI` 3.1.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let name = path("name", "The node's name.");
    let id = path(
        "id",
        "An id, at least 4 characters of one, a name, or an instance.",
    );
    let g = &mut generator;
    paths.insert(
        "/v1/nodes".into(),
        get(
            g,
            "Nodes",
            query::<nodes::NodesQuery>,
            &[],
            json_of::<nodes::Nodes>,
        ),
    );
    paths.insert(
        "/v1/nodes/{name}".into(),
        get(g, "One node", none, &[name], json_of::<NodeView>),
    );
    paths.insert(
        "/v1/containers".into(),
        get(
            g,
            "Containers",
            query::<containers::ContainersQuery>,
            &[],
            json_of::<containers::Containers>,
        ),
    );
    paths.insert(
        "/v1/containers/{id}".into(),
        get(
            g,
            "One container",
            query::<containers::ContainerQuery>,
            &[id],
            json_of::<containers::ContainerView>,
        ),
    );
    paths.insert(
        "/v1/events".into(),
        get(
            g,
            "Records of all nodes as they come, as server-sent events",
            query::<events::EventsQuery>,
            &[],
            event_stream,
        ),
    );
    let what = "Counters of the gateway, for Prometheus";
    paths.insert("/metrics".into(), get(g, what, none, &[], counters));
    for (route, what) in [
        ("/healthz", "Whether the gateway is alive"),
        ("/readyz", "Whether its store can be written"),
    ] {
        paths.insert(route.into(), get(g, what, none, &[], text));
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tracer gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Container lifecycles of all nodes, live.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"reader": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"reader": []}, {}],
    })
}

type Parameters = fn(&mut SchemaGenerator) -> Vec<Value>;
type Content = fn(&mut SchemaGenerator) -> Value;

fn get(
    generator: &mut SchemaGenerator,
    what: &str,
    parameters: Parameters,
    more: &[Value],
    content: Content,
) -> Value {
    let mut all = more.to_vec();
    all.extend(parameters(generator));
    let failed = json_of::<ErrorBody>(generator);
    json!({"get": {
        "summary": what,
        "parameters": all,
        "responses": {
            "200": {"description": what, "content": content(generator)},
            "default": {"description": "What is wrong", "content": failed},
        },
    }})
}

fn path(name: &str, what: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": what, "schema": {"type": "string"}})
}

fn none(_: &mut SchemaGenerator) -> Vec<Value> {
    Vec::new()
}

/// One parameter per member of the type.
fn query<T: JsonSchema>(generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = T::json_schema(generator).to_value();
    let members = schema.get("properties").and_then(Value::as_object).cloned();
    let one = |(name, mut schema): (String, Value)| {
        not_null(&mut schema);
        let what = schema
            .as_object_mut()
            .and_then(|schema| schema.remove("description"));
        json!({"name": name, "in": "query", "required": false, "description": what.unwrap_or_default(), "schema": schema})
    };
    let parameters = members.unwrap_or_default().into_iter().map(one);
    let mut parameters: Vec<Value> = parameters.collect();
    for parameter in &mut parameters {
        if let Some(object) = parameter.as_object_mut() {
            object.retain(|_, value| !value.is_null());
        }
    }
    parameters
}

/// What is left out is no null in a query.
fn not_null(schema: &mut Value) {
    let Some(kind) = schema.get_mut("type") else {
        return;
    };
    let given = kind.as_array().into_iter().flatten();
    let mut given = given.filter(|one| one.as_str() != Some("null"));
    if let Some(only) = given.next().cloned() {
        *kind = only;
    }
}

fn json_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    json!({"application/json": {"schema": generator.subschema_for::<T>()}})
}

fn event_stream(generator: &mut SchemaGenerator) -> Value {
    let data = generator.subschema_for::<events::EventView>();
    json!({"text/event-stream": {"schema": {"type": "string", "contentMediaType": "application/json", "contentSchema": data}}})
}

fn counters(_: &mut SchemaGenerator) -> Value {
    json!({"application/openmetrics-text": {"schema": {"type": "string"}}})
}

fn text(_: &mut SchemaGenerator) -> Value {
    json!({"text/plain": {"schema": {"type": "string"}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        let mut count = 0;
        for reference in text.split("\"$ref\":\"").skip(1) {
            let reference = reference.split('"').next().unwrap_or_default();
            let place = reference.strip_prefix('#').expect("inside");
            assert!(document.pointer(place).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 10, "{count}");
        assert!(document.pointer("/components/schemas/Record").is_some());
        let list = document
            .pointer("/paths/~1v1~1containers/get/parameters")
            .expect("a list");
        assert!(
            list.as_array().is_some_and(|list| list.len() == 9),
            "{list}"
        );
        assert!(!list.to_string().contains("null"), "{list}");
        let limit = list.as_array().into_iter().flatten();
        let limit = limit
            .clone()
            .find(|one| one.get("name").is_some_and(|name| name == "limit"));
        let schema = limit.and_then(|limit| limit.get("schema"));
        let highest = schema.and_then(|schema| schema.get("maximum"));
        assert_eq!(highest, Some(&json!(1000)), "{schema:?}");
    }
}
