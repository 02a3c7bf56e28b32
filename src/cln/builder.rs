//! What the plugin promises to lightningd: options, commands, hooks, subscriptions.

use std::future::Future;

use cln_plugin::messages::NotificationTopic;
use cln_plugin::{
    Builder, ConfiguredPlugin, FeatureBitsKind, HookBuilder, HookFilter, Plugin, RpcMethodBuilder,
};
use factory_engine::types::NodeId;
use factory_engine::wire::envelope::MESSAGE_TYPE;
use serde_json::Value;
use tokio::io::{DuplexStream, Stdin};

use crate::config;

use super::error::RpcError;
use super::executor::{RENEWAL_TOPIC, STATE_TOPIC};
use super::hooks::{
    carry_on, commitment_revocation, custommsg, guarded, guarded_by, htlc_accepted, openchannel, rpc_command,
};
use super::outbox::Outbox;
use super::requests::{Request, Tagged};
use super::state::State;
use super::tally::Refused;
use super::vital::Vital;
use super::waker::WAKE_TOPIC;
use super::{boot, datastore, follow, guard, methods, metrics, page, peers, watch};

type Draft = Builder<State, Tagged<Stdin>, DuplexStream>;
type Configured = ConfiguredPlugin<State, Tagged<Stdin>, DuplexStream>;

/// Bytes of answers that may wait for stdout.
const OUTPUT_BUFFER: usize = 64 * 1024;

/// Runs the plugin until lightningd ends.
pub async fn run() -> anyhow::Result<()> {
    anyhow::ensure!(
        !factory_engine::tx::MODELLED,
        "cln-factory: this build's signatures are modelled (--cfg modelled_signatures): it is for \
         factory-sim and must never handle money. Build it without that flag."
    );
    let (outbox, undelivered) = Outbox::new();
    outbox.clone().install_logger();
    let (output, answers) = tokio::io::duplex(OUTPUT_BUFFER);
    let delivery = tokio::spawn(undelivered.deliver(answers, tokio::io::stdout()));
    let ended = serve(outbox, output).await;
    // Answers that are on their way get there: it ends when cln-plugin has dropped `output`.
    delivery.await??;
    if let Err(error) = &ended {
        eprintln!("cln-factory: {error}");
        // Returning from `main` instead would wait for a thread that reads stdin.
        std::process::exit(1);
    }
    ended
}

/// The plugin can't start. To disable ourselves would be the polite way, but lightningd then goes on without a
/// word even if the plugin is important to its operator: and nobody would watch the factories' channels. Where
/// it isn't important lightningd goes on as well, so it is told to stop (S33), and until it has we answer hooks:
/// nothing moves on what may be a factory's channel.
async fn give_up(
    configured: Configured,
    outbox: Outbox,
    error: impl std::fmt::Display,
) -> anyhow::Result<()> {
    let (rpc, reason) = (boot::rpc(&configured.configuration()), error.to_string());
    let living = boot::living(datastore::store(rpc.clone())).await;
    if !guard::must_stop(&rpc, living, &reason).await {
        return Err(anyhow::anyhow!(reason));
    }
    let state = boot::refusing(rpc.clone(), outbox.clone(), reason);
    let plugin = configured.start(state).await?;
    tokio::spawn(async move { guard::stop_lightningd(&rpc, &outbox).await });
    plugin.join().await
}

async fn serve(outbox: Outbox, output: DuplexStream) -> anyhow::Result<()> {
    let builder = subscriptions(hooks(commands(promises(output))));
    // `None`: lightningd only wanted the manifest.
    let Some(configured) = config::register(builder).configure().await? else { return Ok(()) };
    let configuration = configured.configuration();
    let settings = match config::read(&configured) {
        Ok(settings) => settings,
        Err(error) => return give_up(configured, outbox, error).await,
    };
    let (metrics_bind, web_bind) = (settings.metrics_bind, settings.web_bind);
    let (vital, mut deaths) = Vital::new();
    let prepared = boot::prepare(&configuration, settings, outbox.clone(), vital.clone()).await;
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return give_up(configured, outbox, error).await,
    };
    let state = State::clone(&prepared.state);
    let plugin = configured.start(State::clone(&state)).await?;
    vital.spawn("follows the chain", follow::follow(prepared));
    // No vital ones: they guard nothing.
    if let Some(address) = metrics_bind {
        tokio::spawn(metrics::serve(State::clone(&state), address));
    }
    if let Some(address) = web_bind {
        tokio::spawn(page::serve(State::clone(&state), address));
    }
    tokio::select! {
        // lightningd has gone: an ordinary end.
        ended = plugin.join() => ended,
        why = deaths.next() => guard::end(&state, &why).await,
    }
}

