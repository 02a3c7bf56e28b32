//! What `factory-status`, `factory-list` and `factory-create` say of fees: what is being published, what
//! is wrong with it, and what an exit of everything would cost.

use bitcoin::ScriptBuf;
use factory_engine::fees::ExitCoins;
use factory_engine::io::fees::{Report, Trouble};
use factory_engine::report::counting::counted;
use factory_engine::tx::child::NoChild;
use factory_engine::types::{Amount, Height, Txid};
use factory_engine::{Engine, Factory, State as FactoryState};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::state::State;
use super::super::wallet::{self, Owned};
use super::warning::Warning;

/// Every transaction that is due.
pub fn publishing(engine: &Engine) -> Vec<Value> {
    engine.reports().map(|(txid, report)| one(txid, report)).collect()
}

fn one(txid: Txid, report: &Report) -> Value {
    let mut object = json!({
        "factory_instance": report.instance.to_string(),
        "what": report.what,
        "txid": txid.to_string(),
    });
    if let Some((feerate, deadline)) = report.target {
        object["target_perkw"] = feerate.into();
        object["deadline"] = deadline.into();
    }
    if let Some(child) = report.child {
        object["child_txid"] = child.txid.to_string().into();
        object["child_fee_sat"] = child.fee.to_sat().into();
    }
    if let Some(trouble) = &report.trouble {
        object["trouble"] = trouble.to_string().into();
    }
    if let Some(Trouble::NoChild(NoChild::Short { missing }) | Trouble::Short(missing)) = report.trouble {
        object["missing_sat"] = missing.to_sat().into();
    }
    object
}

/// A warning for each transaction that doesn't get on.
pub fn warnings(engine: &Engine) -> Vec<Warning> {
    engine.reports().filter_map(|(txid, report)| warning(engine, txid, report)).collect()
}

fn warning(engine: &Engine, txid: Txid, report: &Report) -> Option<Warning> {
    let trouble = report.trouble.as_ref().filter(|trouble| trouble.matters())?;
    let by = report
        .target
        .map_or_else(String::new, |(_, height)| format!(", which should confirm by height {height}"));
    let message = format!("{} {txid}{by}: {trouble}", report.what);
    let (code, action) = match trouble {
        Trouble::Parent(_) => ("not_published", "nothing: it is sent again at each block; see the log"),
        Trouble::NoChild(NoChild::Short { .. } | NoChild::TooManyCoins) | Trouble::Short(_) => (
            "fee_not_raised",
            "send so much to this node's wallet (lightning-cli newaddr); once that is confirmed the fee is raised by itself",
        ),
        Trouble::NoChild(NoChild::NotWorth { .. }) | Trouble::Capped(_) => (
            "fee_not_raised",
            "nothing, or wait until fees fall; whoever wants to pay more spends the anchor output by hand",
        ),
        Trouble::Child(_) => ("fee_not_raised", "nothing: it is tried again at each block; see the log"),
        Trouble::Wallet(_) => {
            ("fee_not_raised", "unlock or repair lightningd's wallet; it is tried again at each block")
        }
    };
    let factory = engine.factory(report.instance)?;
    Some(Warning::of(factory, code, message, action))
}

/// Adds what is wrong to a factory's `next_action`.
pub fn add_trouble(engine: &Engine, factory: &Factory, object: &mut Value) {
    for (txid, report) in engine.reports().filter(|(_, report)| report.instance == factory.instance) {
        if let Some(warning) = warning(engine, txid, report) {
            let before = object["next_action"].as_str().unwrap_or_default();
            object["next_action"] = format!("{before}; {}: {}", warning.message, warning.action).into();
        }
    }
}

