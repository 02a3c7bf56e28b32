//! The cooperative close, judged by consensus code: it pays everybody what it has, and nothing that only all could
//! spend.

use bitcoin::{Amount, ScriptBuf, Transaction, TxOut};
use factory_engine::terms::Kind;
use factory_engine::tx::close::{CLOSE, CloseError, Share, build, outputs, pays, transcript};
use factory_engine::tx::layout::{MAX_V3_VBYTES, MIN_FEERATE};
use factory_engine::tx::musig::AggNonce;
use factory_engine::tx::scripts::{ANCHOR_VALUE, DUST, anchor_script, key_script};
use factory_engine::tx::tree::Session;
use factory_engine::tx::verify::verify_input;

use super::chain::Chain;
use super::support::*;

fn factory(clients: u32) -> Factory {
    let shape = factory_engine::terms::Shape { levels: vec![], leaf: leaf(Kind::Static, 1, clients as u16) };
    Factory::signed(&terms(clients, shape, 0))
}

fn own(of: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x51, 0x20][..], &[of; 32]].concat())
}

fn share(client: u32, sat: u64) -> Share {
    Share { client, balance: Amount::from_sat(sat), script: own(client as u8 + 1) }
}

fn sign(factory: &Factory, session: &Session) -> Transaction {
    let mut tx = session.tx.clone();
    tx.input[0].witness.push(factory.sign(session, 0).1);
    tx
}

/// S19: one input, what everybody has, the operator's rest, the anchor.
#[test]
fn it_pays_everybody_what_it_has() {
    let factory = factory(3);
    let shares = [share(0, 50_001), share(1, 0), share(2, 330)];
    let funding = factory.layout.funding_value();
    for feerate in [0, MIN_FEERATE, 10_000] {
        let paid = outputs(funding, &shares, &own(99), feerate).unwrap();
        let session = build(&factory.layout, &factory.tree, &paid).unwrap();
        let tx = sign(&factory, &session);
        verify_input(&tx, &session.prevout).unwrap();
        let values: Vec<u64> = tx.output.iter().map(|output| output.value.to_sat()).collect();
        assert_eq!((values.len(), values[0], values[1], values[3]), (4, 50_001, 330, ANCHOR_VALUE.to_sat()));
        assert_eq!(tx.output[2].script_pubkey, own(99));
        assert_eq!(tx.output[3].script_pubkey, anchor_script());
        let fee = funding.to_sat() - values.iter().sum::<u64>();
        let least = tx.weight().to_wu() * u64::from(feerate.max(MIN_FEERATE)) / 1000;
        assert!((least..least + 20).contains(&fee), "{fee} for {least}");
        assert_eq!(session.id, CLOSE);
        assert!(shares.iter().all(|share| pays(&paid, share).is_ok()));
        let mut chain = Chain::with(500, factory.funding, factory.funding_output());
        chain.include(&tx).unwrap();
    }
}

/// What is less than an output may be worth costs none; a rest that is dust goes to miners.
#[test]
fn dust_is_left_out() {
    let factory = factory(2);
    let funding = factory.layout.funding_value();
    let dust = share(0, DUST.to_sat() - 1);
    assert_eq!(dust.output(), None);
    let paid = outputs(funding, &[dust.clone(), share(1, 40_000)], &own(99), MIN_FEERATE).unwrap();
    assert_eq!(paid.len(), 2);
    assert!(pays(&paid, &dust).is_ok());
    let all = share(0, funding.to_sat() - 240 - 200);
    let paid = outputs(funding, std::slice::from_ref(&all), &own(99), MIN_FEERATE).unwrap();
    assert_eq!(paid, [all.output().unwrap()], "nothing is left for the operator");
    build(&factory.layout, &factory.tree, &paid).unwrap();
    let more = share(0, funding.to_sat() - 240 - 20);
    let paid = outputs(funding, &[more], &own(99), MIN_FEERATE).unwrap();
    let refused = build(&factory.layout, &factory.tree, &paid).unwrap_err();
    assert!(matches!(refused, CloseError::Fee { .. }), "{refused}");
    let too_much = share(0, funding.to_sat() + 1);
    assert!(matches!(outputs(funding, &[too_much], &own(99), MIN_FEERATE), Err(CloseError::Fee { .. })));
}

/// S3, S19: what nobody signs, whoever proposes it.
#[test]
fn what_nobody_signs() {
    let factory = factory(3);
    let good = || vec![share(0, 50_000).output().unwrap(), share(1, 40_000).output().unwrap()];
    let built = |outputs: &[TxOut]| build(&factory.layout, &factory.tree, outputs);
    built(&good()).unwrap();
    assert_eq!(built(&[]).unwrap_err(), CloseError::Nothing);
    let with = |change: &dyn Fn(&mut TxOut)| {
        let mut outputs = good();
        change(&mut outputs[1]);
        built(&outputs).unwrap_err()
    };
    let script = |script: ScriptBuf| with(&|output| output.script_pubkey = script.clone());
    assert_eq!(script(ScriptBuf::new()), CloseError::Script { output: 1 });
    assert_eq!(script(anchor_script()), CloseError::Script { output: 1 });
    assert_eq!(script(ScriptBuf::new_op_return([1; 8])), CloseError::Script { output: 1 });
    let coin = key_script(factory.tree.output_key(0).unwrap());
    assert_eq!(script(coin), CloseError::Coin { output: 1 });
    let dust = with(&|output| output.value = DUST - Amount::from_sat(1));
    assert_eq!(dust, CloseError::Dust { output: 1 });
    assert!(matches!(with(&|output| output.value = Amount::MAX_MONEY), CloseError::Fee { .. }));
    assert!(matches!(with(&|output| output.value = Amount::MAX), CloseError::Fee { outputs: None, .. }));
    // Larger than what relays.
    let many: Vec<TxOut> = (0..240).map(|_| TxOut { value: DUST, script_pubkey: own(3) }).collect();
    assert!(matches!(built(&many).unwrap_err(), CloseError::Size(vbytes) if vbytes > MAX_V3_VBYTES));
    // A share that isn't there, or is a satoshi less.
    assert!(pays(&good(), &share(1, 40_000)).is_ok());
    assert_eq!(pays(&good(), &share(1, 40_001)), Err(CloseError::Unpaid(Amount::from_sat(40_001))));
    assert!(pays(&good(), &share(2, 40_000)).is_err());
}

/// S6: whatever differs is another transcript.
#[test]
fn transcripts_differ_with_whatever_is_signed() {
    let factory = factory(2);
    let session = |sat| build(&factory.layout, &factory.tree, &[share(0, sat).output().unwrap()]).unwrap();
    let instance = factory.layout.terms().instance;
    let of = |attempt, sat, nonce: u8| transcript(instance, attempt, &session(sat), &[AggNonce([nonce; 66])]);
    let first = of(1, 50_000, 2);
    assert_eq!(first, of(1, 50_000, 2));
    assert!([of(2, 50_000, 2), of(1, 50_001, 2), of(1, 50_000, 3)].iter().all(|other| *other != first));
}