fn promises(output: DuplexStream) -> Draft {
    Builder::new(Tagged::new(tokio::io::stdin()), output)
        .with_logging(false)
        .custommessages(vec![MESSAGE_TYPE])
        .featurebits(FeatureBitsKind::Init, peers::our_features())
        .featurebits(FeatureBitsKind::Node, peers::our_features())
        .notification(NotificationTopic::new(STATE_TOPIC))
        .notification(NotificationTopic::new(RENEWAL_TOPIC))
        .notification(NotificationTopic::new(WAKE_TOPIC))
}

fn commands(builder: Draft) -> Draft {
    let builder = plain(builder, methods::plan::COMMAND, methods::plan::call);
    let builder = command(builder, methods::create::COMMAND, methods::create::call);
    let builder = plain(builder, methods::invitations::COMMAND, methods::invitations::call);
    let builder = plain(builder, methods::accept::COMMAND, methods::accept::call);
    let builder = plain(builder, methods::decline::COMMAND, methods::decline::call);
    let builder = plain(builder, methods::list::COMMAND, methods::list::call);
    let builder = plain(builder, methods::show::COMMAND, methods::show::call);
    let builder = plain(builder, methods::verify::COMMAND, methods::verify::call);
    let builder = plain(builder, methods::export::COMMAND, methods::export::call);
    let builder = plain(builder, methods::history::COMMAND, methods::history::call);
    let builder = command(builder, methods::restore::COMMAND, methods::restore::call);
    let builder = plain(builder, methods::buy::COMMAND, methods::buy::call);
    let builder = plain(builder, methods::moving::COMMAND, methods::moving::call);
    let builder = plain(builder, methods::price::COMMAND, methods::price::call);
    let builder = plain(builder, methods::ladder::COMMAND, methods::ladder::call);
    let builder = plain(builder, methods::reserve::COMMAND, methods::reserve::call);
    let builder = plain(builder, methods::leave::COMMAND, methods::leave::call);
    let builder = plain(builder, methods::exit::COMMAND, methods::exit::call);
    let builder = plain(builder, methods::evict::COMMAND, methods::evict::call);
    let builder = plain(builder, methods::close::COMMAND, methods::close::call);
    #[cfg(feature = "faults")]
    let builder = plain(builder, methods::misbehave::COMMAND, methods::misbehave::call);
    plain(builder, methods::status::COMMAND, methods::status::call)
}

/// A command that has its answer soon.
fn plain<F>(builder: Draft, about: methods::Command, call: fn(State, Value) -> F) -> Draft
where
    F: Future<Output = Result<Value, RpcError>> + Send + 'static,
{
    command(builder, about, move |state, request| call(state, request.params))
}

fn command<F>(
    builder: Draft,
    command: methods::Command,
    call: impl Fn(State, Request) -> F + Copy + Send + Sync + 'static,
) -> Draft
where
    F: Future<Output = Result<Value, RpcError>> + Send + 'static,
{
    let callback = move |plugin: Plugin<State>, tagged| async move {
        // A task of its own: a panic then answers the command instead of hanging it.
        let answer = tokio::spawn(call(State::clone(plugin.state()), Request::new(tagged))).await;
        let answer = answer.unwrap_or_else(|_| Err(RpcError::internal(command.name)));
        if let Err(error) = &answer {
            plugin.state().tally.refused(Refused::Command, error.kind());
        }
        answer.map_err(anyhow::Error::new)
    };
    let method =
        RpcMethodBuilder::new(command.name, callback).usage(command.usage).description(command.description);
    builder.rpcmethod_from_builder(method)
}

