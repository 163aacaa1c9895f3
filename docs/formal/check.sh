#!/bin/bash
# check.sh runs each row of the table below with SPASS and compares the verdict with the expected one. "none" is a proof
# that the model has no such attack, for any number of sessions and parties. "ATTACK" is an attack, or a run, that must
# be found. A row stands for a claim of README.md or docs/SECURITY.md. Rows are printed as they finish, so in no fixed
# order. The options are listed at the top of each model. It needs: apt-get install spass cpp; one to three minutes.
set -u
here=$(cd "$(dirname "$0")" && pwd)

row() { # model | expected | options | claim
	IFS='|' read -r model want opts claim <<<"$1"
	got=$("$here/spass/run.sh" "$model.dfg.in" $opts | awk 'NF { v = $2 == "no" ? "no answer" : $2 } END { print v }')
	[ "$got" = "$want" ] && verdict=ok || verdict="FAILED, found $got instead of"
	printf '%-4s %-6s %s  [%s %s]\n' "$verdict" "$want" "$claim" "$model" "$opts"
}
export -f row
export here
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# -DWIRE is the protocol as it is. With RSA sound, labels and wrapping, SPASS does not finish on it, so most WIRE rows
# have worthless RSA (PLAIN), which gives the attacker more. Rows without WIRE hash plaintexts, which binds less than
# what the protocol hashes.
xargs -d '\n' -P 2 -I {} bash -c 'row "$1"' row {} <<'TABLE' | tee "$out"
ns|ATTACK||tool: Lowe's attack on Needham-Schroeder is found
ns|none|-DNSL|tool: Lowe's repair has no attack
securechat2|ATTACK|-DGOAL_RUN|model: a whole run is possible
securechat2|ATTACK|-DPLAIN -DGOAL_RUN|model: a whole run is possible without RSA
securechat2|ATTACK|-DWIRE -DPLAIN -DGOAL_RUN|model: a whole run is possible over the wire's transcript
securechat2|ATTACK|-DGOAL_REFUSED|model: a run that ends in a refusal after stage 1 is possible
securechat2|ATTACK|-DGOAL_REFUSED4|model: a run that ends in a refusal after stage 3 is possible
securechat2|ATTACK|-DWIRE -DPLAIN -DGOAL_REFUSED|model: the same after stage 1 over the wire's transcript
securechat2|ATTACK|-DWIRE -DPLAIN -DGOAL_REFUSED4|model: the same after stage 3 over the wire's transcript
securechat2|none|-DGOAL_C|secrecy: the attacker does not get the client's key
securechat2|none|-DGOAL_S|secrecy: the attacker does not get the server's key
securechat2|none|-DGOAL_CALONE|authentication: the attacker cannot pose as a server
securechat2|none|-DGOAL_SALONE|authentication: the attacker cannot pose as a client
securechat2|none|-DGOAL_TWO|authentication: the attacker cannot make a stage 2
securechat2|none|-DGOAL_FOUR|authentication: the attacker cannot make a stage 4
securechat2|none|-DGOAL_WHO|client's name: Ra, which hides it, stays secret
securechat2|none|-DPLAIN -DGOAL_CALONE|authentication: the attacker cannot pose as a server, RSA worthless
securechat2|none|-DPLAIN -DGOAL_SALONE|authentication: the attacker cannot pose as a client, RSA worthless
securechat2|none|-DPLAIN -DLATE -DGOAL_C|forward secrecy: all keys stolen later, RSA worthless, client's key
securechat2|none|-DPLAIN -DLATE -DGOAL_S|forward secrecy: all keys stolen later, RSA worthless, server's key
securechat2|none|-DWIRE -DPLAIN -DLATE -DGOAL_C|forward secrecy: the same over the wire's transcript, client's key
securechat2|none|-DWIRE -DPLAIN -DLATE -DGOAL_S|forward secrecy: the same over the wire's transcript, server's key
securechat2|none|-DWIRE -DPLAIN -DGOAL_CALONE|authentication: the attacker cannot pose as a server, wire's transcript
securechat2|none|-DWIRE -DPLAIN -DGOAL_SALONE|authentication: the attacker cannot pose as a client, wire's transcript
securechat2|none|-DWIRE -DNOLABEL -DNOWRAP -DGOAL_C|secrecy: wire's transcript with RSA sound, client's key
securechat2|none|-DWIRE -DNOLABEL -DNOWRAP -DGOAL_S|secrecy: wire's transcript with RSA sound, server's key
securechat2|none|-DKCIA -DGOAL_C|client's keys stolen: the attacker does not get the key of its sessions
securechat2|none|-DKCIA -DGOAL_CALONE|client's keys stolen: the attacker cannot pose as a server to it
securechat2|none|-DPLAIN -DLATE -DKCIA -DGOAL_C|client's keys stolen: secrecy holds if RSA is worthless and the rest is stolen later
securechat2|none|-DPLAIN -DKCIA -DGOAL_CALONE|client's keys stolen: the attacker cannot pose as a server, RSA worthless
securechat2|none|-DKCIB -DGOAL_S|server's keys stolen: the attacker does not get the key of its sessions with real clients
securechat2|none|-DKCIB -DGOAL_SALONE|server's keys stolen: the attacker cannot pose as a client to it
securechat2|none|-DPLAIN -DLATE -DKCIB -DGOAL_S|server's keys stolen: secrecy holds if RSA is worthless and the rest is stolen later
securechat2|none|-DPLAIN -DKCIB -DGOAL_SALONE|server's keys stolen: the attacker cannot pose as a client, RSA worthless
securechat2|ATTACK|-DLOSTIDB -DGOAL_C|identity stolen: with a server's, the attacker poses as that server
securechat2|ATTACK|-DLOSTIDA -DGOAL_S|identity stolen: with a client's, the attacker poses as that client
securechat2|none|-DLOSTIDA -DGOAL_WHO|identity stolen: a client's does not show when it calls
securechat2|none|-DLOSTEKA -DGOAL_WHO|encryption key stolen: a client's does not show when it calls
securechat2|none|-DLOSTEKA -DGOAL_C|encryption key stolen: a client's opens no session, client's key
securechat2|none|-DLOSTEKA -DGOAL_S|encryption key stolen: a client's opens no session, server's key
securechat2|none|-DLOSTEKB -DGOAL_C|encryption key stolen: a server's opens no session, client's key
securechat2|none|-DLOSTEKB -DGOAL_S|encryption key stolen: a server's opens no session, server's key
securechat2|none|-DLOSTEKB -DGOAL_CALONE|encryption key stolen: a server's is not enough to pose as the server
securechat2|none|-DLOSTEKB -DGOAL_SALONE|encryption key stolen: a server's is not enough to pose as a client
securechat2|ATTACK|-DLOSTEKB -DGOAL_WHO|encryption key stolen: a server's shows which client calls
securechat2|ATTACK|-DLATE -DGOAL_WHO|encryption key stolen later: a server's shows which client made a recorded call
securechat2|ATTACK|-DLOSTIDB -DGOAL_WHO|identity stolen: with a server's, the attacker learns which client calls
securechat2|none|-DGOAL_REF|refusal: not forged, the server sent it
securechat2|none|-DPLAIN -DGOAL_REF|refusal: not forged, RSA worthless: the signature alone is enough
securechat2|none|-DWIRE -DPLAIN -DGOAL_REF|refusal: not forged, the same over the wire's transcript
securechat2|none|-DWIRE -DNOLABEL -DGOAL_REF|refusal: not forged, wire's transcript with RSA sound
securechat2|none|-DPLAIN -DKCIA -DGOAL_REF|refusal: not forged with the client's keys stolen, RSA worthless
securechat2|none|-DPLAIN -DLOSTEKB -DGOAL_REF|refusal: not forged with the server's encryption key stolen, RSA worthless
securechat2|ATTACK|-DLOSTIDB -DGOAL_REF|refusal: forged with the server's identity
securechat2|none|-DGOAL_REFRUN|refusal: not replayed from another run of the same client
securechat2|none|-DPLAIN -DGOAL_REFRUN|refusal: not replayed from another run of the same client, RSA worthless
securechat2|none|-DWIRE -DPLAIN -DGOAL_REFRUN|refusal: not replayed from another run, the same over the wire's transcript
securechat2|none|-DGOAL_REFSESSION|refusal: not replayed from another session of the server
securechat2|none|-DPLAIN -DKCIA -DGOAL_REFSESSION|refusal: not replayed from another session, client's keys stolen, RSA worthless
securechat2|none|-DWIRE -DPLAIN -DGOAL_REFSESSION|refusal: not replayed from another session, RSA worthless, wire's transcript
securechat2|none|-DPLAIN -DREFCTX=c2 -DGOAL_REF|refusal with stage 2's context: a stage 2 still is no refusal
securechat2|none|-DPLAIN -DREFCTX=c4 -DGOAL_REF|refusal with stage 4's context: a stage 4 still is no refusal
securechat2|none|-DPLAIN -DREFCTX=c2 -DGOAL_TWO|refusal with stage 2's context: it still is no stage 2
securechat2|none|-DPLAIN -DREFCTX=c4 -DGOAL_FOUR|refusal with stage 4's context: it still is no stage 4
securechat2|none|-DWIRE -DPLAIN -DREFCTX=c2 -DGOAL_REF|refusal with stage 2's context: a stage 2 is no refusal, wire's transcript
securechat2|none|-DWIRE -DPLAIN -DREFCTX=c2 -DGOAL_TWO|refusal with stage 2's context: it is no stage 2, wire's transcript
securechat2|none|-DWIRE -DPLAIN -DREFCTX=c4 -DGOAL_REF|refusal with stage 4's context: a stage 4 is no refusal, wire's transcript
securechat2|none|-DWIRE -DPLAIN -DREFCTX=c4 -DGOAL_FOUR|refusal with stage 4's context: it is no stage 4, wire's transcript
securechat2|ATTACK|-DPLAIN -DNOSIGR -DGOAL_REF|part: without the refusal's signature it is forged where RSA is worthless
securechat2|ATTACK|-DNOSIGR -DLOSTEKB -DGOAL_REF|part: without the refusal's signature the server's encryption key forges it
securechat2|ATTACK|-DPLAIN -DREFBARE -DGOAL_REF|part: a refusal without h1 is taken from another client's run, RSA worthless
securechat2|ATTACK|-DPLAIN -DREFBARE -DGOAL_REFRUN|part: a refusal without h1 is replayed in another run, RSA worthless
securechat2|ATTACK|-DNORS -DGOAL_REFSESSION|part: without Rs in h a refusal is replayed from another session
securechat2|ATTACK|-DPLAIN -DNOCRED -DGOAL_REF|part: without the box in h a refusal of another client is taken, RSA worthless
securechat2|none|-DWIRE -DNOLABEL -DLOSTIDB -DGOAL_REFEK|part: wrapped, a stolen identity is not enough to forge a refusal under the real encryption key
securechat2|ATTACK|-DWIRE -DNOLABEL -DREFPLAIN -DLOSTIDB -DGOAL_REFEK|part: unwrapped, it is enough
securechat2|none|-DREFPLAIN -DGOAL_WHO|part: Ra stays secret also with an unwrapped refusal
securechat2|none|-DREFPLAIN -DLOSTIDA -DGOAL_WHO|part: the same with the client's identity stolen
securechat2|none|-DREFPLAIN -DLOSTEKA -DGOAL_WHO|part: the same with the client's encryption key stolen
securechat2|ATTACK|-DOWNFIRST -DLOSTIDA -DGOAL_PINNED|own identity before pins: with a client's, the attacker poses as its pinned server
securechat2|none|-DOWN -DLOSTIDA -DGOAL_PINNED|pins first: with a client's identity the attacker cannot pose as its pinned server
securechat2|none|-DOWN -DPLAIN -DKCIA -DGOAL_PINNED|pins first: nor with all the client's keys, RSA worthless
securechat2|ATTACK|-DOWNFIRST -DGOAL_ELSEWHERE|own identity before pins: a relay leads a call of the pinned server to the user's own server
securechat2|none|-DOWN -DGOAL_ELSEWHERE|pins first: a relay cannot
securechat2|none|-DOWN -DPLAIN -DKCIA -DGOAL_ELSEWHERE|pins first: nor with all the client's keys, RSA worthless
securechat2|ATTACK|-DOWNFIRST -DLOSTIDB -DGOAL_OPERATOR|own identity from any address: with a server's, the attacker joins as the operator
securechat2|none|-DLOSTIDB -DGOAL_OPERATOR|own identity from own addresses only: with a server's, the attacker cannot join as the operator
securechat2|none|-DKCIB -DGOAL_OPERATOR|own identity from own addresses only: nor with all the server's keys
securechat2|ATTACK|-DOWN -DLOSTIDA -DGOAL_OWN|own identity: a local tunnel leads a call without a pin to the attacker, who has the identity
securechat2|none|-DOWN -DGOAL_OWN|own identity: without the identity it does not
securechat2|none|-DOWN -DPLAIN -DLATE -DGOAL_C|own identity: calls of a party to itself do not break secrecy, RSA worthless, keys stolen later
securechat2|none|-DOWN -DPLAIN -DGOAL_CALONE|own identity: nor the server's authentication
securechat2|none|-DOWN -DGOAL_SALONE|own identity: nor the client's authentication
securechat2|none|-DOWN -DPLAIN -DGOAL_REF|own identity: nor refusals
securechat2|ATTACK|-DGOAL_JOIN -DRUN|invite: the invited client can use it
securechat2|none|-DGOAL_JOIN|invite: the attacker cannot use it
securechat2|none|-DGOAL_JOIN -DPLAIN|invite: the attacker cannot use it, RSA worthless
securechat2|none|-DGOAL_JOIN -DLOSTIDB -DLOSTEKB|invite: the attacker cannot use it with the server's keys
securechat2|ATTACK|-DGOAL_JOIN -DRAWCODE -DLOSTEKB|part: an invite's code sent in the box would be stolen
securechat2|ATTACK|-DNOSIG0 -DGOAL_WHO|part: without the hello's signature the client's name shows
securechat2|none|-DPLAIN -DLATE -DNOSIG0 -DGOAL_C|part: without the hello's signature the key stays secret
securechat2|ATTACK|-DPLAIN -DNOSIG2 -DNOSIG4 -DGOAL_CALONE|part: without signatures 2 and 4 the attacker poses as a server
securechat2|ATTACK|-DPLAIN -DNOSIG1 -DNOSIG3 -DGOAL_SALONE|part: without signatures 1 and 3 the attacker poses as a client
securechat2|ATTACK|-DPLAIN -DNOID -DGOAL_SALONE|part: without the server's names in h a stage can be forwarded (Lowe)
securechat2|ATTACK|-DPLAIN -DNOCRED -DGOAL_CALONE|part: without the box in h a stage can be forwarded (Davis)
securechat2|ATTACK|-DLATE -DNOKEM -DGOAL_C|part: without HPKE keys stolen later open the recording
securechat2|none|-DPLAIN -DLATE -DNOSM -DGOAL_C|part: without Sm the key stays secret
classic|ATTACK|-DLEN -DGOAL_RUN|paper: a whole run is possible
classic|none|-DLEN -DGOAL_SKEY|paper: the key that the server made stays secret
classic|none|-DLEN -DGOAL_ALONE|paper: the attacker cannot pose as the server up to stage 3
classic|ATTACK|-DLEN -DGOAL_CKEY|paper 1: any registered third party plants the session key
classic|ATTACK|-DLEN -DGOAL_NO4|paper 1: and the server need not have sent a stage 4
classic|ATTACK|-DHONEST -DLEN -DGOAL_AGAIN|paper 2: an old stage 4 is accepted again, without a third party
classic|ATTACK|-DHONEST -DLEN -DGOAL_OLD|paper 2: so one lost session key opens later sessions
classic|ATTACK|-DHONEST -DGOAL_NONE4|paper 3: stage 2 passes for stage 4
classic|none|-DLEN -DGOAL_NONE4|paper 3: not if the key's length is checked, as -paper does
classic|ATTACK|-DHONEST -DLEN -DLATEC -DGOAL_SKEY|paper 4: the client's key opens every recording
classic|none|-DLEN -DLATES -DGOAL_SKEY|paper 4: the server's key alone opens none
classic|ATTACK|-DHONEST -DLEN -DKCIC -DGOAL_CKEY|paper 5: with the client's key, the attacker reads the key that the client accepts
classic|ATTACK|-DLEN -DKCIC -DGOAL_ALONE|paper 5: and poses as the server to it
classic|none|-DLEN -DKCIS -DGOAL_SKEY|paper 5: with the server's key, the attacker reads no key that the server makes
classic|none|-DFIX4 -DLEN -DGOAL_CKEY|paper, repaired: a stage 4 that signs names and serials prevents 1
classic|none|-DFIX4 -DLEN -DGOAL_AGAIN|paper, repaired: and 2
classic|none|-DFIX4 -DGOAL_NONE4|paper, repaired: and 3
TABLE
passed=$(grep -c '^ok ' "$out")
failed=$(grep -vc '^ok ' "$out")
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
