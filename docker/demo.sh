#!/usr/bin/env bash
# The main job, in containers on regtest: an operator puts two clients' channels behind one output, they are paid and
# pay, the operator vanishes for good, and a client leaves by itself and has its money.
#   docker/demo.sh          builds the image, runs all of it (some five minutes: lightningd looks for blocks every 30 s),
#                           and takes everything down again, with its volumes
#   docker/demo.sh --keep   leaves the containers there, to look at
set -euo pipefail
cd "$(dirname "$0")"

keep=
case "${1-}" in
"") ;;
--keep) keep=1 ;;
*)
    echo "unknown argument '$1': docker/demo.sh [--keep]" >&2
    exit 2
    ;;
esac

compose() { docker compose -f compose.yml "$@"; }
cli() { compose exec -T "$1" lightning-cli --network=regtest --notifications=none "${@:2}" </dev/null; }
btc() { compose exec -T bitcoind bitcoin-cli -regtest -rpcuser=factory -rpcpassword=factory "$@" </dev/null; }
miner() { btc -rpcwallet=miner "$@"; }
# jq is in the image; alice stays to the end.
pick() { compose exec -T alice jq -r "$1"; }
say() { printf '\n== %s\n' "$*"; }

# Until a command succeeds; two minutes at most.
until_true() {
    local deadline=$((SECONDS + 120))
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "not within two minutes: $*" >&2
            return 1
        fi
        sleep 1
    done
}
# Whether what a node answers is so: its name, an expression for jq, and the command.
is_so() { [ "$(cli "$1" "${@:3}" | pick "$2")" = true ]; }
is_in_mempool() { [ "$(btc getrawmempool | pick length)" -gt 0 ]; }
IN_WALLET='[.outputs[] | select(.status == "confirmed")] | length > 0'
# Mines, and waits until these nodes have seen it.
mine() {
    miner -generate "$1" >/dev/null
    local node height
    height=$(btc getblockcount)
    for node in "${@:2}"; do
        until_true is_so "$node" ".blockheight >= $height" getinfo
        until_true is_so "$node" ".blockheight >= $height" factory-status
    done
}

finish() {
    local code=$?
    if [ "$code" -ne 0 ]; then
        echo "the demo failed; what the nodes said last:" >&2
        compose logs --tail 40 >&2 || true
    fi
    if [ -z "$keep" ]; then
        compose down --volumes --remove-orphans
    fi
    exit "$code"
}
compose down --volumes --remove-orphans
trap finish EXIT

say "bitcoind, an operator (lsp) and two clients (alice, bob)"
# First a chain with a block of today: without, lightningd waits for bitcoind to get one.
compose up --detach --wait bitcoind
btc createwallet miner >/dev/null
miner -generate 101 >/dev/null
compose up --build --detach --wait
miner sendtoaddress "$(cli lsp newaddr bech32 | pick .bech32)" 1 >/dev/null
mine 1 lsp alice bob
until_true is_so lsp "$IN_WALLET" listfunds
lsp=$(cli lsp getinfo | pick .id)
alice=$(cli alice getinfo | pick .id)
bob=$(cli bob getinfo | pick .id)
for client in alice bob; do
    cli "$client" connect "$lsp@lsp:9735" >/dev/null
done
until_true is_so lsp '[.peers[] | select(.ready)] | length == 2' factory-status

say "one output for both, 500,000 sat each"
cli lsp factory-plan 2 500000 |
    pick '"\(.funding_sat) sat on chain; whoever leaves alone publishes \(.exit.transactions) transaction(s), \(.exit.vbytes) vB"'
factory=$(cli lsp factory-create "[\"$alice\",\"$bob\"]" 500000 | pick .factory.factory_instance)
mine 3 lsp alice bob
for node in lsp alice bob; do
    until_true is_so "$node" '.factories[0].state == "active"' factory-list
done
for client in alice bob; do
    until_true is_so "$client" '[.channels[] | select(.state == "CHANNELD_NORMAL" and .updates.remote)] | length == 1' listpeerchannels
done
cli alice factory-show "$factory" text

say "alice is paid 100,000 sat, and pays bob 20,000"
cli lsp pay "$(cli alice invoice 100000000 first demo | pick .bolt11)" | pick '"lsp to alice: \(.status)"'
cli alice pay "$(cli bob invoice 20000000 second demo | pick .bolt11)" | pick '"alice to bob: \(.status)"'
until_true is_so alice '[.channels[].htlcs[]?] == []' listpeerchannels

say "the operator vanishes"
cli alice factory-verify "$factory" | pick '"alice holds all that she needs: \(.valid)"'
compose stop lsp
cli alice factory-exit "$factory" | pick '.path[] | "alice publishes \(.txid)"'
until is_so alice '.factories[0].state == "exited"' factory-list; do
    until_true is_in_mempool
    mine 1 alice bob
done
echo "alice has left; bob's channel is on chain too, and goes on"

say "alice's money, once lightningd has closed her channel"
for _ in $(seq 20); do
    if is_so alice "$IN_WALLET" listfunds; then
        cli alice listfunds | pick '[.outputs[].amount_msat] | add / 1000 | floor | "\(.) sat in her wallet"'
        exit
    fi
    mine 3 alice bob
done
echo "nothing came to alice's wallet" >&2
exit 1
