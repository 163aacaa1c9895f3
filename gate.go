package main

// The gate rejects connections before the handshake, and ends handshakes to make room for others, so that no network
// can keep the others out. A network is an address or one of the larger networks around it, each of them a tier with
// its limits; IPv4 in IPv6's form counts as IPv4. The rules:
//
//   - the handshakes in progress are limited in each network. In a full network a newcomer replaces the oldest
//     handshake of the neighbour that has the most, if its own part of the network has fewer; else the oldest one whose
//     client has been silent for silentGrace; else it is rejected;
//   - a network with too many failures has to wait, as with sshd's PerSourcePenalties. A failure counts for the larger
//     networks too, at a fraction, and only until the smaller one has to wait. So a few bad addresses do not keep a
//     whole network out, and a network's owner cannot start from zero at each of its addresses;
//   - loopback gets no penalties and has the limit of all together, since tunnels end there;
//   - memory is bounded: beyond maxPenalties the penalty that would end first is dropped. That frees one network early
//     and keeps no other out;
//   - a flood produces few messages: one for each penalty, and one a minute for connections that are dropped.

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	penaltyLeft    = 1 * time.Second  // left during the handshake, as a client does that does not trust the server yet
	penaltyRefused = 5 * time.Second  // was not admitted, or failed a check
	penaltyInvite  = 10 * time.Second // used an invite that is wrong, used or expired
	penaltySilent  = 10 * time.Second // let the handshake's time run out
	penaltyStart   = 15 * time.Second // penalties up to this sum are not enforced
	penaltyMost    = 10 * time.Minute // the longest penalty
	maxPenalties   = 4096

	maxHandshakes = 256             // in progress, of all networks together
	silentGrace   = 2 * time.Second // from the hello, for a client in a full network to send stage 1
	dropReport    = time.Minute
)

// tier is the size of a network, with the gate's limits for each network of that size.
type tier struct {
	bits       int           // of its prefix
	handshakes int           // in progress
	part       time.Duration // a penalty counts one part-th; 0 for none
}

// The tiers of an address, smallest first. A machine has an IPv6 /64, and a site a /56 or a /48; an IPv4 /24 has
// tenants that are strangers to each other, so that their failures count less. The largest networks of an attacker, a
// /24 and a /48, leave room among maxHandshakes.
var (
	tiers4 = []tier{{32, 64, 1}, {24, 96, 8}}
	tiers6 = []tier{{64, 64, 1}, {56, 96, 2}, {48, 128, 4}}

	loopback   = network{netip.MustParsePrefix("127.0.0.0/8"), tier{handshakes: maxHandshakes}} // of IPv6 too
	everything = network{tier: tier{handshakes: maxHandshakes}}
)

// network is one of the networks that an address is in.
type network struct {
	prefix netip.Prefix // not valid for everything
	tier
}

func (n network) String() string {
	switch n {
	case everything:
		return "all networks"
	case loopback:
		return "loopback"
	}
	return strings.TrimSuffix(n.prefix.String(), "/32")
}

// networksOf returns the networks that ip is in, smallest first. The last one is everything.
func networksOf(ip netip.Addr) []network {
	ip = ip.Unmap().WithZone("")
	tiers := tiers4
	switch {
	case !ip.IsValid() || ip.IsLoopback():
		return []network{loopback, everything}
	case ip.Is6():
		tiers = tiers6
	}
	networks := make([]network, 0, len(tiers)+1)
	for _, t := range tiers {
		prefix, _ := ip.Prefix(t.bits) // cannot fail: the address is valid and long enough
		networks = append(networks, network{prefix, t})
	}
	return append(networks, everything)
}

// gate may be used by any goroutine. newGate makes one.
type gate struct {
	mu        sync.Mutex // guards the fields below
	entries   []*entry   // the handshakes in progress, oldest first
	held      map[network]int
	penalties map[network]*penalty

	dropped  int       // connections, since the last report
	reported time.Time // when dropped connections were last reported
}

func newGate() *gate { return &gate{held: map[network]int{}, penalties: map[network]*penalty{}} }

// entry is a handshake in progress. Its gate's lock guards it.
type entry struct {
	conn        io.Closer
	networks    []network // of the client's address, as of networksOf
	began       time.Time
	heard       bool     // the client has sent something
	evictedFrom *network // the network that was full when conn was closed for a newcomer, or nil
}

// penalty is the time that a network has to wait.
type penalty struct {
	until    time.Time
	enforced bool // it has exceeded penaltyStart
	reported bool // the operator and the log have it
}

// rejection is the gate's reason for rejecting a connection.
type rejection struct {
	reason string
	first  bool // not reported to the operator and the log yet
}

func (r *rejection) Error() string { return r.reason }

// enter gives a handshake on conn, with ip, a place until leave, or returns why it may not begin. It may close the
// connection of another handshake, which learns that from leave.
func (g *gate) enter(conn io.Closer, ip netip.Addr, now time.Time) (*entry, *rejection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := &entry{conn: conn, networks: networksOf(ip), began: now}
	if r := g.keptOutLocked(e, now); r != nil {
		return nil, r
	}
	for _, n := range e.networks {
		if g.held[n] >= n.handshakes && !g.evictLocked(n, e) {
			return nil, g.droppedLocked(n, now)
		}
	}
	g.entries = append(g.entries, e)
	for _, n := range e.networks {
		g.held[n]++
	}
	return e, nil
}

