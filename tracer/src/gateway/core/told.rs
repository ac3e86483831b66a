//! Records of the gateway itself: what no node can tell.

use serde::{Deserialize, Serialize};

use crate::{
    gateway::{fleet::Own, liveness::Reach},
    time::{Timestamp, boot_now, wall_offset},
};

/// One of the gateway's records. It has the shape of the nodes' records, and `origin` is `gateway`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GatewayRecord {
    /// `gateway/<cursor>`.
    pub id: String,
    /// By the gateway's clock.
    pub time: Timestamp,
    /// `node.online`, `node.unreachable`, `node.offline`, `node.gap`, `node.repaired`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `gateway`.
    pub origin: String,
    pub host: GatewayHost,
    pub node: GatewayNode,
}

/// Which node it is about.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GatewayHost {
    pub name: String,
}

/// What is told of it.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GatewayNode {
    /// Where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Reach>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// With `node.gap`: `uplink`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// With `node.gap`: the stream that has the hole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// With `node.gap`: first and last number of the hole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// With `node.repaired`: containers whose state was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
    /// With `node.repaired`: containers that the node does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
}

/// The line.
pub fn line(run: &str, number: u64, node: &str, own: &Own) -> Vec<u8> {
    let (kind, body) = body(own);
    let record = GatewayRecord {
        id: format!("gateway/{run}-{number}"),
        time: wall_offset().at(boot_now()),
        kind: kind.to_owned(),
        origin: "gateway".to_owned(),
        host: GatewayHost {
            name: node.to_owned(),
        },
        node: body,
    };
    let mut line = serde_json::to_vec(&record).unwrap_or_default();
    line.push(b'\n');
    line
}

fn body(own: &Own) -> (&'static str, GatewayNode) {
    match own {
        Own::Reach { change, reason } => {
            let kind = match change.is {
                Reach::Online => "node.online",
                Reach::Unreachable => "node.unreachable",
                Reach::Offline => "node.offline",
            };
            let body = GatewayNode {
                was: change.was,
                reason: reason.clone(),
                ..GatewayNode::default()
            };
            (kind, body)
        }
        Own::Hole {
            stream,
            from,
            to,
            why,
        } => {
            let body = GatewayNode {
                reason: Some((*why).to_owned()),
                sink: Some("uplink".to_owned()),
                stream: Some(stream.to_string()),
                from_seq: Some(*from),
                to_seq: Some(*to),
                ..GatewayNode::default()
            };
            ("node.gap", body)
        }
        Own::Repaired { changed, removed } => {
            let body = GatewayNode {
                changed: Some(*changed),
                removed: Some(*removed),
                ..GatewayNode::default()
            };
            ("node.repaired", body)
        }
    }
}
