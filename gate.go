package main

// The gate: whom the server does not even begin a handshake with (DESIGN section 3). A source that failed too often waits,
// as under sshd's PerSourcePenalties; where many handshakes are in progress some newcomers are turned away by chance, as
// under its MaxStartups, so that nobody who holds connections open keeps everybody else out. The rules:
//
//   - a source is an IPv4 address or an IPv6 /64, which is what one machine has; loopback is none, for tunnels end there;
//   - memory is bounded: past maxSources, what would end first goes. That lets one source off early and shuts nobody out;
//   - a flood makes few words: one for each penalty, one a minute for those turned away by chance.

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	penaltyLeft    = 1 * time.Second  // left in the midst of the handshake, as one does who does not trust us yet
	penaltyRefused = 5 * time.Second  // not admitted, or failed a check
	penaltyInvite  = 10 * time.Second // an invite that is wrong, used or expired
	penaltySilent  = 10 * time.Second // used up the handshake's time
	penaltyStart   = 15 * time.Second // what may add up before a source is kept out
	penaltyMost    = 10 * time.Minute
	maxSources     = 4096

	startupsStart = 10  // handshakes in progress up to which everyone gets in
	startupsRate  = 30  // per cent turned away from there on, rising
	startupsFull  = 100 // to all
	startupsWord  = time.Minute
	leastPatience = 2 * time.Second // with a handshake
)

// gate is for any goroutine.
type gate struct {
	mu         sync.Mutex
	inProgress int
	sources    map[netip.Prefix]*penalty

	turnedAway int // since the last word of it
	word       time.Time
}

// penalty is a source's.
type penalty struct {
	until    time.Time
	enforced bool // it has once exceeded penaltyStart
	told     bool
}

// sourceOf is what a penalty for ip falls on; it is not valid for one that gets none.
func sourceOf(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() {
		return netip.Prefix{}
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // no error: the address is valid and long enough
	return p
}

// refusal is why the gate stays shut.
type refusal struct {
	reason string
	first  bool // the operator and the log have not heard of it yet
}

func (r *refusal) Error() string { return r.reason }

// enter counts a handshake in, until leave, or says why it may not begin.
func (g *gate) enter(ip netip.Addr, now time.Time) *refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	source := sourceOf(ip)
	if p := g.sources[source]; p != nil && p.enforced && now.Before(p.until) {
		first := !p.told
		p.told = true
		return &refusal{fmt.Sprintf("too many failed tries from %s: it is kept out for %v", strings.TrimSuffix(source.String(), "/32"), p.until.Sub(now).Round(time.Second)), first}
	}
	// By chance not from loopback: there it would hit the jobs of this very machine.
	byChance := source.IsValid() && rand.IntN(100) < dropPercent(g.inProgress)
	if byChance || g.inProgress >= startupsFull {
		g.turnedAway++
		r := &refusal{fmt.Sprintf("%d handshakes are in progress: turned away %d since this was last said", g.inProgress, g.turnedAway),
			now.Sub(g.word) >= startupsWord}
		if r.first {
			g.word, g.turnedAway = now, 0
		}
		return r
	}
	g.inProgress++
	return nil
}

// leave counts a handshake out.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inProgress--
}

// patience is how long a handshake may take: less the more are in progress, so that a crowd that says nothing makes room
// soon.
func (g *gate) patience() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.inProgress - startupsStart
	if n <= 0 {
		return handshakeTimeout
	}
	return max(leastPatience, handshakeTimeout-handshakeTimeout*time.Duration(n)/(startupsFull-startupsStart))
}

// dropPercent is how many of a hundred are turned away with n handshakes in progress.
func dropPercent(n int) int {
	switch {
	case n < startupsStart:
		return 0
	case n >= startupsFull:
		return 100
	}
	return startupsRate + (100-startupsRate)*(n-startupsStart)/(startupsFull-startupsStart)
}

// penalise adds d to what the source has left.
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
	if p.until = p.until.Add(d); p.until.After(now.Add(penaltyMost)) {
		p.until = now.Add(penaltyMost)
	}
	p.enforced = p.enforced || p.until.Sub(now) > penaltyStart
}

// makeRoomLocked lets go of what has ended, and, if that is not enough for source, of what would end first.
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

// forgive clears what a source has left: somebody there has proven to belong here.
func (g *gate) forgive(ip netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sources, sourceOf(ip))
}

// penaltyFor is what a failed handshake costs its source: nothing where the failure is ours.
func penaltyFor(err error) time.Duration {
	var u *untrusted
	switch {
	case errors.As(err, &u) && u.kind == invalidInvite:
		return penaltyInvite
	case errors.As(err, &u), errors.Is(err, errUnverified), errors.Is(err, errMalformed), errors.Is(err, errBadPacket):
		return penaltyRefused
	case errors.Is(err, os.ErrDeadlineExceeded):
		return penaltySilent
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errTruncated), errors.Is(err, syscall.ECONNRESET):
		return penaltyLeft
	}
	return 0
}
