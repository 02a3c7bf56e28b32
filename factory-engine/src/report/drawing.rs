//! A factory's tree, drawn for people: as text and as SVG.

use std::fmt::Write;

use crate::record::factory::Factory;
use crate::record::sales::Sold;
use crate::tx::layout::{CoinIndex, NodeIndex, NodeKind, Output, SessionId, SpendRole};

use super::counting::counted;

/// What a drawing says of one transaction.
struct Card {
    title: String,
    detail: String,
    children: Vec<NodeIndex>,
    /// A line for each channel, also for those that were bought, and for what is left of the stock.
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
        NodeKind::State => format!(", waits {}", counted(node.sequence, "block")),
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
                channels.extend(factory.current.sales.of(*coin).iter().map(|sold| sale(factory, sold)));
                channels.push(stock(factory, *coin));
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

/// A channel that was bought, and how far its sale has come.
fn sale(factory: &Factory, sold: &Sold) -> String {
    let progress = match (factory.confirmed.get(&sold.txid()), sold.is_signed(), &sold.void) {
        (Some(height), ..) => format!("on chain at {height}"),
        (None, true, _) => "signed".to_owned(),
        (None, false, Some(_)) => "given up".to_owned(),
        (None, false, None) => "unsigned".to_owned(),
    };
    let (number, buyer, amount) = (sold.sale.number, sold.sale.buyer, sold.sale.amount().to_sat());
    format!("sale {number} to client {buyer}: {amount} sat, {progress}")
}

/// What is left of a sub-factory's stock.
fn stock(factory: &Factory, coin: CoinIndex) -> String {
    let whole = factory.current.layout.coin(coin).map_or(0, |coin| coin.value.to_sat());
    let before = |number| factory.stock_before(coin, number).map_or(0, |stock| stock.value.to_sat());
    match factory.current.sales.of(coin).last() {
        None => format!("stock: {whole} sat"),
        // Its output is signed for, and for nothing that will ever be (S8).
        Some(last) if last.void.is_some() => {
            format!("stock: {} sat of {whole}, sold no more", before(last.sale.number))
        }
        Some(last) => match last.sale.rest {
            Some(rest) => format!("stock: {} sat of {whole}", rest.value.to_sat()),
            None => format!("stock: all of {whole} sat is sold"),
        },
    }
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
    let clients = counted(factory.current.terms.clients(), "client");
    format!("funding {outpoint}: {value} sat, {clients} and the operator")
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

const BOX_WIDTH: usize = 270;
const STEP_X: usize = 310;
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
