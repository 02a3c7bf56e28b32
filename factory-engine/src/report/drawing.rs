//! A factory's tree, drawn for people: as text and as SVG.

use std::fmt::Write;

use crate::record::factory::Factory;
use crate::tx::layout::{NodeIndex, NodeKind, Output, SessionId, SpendRole};

/// What a drawing says of one transaction.
struct Card {
    title: String,
    detail: String,
    children: Vec<NodeIndex>,
    channels: Vec<String>,
}

/// A node's kind, for people and JSON.
pub fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Static => "static",
        NodeKind::Kickoff => "kickoff",
        NodeKind::State => "state",
    }
}

fn card(factory: &Factory, index: NodeIndex) -> Option<Card> {
    let node = factory.current.layout.node(index)?;
    let session = SessionId { coin: index, role: SpendRole::State };
    let txid = factory.current.tree.as_ref().and_then(|tree| tree.node_tx(index)).map(|tx| tx.compute_txid());
    let confirmed = txid.and_then(|txid| factory.confirmed.get(&txid));
    let progress = match (confirmed, factory.current.signatures.contains_key(&session)) {
        (Some(height), _) => format!("on chain at {height}"),
        (None, true) => "signed".to_owned(),
        (None, false) => "unsigned".to_owned(),
    };
    let delay = match node.kind {
        NodeKind::State => format!(", waits {} blocks", node.sequence),
        NodeKind::Static | NodeKind::Kickoff => String::new(),
    };
    let mut channels = Vec::new();
    let mut children = Vec::new();
    for output in &node.outputs {
        match output {
            Output::Child(child) => children.push(*child),
            Output::Channel(client) => {
                let node = factory.node_of(*client).map(|node| format!(" {}", short(&node.to_string())));
                let capacity = factory.capacity(*client).to_sat();
                channels.push(format!("client {client}{}: {capacity} sat", node.unwrap_or_default()));
            }
            Output::Stock(coin) => {
                let value = factory.current.layout.coin(*coin).map_or(0, |coin| coin.value.to_sat());
                channels.push(format!("stock: {value} sat"));
            }
            Output::Anchor => {}
        }
    }
    let id = txid.map(|txid| format!(" {}", short(&txid.to_string()))).unwrap_or_default();
    Some(Card {
        title: format!("{} {index}{id}", kind(node.kind)),
        detail: format!("{} vB{delay}, {progress}", node.vbytes),
        children,
        channels,
    })
}

fn short(hex: &str) -> &str {
    hex.get(..8).unwrap_or(hex)
}

fn headline(factory: &Factory) -> String {
    let value = factory.current.layout.funding_value().to_sat();
    let outpoint = match factory.funding() {
        Some(outpoint) => outpoint.to_string(),
        None => "not made yet".to_owned(),
    };
    format!("funding {outpoint}: {value} sat, {} clients and the operator", factory.current.terms.clients())
}

/// The tree as text, one transaction a line.
pub fn text(factory: &Factory) -> String {
    let mut out = format!("{}\n", headline(factory));
    branch(factory, 0, "", true, &mut out);
    out
}

fn branch(factory: &Factory, index: NodeIndex, indent: &str, last: bool, out: &mut String) {
    let Some(card) = card(factory, index) else { return };
    let (fork, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    out.push_str(&format!("{indent}{fork}{}  ({})\n", card.title, card.detail));
    let indent = format!("{indent}{below}");
    let leaves = card.channels.len();
    for (place, channel) in card.channels.iter().enumerate() {
        let last = place.saturating_add(1) == leaves && card.children.is_empty();
        out.push_str(&format!("{indent}{}{channel}\n", if last { "└─ " } else { "├─ " }));
    }
    for (place, child) in card.children.iter().enumerate() {
        branch(factory, *child, &indent, place.saturating_add(1) == card.children.len(), out);
    }
}

const BOX_WIDTH: usize = 230;
const STEP_X: usize = 270;
const LINE: usize = 16;
const GAP: usize = 18;

/// The tree as an SVG document, root on the left.
pub fn svg(factory: &Factory) -> String {
    let mut body = String::new();
    let mut bottom = 40;
    let mut right = 0;
    place(factory, 0, 0, &mut bottom, &mut right, &mut body);
    let (width, height) = (right + BOX_WIDTH + 20, bottom + 10);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <text x=\"10\" y=\"20\">{}</text>\n{body}</svg>\n",
        headline(factory)
    )
}

/// Draws a node below `bottom` and everything under it; gives the height of its middle.
fn place(
    factory: &Factory,
    index: NodeIndex,
    depth: usize,
    bottom: &mut usize,
    right: &mut usize,
    body: &mut String,
) -> usize {
    let Some(card) = card(factory, index) else { return *bottom };
    let x = 10 + depth * STEP_X;
    *right = (*right).max(x);
    let lines = card.channels.len() + 2;
    let tall = lines * LINE + 8;
    let top = *bottom;
    let below: Vec<usize> =
        card.children.iter().map(|child| place(factory, *child, depth + 1, bottom, right, body)).collect();
    *bottom = (*bottom).max(top + tall + GAP);
    let middle = top + tall / 2;
    for child in below {
        // Writing to a String can't fail.
        let _ = writeln!(
            body,
            "<path d=\"M{} {middle} L{} {child}\" stroke=\"#888\" fill=\"none\"/>",
            x + BOX_WIDTH,
            x + STEP_X
        );
    }
    let _ = writeln!(
        body,
        "<rect x=\"{x}\" y=\"{top}\" width=\"{BOX_WIDTH}\" height=\"{tall}\" rx=\"4\" fill=\"#f4f4f4\" stroke=\"#444\"/>"
    );
    for (line, text) in [&card.title, &card.detail].into_iter().chain(&card.channels).enumerate() {
        let y = top + LINE * (line + 1);
        let _ = writeln!(body, "<text x=\"{}\" y=\"{y}\">{text}</text>", x + 6);
    }
    middle
}