/// What the wallet holds against what an exit of everything would cost.
#[derive(Clone, Copy)]
pub struct Reserve {
    /// Feerate that an exit is reckoned with, sat/kw.
    pub feerate: u32,
    /// Fees of an exit of every factory, through their anchors.
    pub needed: Amount,
    /// What lightningd pays then for what settles the channels: it can't use what is kept.
    pub channels: Amount,
    /// The coins that this takes.
    pub coins: ExitCoins,
    /// What the wallet has that is confirmed and not reserved, or kept for fees.
    pub wallet: Amount,
    /// What of that is kept for fees.
    pub kept: Amount,
    /// How many of its coins are large enough.
    pub ready: u64,
}

impl Reserve {
    /// For an exit of every factory whose funding is on chain.
    pub async fn now(state: &State) -> Result<Self, RpcError> {
        Self::of(state, |factory| factory.funding_height().is_some()).await
    }

    /// For an exit of those that are still being created, too.
    pub async fn soon(state: &State) -> Result<Self, RpcError> {
        Self::of(state, |_| true).await
    }

    async fn of(state: &State, counts: fn(&Factory) -> bool) -> Result<Self, RpcError> {
        let feerate = state.config.reserve_feerate;
        let look = move |engine: &Engine, height| needed(engine, height, feerate, counts);
        let (needed, channels, coins) = state.runtime.read(look).await?;
        let script = state.kept.script().await?;
        let own = wallet::coins(&state.rpc).await?.into_values();
        let usable = own.filter(|own| own.reserved_to.is_none() || is_kept(own, script.as_ref()));
        let usable: Vec<Owned> = usable.collect();
        let value = |own: &Owned| own.coin.output.value;
        let ready = usable.iter().filter(|own| value(own) >= coins.each).count();
        let ready = u64::try_from(ready).unwrap_or(u64::MAX);
        let kept = sum(usable.iter().filter(|own| is_kept(own, script.as_ref())).map(value));
        let wallet = sum(usable.iter().map(value));
        Ok(Self { feerate, needed, channels, coins, wallet, kept, ready })
    }

    /// Whether the wallet has the money for that exit, and lightningd for what comes after it.
    pub fn is_paid_for(&self) -> bool {
        self.missing() == Amount::ZERO
    }

    /// Whether it has the coins for that, too.
    pub fn is_covered(&self) -> bool {
        self.is_paid_for() && self.ready >= self.coins.at_once
    }

    /// All that it takes.
    pub fn all(&self) -> Amount {
        sum([self.needed, self.channels].into_iter())
    }

    /// What is missing to it: what is kept serves the exit alone.
    fn missing(&self) -> Amount {
        let less = |of: Amount, less: Amount| of.checked_sub(less).unwrap_or(Amount::ZERO);
        less(self.all(), self.wallet).max(less(self.channels, less(self.wallet, self.kept)))
    }

    /// The money alone, for what is still to be created.
    pub fn sums(&self) -> Value {
        json!({
            "feerate_perkw": self.feerate,
            "exit_sat": self.needed.to_sat(),
            "channels_sat": self.channels.to_sat(),
            "wallet_sat": self.wallet.to_sat(),
            "covered": self.is_paid_for(),
        })
    }

    /// The object `reserve` of RPC answers.
    pub fn json(&self) -> Value {
        let mut object = self.sums();
        object["coins"] = self.coins.number.into();
        object["coin_sat"] = self.coins.each.to_sat().into();
        object["coins_at_once"] = self.coins.at_once.into();
        object["coins_ready"] = self.ready.into();
        object["covered"] = self.is_covered().into();
        object
    }

