//! Fees that spike, strangers that pin, wallets that can't be used.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut};
use factory_engine::tx::child::{usual_fee, usual_weight};
use factory_engine::tx::scripts::ANCHOR_VALUE;
use factory_engine::types::Amount;

use crate::chain::{Market, anchor_of};
use crate::fault::Kind;
use crate::world::LSP;
use crate::{LabError, error};

use super::run::Run;

/// A client's coins for fees at the beginning, satoshi: one of each script type.
const CLIENT_COIN: Amount = Amount::from_sat(120_000);
/// The operator's: as many as a small tree has transactions.
const LSP_COINS: (usize, Amount) = (24, Amount::from_sat(1_000_000));
/// A stranger's, one for each pin.
const STRANGER_COINS: (usize, Amount) = (12, Amount::from_sat(50_000));
/// Outputs of a pin: about 700 vB, which version 3 allows.
const PIN_OUTPUTS: usize = 17;
/// What a pin pays, sat/vB.
const PIN_FEERATE: u64 = 2;
/// A storm: the mempool's minimum (50 sat/vB), what miners take at its beginning and how much more at each
/// block, until it is twenty times that, sat/kw; and how long it lasts.
const STORM_FLOOR: u32 = 12_500;
const STORM_BEGINS: u32 = 750;
const STORM_RISES: u32 = 1_188;
const STORM_BLOCKS: u32 = 20;
/// What miners take at most, sat/kw.
const MOST_INCLUSION: u32 = 15_000;
/// What a small pin weighs: a P2TR coin beside the anchor, and an output that is an empty OP_RETURN.
const SMALL_WEIGHT: u64 = 477;

impl Run {
    /// Coins for fees, before anything begins.
    pub(super) fn give_coins(&mut self) {
        for at in 0..self.world.members.len() {
            self.world.members[at].lightningd.packages = self.dice.one_in(2);
        }
        for client in 1..self.world.members.len() {
            let lightningd = &mut self.world.members[client].lightningd;
            for script in [lightningd.new_script(), lightningd.new_taproot_script()] {
                self.world.chain.mint(script, CLIENT_COIN);
            }
        }
        for _ in 0..LSP_COINS.0 {
            let script = self.world.members[LSP].lightningd.new_script();
            self.world.chain.mint(script, LSP_COINS.1);
        }
        for _ in 0..STRANGER_COINS.0 {
            let script = self.fees.stranger.new_taproot_script();
            self.world.chain.mint(script, STRANGER_COINS.1);
        }
    }

    /// What a client has gained: without the coins that it was given for fees, and as if fees had cost
    /// nothing.
    pub(super) fn gained(&self, at: usize) -> Result<Amount, LabError> {
        let lightningd = &self.world.members[at].lightningd;
        let has = lightningd.balance(&self.world.chain);
        let paid = lightningd.paid_for_fees(&self.world.chain);
        let all = has.checked_add(paid).ok_or_else(|| error("amounts overflow"))?;
        all.checked_sub(CLIENT_COIN * 2).ok_or_else(|| {
            error(format!("S26: member {at} has {has} and paid {paid} for fees: less than it was given"))
        })
    }

    /// Before each block: fee spikes, pins and locked wallets begin and end.
    pub(super) fn market(&mut self) {
        let height = self.world.chain.height();
        let text = || format!("height {height}");
        if let Some(mut dice) = self.roll(Kind::FeeSpike, text) {
            let inclusion = 1_200 + dice.below_u32(5_000);
            // Some are so high that the tree's transactions aren't taken at all.
            let floor = if dice.one_in(8) { 1_050 + dice.below_u32(400) } else { 0 };
            self.world.chain.market = Market { floor, inclusion, strict: false };
            let rises = dice.below_u32(400);
            self.fees.spike = Some((height + 2 + dice.below_u32(10), rises));
        }
        if self.roll(Kind::FeeStorm, text).is_some() {
            self.world.chain.market = Market { floor: STORM_FLOOR, inclusion: STORM_BEGINS, strict: false };
            self.fees.spike = Some((height + STORM_BLOCKS, STORM_RISES));
        }
        match self.fees.spike {
            Some((until, _)) if height >= until => self.calm(),
            Some((_, rises)) => {
                let inclusion = self.world.chain.market.inclusion.saturating_add(rises);
                self.world.chain.market.inclusion = inclusion.min(MOST_INCLUSION);
            }
            None => {}
        }
        if let Some(mut dice) = self.roll(Kind::Pin, text) {
            if dice.one_in(2) { self.pin_small() } else { self.pin() }
        }
        let members = self.world.members.len();
        if let Some(mut dice) = self.roll(Kind::WalletLocked, text) {
            let (at, until) = (dice.below(members), height + 1 + dice.below_u32(5));
            self.fees.locked.push((at, until));
        }
        self.fees.locked.retain(|(_, until)| height < *until);
        for (at, member) in self.world.members.iter_mut().enumerate() {
            member.lightningd.locked = self.fees.locked.iter().any(|(other, _)| *other == at);
        }
        if self.world.chain.market.inclusion > 0 {
            self.note_dear();
        }
        if self.world.chain.market.floor > 0 || self.world.members[LSP].lightningd.locked {
            self.fees.hindered = self.fees.hindered.saturating_add(1);
            // Without packages, which half of the members have, nobody gets under the mempool's minimum.
            self.lose(1);
        }
    }

