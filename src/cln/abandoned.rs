//! Channels that both sides have closed while nothing of them is on chain: lightningd keeps them for ever, and tries
//! their closing transaction again at every block. No ordinary command forgets them.

use std::collections::BTreeSet;

use factory_engine::types::{ChannelId, Height};
use factory_engine::{Factory, State as FactoryState};
use serde_json::json;

use super::channel_state::kept_for_ever;
use super::client::{Call, Rpc};
use super::methods;
use super::state::State;

/// Blocks between two looks.
const BLOCKS: Height = 36;

/// Those of them that nothing can come of: their factory is over for good, its root spent 100 blocks deep, and they were
/// paid by its close, or their client has handed its key over.
fn buried(factories: &[Factory], height: Height, kept: &[ChannelId]) -> BTreeSet<ChannelId> {
    let over = factories.iter().filter(|factory| factory.state(height) == FactoryState::Closed);
    let theirs = over.flat_map(|factory| {
        let paid = factory.close_height().is_some();
        let left = factory.own_channels().filter(move |own| paid || factory.has_handed_over(own.client));
        left.map(|own| own.channel_id)
    });
    theirs.filter(|channel| kept.contains(channel)).collect()
}

/// Whether the node runs with `--developer`, without which nothing can be forgotten.
pub async fn is_developer<C: Call>(rpc: &C) -> bool {
    let configs = rpc.call("listconfigs", json!({"config": "developer"})).await;
    configs.is_ok_and(|answer| answer["configs"]["developer"]["set"] == true)
}

/// At some blocks: forgets what is buried, where the node can.
pub async fn tidy(state: &State, height: Height) {
    if !height.is_multiple_of(BLOCKS) {
        return;
    }
    let kept = state.mirror.last(kept_for_ever).await;
    if kept.is_empty() || !is_developer(&state.rpc).await {
        return;
    }
    let read = state.runtime.read(|engine, height| {
        let archived: Vec<_> = engine.archived().collect();
        (engine.factories().cloned().collect::<Vec<_>>(), archived, height)
    });
    let Ok((mut factories, archived, height)) = read.await else { return };
    match methods::archived(state, archived).await {
        Ok(more) => factories.extend(more),
        Err(error) => log::debug!("{error}"),
    }
    for channel in buried(&factories, height, &kept) {
        forget(&state.rpc, channel).await;
    }
}

