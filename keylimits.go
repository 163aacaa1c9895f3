package main

// What one key may take of a server: places in the room and, with -rate, lines a second. All connections of a key count
// together, so that a key gains nothing by opening more of them.

import (
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	leastPlaces = 16               // of each key, if the room has as many
	rateBurst   = 10 * time.Second // a key may send at once what -rate allows in this time
	maxKeyUses  = 4096             // keys that are remembered before those that take nothing are forgotten
)

// keyLimits may be used by any goroutine.
type keyLimits struct {
	places   int    // of all keys together, except the operator's
	each     int    // places of one key, except the operator's
	own      int    // places of the operator's key, which are its own: no other key can keep the operator out
	rate     int    // lines a second of one key, or 0 for no limit
	operator string // the fingerprint of the operator's key

	mu    sync.Mutex         // guards the fields below
	taken int                // of places
	keys  map[string]*keyUse // by fingerprint
}

// keyUse is what one key takes.
type keyUse struct {
	places int
	turn   time.Time // when the lines that it has sent would all have been allowed, without bursts
}

// newKeyLimits limits a room of places. A key has a quarter of them, but at least leastPlaces, so that the clients of a
// small room can all have one key.
func newKeyLimits(places, rate int, operator string) keyLimits {
	return keyLimits{
		places: places, each: min(places, max(leastPlaces, places/4)), own: max(leastPlaces, places),
		rate: rate, operator: operator, keys: map[string]*keyUse{},
	}
}

// ownFingerprint returns the fingerprint of the server's identity, or "" if there is none.
func ownFingerprint(id ssh.PublicKey) string {
	if id == nil {
		return ""
	}
	return fingerprint(id)
}

// errFull says why there is no place for a client. reason is for the client.
type errFull struct {
	reason string
	error
}

// enter takes a place for a client of the key, or returns why there is none.
func (k *keyLimits) enter(fingerprint string, now time.Time) *errFull {
	k.mu.Lock()
	defer k.mu.Unlock()
	use := k.useLocked(fingerprint, now)
	operator := fingerprint == k.operator
	const full, fullForKey = "the room is full", "the room is full for this key"
	switch {
	case !operator && k.taken >= k.places:
		return &errFull{full, fmt.Errorf("%s: %d clients (-max-clients)", full, k.places)}
	case !operator && use.places >= k.each:
		return &errFull{fullForKey, fmt.Errorf("%s: %d clients (a quarter of -max-clients, at least %d)", fullForKey,
			k.each, leastPlaces)}
	case operator && use.places >= k.own:
		return &errFull{fullForKey, fmt.Errorf("%s, the operator's: %d clients", fullForKey, k.own)}
	}
	use.places++
	if !operator {
		k.taken++
	}
	return nil
}

// leave frees the place of a client of the key.
func (k *keyLimits) leave(fingerprint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[fingerprint].places--
	if fingerprint != k.operator {
		k.taken--
	}
}

// useLocked returns what the key takes.
func (k *keyLimits) useLocked(fingerprint string, now time.Time) *keyUse {
	if use := k.keys[fingerprint]; use != nil {
		return use
	}
	if len(k.keys) >= maxKeyUses {
		maps.DeleteFunc(k.keys, func(_ string, use *keyUse) bool {
			return use.places == 0 && now.Sub(use.turn) >= rateBurst
		})
	}
	use := &keyUse{}
	k.keys[fingerprint] = use
	return use
}

// atOnce returns the cost of the lines that a client may hand to the room together: a second's worth.
func (k *keyLimits) atOnce() int {
	if k.rate == 0 {
		return math.MaxInt
	}
	return k.rate
}

// reserve returns when lines of this cost may be recorded, and counts them. They are for a key that has a place.
func (k *keyLimits) reserve(fingerprint string, cost int, now time.Time) time.Time {
	if k.rate == 0 {
		return now
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	use := k.useLocked(fingerprint, now)
	if earliest := now.Add(-rateBurst); use.turn.Before(earliest) {
		use.turn = earliest
	}
	use.turn = use.turn.Add(time.Duration(cost) * time.Second / time.Duration(k.rate))
	return use.turn
}
