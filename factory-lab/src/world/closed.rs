//! Cooperative closes from outside: what a client signs pays what it has, and nothing moves there any more.

use bitcoin::TxOut;
use factory_engine::Role;
use factory_engine::record::event::CloseSigning;
use factory_engine::tx::scripts::DUST;
use factory_engine::types::{Amount, InstanceId};

use super::{LSP, World};

impl World {
    /// A client signs for a close: no HTLC stands on its channels, and an output of its own wallet's pays all that
    /// its lightningd says it has. What is the operator's goes to the operator's wallet.
    pub(super) fn may_close(
        &self,
        at: usize,
        instance: InstanceId,
        event: &CloseSigning,
    ) -> Result<(), String> {
        let factory = self.factory(at, instance).map_err(|error| error.to_string())?;
        let lightningd = &self.members[at].lightningd;
        let Role::Client { .. } = factory.current.role else {
            let others =
                |output: &&TxOut| !event.shares.iter().any(|share| share.script == output.script_pubkey);
            return match event.outputs.iter().filter(others).all(|output| lightningd.owns(output)) {
                true => Ok(()),
                false => Err("S8: a close pays what is the operator's to somebody else".to_owned()),
            };
        };
        let operator = self.members[LSP].id;
        let channels: Vec<_> = factory.own_channels().map(|channel| channel.channel_id).collect();
        let mut msat = 0;
        for balance in self.balances(at, operator).iter().filter(|known| channels.contains(&known.channel_id))
        {
            if balance.htlcs {
                return Err("S24: it signs for a close while an HTLC stands".to_owned());
            }
            msat += balance.to_us_msat;
        }
        let has = Amount::from_sat(msat.div_ceil(1000));
        let paid: Amount =
            event.outputs.iter().filter(|output| lightningd.owns(output)).map(|output| output.value).sum();
        match has < DUST || paid >= has {
            true => Ok(()),
            false => Err(format!("S19: it has {has} and signs for a close that pays it {paid}")),
        }
    }
}