// hear records that e's client has sent something. It returns an error if a penalty has begun since e entered.
func (g *gate) hear(e *entry, now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.heard = true
	if r := g.keptOutLocked(e, now); r != nil {
		return r
	}
	return nil
}

func (g *gate) keptOutLocked(e *entry, now time.Time) *rejection {
	for _, n := range e.networks {
		if t := g.penalties[n]; t != nil && t.enforced && now.Before(t.until) {
			first := !t.reported
			t.reported = true
			wait := t.until.Sub(now).Round(time.Second)
			return &rejection{fmt.Sprintf("too many failed tries from %v: it is kept out for %v", n, wait), first}
		}
	}
	return nil
}

// evictLocked ends another handshake in n to make room for newcomer, and reports whether it found one.
func (g *gate) evictLocked(n network, newcomer *entry) bool {
	held := map[network]int{} // of the networks just below n
	for _, e := range g.entries {
		if slices.Contains(e.networks, n) {
			held[e.below(n)]++
		}
	}
	var most, silent *entry // the oldest ones
	for _, e := range g.entries {
		if !slices.Contains(e.networks, n) {
			continue
		}
		if most == nil || held[e.below(n)] > held[most.below(n)] {
			most = e
		}
		if silent == nil && !e.heard && newcomer.began.Sub(e.began) >= silentGrace {
			silent = e
		}
	}
	victim := silent
	if most != nil && held[most.below(n)] > held[newcomer.below(n)] {
		victim = most
	}
	if victim == nil {
		return false
	}
	victim.evictedFrom = &n
	victim.conn.Close()
	g.leaveLocked(victim)
	return true
}

// below returns the largest of e's networks within n, which is one of them; n itself if it is the smallest.
func (e *entry) below(n network) network {
	return e.networks[max(0, slices.Index(e.networks, n)-1)]
}

// droppedLocked counts a connection that was dropped because n was full.
func (g *gate) droppedLocked(n network, now time.Time) *rejection {
	g.dropped++
	r := &rejection{
		reason: fmt.Sprintf("%d handshakes from %v are in progress: dropped %d connections since the last report",
			n.handshakes, n, g.dropped),
		first: now.Sub(g.reported) >= dropReport,
	}
	if r.first {
		g.reported, g.dropped = now, 0
	}
	return r
}

// leave frees the place of a handshake that is over. It returns a rejection if enter has given the place to another
// one.
func (g *gate) leave(e *entry, now time.Time) *rejection {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.evictedFrom != nil {
		return g.droppedLocked(*e.evictedFrom, now)
	}
	g.leaveLocked(e)
	return nil
}

func (g *gate) leaveLocked(e *entry) {
	i := slices.Index(g.entries, e)
	g.entries = slices.Delete(g.entries, i, i+1)
	for _, n := range e.networks {
		g.held[n]--
		if g.held[n] == 0 {
			delete(g.held, n)
		}
	}
}

// penalise adds d to the penalties of ip's networks, up to the first one that had to wait already.
func (g *gate) penalise(ip netip.Addr, d time.Duration, now time.Time) {
	if d <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	networks := networksOf(ip)
	g.makeRoomLocked(networks, now)
	for _, n := range networks {
		if n.part == 0 {
			return
		}
		t := g.penalties[n]
		if t == nil || !now.Before(t.until) {
			t = &penalty{until: now}
			g.penalties[n] = t
		}
		waits := t.enforced
		t.until = t.until.Add(d / n.part)
		if t.until.After(now.Add(penaltyMost)) {
			t.until = now.Add(penaltyMost)
		}
		t.enforced = t.enforced || t.until.Sub(now) > penaltyStart
		if waits {
			return
		}
	}
}

// makeRoomLocked makes room for penalties of networks. If there is none it drops the penalties that have ended and then
// the one that would end first.
func (g *gate) makeRoomLocked(networks []network, now time.Time) {
	missing := 0
	for _, n := range networks {
		if n.part != 0 && g.penalties[n] == nil {
			missing++
		}
	}
	for len(g.penalties)+missing > maxPenalties {
		var soonest network
		for n, t := range g.penalties {
			if !now.Before(t.until) {
				delete(g.penalties, n)
			} else if soonest.part == 0 || t.until.Before(g.penalties[soonest].until) {
				soonest = n
			}
		}
		if len(g.penalties)+missing > maxPenalties {
			delete(g.penalties, soonest)
		}
	}
}

// forgive ends the penalty of ip's smallest network, since a client from there was admitted. The larger ones keep
// theirs, which others there have brought about.
func (g *gate) forgive(ip netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.penalties, networksOf(ip)[0])
}

// penaltyFor returns the penalty for a handshake that failed with err: none if the failure is the server's own.
func penaltyFor(err error) time.Duration {
	var u *untrusted
	switch {
	case errors.Is(err, errBusy):
		return 0
	case errors.As(err, &u) && u.kind == undecided:
		return 0 // a file of ours cannot be read
	case errors.As(err, &u) && u.kind == invalidInvite:
		return penaltyInvite
	case errors.As(err, &u), errors.Is(err, errUnverified), errors.Is(err, errMalformed), errors.Is(err, errBadPacket):
		return penaltyRefused
	case errors.Is(err, os.ErrDeadlineExceeded):
		return penaltySilent
	case closedByPeer(err):
		return penaltyLeft
	}
	return 0
}