async fn forget(rpc: &Rpc, channel: ChannelId) {
    let id = channel.to_string();
    let list = rpc.call("listpeerchannels", json!({"channel_id": id})).await;
    let peer = list.ok().and_then(|list| list["channels"][0]["peer_id"].as_str().map(str::to_owned));
    let Some(peer) = peer else { return };
    // lightningd looks at the chain for a funding that isn't there.
    let params = json!({"id": peer, "channel_id": id, "force": true});
    match rpc.call("dev-forget-channel", params).await {
        Ok(_) => {
            log::info!("lightningd forgets channel {id}: its factory is over, and nothing of it is on chain")
        }
        Err(error) => log::info!("lightningd doesn't forget channel {id}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use bitcoin::hashes::Hash;
    use bitcoin::hex::FromHex;
    use bitcoin::{Amount, ScriptBuf, TxOut, WPubkeyHash};
    use factory_engine::record::decode_record;
    use factory_engine::record::event::{
        ChannelEnded, ChannelResolved, CloseSigning, Confirmed, Event, HandedOver, KeyReceived,
    };
    use factory_engine::tx::close::build;
    use factory_engine::tx::musig::{MasterSecret, SealedKey};
    use factory_engine::types::{NodeId, Txid};
    use factory_engine::{BURIED, Config, Ended, Engine};
    use serde_json::Value;

    use super::super::client::CallError;
    use super::*;

    /// One factory, as its operator has it, and as client 0.
    const OPERATOR: &str = include_str!("../../tests/golden/histories/active_0.txt");
    const CLIENT: &str = include_str!("../../tests/golden/histories/active_1.txt");
    const CLIENTS: usize = 3;
    /// Height at which its funding output is spent, and the first at which that is 100 deep.
    const SPENT: Height = 300;
    const DEEP: Height = SPENT + BURIED - 1;

    /// A factory of these records, in which more has happened since.
    fn factory(history: &str, more: impl FnOnce(&Factory) -> Vec<Event>) -> Factory {
        let records = history.lines().filter_map(|line| line.strip_prefix("record "));
        let records = records.map(|hex| decode_record(&Vec::<u8>::from_hex(hex).unwrap()).unwrap());
        let records: Vec<Vec<Event>> = records.collect();
        let instance = match records.first().and_then(|events| events.first()) {
            Some(Event::Created(created)) => created.terms.instance,
            Some(Event::Invited(invited)) => invited.terms.instance,
            other => panic!("a history begins with {other:?}"),
        };
        let mut engine = Engine::new(NodeId([2; 33]), MasterSecret::new([1; 32]), Config::default());
        engine.load(instance, records).unwrap();
        let since = more(engine.factory(instance).unwrap());
        engine.load(instance, [since]).unwrap();
        engine.factory(instance).unwrap().clone()
    }

    /// Something else than the factory's own transactions spends its funding output.
    fn root_spent(factory: &Factory) -> Event {
        let (txid, spends) = (Txid::from_byte_array([7; 32]), vec![factory.funding().unwrap()]);
        Confirmed { txid, height: SPENT, spends, pays: None }.into()
    }

    fn channels(factory: &Factory) -> Vec<ChannelId> {
        factory.own_channels().map(|own| own.channel_id).collect()
    }

    fn set(channels: &[ChannelId]) -> BTreeSet<ChannelId> {
        channels.iter().copied().collect()
    }

    /// The client's key is the operator's, and lightningd has closed its channel with the peer.
    fn left(factory: &Factory) -> Vec<Event> {
        let closed =
            |channel_id: ChannelId| -> Event { ChannelEnded { channel_id, how: Ended::Closing }.into() };
        let handed_over: Event = HandedOver { height: SPENT - 10 }.into();
        [handed_over].into_iter().chain(channels(factory).into_iter().map(closed)).collect()
    }

    /// S22: what is behind a client that has left, a hundred blocks after the operator has taken it back; of that what
    /// lightningd keeps, and nothing else.
    #[test]
    fn what_a_client_has_left_behind() {
        let gone = factory(CLIENT, |factory| [left(factory), vec![root_spent(factory)]].concat());
        let kept = channels(&gone);
        assert_eq!(kept.len(), 1);
        let buried = |height, kept: &[ChannelId]| buried(from_ref(&gone), height, kept);
        assert_eq!(buried(DEEP, &kept), set(&kept));
        assert!(buried(DEEP - 1, &kept).is_empty(), "the output's spend is not 100 deep");
        let other = ChannelId([9; 32]);
        assert!(buried(DEEP, &[]).is_empty() && buried(DEEP, &[other]).is_empty());
        assert_eq!(buried(DEEP, &[other, kept[0]]), set(&kept));
    }

    /// Everybody has signed a close, and it is on chain.
    fn paid_by_a_close(factory: &Factory) -> Vec<Event> {
        let script_pubkey = ScriptBuf::new_p2wpkh(&WPubkeyHash::from_byte_array([5; 20]));
        let outputs = vec![TxOut { value: Amount::from_sat(10_000), script_pubkey }];
        let current = &factory.current;
        let close = build(&current.layout, current.tree.as_ref().unwrap(), &outputs).unwrap();
        let signing = CloseSigning { outputs, shares: vec![], ledger: vec![], height: SPENT - 10 };
        let spends = vec![close.outpoint];
        vec![signing.into(), Confirmed { txid: close.txid, height: SPENT, spends, pays: None }.into()]
    }

    /// A cooperative close has paid everybody what was in the channels, and nobody has handed a key over.
    #[test]
    fn what_a_close_has_paid() {
        for (history, count) in [(OPERATOR, CLIENTS), (CLIENT, 1)] {
            let closed = factory(history, paid_by_a_close);
            let kept = channels(&closed);
            assert_eq!(kept.len(), count);
            assert_eq!(buried(from_ref(&closed), DEEP, &kept), set(&kept));
            assert!(buried(from_ref(&closed), DEEP - 1, &kept).is_empty(), "it is not 100 deep");
            assert!(buried(from_ref(&closed), DEEP, &[ChannelId([9; 32])]).is_empty());
        }
    }

    /// As long as the output is there, however long ago it was left.
    #[test]
    fn what_is_not_taken_back_is_not_buried() {
        let waits = factory(CLIENT, left);
        assert_eq!(waits.state(DEEP + BURIED), FactoryState::Left);
        assert!(buried(from_ref(&waits), DEEP + BURIED, &channels(&waits)).is_empty());
    }

    /// A factory that is over in another way: no key was handed over, so this channel is its owner's.
    #[test]
    fn what_was_never_handed_over_is_not_buried() {
        let settled =
            factory(CLIENT, |factory| vec![root_spent(factory), ChannelResolved { client: 0 }.into()]);
        assert_eq!(settled.state(DEEP), FactoryState::Closed);
        assert!(buried(from_ref(&settled), DEEP, &channels(&settled)).is_empty());
    }

    /// The operator: of all whose keys it has; the channels of another factory stay.
    #[test]
    fn what_an_operator_has_taken_back() {
        let ephemeral = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
        let key = SealedKey { ephemeral: ephemeral.parse().unwrap(), sealed: [6; 32] };
        let received = |client| -> Event { KeyReceived { client, key, height: SPENT - 10 }.into() };
        let gone = factory(OPERATOR, |factory| {
            (0..).take(CLIENTS).map(received).chain([root_spent(factory)]).collect()
        });
        let kept = channels(&gone);
        assert_eq!(kept.len(), CLIENTS);
        assert_eq!(buried(from_ref(&gone), DEEP, &kept), set(&kept));
        assert_eq!(buried(from_ref(&gone), DEEP, &kept[1..]), set(&kept[1..]));
        assert!(buried(from_ref(&gone), DEEP - 1, &kept).is_empty());
        let lives = factory(OPERATOR, |_| vec![]);
        assert!(buried(from_ref(&lives), DEEP, &kept).is_empty());
    }

    #[derive(Clone)]
    struct Node(Value);

    impl Call for Node {
        async fn call(&self, _: &str, _: Value) -> Result<Value, CallError> {
            Ok(self.0.clone())
        }
    }

    #[tokio::test]
    async fn whether_anything_can_be_forgotten() {
        let node = |set: bool| Node(json!({"configs": {"developer": {"set": set, "source": "cmdline"}}}));
        assert!(is_developer(&node(true)).await);
        assert!(!is_developer(&node(false)).await);
        assert!(!is_developer(&Node(json!({"configs": {}}))).await);
    }
}
