//! The factory's funding transaction, made of lightningd's wallet.

use bitcoin::{Amount, ScriptBuf, TxOut};
use factory_engine::PreparedFunding;
use factory_engine::tx::child::Coin;

use super::client::{Call, CallError};
use super::kept::Kept;
use super::spend;

/// Reserves inputs and makes the unsigned transaction that pays `amount` to `script`. Coins that are kept for
/// fees are left alone. `reclaims` are spent, too.
pub async fn prepare<C: Call>(
    rpc: &C,
    kept: &Kept<C>,
    script: ScriptBuf,
    amount: Amount,
    reclaims: &[Coin],
) -> Result<PreparedFunding, CallError> {
    let _turn = kept.turn().await;
    let apart = kept.script().await?;
    let output = TxOut { value: amount, script_pubkey: script };
    let made = spend::prepare(rpc, apart.as_ref(), vec![output], reclaims).await?;
    Ok(PreparedFunding { tx: made.tx, prevouts: made.prevouts, vout: 0 })
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;
    use bitcoin::{OutPoint, Txid, Witness};
    use serde_json::json;

    use super::super::psbt::spending;
    use super::super::toy::{HEIGHT, Toy, outpoint, script};
    use super::*;

    fn owner(coins: &[u64]) -> (Toy, Kept<Toy>) {
        let toy = Toy::default();
        for (number, sat) in (0u32..).zip(coins) {
            toy.add(number, *sat, script(8), 0);
        }
        (toy.clone(), Kept::new(toy))
    }

    fn reserved(toy: &Toy) -> Vec<u32> {
        let all = toy.reserved();
        all.iter().filter(|(_, to)| **to > 0).map(|(coin, _)| coin.vout).collect()
    }

    const AMOUNT: Amount = Amount::from_sat(300_000);

    #[tokio::test]
    async fn as_few_inputs_as_do_and_change() {
        let (toy, kept) = owner(&[10_000, 250_000, 10_000, 200_000, 90_000]);
        let funding = prepare(&toy, &kept, script(1), AMOUNT, &[]).await.unwrap();
        let inputs: Vec<u32> = funding.tx.input.iter().map(|input| input.previous_output.vout).collect();
        assert_eq!((inputs.clone(), reserved(&toy)), (vec![1, 4], vec![1, 4]));
        assert_eq!(toy.reserved()[&outpoint(1)], HEIGHT + 12);
        assert_eq!((funding.tx.output[0].value, &funding.tx.output[0].script_pubkey), (AMOUNT, &script(1)));
        let spent: u64 = funding.prevouts.iter().map(|output| output.value.to_sat()).sum();
        let paid: u64 = funding.tx.output.iter().map(|output| output.value.to_sat()).sum();
        // 1,000 sat/kw, signatures included, and room for larger counts.
        let mut signed = funding.tx.clone();
        for input in &mut signed.input {
            input.witness = Witness::from_slice(&[[0u8; 64]]);
        }
        assert_eq!((funding.tx.output.len(), spent - paid), (2, signed.weight().to_wu() + 16));
    }

    fn back(sat: u64, of: u8) -> Coin {
        let outpoint = OutPoint { txid: Txid::from_byte_array([of; 32]), vout: 0 };
        Coin { outpoint, output: TxOut { value: Amount::from_sat(sat), script_pubkey: script(of) } }
    }

    /// S38: what is taken back stands beside the wallet's inputs, which make up what is missing.
    #[tokio::test]
    async fn the_wallet_adds_what_is_missing() {
        let (toy, kept) = owner(&[250_000, 100_000]);
        let reclaims = [back(100_000, 5), back(60_000, 6)];
        let funding = prepare(&toy, &kept, script(1), AMOUNT, &reclaims).await.unwrap();
        let spent: Vec<OutPoint> = funding.tx.input.iter().map(|input| input.previous_output).collect();
        assert_eq!(spent, [outpoint(0), reclaims[0].outpoint, reclaims[1].outpoint]);
        let values: Vec<u64> = funding.prevouts.iter().map(|output| output.value.to_sat()).collect();
        assert_eq!((values, reserved(&toy)), (vec![250_000, 100_000, 60_000], vec![0]));
        assert_eq!((funding.tx.output[0].value, &funding.tx.output[0].script_pubkey), (AMOUNT, &script(1)));
    }

    /// S38: where it is enough nothing of the wallet is spent.
    #[tokio::test]
    async fn what_is_taken_back_may_be_enough() {
        let (toy, kept) = owner(&[250_000]);
        let funding = prepare(&toy, &kept, script(1), AMOUNT, &[back(400_000, 5)]).await.unwrap();
        assert_eq!((funding.tx.input.len(), funding.tx.output.len()), (1, 2));
        assert_eq!((reserved(&toy), toy.called("reserveinputs")), (vec![], 0));
        let mut signed = funding.tx.clone();
        signed.input[0].witness = Witness::from_slice(&[[0u8; 64]]);
        let paid = 400_000 - signed.output.iter().map(|output| output.value.to_sat()).sum::<u64>();
        assert_eq!(paid, signed.weight().to_wu() + 16);
        // Not quite enough: the wallet adds to it.
        let funding = prepare(&toy, &kept, script(1), AMOUNT, &[back(300_100, 6)]).await.unwrap();
        assert_eq!((funding.tx.input.len(), reserved(&toy)), (2, vec![0]));
    }

    // S26: what is kept for fees is left alone, also right after its block.
    #[tokio::test]
    async fn what_is_kept_is_left_alone() {
        let (toy, kept) = owner(&[400_000]);
        toy.add(9, 900_000, script(7), 0);
        kept.begin(script(7)).await.unwrap();
        prepare(&toy, &kept, script(1), AMOUNT, &[]).await.unwrap();
        assert_eq!(reserved(&toy), [0]);
        let short = prepare(&toy, &kept, script(1), AMOUNT, &[]).await.unwrap_err();
        assert!(short.message.contains("lacks"), "{short}");
    }

    // S27: two at once don't spend one coin, and who fails leaves nothing reserved.
    #[tokio::test]
    async fn two_at_once_take_different_coins() {
        let (toy, kept) = owner(&[400_000, 390_000]);
        let (other_toy, other) = (toy.clone(), kept.clone());
        let (done, mut second) = tokio::sync::mpsc::unbounded_channel();
        toy.meanwhile("listfunds", async move {
            done.send(prepare(&other_toy, &other, script(2), AMOUNT, &[]).await).unwrap();
        });
        let first = prepare(&toy, &kept, script(1), AMOUNT, &[]).await.unwrap();
        let second = second.recv().await.unwrap().unwrap();
        assert_ne!(first.tx.input[0].previous_output, second.tx.input[0].previous_output);
    }

    // S27: lightningd itself has taken one between the look and the reservation.
    #[tokio::test]
    async fn a_coin_that_is_taken_meanwhile_is_no_end() {
        let (toy, kept) = owner(&[390_000, 400_000]);
        let thief = toy.clone();
        toy.meanwhile("listfunds", async move {
            let psbt = spending(&[outpoint(0)]).unwrap().to_string();
            thief.call("reserveinputs", json!({"psbt": psbt, "reserve": 5})).await.unwrap();
        });
        let funding = prepare(&toy, &kept, script(1), AMOUNT, &[]).await.unwrap();
        assert_eq!(funding.tx.input[0].previous_output, outpoint(1));
        assert_eq!(toy.called("reserveinputs"), 3);
    }
}