    /// The warning `reserve`, if there is too little, or `reserve_coins`, if it is in too few coins.
    pub fn warning(&self) -> Option<Warning> {
        let missing = self.missing();
        if missing == Amount::ZERO {
            return self.coins_warning();
        }
        // A coin has to be large enough, too: no second warning after the first has been followed.
        let small = self.coins.at_once.saturating_sub(self.ready);
        let missing_sat = missing.to_sat().max(self.coins.each.to_sat().saturating_mul(small));
        Some(Warning::new(
            "reserve",
            format!(
                "at {} sat/kw ({} sat/vB) it takes {} sat in fees to leave every factory, and lightningd {} sat to settle its \
                 channels then; the wallet has {} sat that are confirmed and free, and {} sat kept for the first",
                self.feerate,
                self.feerate / 250,
                self.needed.to_sat(),
                self.channels.to_sat(),
                self.wallet.checked_sub(self.kept).unwrap_or(Amount::ZERO).to_sat(),
                self.kept.to_sat()
            ),
            format!(
                "send {missing_sat} sat to this node's wallet (lightning-cli newaddr), or lower factory-reserve-feerate"
            ),
        ))
    }

    fn coins_warning(&self) -> Option<Warning> {
        let ExitCoins { at_once, each, .. } = self.coins;
        (self.ready < at_once).then(|| {
            Warning::new(
                "reserve_coins",
                format!(
                    "{} may have to be paid for at once, each with coins of its own; the wallet has {} of {} sat and more",
                    counted(at_once, "transaction"),
                    counted(self.ready, "coin"),
                    each.to_sat()
                ),
                "lightning-cli factory-reserve shows how to split them, and with dry_run=false does it",
            )
        })
    }
}

fn is_kept(own: &Owned, kept: Option<&ScriptBuf>) -> bool {
    kept == Some(&own.coin.output.script_pubkey)
}

/// Of every factory that there is something to leave.
fn needed(
    engine: &Engine,
    height: Height,
    feerate: u32,
    counts: fn(&Factory) -> bool,
) -> (Amount, Amount, ExitCoins) {
    let at_risk = |factory: &&Factory| {
        let state = factory.state(height);
        let over = matches!(
            state,
            FactoryState::Exited
                | FactoryState::Distributed
                | FactoryState::Reclaimed
                | FactoryState::Closing
                | FactoryState::Left
                | FactoryState::Declined
                | FactoryState::Aborted
                | FactoryState::Invited
        );
        !over
    };
    let factories = || engine.factories().filter(at_risk).filter(|factory| counts(factory));
    let coins =
        factories().map(|factory| factory.exit_coins(feerate)).fold(ExitCoins::default(), ExitCoins::and);
    let channels = sum(factories().map(|factory| factory.channels_reserve(feerate)));
    (sum(factories().map(|factory| factory.exit_reserve(feerate))), channels, coins)
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(Amount::MAX_MONEY))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sends what the warning asks for is warned of nothing more.
    #[test]
    fn what_the_warning_asks_for_is_enough() {
        let coins = ExitCoins { at_once: 1, number: 1, each: Amount::from_sat(3_196) };
        let empty = Reserve {
            feerate: 2_500,
            needed: Amount::from_sat(2_866),
            channels: Amount::ZERO,
            coins,
            wallet: Amount::ZERO,
            kept: Amount::ZERO,
            ready: 0,
        };
        let action = |reserve: &Reserve| reserve.warning().map(|warning| warning.action).unwrap_or_default();
        assert!(action(&empty).starts_with("send 3196 sat "), "{}", action(&empty));
        let sent = Reserve { wallet: Amount::from_sat(3_196), ready: 1, ..empty };
        assert!(sent.warning().is_none() && sent.is_paid_for());
        // And what lightningd needs: out of what isn't kept.
        let channels = Amount::from_sat(5_000);
        let more = Reserve { channels, ..sent };
        assert!(action(&more).starts_with("send 4670 sat "), "{}", action(&more));
        let kept = Reserve { wallet: Amount::from_sat(9_000), kept: Amount::from_sat(6_000), ..more };
        assert!(action(&kept).starts_with("send 2000 sat "), "{}", action(&kept));
        let enough = Reserve { wallet: Amount::from_sat(11_000), ..kept };
        assert!(enough.warning().is_none() && enough.is_paid_for());
    }
}