    /// A fee spike is over: fees are as usual.
    fn calm(&mut self) {
        self.fees.spike = None;
        self.world.chain.market = Market::default();
    }

    /// Fees are as usual, and no wallet is locked.
    pub(super) fn calm_everything(&mut self) {
        self.calm();
        self.fees.locked.clear();
        for member in &mut self.world.members {
            member.lightningd.locked = false;
        }
    }

    /// Somebody's large child with a low feerate on an anchor that nobody spends yet.
    fn pin(&mut self) {
        let chain = &self.world.chain;
        let free = |tx: &&Transaction| {
            tx.version.0 == 3 && anchor_of(tx).is_some_and(|anchor| chain.waiting_spender(anchor).is_none())
        };
        let Some(anchor) = chain.mempool().iter().find(free).and_then(anchor_of) else { return };
        let Some(coin) = self.fees.stranger.any_coin(chain) else { return };
        let script = self.fees.stranger.new_script();
        let tx = pin(anchor, coin, |value| TxOut { value, script_pubkey: script.clone() });
        if let Ok(signed) = self.fees.stranger.sign(&self.world.chain, tx) {
            // Where it isn't taken there is no pin.
            let _ = self.world.chain.submit(&signed);
        }
    }
}

impl Run {
    /// Somebody's small child whose feerate is higher than that of ours would be, and that is too little for
    /// what miners take of both.
    fn pin_small(&mut self) {
        let chain = &self.world.chain;
        let wanted = chain.market.inclusion;
        let lacks = |tx: &Transaction| {
            let anchor = anchor_of(tx).filter(|anchor| chain.waiting_spender(*anchor).is_none())?;
            // A little more than the feerate of a usual child, which carries both.
            let ours = usual_fee(tx.weight().to_wu(), chain.fee_in_mempool(tx)?, wanted);
            let pays = ours * SMALL_WEIGHT / usual_weight() + Amount::from_sat(50);
            Some((anchor, pays)).filter(|_| tx.version.0 == 3 && ours > Amount::ZERO)
        };
        let Some((anchor, pays)) = chain.mempool().iter().find_map(lacks) else { return };
        let Some(coin) = self.fees.stranger.any_coin(chain) else { return };
        let Some(rest) = (STRANGER_COINS.1 + ANCHOR_VALUE).checked_sub(pays) else { return };
        let mut tx = pin(anchor, coin, |value| TxOut { value, script_pubkey: ScriptBuf::new() });
        tx.output = vec![TxOut { value: rest, script_pubkey: ScriptBuf::new_op_return([]) }];
        if let Ok(signed) = self.fees.stranger.sign(&self.world.chain, tx) {
            // Where it isn't taken there is no pin.
            let _ = self.world.chain.submit(&signed);
        }
    }
}

fn pin(anchor: OutPoint, coin: OutPoint, output: impl Fn(Amount) -> TxOut) -> Transaction {
    let input = |previous_output| TxIn {
        previous_output,
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        ..TxIn::default()
    };
    let small = Amount::from_sat(1_000);
    let mut tx = Transaction {
        version: Version(3),
        lock_time: LockTime::ZERO,
        input: vec![input(anchor), input(coin)],
        output: vec![output(small); PIN_OUTPUTS],
    };
    // Signature, key and the last output are not in it yet.
    let vbytes = u64::try_from(tx.vsize()).unwrap_or(u64::MAX).saturating_add(60);
    let spent = small * u64::try_from(PIN_OUTPUTS).unwrap_or(u64::MAX);
    let costs = Amount::from_sat(vbytes.saturating_mul(PIN_FEERATE));
    let rest = (STRANGER_COINS.1 + ANCHOR_VALUE).checked_sub(spent + costs);
    tx.output.extend(rest.map(output));
    tx
}
