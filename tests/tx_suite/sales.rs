//! The chain of sales that stock becomes, judged by consensus code.

use bitcoin::{Amount, ScriptBuf, Transaction, TxOut};
use factory_engine::terms::{ClientIndex, Kind, Shape};
use factory_engine::tx::layout::{CoinIndex, MIN_CHANNEL, SessionId};
use factory_engine::tx::musig::{KeyAgg, aggregate, aggregate_nonces, new_nonce, sign_partial};
use factory_engine::tx::sale::{Sale, SaleError, SaleLimits, Stock, limits, transcript};
use factory_engine::tx::scripts::{ANCHOR_VALUE, DUST};
use factory_engine::tx::tree::Session;

use super::chain::{Chain, Refusal};
use super::support::*;

const STOCK: u64 = 300_000;

fn factory() -> Factory {
    let shape = Shape { levels: vec![level(4, Kind::Static)], leaf: leaf(Kind::Static, 2, 2) };
    Factory::signed(&terms(8, shape, STOCK))
}

/// The stock of client 2's sub-factory: clients 2 and 3.
fn first(factory: &Factory) -> (Stock, &KeyAgg) {
    let coin = factory.layout.stock_coin(2).unwrap();
    let outpoint = factory.tree.coin_outpoint(coin).unwrap();
    (Stock { coin, outpoint, value: Amount::from_sat(STOCK) }, factory.tree.key_agg(coin).unwrap())
}

fn sell(
    factory: &Factory,
    stock: Stock,
    number: u32,
    buyer: ClientIndex,
    sat: u64,
) -> Result<Sale, SaleError> {
    let agg = factory.tree.key_agg(stock.coin).unwrap();
    let script = channel_script(100 + number);
    let amount = Amount::from_sat(sat);
    Sale::build(&factory.layout, &factory.roster, agg, stock, number, buyer, amount, &script)
}

/// Everybody of the sub-factory signs.
fn sign(factory: &Factory, agg: &KeyAgg, session: &Session, round: u32) -> Transaction {
    let members = factory.tree.signers(session.id.coin);
    let places = members.into_iter().map(|who| who.map_or(0, |client| client as usize + 1));
    let nonces: Vec<_> = places
        .map(|who| {
            let seed = hash(&format!("sale {who} {:?} {round}", session.outpoint));
            (who, new_nonce(seed, &factory.keys[who]))
        })
        .collect();
    let sum = aggregate_nonces(nonces.iter().map(|(_, (_, public))| public)).unwrap();
    let sign = |(who, (secret, _))| {
        let key: usize = who;
        sign_partial(&factory.keys[key], secret, agg, &sum, &session.sighash).unwrap()
    };
    let partials: Vec<_> = nonces.into_iter().map(sign).collect();
    let mut tx = session.tx.clone();
    let signature = aggregate(agg, &sum, &session.sighash, &partials).unwrap();
    tx.input[0].witness.push(signature);
    tx
}

/// A chain on which client 2's whole path is mined.
fn mined(factory: &Factory) -> Chain {
    let mut chain = Chain::with(500, factory.funding, factory.funding_output());
    for node in factory.layout.path(2) {
        let id = SessionId { coin: node, role: factory_engine::tx::layout::SpendRole::State };
        chain.include(&factory.tree.signed(id, &factory.signatures[&id]).unwrap()).unwrap();
    }
    chain
}

#[test]
fn stock_is_sold_piece_by_piece_until_it_is_gone() {
    let factory = factory();
    let (mut stock, agg) = first(&factory);
    let mut chain = mined(&factory);
    let mut sold = Amount::ZERO;
    let mut fees = Amount::ZERO;
    for (number, buyer, sat) in [(1, 2, 50_000), (2, 3, 100_000), (3, 2, 20_000)] {
        let sale = sell(&factory, stock, number, buyer, sat).unwrap();
        let tx = sign(&factory, agg, &sale.sessions[0], number);
        assert_eq!(tx.version.0, 3);
        assert_eq!(
            tx.output[0],
            TxOut { value: Amount::from_sat(sat), script_pubkey: channel_script(100 + number) }
        );
        assert_eq!(tx.output.last().unwrap().value, ANCHOR_VALUE);
        let paid: Amount = tx.output.iter().map(|output| output.value).sum();
        fees += stock.value - paid;
        assert_eq!((stock.value - paid).to_sat(), (tx.weight().to_wu() * 253).div_ceil(1000));
        chain.include(&tx).unwrap();
        // S20: the rest goes to the clients once the timeout has passed, and not a block before.
        let rest = sale.rest.unwrap();
        let distribution = sign(&factory, agg, &sale.sessions[1], 100 + number);
        assert_eq!(chain.check(&distribution), Err(Refusal::LockTime));
        let mut later = chain.clone();
        later.mine(TIMEOUT - later.height);
        later.include(&distribution).unwrap();
        assert_eq!(distribution.output.len(), 3);
        assert!(distribution.output[..2].iter().all(|output| output.value >= DUST));
        sold += sale.amount() + ANCHOR_VALUE;
        stock = rest;
    }
    let SaleLimits { everything: Some(all), .. } = limits(&factory.layout, stock.coin, stock.value) else {
        panic!("there is enough left for a channel")
    };
    let sale = sell(&factory, stock, 4, 3, all.to_sat()).unwrap();
    assert_eq!((sale.rest, sale.sessions.len()), (None, 1));
    let tx = sign(&factory, agg, &sale.sessions[0], 4);
    chain.include(&tx).unwrap();
    let paid: Amount = tx.output.iter().map(|output| output.value).sum();
    fees += stock.value - paid;
    // Every satoshi of the stock is in a channel, an anchor, or a fee.
    assert_eq!(sold + all + ANCHOR_VALUE + fees, Amount::from_sat(STOCK));
}

