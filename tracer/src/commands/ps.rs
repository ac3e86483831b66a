//! `tracer ps`: the containers that there are.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;

use super::{
    Failure,
    ask::{Answer, Piece},
    print, survey,
};
use crate::{
    cli::{PsArgs, TableFormat},
    config,
    filter::Filter,
    pretty::{duration_text, escape, short_id},
    record::State,
    sink::socket::{
        Choice,
        protocol::{Request, VERSION, Verb},
    },
    status::Status,
    time::{Timestamp, boot_now, wall_offset},
};

/// Lists what the daemon knows, or what a scan finds where none listens.
///
/// # Errors
///
/// [`Failure`].
pub fn run(args: PsArgs) -> Result<(), Failure> {
    let filter = config::filter(args.filter).map_err(Failure::Usage)?;
    let choice = Choice::new(args.socket);
    let request = Request {
        version: VERSION,
        verb: Verb::Ps,
        since: None,
        filter,
        follow: None,
        id: None,
    };
    let answer = choice.path().map(|path| Answer::to(&request, path));
    let list = match answer.transpose()?.flatten() {
        Some(answer) => told(answer)?,
        None => looked_up(&request.filter)?,
    };
    let json = match args.format {
        TableFormat::Json => true,
        TableFormat::Table => false,
        TableFormat::Auto => !io::stdout().is_terminal(),
    };
    if json {
        let lines: Vec<u8> = list.iter().flat_map(Status::line).collect();
        return print(&String::from_utf8_lossy(&lines));
    }
    print(&table(&list, wall_offset().at(boot_now())))
}

fn told(mut answer: Answer) -> Result<Vec<Status>, Failure> {
    let mut list = Vec::new();
    while let Piece::Line(line) = answer.next()? {
        list.push(serde_json::from_slice(line).context("the daemon's answer is not understood")?);
    }
    Ok(list)
}

fn looked_up(filter: &Filter) -> Result<Vec<Status>, Failure> {
    let engine = survey::survey()?;
    let all = engine
        .machine
        .instances()
        .map(|instance| Status::new(&engine, instance));
    Ok(all
        .filter(|status| filter.selects(&status.container, status.k8s.as_deref()))
        .collect())
}

const HEAD: [&str; 7] = [
    "CONTAINER",
    "NAME",
    "IMAGE",
    "RUNTIME",
    "STATE",
    "AGE",
    "POD",
];

/// Longest cell, characters: one name must not push the others off the screen.
const MAX_CELL: usize = 48;

fn table(list: &[Status], now: Timestamp) -> String {
    let rows: Vec<[String; 7]> = list.iter().map(|status| row(status, now)).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head = HEAD.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(status: &Status, now: Timestamp) -> [String; 7] {
    let container = &status.container;
    let image = container.image.as_ref().and_then(|image| {
        let name = image.name.as_ref()?;
        Some(match image.tags.first() {
            Some(tag) => format!("{name}:{tag}"),
            None => name.clone(),
        })
    });
    let state = match container.state {
        State::Created => "created",
        State::Running => "running",
        State::Paused => "paused",
        State::Exited => "exited",
        State::Removed => "removed",
    };
    let age = status
        .since
        .map(|since| duration_text(now.0.saturating_sub(since.0)));
    let pod = status.k8s.as_ref().and_then(|k8s| {
        let pod = k8s.pod.as_ref()?;
        let name = pod.name.as_ref().or(pod.uid.as_ref())?;
        Some(match &k8s.namespace {
            Some(namespace) => format!("{}/{name}", namespace.name),
            None => name.clone(),
        })
    });
    [
        cell(Some(short_id(&container.id))),
        cell(container.name.as_deref()),
        cell(image.as_deref()),
        cell(container.runtime.as_ref().map(|runtime| &*runtime.name)),
        state.to_owned(),
        age.unwrap_or_else(|| "-".to_owned()),
        cell(pod.as_deref()),
    ]
}

/// A text that somebody else chose.
fn cell(text: Option<&str>) -> String {
    let escaped = escape(text.unwrap_or("-"));
    if escaped.chars().count() <= MAX_CELL {
        return escaped;
    }
    let mut short: String = escaped.chars().take(MAX_CELL - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(more: &serde_json::Value) -> Status {
        let mut status = serde_json::json!({
            "container": {"id": "a".repeat(64), "instance": "b:0:7", "state": "running",
                "version": 3, "parents": [], "runtime": {"name": "docker"}},
            "cgroup": {"hierarchy": "unified", "id": "7", "path": "/docker/a"},
            "enrichment": "full", "since": "2026-11-21T21:00:00.000000000Z",
        });
        let container = more.as_object().expect("an object");
        for (key, value) in container {
            status["container"][key] = value.clone();
        }
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn the_table_is_aligned_and_nobody_can_fake_a_row() {
        let now = Timestamp(1_795_294_800_000_000_000 + 81_000_000_000);
        let list = [
            status(
                &serde_json::json!({"name": "web", "image": {"name": "nginx", "tags": ["1.27"]}}),
            ),
            status(&serde_json::json!({"name": "x\n\u{1b}[2Jroot", "id": "mine"})),
            status(&serde_json::json!({"name": "n".repeat(500)})),
        ];
        let text = table(&list, now);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("aaaaaaaaaaaa  web "), "{text}");
        assert!(
            lines[1].contains("nginx:1.27  docker   running  1m21s  -"),
            "{text}"
        );
        assert!(lines[2].contains("x\\u{a}\\u{1b}[2Jroot"), "{text}");
        let column = lines[0].find("STATE");
        assert!(lines[1..].iter().all(|line| line.find("running").is_some()));
        assert!(column.is_some() && !text.contains('\x1b'));
    }
}