fn hooks(builder: Draft) -> Draft {
    let custommsg = HookBuilder::new("custommsg", |plugin: Plugin<State>, request: Value| {
        custommsg::receive(&plugin.state().runtime, &request);
        async { Ok(carry_on()) }
    })
    // A slower plugin before us would let a disconnect overtake the peer's last messages.
    .before(vec!["chanbackup".to_owned()])
    .filters(vec![HookFilter::Int(MESSAGE_TYPE.into())]);
    let rpc_command = HookBuilder::new("rpc_command", |plugin: Plugin<State>, request: Value| {
        let state = State::clone(plugin.state());
        guarded("rpc_command", async move {
            let _took = state.tally.hook("rpc_command");
            rpc_command::answer(&state, &request).await
        })
    })
    .filters(rpc_command::commands().map(|name| HookFilter::Str(name.to_owned())).collect());
    builder
        .hook_from_builder(custommsg)
        .hook_from_builder(rpc_command)
        .hook("openchannel", |plugin: Plugin<State>, request: Value| {
            let state = State::clone(plugin.state());
            guarded("openchannel", async move {
                let _took = state.tally.hook("openchannel");
                openchannel::answer(&state, &request).await
            })
        })
        .hook("commitment_revocation", |plugin: Plugin<State>, request: Value| {
            let state = State::clone(plugin.state());
            guarded("commitment_revocation", async move {
                let _took = state.tally.hook("commitment_revocation");
                commitment_revocation::note(&state, &request).await;
                carry_on()
            })
        })
        .hook("htlc_accepted", |plugin: Plugin<State>, request: Value| {
            let state = State::clone(plugin.state());
            let (again, same) = (State::clone(&state), request.clone());
            let answer = async move {
                let _took = state.tally.hook("htlc_accepted");
                htlc_accepted::answer(&state, &request).await
            };
            let after = async move { htlc_accepted::answer_after_panic(&again, &same).await };
            guarded_by("htlc_accepted", answer, after, htlc_accepted::worst)
        })
}

fn subscriptions(builder: Draft) -> Draft {
    // All but the last do their work before the future is made: so it keeps lightningd's order.
    builder
        .subscribe("block_added", |plugin: Plugin<State>, request: Value| {
            if let Some(height) = body(&request, "block_added")["height"].as_u64() {
                plugin.state().news.send_replace(height.try_into().unwrap_or(u32::MAX));
            }
            async { Ok(()) }
        })
        .subscribe("connect", |plugin: Plugin<State>, request: Value| {
            let (state, peer) = (State::clone(plugin.state()), peer(body(&request, "connect")));
            if let Some(peer) = peer {
                state.holding.moved(peer);
                peers::greet(&state, peer);
            }
            async move {
                if let Some(peer) = peer {
                    watch::met(&state, peer).await;
                }
                Ok(())
            }
        })
        .subscribe("disconnect", |plugin: Plugin<State>, request: Value| {
            if let Some(peer) = peer(body(&request, "disconnect")) {
                plugin.state().holding.moved(peer);
                plugin.state().runtime.disconnected(peer);
            }
            async { Ok(()) }
        })
        .subscribe("channel_opened", |plugin: Plugin<State>, request: Value| {
            let (state, peer) = (State::clone(plugin.state()), peer(body(&request, "channel_opened")));
            async move {
                if let Some(peer) = peer {
                    watch::opened(&state, peer).await;
                }
                Ok(())
            }
        })
        .subscribe("channel_state_changed", |plugin: Plugin<State>, request: Value| {
            watch::changed(plugin.state(), body(&request, "channel_state_changed"));
            async { Ok(()) }
        })
        .subscribe("shutdown", |plugin: Plugin<State>, _| async move {
            plugin.state().vital.stop();
            if plugin.state().unavailable.borrow().is_some() {
                // S33: peers may still connect, and an HTLC of theirs find nobody here. lightningd ends us
                // when it has ended all else.
                std::future::pending::<()>().await;
            }
            plugin.state().runtime.flush().await;
            // Returning from `main` instead would wait for a thread that reads stdin.
            std::process::exit(0)
        })
}

/// lightningd puts a notification's fields in an object of its name; older versions didn't.
fn body<'a>(request: &'a Value, topic: &str) -> &'a Value {
    request.get(topic).unwrap_or(request)
}

fn peer(body: &Value) -> Option<NodeId> {
    body["id"].as_str()?.parse().ok()
}