/// S8: two sales of one stock output can't both be in a chain; that nobody signs two is the ledger's.
#[test]
fn only_one_sale_of_a_stock_output_confirms() {
    let factory = factory();
    let (stock, agg) = first(&factory);
    let mut chain = mined(&factory);
    let one = sign(&factory, agg, &sell(&factory, stock, 1, 2, 50_000).unwrap().sessions[0], 1);
    let other = sign(&factory, agg, &sell(&factory, stock, 1, 3, 60_000).unwrap().sessions[0], 2);
    chain.check(&one).unwrap();
    chain.include(&other).unwrap();
    assert_eq!(chain.check(&one), Err(Refusal::NoCoin));
}

#[test]
fn amounts_outside_of_the_limits_are_refused() {
    let factory = factory();
    let (stock, _) = first(&factory);
    let known = limits(&factory.layout, stock.coin, stock.value);
    let (most, all) = (known.with_rest.unwrap().to_sat(), known.everything.unwrap().to_sat());
    assert!(most < all);
    for sat in [0, 1, MIN_CHANNEL.to_sat() - 1, most + 1, all - 1, all + 1, STOCK, u64::MAX] {
        let error = sell(&factory, stock, 1, 2, sat).unwrap_err();
        assert!(matches!(error, SaleError::Amount { .. }), "{sat}: {error}");
    }
    let sale = sell(&factory, stock, 1, 2, most).unwrap();
    assert_eq!(sale.rest.map(|rest| rest.value), factory.layout.least_stock(stock.coin));
    sell(&factory, stock, 1, 2, all).unwrap();
    sell(&factory, stock, 1, 2, MIN_CHANNEL.to_sat()).unwrap();
    let gone = Stock { value: Amount::from_sat(9_000), ..stock };
    assert!(sell(&factory, gone, 2, 2, 10_000).unwrap_err().to_string().contains("the stock is gone"));
}

#[test]
fn strangers_scripts_and_coins_are_refused() {
    let factory = factory();
    let (stock, agg) = first(&factory);
    assert_eq!(sell(&factory, stock, 1, 0, 50_000), Err(SaleError::NotAMember(0)));
    let no_stock = Stock { coin: 0 as CoinIndex, ..stock };
    let script = channel_script(1);
    let amount = Amount::from_sat(50_000);
    let build = |stock, script: &ScriptBuf| {
        Sale::build(&factory.layout, &factory.roster, agg, stock, 1, 2, amount, script)
    };
    assert_eq!(build(no_stock, &script), Err(SaleError::NoStock));
    assert!(matches!(build(stock, &ScriptBuf::new()), Err(SaleError::Tree(_))));
}

/// S6: whoever looks at another sale, or at other nonces, has another transcript.
#[test]
fn transcripts_differ_with_whatever_is_signed() {
    let factory = factory();
    let (stock, agg) = first(&factory);
    let sale = sell(&factory, stock, 1, 2, 50_000).unwrap();
    let nonce = |text: &str| {
        let (_, public) = new_nonce(hash(text), &factory.keys[0]);
        aggregate_nonces([&public]).unwrap()
    };
    let nonces = [nonce("a"), nonce("b")];
    let instance = factory.layout.terms().instance;
    let all = [
        transcript(instance, 1, &sale, &nonces),
        transcript(instance, 2, &sale, &nonces),
        transcript(instance, 1, &sale, &[nonces[1], nonces[0]]),
        transcript(instance, 1, &sell(&factory, stock, 2, 2, 50_000).unwrap(), &nonces),
        transcript(instance, 1, &sell(&factory, stock, 1, 3, 50_000).unwrap(), &nonces),
        transcript(instance, 1, &sell(&factory, stock, 1, 2, 50_001).unwrap(), &nonces),
    ];
    assert_eq!(agg.signers(), 3);
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one));
    }
}
