package main

// The gate rejects connections before the handshake. A source with too many failures has to wait, as with sshd's
// PerSourcePenalties; while many handshakes are in progress some new connections are dropped at random, as with sshd's
// MaxStartups, so that holding connections open cannot keep all others out. The rules:
//
//   - a source is an IPv4 address or an IPv6 /64, which is what one machine has. Loopback is not one, since tunnels
//     end there;
//   - memory is bounded: beyond maxSources the penalty that would end first is dropped. That frees one source early and
//     keeps no other out;
//   - a flood produces few messages: one for each penalty, and one a minute for connections dropped at random.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
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
	maxSources     = 4096

	startupsStart  = 10  // handshakes in progress up to which no connection is dropped
	startupsRate   = 30  // per cent dropped from there on, rising
	startupsFull   = 100 // to all
	startupsReport = time.Minute
	minTimeout     = 2 * time.Second // for a handshake in a crowd
)

// gate may be used by any goroutine.
type gate struct {
	mu         sync.Mutex // guards the fields below
	inProgress int
	sources    map[netip.Prefix]*penalty

	dropped  int       // connections, since the last report
	reported time.Time // when dropped connections were last reported
}

// penalty is the time that a source has to wait.
type penalty struct {
	until    time.Time
	enforced bool // it has exceeded penaltyStart
	reported bool // the operator and the log have it
}

// sourceOf returns the source that ip belongs to. It is not valid for an address that gets no penalties.
func sourceOf(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // cannot fail: the address is valid and long enough
	return p
}

// rejection is the gate's reason for rejecting a connection.
type rejection struct {
	reason string
	first  bool // not reported to the operator and the log yet
}

func (r *rejection) Error() string { return r.reason }

// enter counts a handshake as in progress until leave, or returns why it may not begin.
func (g *gate) enter(ip netip.Addr, now time.Time) *rejection {
	g.mu.Lock()
	defer g.mu.Unlock()
	source := sourceOf(ip)
	if p := g.sources[source]; p != nil && p.enforced && now.Before(p.until) {
		first := !p.reported
		p.reported = true
		from, wait := strings.TrimSuffix(source.String(), "/32"), p.until.Sub(now).Round(time.Second)
		return &rejection{fmt.Sprintf("too many failed tries from %s: it is kept out for %v", from, wait), first}
	}
	// Connections from loopback are not dropped at random: they are this machine's own jobs.
	byChance := source.IsValid() && rand.IntN(100) < dropPercent(g.inProgress)
	if byChance || g.inProgress >= startupsFull {
		g.dropped++
		r := &rejection{
			reason: fmt.Sprintf("%d handshakes are in progress: dropped %d connections since the last report",
				g.inProgress, g.dropped),
			first: now.Sub(g.reported) >= startupsReport,
		}
		if r.first {
			g.reported, g.dropped = now, 0
		}
		return r
	}
	g.inProgress++
	return nil
}

// leave counts a handshake as over.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inProgress--
}

// timeout returns how long a handshake may take: less the more are in progress, so that silent connections make room
// soon.
func (g *gate) timeout() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.inProgress - startupsStart
	if n <= 0 {
		return handshakeTimeout
	}
	return max(minTimeout, handshakeTimeout-handshakeTimeout*time.Duration(n)/(startupsFull-startupsStart))
}

// dropPercent returns how many of a hundred connections are dropped with n handshakes in progress.
func dropPercent(n int) int {
	switch {
	case n < startupsStart:
		return 0
	case n >= startupsFull:
		return 100
	}
	return startupsRate + (100-startupsRate)*(n-startupsStart)/(startupsFull-startupsStart)
}

// penalise adds d to the penalty of ip's source.
func (g *gate) penalise(ip netip.Addr, d time.Duration, now time.Time) {
	source := sourceOf(ip)
	if d <= 0 || !source.IsValid() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.sources[source]
	if p == nil || !now.Before(p.until) {
		p = &penalty{until: now}
		g.makeRoomLocked(source, now)
		if g.sources == nil {
			g.sources = map[netip.Prefix]*penalty{}
		}
		g.sources[source] = p
	}
	p.until = p.until.Add(d)
	if p.until.After(now.Add(penaltyMost)) {
		p.until = now.Add(penaltyMost)
	}
	p.enforced = p.enforced || p.until.Sub(now) > penaltyStart
}

// makeRoomLocked drops the penalties that have ended and, if source needs one more place, the one that would end first.
func (g *gate) makeRoomLocked(source netip.Prefix, now time.Time) {
	if _, has := g.sources[source]; has || len(g.sources) < maxSources {
		return
	}
	var soonest netip.Prefix
	for s, p := range g.sources {
		if !now.Before(p.until) {
			delete(g.sources, s)
		} else if !soonest.IsValid() || p.until.Before(g.sources[soonest].until) {
			soonest = s
		}
	}
	if len(g.sources) >= maxSources {
		delete(g.sources, soonest)
	}
}

// forgive ends the penalty of ip's source, since a client from there was admitted.
func (g *gate) forgive(ip netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sources, sourceOf(ip))
}

// penaltyFor returns the penalty for a handshake that failed with err: none if the failure is the server's own.
func penaltyFor(err error) time.Duration {
	var u *untrusted
	switch {
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
