package main

// Both sides of the handshake over net.Pipe inside testing/synctest, so that deadlines and -delay cost no real time:
// with a man in the middle, with scripted peers that break each stage in turn, and with peers that stall. After these
// come the lines of -trace and two benchmarks: BenchmarkHandshakeFloor compares the server's cost with its RSA and HPKE
// operations (bench/handshake.sh), and BenchmarkTiming measures how long the server takes to close the connection after
// each kind of failure (bench/timing.sh; docs/SECURITY.md says which failures are compared, and why some may differ).

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// onceRSA returns a function that makes a key at its first call and returns that key at each call.
func onceRSA(bits int) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	})
}

// onceKeys are RSA keys that the tests share, because making them is slow. "server" and "client" have 2048 bits.
var onceKeys = map[string]func() *rsa.PrivateKey{
	"server": onceRSA(2048), "client": onceRSA(2048), "3072": onceRSA(3072), "4096": onceRSA(4096),
}

// fixedSigner returns an Ed25519 identity, always the same one for the same name.
func fixedSigner(t testing.TB, name string) ssh.Signer {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return keySigner(t, ed25519.NewKeyFromSeed(seed))
}

func keySigner(t testing.TB, key any) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// certSigner returns signer with a certificate of the given type.
func certSigner(t testing.TB, signer ssh.Signer, certType uint32) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: certType, ValidPrincipals: []string{"anna"},
		ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, fixedSigner(t, "ca")); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func partyOf(t testing.TB, signer ssh.Signer, encryption *rsa.PrivateKey) *party {
	t.Helper()
	p, err := newParty(signer, encryption)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// partyIn returns the party whose keys are in the state folder dir.
func partyIn(t testing.TB, dir string) *party {
	t.Helper()
	k, err := loadKeys(keyOptions{dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return partyOf(t, k.signer, k.encryption)
}

// twoParties returns a client and a server with keys of the default types.
func twoParties(t testing.TB) (client, server *party) {
	t.Helper()
	return partyOf(t, fixedSigner(t, "client"), onceKeys["client"]()), partyOf(t, fixedSigner(t, "server"),
		onceKeys["server"]())
}

// admitAll admits every client.
func admitAll(ssh.PublicKey, []byte, []byte, []byte, bool) error { return nil }

// trustAll trusts every server, so that the handshake itself has to detect what is wrong.
func trustAll(ssh.PublicKey) error { return nil }

// meddler is a man in the middle. For frame n of one direction, with its header, it returns what its receiver gets,
// what its sender gets, and whether the connection is then closed.
type meddler func(toServer bool, n int, frame []byte) (forward, back [][]byte, end bool)

func faithful(_ bool, _ int, frame []byte) (forward, back [][]byte, end bool) {
	return [][]byte{frame}, nil, false
}

// outcome is the result of a meeting for one side.
type outcome struct {
	secrets *secrets // a copy; nil if the handshake failed
	heard   []string // the payloads received in the session, in order
	err     error
	frames  int  // the number of frames that it sent
	scraps  bool // The side also sent part of a frame.
}

// The number of frames in a meeting without an attack.
const (
	framesToServer = 6 // stage 1, stage 3, join, two texts, close
	framesToClient = 7 // hello, stage 2, stage 4, join, two texts, close
)

// sentBefore is the number of frames that a receiver has sent when it receives frame n of a direction.
var sentBefore = map[bool][]int{true: {1, 2, 3, 4, 4, 6}, false: {0, 1, 2, 3, 5, 5, 6}}

// meet runs a handshake and a short session through a meddler. It is called in a synctest bubble.
func meet(client, server *party, m meddler) (c, s outcome) {
	clientConn, left := net.Pipe()
	right, serverConn := net.Pipe()
	var wg sync.WaitGroup
	carry := func(from, to net.Conn, toServer bool, o *outcome) {
		defer from.Close()
		defer to.Close()
		for n := 0; ; n++ {
			body, err := readFrame(from, 1<<16)
			if err != nil {
				o.scraps = errors.Is(err, io.ErrUnexpectedEOF)
				return
			}
			o.frames++
			forward, back, end := m(toServer, n, appendVector(nil, body))
			for _, b := range back {
				wg.Go(func() { from.Write(b) }) // the sender may have more to write before it reads
			}
			for _, b := range forward {
				if _, err := to.Write(b); err != nil {
					return
				}
			}
			if end {
				return
			}
		}
	}
	wg.Go(func() { carry(left, right, true, &c) })
	wg.Go(func() { carry(right, left, false, &s) })
	wg.Go(func() {
		defer clientConn.Close()
		clientConn.SetDeadline(time.Now().Add(handshakeTimeout))
		keys, err := clientHandshake(clientConn, client, trustAll, nil)
		if err != nil {
			c.err = err
			return
		}
		c.secrets = new(*keys)
		c.err = converse(clientConn, keys, false, &c.heard)
	})
	wg.Go(func() {
		defer serverConn.Close()
		serverConn.SetDeadline(time.Now().Add(handshakeTimeout))
		keys, _, err := serverHandshake(serverConn, server, 0, admitAll)
		if err != nil {
			s.err = err
			return
		}
		s.secrets = new(*keys)
		s.err = converse(serverConn, keys, true, &s.heard)
	})
	wg.Wait()
	return c, s
}

// converse is the session of a meeting: join, two texts and close, the client first in each.
func converse(conn net.Conn, keys *secrets, server bool, heard *[]string) error {
	sess, err := newSession(conn, keys, server, chatTraffic)
	if err != nil {
		return err
	}
	speak := func(kind byte, texts ...string) error {
		var buf []byte
		for _, text := range texts {
			if buf, err = sess.append(buf, kind, []byte(text)); err != nil {
				return err
			}
		}
		_, err := conn.Write(buf)
		return err
	}
	listen := func(kind byte, n int) error {
		for range n {
			got, payload, err := sess.read()
			if err != nil {
				return err
			}
			*heard = append(*heard, string(payload))
			if got != kind {
				return errMalformed
			}
		}
		return nil
	}
	for _, turn := range []struct {
		kind  byte
		texts []string
	}{{kindJoin, []string{"join"}}, {kindText, []string{"one", "two"}}, {kindClose, []string{closeText}}} {
		steps := []func() error{
			func() error { return speak(turn.kind, turn.texts...) },
			func() error { return listen(turn.kind, len(turn.texts)) },
		}
		if server {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// noticed reports whether a side's own check failed. A side that only saw the connection end has not noticed anything.
func noticed(err error) bool {
	return errors.Is(err, errUnverified) || errors.Is(err, errBadPacket) || err != nil &&
		strings.Contains(err.Error(), "does not speak")
}

// onlyEnded reports whether a side saw the connection close or received nothing, and no check of its own failed.
func onlyEnded(err error) bool {
	return err == nil || !noticed(err) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, errTruncated) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrDeadlineExceeded))
}

// checkAgreement fails if a side opened a packet of the other although the two have different secrets, or if a side
// received a payload that was not sent.
func checkAgreement(t *testing.T, what string, c, s outcome) {
	t.Helper()
	said := []string{"join", "one", "two", closeText}
	for _, o := range []outcome{c, s} {
		if len(o.heard) > len(said) || !slices.Equal(o.heard, said[:len(o.heard)]) {
			t.Errorf("%s: received %q", what, o.heard)
		}
		if len(o.heard) > 0 && (c.secrets == nil || s.secrets == nil || *c.secrets != *s.secrets) {
			t.Errorf("%s: a packet was accepted under a key that the other side does not have", what)
		}
	}
}

// checkRefused fails unless the side wanted noticed the attack, or either side if wanted is "", and the other side saw
// only the connection's end.
func checkRefused(t *testing.T, what string, c, s outcome, want string) {
	t.Helper()
	checkAgreement(t, what, c, s)
	byClient, byServer := noticed(c.err), noticed(s.err)
	if !byClient && !byServer || want == "client" && !byClient || want == "server" && !byServer {
		t.Errorf("%s: not noticed by the %s: client: %v; server: %v", what, want, c.err, s.err)
	}
	if !byClient && !onlyEnded(c.err) || !byServer && !onlyEnded(s.err) || byClient && byServer && want != "" {
		t.Errorf("%s: client: %v; server: %v", what, c.err, s.err)
	}
	if c.scraps || s.scraps {
		t.Errorf("%s: part of a frame was sent", what)
	}
}

// TestHandshake runs the handshake with each type of key, and with each size of encryption key for two of the types.
// Both sides get the same secrets, and no two runs have a secret in common.
func TestHandshake(t *testing.T) {
	t.Parallel()
	ec := func(c elliptic.Curve) ssh.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return keySigner(t, key)
	}
	signers := map[string]ssh.Signer{
		"ed25519": fixedSigner(t, "someone"), "p256": ec(elliptic.P256()), "p384": ec(elliptic.P384()),
		"p521":    ec(elliptic.P521()),
		"rsa2048": keySigner(t, onceKeys["client"]()), "rsa3072": keySigner(t, onceKeys["3072"]()),
		"rsa4096":          keySigner(t, onceKeys["4096"]()),
		"user certificate": certSigner(t, fixedSigner(t, "someone"), ssh.UserCert),
		"host certificate": certSigner(t, fixedSigner(t, "someone"), ssh.HostCert),
		"rsa certificate":  certSigner(t, keySigner(t, onceKeys["4096"]()), ssh.UserCert),
	}
	plainClient, plainServer := twoParties(t)
	seen := map[[64]byte]string{}
	for name, signer := range signers {
		sizes := []string{"server"}
		if name == "ed25519" || name == "rsa4096" {
			sizes = []string{"server", "3072", "4096"}
		}
		for _, bits := range sizes {
			p := partyOf(t, signer, onceKeys[bits]())
			for _, asServer := range []bool{false, true} {
				client, server := p, plainServer
				if asServer {
					client, server = plainClient, p
				}
				what := fmt.Sprintf("%s, encryption key %s, as server: %v", name, bits, asServer)
				synctest.Test(t, func(t *testing.T) {
					c, s := meet(client, server, faithful)
					checkAgreement(t, what, c, s)
					if c.err != nil || s.err != nil || len(c.heard) != 4 || len(s.heard) != 4 {
						t.Fatalf("%s: client: %v; server: %v", what, c.err, s.err)
					}
					if c.frames != framesToServer || s.frames != framesToClient {
						t.Errorf("%s: %d and %d frames", what, c.frames, s.frames)
					}
					if c.secrets.toClient == c.secrets.toServer {
						t.Errorf("%s: one secret for both directions", what)
					}
					for _, secret := range [][64]byte{c.secrets.toClient, c.secrets.toServer, c.secrets.digest} {
						if seen[secret] != "" {
							t.Errorf("%s: a secret of %s once more", what, seen[secret])
						}
						seen[secret] = what
					}
				})
			}
		}
	}
}

// TestHandshakeCipher: the session uses AES if both sides have it in hardware, and works in each case.
func TestHandshakeCipher(t *testing.T) {
	for _, clientAES := range []bool{false, true} {
		for _, serverAES := range []bool{false, true} {
			client, server := twoParties(t)
			client.aes, server.aes = clientAES, serverAES
			synctest.Test(t, func(t *testing.T) {
				c, s := meet(client, server, faithful)
				if c.err != nil || s.err != nil {
					t.Fatal(c.err, s.err)
				}
				if want := clientAES && serverAES; c.secrets.aes != want || s.secrets.aes != want {
					t.Errorf("client has AES: %v, server: %v; they chose %v and %v", clientAES, serverAES, c.secrets.aes,
						s.secrets.aes)
				}
			})
		}
	}
}

// eachFrame runs a parallel subtest for each frame of a meeting.
func eachFrame(t *testing.T, fn func(t *testing.T, toServer bool, n int)) {
	twoParties(t)
	for toServer, count := range map[bool]int{true: framesToServer, false: framesToClient} {
		for n := range count {
			t.Run(fmt.Sprintf("to server %v, frame %d", toServer, n), func(t *testing.T) {
				t.Parallel()
				fn(t, toServer, n)
			})
		}
	}
}

// record returns the frames of a meeting without an attack.
func record(t *testing.T) map[bool][][]byte {
	t.Helper()
	client, server := twoParties(t)
	frames := map[bool][][]byte{}
	var mu sync.Mutex
	synctest.Test(t, func(t *testing.T) {
		c, s := meet(client, server, func(toServer bool, _ int, frame []byte) ([][]byte, [][]byte, bool) {
			mu.Lock()
			defer mu.Unlock()
			frames[toServer] = append(frames[toServer], frame)
			return [][]byte{frame}, nil, false
		})
		if c.err != nil || s.err != nil {
			t.Fatal(c.err, s.err)
		}
	})
	return frames
}

// at returns a meddler that changes one frame only.
func at(toServer bool, n int, do func(frame []byte) (forward, back [][]byte, end bool)) meddler {
	return func(direction bool, i int, frame []byte) ([][]byte, [][]byte, bool) {
		if direction == toServer && i == n {
			return do(frame)
		}
		return [][]byte{frame}, nil, false
	}
}

// TestFlippedBytes flips a bit in each byte of each frame. The frame's receiver notices at once, with one exception: no
// signature covers a hello's AES byte and Rs, but the transcript does, so the server notices at stage 1.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	eachFrame(t, func(t *testing.T, toServer bool, n int) {
		client, server := twoParties(t)
		receiver := map[bool]string{true: "server", false: "client"}[toServer]
		step := 1
		if testing.Short() {
			step = 13
		}
		size := 1
		for i := 0; i < size; i += step {
			synctest.Test(t, func(t *testing.T) {
				bit := byte(1) << (i % 8)
				var was, is int // lengths in the header
				c, s := meet(client, server, at(toServer, n, func(frame []byte) ([][]byte, [][]byte, bool) {
					size = len(frame)
					was = int(binary.BigEndian.Uint16(frame))
					frame[i] ^= bit
					is = int(binary.BigEndian.Uint16(frame))
					return [][]byte{frame}, nil, false
				}))
				what := fmt.Sprintf("byte %d of %d, bit %#x", i, size, bit)
				victim := map[bool]outcome{true: s, false: c}[toServer]
				const fixed = frameHeader + len(protocolName)
				switch {
				// The receiver waits for the rest, or the length is over the limit.
				case is > was && !noticed(victim.err):
					checkAgreement(t, what, c, s)
					if victim.err == nil || !onlyEnded(victim.err) && !strings.Contains(victim.err.Error(),
						"over the limit of 16384") {
						t.Errorf("%s: %v", what, victim.err)
					}
					return
				case !toServer && n == 0 && (i == fixed && bit == 1 || i > fixed && i <= fixed+helloNonceSize):
					checkRefused(t, what, c, s, "server")
					if s.frames != 1 || !strings.HasPrefix(fmt.Sprint(s.err), "stage 1: ") {
						t.Errorf("%s: the server: %v", what, s.err)
					}
					return
				}
				checkRefused(t, what, c, s, receiver)
				if victim.frames != sentBefore[toServer][n] {
					t.Errorf("%s: the %s answered it: %d frames", what, receiver, victim.frames)
				}
			})
		}
	})
}

// TestTruncatedFrames cuts each frame at each length: once with the connection closed after it, and once with the
// header corrected.
func TestTruncatedFrames(t *testing.T) {
	t.Parallel()
	eachFrame(t, func(t *testing.T, toServer bool, n int) {
		client, server := twoParties(t)
		receiver := map[bool]string{true: "server", false: "client"}[toServer]
		size := 1
		for i := 0; i < size; i++ {
			if (testing.Short() || size > 600) && i%13 != 0 && i < size-20 && i > 20 {
				continue // one AEAD or vector covers the bytes between
			}
			synctest.Test(t, func(t *testing.T) {
				c, s := meet(client, server, at(toServer, n, func(frame []byte) ([][]byte, [][]byte, bool) {
					size = len(frame)
					if i < frameHeader {
						return [][]byte{frame[:i]}, nil, true
					}
					binary.BigEndian.PutUint16(frame, uint16(i-frameHeader))
					return [][]byte{frame[:i]}, nil, false
				}))
				if i >= frameHeader {
					checkRefused(t, fmt.Sprintf("the first %d of %d bytes", i, size), c, s, receiver)
				}
			})
			if i%29 != 3 && i > frameHeader {
				continue // readFrame detects the end of the stream, whatever the frame contains
			}
			synctest.Test(t, func(t *testing.T) {
				c, s := meet(client, server, at(toServer, n, func(frame []byte) ([][]byte, [][]byte, bool) {
					return [][]byte{frame[:i]}, nil, true
				}))
				what := fmt.Sprintf("the first %d of %d bytes and the end", i, size)
				checkAgreement(t, what, c, s)
				victim := map[bool]outcome{true: s, false: c}[toServer]
				switch {
				case victim.secrets != nil && errors.Is(victim.err, errTruncated):
				case victim.secrets == nil && i == 0 && errors.Is(victim.err, io.EOF):
				case victim.secrets == nil && i > 0 && errors.Is(victim.err, io.ErrUnexpectedEOF):
				default:
					t.Errorf("%s: the %s: %v", what, receiver, victim.err)
				}
			})
		}
	})
}

// TestMovedFrames duplicates, reflects, replaces, prolongs and drops frames, and inserts frames of another run between
// the same two parties.
func TestMovedFrames(t *testing.T) {
	t.Parallel()
	other := record(t)
	eachFrame(t, func(t *testing.T, toServer bool, n int) {
		client, server := twoParties(t)
		last := map[bool]int{true: framesToServer, false: framesToClient}[toServer] - 1
		try := func(what string, do func(frame []byte) (forward, back [][]byte, end bool)) {
			synctest.Test(t, func(t *testing.T) {
				c, s := meet(client, server, at(toServer, n, do))
				checkRefused(t, what, c, s, "")
			})
		}
		if n != last { // Nothing is read after the close.
			try("twice", func(frame []byte) ([][]byte, [][]byte, bool) { return [][]byte{frame, frame}, nil, false })
			try("an empty frame behind it", func(frame []byte) ([][]byte, [][]byte, bool) {
				return [][]byte{frame, {0, 0}}, nil, false
			})
		}
		if toServer || n != last { // the server reads nothing after its own close
			try("reflected", func(frame []byte) ([][]byte, [][]byte, bool) { return nil, [][]byte{frame}, false })
		}
		try("an empty frame before it", func(frame []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{{0, 0}, frame}, nil, false
		})
		try("trailing bytes in the frame", func(frame []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{appendVector(nil, append(frame[frameHeader:], 0))}, nil, false
		})
		for _, direction := range []bool{true, false} {
			for i, old := range other[direction] {
				if !toServer && n == 0 && !direction && i == 0 {
					continue // The server notices an old hello; see below.
				}
				try(fmt.Sprintf("replaced by frame %d of another run, to server: %v", i, direction),
					func([]byte) ([][]byte, [][]byte, bool) {
						return [][]byte{old}, nil, false
					})
			}
		}
		synctest.Test(t, func(t *testing.T) {
			c, s := meet(client, server, at(toServer, n, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, false }))
			checkAgreement(t, "dropped", c, s)
			victim := map[bool]outcome{true: s, false: c}[toServer]
			if victim.err == nil || !noticed(victim.err) && !onlyEnded(victim.err) {
				t.Errorf("dropped: %v", victim.err)
			}
		})
	})
	client, server := twoParties(t)
	synctest.Test(t, func(t *testing.T) {
		c, s := meet(client, server, at(false, 0, func([]byte) ([][]byte, [][]byte, bool) {
			return [][]byte{other[false][0]}, nil, false
		}))
		checkRefused(t, "an old hello", c, s, "server")
	})
	for toServer, n := range map[bool]int{true: 3, false: 4} {
		var held []byte
		synctest.Test(t, func(t *testing.T) {
			c, s := meet(client, server, func(direction bool, i int, frame []byte) ([][]byte, [][]byte, bool) {
				switch {
				case direction == toServer && i == n:
					held = frame
					return nil, nil, false
				case direction == toServer && i == n+1:
					return [][]byte{frame, held}, nil, false
				}
				return [][]byte{frame}, nil, false
			})
			checkRefused(t, "two packets in the wrong order", c, s, map[bool]string{true: "server", false: "client"}[toServer])
		})
	}
}

// TestOversizedFrame: readFrame rejects a length over the limit before it reads or allocates more, and the error names
// the limit.
func TestOversizedFrame(t *testing.T) {
	for _, size := range []int{maxHandshakeFrame + 1, 0xffff} {
		r := bytes.NewReader(binary.BigEndian.AppendUint16(nil, uint16(size)))
		allocated := testing.AllocsPerRun(1, func() {
			r.Seek(0, io.SeekStart)
			if _, err := readFrame(r, maxHandshakeFrame); err == nil ||
				!strings.Contains(err.Error(), fmt.Sprintf("%d bytes, over the limit of %d", size, maxHandshakeFrame)) {
				t.Error(err)
			}
		})
		if allocated > 40 { // The error itself needs memory, and the race detector more.
			t.Errorf("%v allocations", allocated)
		}
	}
	if err := writeFrame(io.Discard, make([]byte, maxHandshakeFrame+1)); err == nil {
		t.Error("a frame over the limit was written")
	}
	if body, err := readFrame(bytes.NewReader(appendVector(nil, make([]byte, maxHandshakeFrame))),
		maxHandshakeFrame); err != nil || len(body) != maxHandshakeFrame {
		t.Error(err)
	}
}

// TestReplayedClient sends a recorded client's frames to its server again. Rs is new, so stage 1 fails.
func TestReplayedClient(t *testing.T) {
	old := record(t)[true]
	_, server := twoParties(t)
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go func() {
			readFrame(here, maxHandshakeFrame)
			for _, frame := range old {
				if _, err := here.Write(frame); err != nil {
					return
				}
			}
		}()
		there.SetDeadline(time.Now().Add(handshakeTimeout))
		admitted := false
		keys, id, err := serverHandshake(there, server, 0, func(ssh.PublicKey, []byte, []byte, []byte, bool) error {
			admitted = true
			return nil
		})
		there.Close()
		if keys != nil || id != nil || admitted || !errors.Is(err, errUnverified) ||
			!strings.HasPrefix(err.Error(), "stage 1: ") {
			t.Errorf("admit was asked: %v; %v", admitted, err)
		}
	})
}

// TestStall: if a side stops at any stage, the other ends at the deadline. -delay adds its pauses and nothing else.
func TestStall(t *testing.T) {
	client, server := twoParties(t)
	for toServer, count := range map[bool]int{true: 3, false: 4} {
		for n := range count {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				c, s := meet(client, server, func(direction bool, i int, frame []byte) ([][]byte, [][]byte, bool) {
					if direction == toServer && i == n {
						time.Sleep(time.Hour)
					}
					return [][]byte{frame}, nil, false
				})
				if !errors.Is(c.err, os.ErrDeadlineExceeded) && !errors.Is(s.err, os.ErrDeadlineExceeded) || !onlyEnded(c.err) ||
					!onlyEnded(s.err) {
					t.Errorf("client: %v; server: %v", c.err, s.err)
				}
				if time.Since(begin) < handshakeTimeout {
					t.Errorf("it ended after %v", time.Since(begin))
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		begin := time.Now()
		go func() {
			here.SetDeadline(begin.Add(handshakeTimeout))
			if _, err := clientHandshake(here, client, trustAll, nil); err != nil {
				t.Error(err)
			}
		}()
		there.SetDeadline(begin.Add(handshakeTimeout))
		if _, _, err := serverHandshake(there, server, time.Second, admitAll); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("two pauses of a second took %v", d)
		}
		synctest.Wait()
	})
}

// TestSlowServer: clients that come at the same moment join one by one, however long the last one waits within
// handshakeTimeout. Further ones learn that the server is busy, cost it no computation except for one
// that gives up meanwhile, and get no penalty.
func TestSlowServer(t *testing.T) {
	client, server := twoParties(t)
	for crowd, joined := range map[int]int{50: 50, 70: 59} {
		synctest.Test(t, func(t *testing.T) {
			turns, begin := newTurns(1), time.Now()
			var wg sync.WaitGroup
			var in, busy, computed atomic.Int64
			for range crowd {
				here, there := net.Pipe()
				wg.Go(func() {
					defer there.Close()
					conn := newPacedConn(there, turns, func() error { return nil })
					_, _, err := serverHandshake(conn, server, 0, func(_ ssh.PublicKey, _, _, _ []byte, confirmed bool) error {
						if !confirmed {
							computed.Add(1)
							time.Sleep(1010 * time.Millisecond) // a slow processor
						}
						return nil
					})
					conn.endTurn()
					if errors.Is(err, io.ErrClosedPipe) {
						err = syscall.EPIPE // as from TCP
					}
					if err != nil && (!errors.Is(conn.orBusy(err), errBusy) || penaltyFor(conn.orBusy(err)) != 0) {
						t.Errorf("the server's log: %v", conn.orBusy(err))
					}
				})
				wg.Go(func() {
					defer here.Close()
					_, err := clientHandshake(newPacedConn(here, nil, nil), client, trustAll, nil)
					text := (&securechat2{client: securechat2Client{addr: "host:9000"}}).handshakeError(err).Error()
					switch {
					case err == nil:
						in.Add(1)
					case strings.Contains(text, "the server is busy or stuck: it did not answer within 1m0s"):
						busy.Add(1)
					default:
						t.Errorf("the user reads %q", text)
					}
				})
			}
			wg.Wait()
			if took := time.Since(begin); in.Load() != int64(joined) || took > handshakeTimeout+time.Second ||
				computed.Load() != int64(min(crowd, joined+1)) || busy.Load() != int64(crowd-joined) {
				t.Errorf("%d of %d joined, %d were computed for, %d learned that it is busy; it took %v", in.Load(), crowd,
					computed.Load(), busy.Load(), took)
			}
			if turns.free != 1 || turns.waiting() != 0 {
				t.Errorf("%d turns are free, %d handshakes wait", turns.free, turns.waiting())
			}
		})
	}
}

// TestBlameForLeaving: what the server reports about a client that left during the handshake depends on how long the
// client had to wait for the server.
func TestBlameForLeaving(t *testing.T) {
	for _, c := range []struct {
		name           string
		own, away      time.Duration // of the server's time, and of the client's
		heard, crowded bool
		err            error
		want           string
		penalty        time.Duration
	}{
		{"no trust", 0, time.Minute, false, false, io.EOF, "EOF", penaltyLeft},
		{"a crowd", 0, time.Second, false, true, io.EOF,
			"it left before saying who it is, while handshakes waited for the processor (1): this server is busy", 0},
		{"a crowd, after it was heard", 0, time.Second, true, true, io.EOF, "EOF", penaltyLeft},
		{"a slow server", 30 * time.Second, time.Second, true, false, io.EOF,
			"it left when the server had taken 30s for its handshake: this server is busy", 0},
		{"a slow server, a bad signature", 30 * time.Second, 0, true, false, errUnverified, errUnverified.Error(),
			penaltyRefused},
	} {
		synctest.Test(t, func(t *testing.T) {
			turns := newTurns(1)
			conn := newPacedConn(nil, turns, nil)
			time.Sleep(c.own)
			conn.pause(c.away)
			conn.heard = c.heard
			if c.crowded {
				turns.take(true)
				go turns.take(true)
				synctest.Wait()
				defer turns.end()
			}
			err := conn.orBusy(c.err)
			if err.Error() != c.want || penaltyFor(err) != c.penalty {
				t.Errorf("%s: %v, penalty %v", c.name, err, penaltyFor(err))
			}
		})
	}
}

// TestProcessors: handshakes have all processors, and the room has half of them, or more if it has many members.
func TestProcessors(t *testing.T) {
	t.Parallel()
	for all, want := range map[int][]int{
		1: {1, 1, 1, 1, 1, 1, 1, 1, 1}, 2: {1, 2, 2, 2, 1, 1, 2, 2, 2}, 4: {2, 4, 4, 4, 2, 2, 2, 4, 4},
	} {
		var used []int
		p := processors{use: func(n int) { used = append(used, n) }, all: all}
		p.count(0, 0)
		p.count(+1, 0)
		p.count(+1, 0)
		p.count(-1, 0)
		p.count(-1, 0)
		for _, members := range []int{membersPerProcessor - 1, membersPerProcessor, 3 * membersPerProcessor, 10000} {
			p.count(0, members-p.members)
		}
		if !slices.Equal(used, want) {
			t.Errorf("of %d: %v, not %v", all, used, want)
		}
	}
	new(processors).count(+1, 0) // -sync, -raw
}

// TestProcessorsOfServer: a server has one processor of three from its start on, all of them during a handshake, two
// with many members, and always all with -sync. Go's scheduler reports what it has.
func TestProcessorsOfServer(t *testing.T) {
	t.Parallel()
	anna, bob := state(t, "anna"), state(t, "bob")
	admit(t, anna, bob)
	serve := func(args ...string) (*proc, string) {
		p := startWith(t, t.TempDir(), []string{"GOMAXPROCS=3", "GODEBUG=schedtrace=10"},
			append(args, "-listen", "127.0.0.1:0", "-dir", anna)...)
		return p, p.err.match(t, `room open on (127\.0\.0\.1:\d+)`)[1]
	}
	server, addr := serve()
	server.err.match(t, `gomaxprocs=1 `)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server.err.match(t, `(?s)gomaxprocs=1 .*gomaxprocs=3 `)
	conn.Close()
	server.err.match(t, `(?s)gomaxprocs=1 .*gomaxprocs=3 .*gomaxprocs=1 `)
	me, members := partyIn(t, bob), []*session{}
	for i := range byte(membersPerProcessor) {
		sess, _ := joinSession(t, addr, me, joinRequest{stream: streamID{i + 1}})
		members = append(members, sess)
	}
	server.err.match(t, `gomaxprocs=2 `)
	for _, sess := range members {
		sess.conn.Close()
	}
	server.err.match(t, `(?s)gomaxprocs=2 .*gomaxprocs=1 `)

	server, addr = serve("-sync")
	pin(t, bob, addr, anna)
	c := start(t, t.TempDir(), "-connect", addr, "-dir", bob)
	c.send("a line\n")
	c.stdin.Close()
	if code := c.wait(); code != 0 || strings.Contains(server.err.String(), "gomaxprocs=1 ") {
		t.Errorf("exit code %d; %s", code, server.err)
	}
}

// TestTurns: turns are given in the order in which they were asked for, those for later messages first. A handshake
// whose connection was closed meanwhile does not use its turn, and a pause is no part of one.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		turns.take(true)
		var order []string
		for _, name := range []string{"first 1", "later 1", "first 2", "later 2"} {
			go func() {
				turns.take(strings.HasPrefix(name, "first"))
				order = append(order, name)
				turns.end()
			}()
			synctest.Wait()
		}
		turns.end()
		synctest.Wait()
		if want := []string{"later 1", "later 2", "first 1", "first 2"}; !slices.Equal(order, want) {
			t.Errorf("the order is %q", order)
		}

		free := func() int {
			turns.mu.Lock()
			defer turns.mu.Unlock()
			return turns.free
		}
		here, there := net.Pipe()
		defer here.Close()
		conn := newPacedConn(there, turns, func() error { return nil })
		if err := conn.receive(func() error { return nil }); err != nil || free() != 0 {
			t.Errorf("%v, %d turns are free", err, free())
		}
		go conn.pause(time.Second)
		synctest.Wait()
		if free() != 1 {
			t.Error("a pause holds a turn")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if free() != 0 {
			t.Error("no turn after a pause")
		}
		go conn.Write([]byte("a client that does not read"))
		synctest.Wait()
		if free() != 1 {
			t.Error("writing holds a turn")
		}
		turns.take(true)
		time.AfterFunc(handshakeTimeout, turns.end)
		if err := conn.takeTurn(); !errors.Is(err, errBusy) {
			t.Errorf("after the patience of a client: %v", err)
		}
		conn.endTurn()
		there.Close()
		if err := conn.takeTurn(); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a closed connection: %v", err)
		}
	})
}

// TestSilentServer: a client reports once that a server sends nothing, and goes on waiting.
func TestSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		notes := make(chan string, 9)
		s := &securechat2{me: &party{}, client: securechat2Client{addr: "host:443"}}
		s.note = func(format string, a ...any) { notes <- fmt.Sprintf(format, a...) }
		ended := make(chan error, 1)
		go func() {
			_, _, _, err := s.dial(newPacedConn(here, nil, nil), joinRequest{})
			ended <- err
		}()
		time.Sleep(silenceNoted - 1)
		synctest.Wait()
		if len(notes) != 0 {
			t.Error("too early: " + <-notes)
		}
		time.Sleep(handshakeTimeout / 2)
		synctest.Wait()
		if len(notes) != 1 || len(ended) > 0 {
			t.Fatalf("%d notes, %d ends", len(notes), len(ended))
		}
		if note := <-notes; !strings.HasPrefix(note, "host:443 has not answered yet") {
			t.Error(note)
		}
		there.Close()
		<-ended
	})
}

// TestNetworkErrorsWithoutAddresses: the text of a network error in a handshake has no addresses, which are reported
// beside it, and no words of Go's network library.
func TestNetworkErrorsWithoutAddresses(t *testing.T) {
	client, server := twoParties(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Unix(1, 0))
	_, errRead := clientHandshake(conn, client, trustAll, nil)
	_, _, errWrite := serverHandshake(conn, server, 0, admitAll)
	for _, err := range []error{errRead, errWrite} {
		if !errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("the error is %q", err)
		}
	}
	text := (&securechat2{client: securechat2Client{addr: "host:9000"}}).handshakeError(errRead).Error()
	if !strings.Contains(text, "host:9000: the server is busy or stuck: it did not answer within 1m0s") {
		t.Errorf("the user reads %q", text)
	}
}

// deed is what a scripted peer does in one stage. Tests alter it.
type deed struct {
	stage     byte
	signer    ssh.Signer
	ek        *rsa.PublicKey
	aes       byte
	kem, cred []byte // stage 1: the HPKE key and the content of the box. Stage 2: kem is the encapsulation
	nonces    []byte
	clear     []byte // the clear part
	extra     []byte // appended to the clear part
	boxKey    []byte // stage 1: Ra for the box; nil: nonces
	wrap      *wrapper
	inside    func(msg []byte) []byte  // changes sign ‖ seq ‖ serials after signing; nil: no change
	unsealed  bool                     // no RSA-CBC
	body      func(body []byte) []byte // changes the stage before it is wrapped; nil: no change
	raw       []byte                   // the body of a frame to send in the place of the stage; nil: none
	x         *exchange                // of the scripted peer, before the stage is made
}

// scriptedClient is a client that knows the protocol, and whose stages alter changes. It returns the first error.
func scriptedClient(conn net.Conn, me *party, alter func(*deed)) error {
	x := newExchange(conn, me)
	_, eks, _, err := x.receiveHello()
	if err != nil {
		return err
	}
	kem, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return err
	}
	cred := appendVector(appendVector(appendVector(nil, me.identity), marshalEncryptionKey(&me.encryption.PublicKey)), nil)
	d := &deed{stage: 1, signer: me.signer, ek: eks, kem: kem.PublicKey().Bytes(), cred: cred, nonces: newNonce(), x: x}
	alter(d)
	if d.boxKey == nil {
		d.boxKey = d.nonces
	}
	box, err := credentialBox(d.boxKey, x.h0)
	if err != nil {
		return err
	}
	d.clear = box.Seal(append([]byte{d.aes}, d.kem...), zeroNonce[:], d.cred, nil)
	if err := d.send(x, 1); err != nil {
		return err
	}
	if err := x.startWrapping(d.nonces); err != nil {
		return err
	}
	m, err := x.receive(2, hpkeEncSize, 2*nonceSize)
	if err != nil {
		return err
	}
	if err := x.verify(m); err != nil {
		return err
	}
	d = &deed{stage: 3, signer: me.signer, ek: eks, nonces: m.serials()[nonceSize:], wrap: x.wrap, x: x}
	alter(d)
	if err := d.send(x, 3); err != nil {
		return err
	}
	_, err = x.receive(4, 0, smSize)
	return err
}

// send makes the stage of a deed and sends it in the place of a stage.
func (d *deed) send(x *exchange, stage byte) error {
	if d.raw != nil {
		return writeFrame(x.conn, d.raw)
	}
	clearPart := append(d.clear, d.extra...)
	body, err := x.seal(d.stage, d.signer, d.ek, clearPart, d.nonces)
	if d.inside != nil || d.unsealed { // This replaces what seal returned. The part that labels and signature cover stays.
		fields := append([]byte{d.stage}, d.nonces...)
		var sig []byte
		if sig, err = signData(d.signer, x.statement(d.stage, fields)); err != nil {
			return err
		}
		sealed := append(sig, fields...)
		if d.inside != nil {
			sealed = d.inside(sealed)
		}
		if !d.unsealed {
			sealed, err = x.rsaCBC(d.stage).seal(d.ek, sealed)
		}
		body = appendVector(appendVector(nil, clearPart), sealed)
	}
	if err != nil {
		return err
	}
	if d.body != nil {
		body = d.body(body)
	}
	if d.wrap != nil {
		body = d.wrap.seal(stage, body)
	}
	return writeFrame(x.conn, body)
}

// onStage alters one stage.
func onStage(stage byte, fn func(*deed)) func(*deed) {
	return func(d *deed) {
		if d.stage == stage {
			fn(d)
		}
	}
}

// TestLyingClient breaks each of the client's stages in turn. The server calls admit only after a valid signature, and
// with confirmed set only after stage 3.
func TestLyingClient(t *testing.T) {
	t.Parallel()
	client, server := twoParties(t)
	mallory := fixedSigner(t, "mallory")
	ek := marshalEncryptionKey(&client.encryption.PublicKey)
	credential := func(parts ...[]byte) []byte {
		var b []byte
		for _, p := range parts {
			b = appendVector(b, p)
		}
		return b
	}
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1) // odd and of 1024 bits, like a weak modulus
	weak, err := ssh.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	good := func(*deed) {}
	body := func(fn func([]byte) []byte) func(*deed) { return onStage(3, func(d *deed) { d.body = fn }) }
	inside := func(fn func([]byte) []byte) func(*deed) { return onStage(3, func(d *deed) { d.inside = fn }) }
	unsealed := func(d *deed) { d.unsealed = true }
	ofSize := func(n int) func([]byte) []byte { // a message of n bytes with the right seq and serial at its end
		return func(msg []byte) []byte { return append(make([]byte, n-1-nonceSize), msg[len(msg)-1-nonceSize:]...) }
	}
	const longest = 5*128 - 1 // the capacity of the blocks that an RSA-4096 signature and the longest fields need
	for _, c := range []struct {
		name              string
		alter             func(*deed)
		want              string // of the server's error; "" for success
		asked, askedAgain int    // The number of calls of admit, unconfirmed and confirmed.
	}{
		{"nothing wrong", good, "", 1, 1},
		{"another's identity", onStage(1, func(d *deed) { d.signer = mallory }), "stage 1: bad signature", 0, 0},
		{"stage 1 of another number", onStage(1, func(d *deed) { d.stage = 4 }), "stage 1: ", 0, 0},
		{"AES byte 2", onStage(1, func(d *deed) { d.aes = 2 }), "stage 1: malformed", 0, 0},
		{"no HPKE key", onStage(1, func(d *deed) { d.kem, d.cred = nil, nil }), "stage 1: malformed", 0, 0},
		{"an HPKE key out of range", onStage(1, func(d *deed) { d.kem = bytes.Repeat([]byte{0xff}, hpkePublicSize) }),
			"stage 1: HPKE", 1, 0},
		{"a low-order X25519 share", onStage(1, func(d *deed) { clear(d.kem[1184:]) }), "HPKE", 1, 0},
		{"a short Ra", onStage(1, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 1: ", 0, 0},
		{"a long Ra", onStage(1, func(d *deed) { d.nonces = append(d.nonces, 0) }), "stage 1: ", 0, 0},
		{"a box under another Ra", onStage(1, func(d *deed) { d.boxKey = newNonce() }), "box does not open", 0, 0},
		{"bytes behind the box", onStage(1, func(d *deed) { d.extra = []byte{0} }), "box does not open", 0, 0},
		{"sealed to another", onStage(1, func(d *deed) { d.ek = &client.encryption.PublicKey }), "stage 1: ", 0, 0},
		{"an empty credential", onStage(1, func(d *deed) { d.cred = nil }), "malformed credential", 0, 0},
		{"no proof vector", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek) }), "malformed credential",
			0, 0},
		{"a proof of 31 bytes", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, make([]byte, 31)) }),
			"malformed credential", 0, 0},
		{"a proof of 32 bytes", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, make([]byte, 32)) }), "",
			1, 1},
		{"a fourth vector", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, nil, nil) }),
			"malformed credential", 0, 0},
		{"no identity", onStage(1, func(d *deed) { d.cred = credential(nil, ek, nil) }), "no SSH key", 0, 0},
		{"a weak identity", onStage(1, func(d *deed) { d.cred = credential(weak.Marshal(), ek, nil) }), "1024 bits", 0, 0},
		{"a weak encryption key", onStage(1, func(d *deed) { d.cred = credential(client.identity, weak.Marshal(), nil) }),
			"1024 bits", 0, 0},
		{"an Ed25519 encryption key", onStage(1, func(d *deed) {
			d.cred = credential(client.identity, client.identity, nil)
		}), "not RSA", 0, 0},
		{"an identity too long", onStage(1, func(d *deed) { d.cred = credential(make([]byte, maxIdentity+1), ek, nil) }),
			"identity of 8193 bytes", 0, 0},
		{"another encryption key", onStage(1, func(d *deed) {
			d.cred = credential(client.identity, marshalEncryptionKey(&onceKeys["3072"]().PublicKey), nil)
		}), "stage 3: the other side ended the connection", 1, 0},
		{"stage 3 signed by another", onStage(3, func(d *deed) { d.signer = mallory }), "stage 3: bad signature", 1, 0},
		{"another Rb", onStage(3, func(d *deed) { d.nonces = newNonce() }), "a different challenge", 1, 0},
		{"half of Rb", onStage(3, func(d *deed) { clear(d.nonces[nonceSize/2:]) }), "a different challenge", 1, 0},
		{"a bit of Rb", onStage(3, func(d *deed) { d.nonces[nonceSize-1] ^= 1 }), "a different challenge", 1, 0},
		{"a short Rb", onStage(3, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 3: ", 1, 0},
		{"a long Rb", onStage(3, func(d *deed) { d.nonces = append(bytes.Clone(d.nonces), 0) }), "stage 3: ", 1, 0},
		{"stage 3 of another number", onStage(3, func(d *deed) { d.stage = 1 }), "stage 3: an RSA-CBC", 1, 0},
		{"another number inside stage 3", inside(func(b []byte) []byte { b[len(b)-nonceSize-1] = 1; return b }),
			"stage 3: malformed", 1, 0},
		{"stage 3 with a clear part", onStage(3, func(d *deed) { d.extra = []byte{0} }), "stage 3: malformed", 1, 0},
		{"stage 3 sealed to itself", onStage(3, func(d *deed) { d.ek = &client.encryption.PublicKey }),
			"stage 3: an RSA-CBC", 1, 0},
		{"nothing in stage 3", body(func([]byte) []byte { return nil }), "stage 3: malformed", 1, 0},
		{"two empty parts in stage 3", body(func([]byte) []byte { return make([]byte, 4) }), "stage 3: an RSA-CBC", 1, 0},
		{"a byte behind stage 3", body(func(b []byte) []byte { return append(b, 0) }), "stage 3: malformed", 1, 0},
		{"a vector behind stage 3", body(func(b []byte) []byte { return append(b, 0, 0) }), "stage 3: malformed", 1, 0},
		{"a length beyond stage 3", body(func(b []byte) []byte { b[2]++; return b }), "stage 3: malformed", 1, 0},
		{"an empty message inside stage 3", inside(func([]byte) []byte { return nil }), "stage 3: malformed", 1, 0},
		{"one byte inside stage 3", inside(func([]byte) []byte { return []byte{3} }), "stage 3: malformed", 1, 0},
		{"no seq inside stage 3", inside(func(b []byte) []byte { return b[len(b)-nonceSize:] }), "stage 3: malformed", 1, 0},
		{"no signature inside stage 3", inside(func(b []byte) []byte { return b[len(b)-nonceSize-1:] }),
			"stage 3: bad signature", 1, 0},
		{"the longest stage 3", inside(ofSize(longest)), "stage 3: bad signature", 1, 0},
		{"a byte over the longest stage 3", inside(ofSize(longest + 1)), "stage 3: malformed", 1, 0},
		{"stage 3 in the other direction's wrapping", onStage(3, func(d *deed) {
			d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer}
		}), "wrapping does not open", 1, 0},
		{"stage 1 without RSA-CBC", onStage(1, unsealed), "stage 1: an RSA-CBC", 0, 0},
		{"stage 3 without RSA-CBC", onStage(3, unsealed), "stage 3: an RSA-CBC", 1, 0},
		{"a signature too long", onStage(3, func(d *deed) { d.signer = wordy{d.signer} }), "stage 3: malformed", 1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			done := make(chan error, 1)
			go func() {
				here.SetDeadline(time.Now().Add(handshakeTimeout))
				done <- scriptedClient(here, client, c.alter)
				here.Close()
			}()
			there.SetDeadline(time.Now().Add(handshakeTimeout))
			var asked [2]int
			keys, _, err := serverHandshake(there, server, 0, func(id ssh.PublicKey, _, _, _ []byte, confirmed bool) error {
				asked[boolByte(confirmed)]++
				if !bytes.Equal(id.Marshal(), client.identity) {
					t.Errorf("%s: asked about %v", c.name, id)
				}
				return nil
			})
			there.Close()
			peer := <-done
			if (c.want == "") != (err == nil) || c.want != "" && (!strings.Contains(err.Error(), c.want) ||
				!errors.Is(err, errUnverified) && !strings.HasSuffix(c.want, "ended the connection")) || err != nil && keys != nil {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if asked != [2]int{c.asked, c.askedAgain} {
				t.Errorf("%s: asked %v times", c.name, asked)
			}
			if c.want != "" && !errors.Is(peer, io.EOF) && !errors.Is(peer, errUnverified) {
				t.Errorf("%s: the client: %v", c.name, peer)
			}
		})
	}
}

// wordy makes signatures that are too long for a stage.
type wordy struct{ ssh.Signer }

func (w wordy) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	sig, err := w.Signer.Sign(r, data)
	if err == nil {
		sig.Rest = make([]byte, 700)
	}
	return sig, err
}

func (w wordy) SignWithAlgorithm(r io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return w.Sign(r, data)
}

// mute cannot sign.
type mute struct{ ssh.Signer }

var errMute = errors.New("the signer is broken")

func (mute) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errMute }

func (mute) SignWithAlgorithm(io.Reader, []byte, string) (*ssh.Signature, error) { return nil, errMute }

// refusedRun runs a handshake whose server refuses the client: at stage 3 if confirmed is set, else at stage 1. It
// calls meddle with each frame of the server, which returns the frame to deliver, and returns both sides' errors.
func refusedRun(t *testing.T, client, server *party, confirmed bool, why error,
	meddle func(n int, frame []byte) []byte) (c, s error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		here, left := net.Pipe()
		right, there := net.Pipe()
		var wg sync.WaitGroup
		carry := func(from, to net.Conn, meddle func(n int, frame []byte) []byte) {
			defer from.Close()
			defer to.Close()
			for n := 0; ; n++ {
				body, err := readFrame(from, maxHandshakeFrame)
				if err != nil {
					return
				}
				if _, err := to.Write(meddle(n, appendVector(nil, body))); err != nil {
					return
				}
			}
		}
		wg.Go(func() { carry(left, right, func(_ int, frame []byte) []byte { return frame }) })
		wg.Go(func() { carry(right, left, meddle) })
		wg.Go(func() {
			defer here.Close()
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			var keys *secrets
			if keys, c = clientHandshake(here, client, trustAll, nil); keys != nil {
				t.Error("the client has a key")
			}
		})
		there.SetDeadline(time.Now().Add(handshakeTimeout))
		keys, id, err := serverHandshake(there, server, 0, func(_ ssh.PublicKey, _, _, _ []byte, stage3 bool) error {
			if stage3 == confirmed {
				return why
			}
			return nil
		})
		there.Close()
		wg.Wait()
		if keys != nil || id == nil {
			t.Error("the server has a key, or no identity for its log")
		}
		s = err
	})
	return c, s
}

// refusalFrame is the number of the refusal among the server's frames, by the value of confirmed.
var refusalFrame = map[bool]int{false: 1, true: 2}

// TestRefusedByAdmit: a client that admit rejects receives a refusal, whether at stage 1 or at stage 3. If admit could
// not decide, the client sees the connection close. Either way the server returns the reason.
func TestRefusedByAdmit(t *testing.T) {
	client, server := twoParties(t)
	forwarded := func(_ int, frame []byte) []byte { return frame }
	for _, confirmed := range []bool{false, true} {
		decision := refuse("no such key")
		c, s := refusedRun(t, client, server, confirmed, fmt.Errorf("wrapped: %w", decision), forwarded)
		if !errors.Is(c, errRefused) || errors.Is(c, errUnverified) || !errors.Is(s, decision) {
			t.Errorf("confirmed %v: client: %v; server: %v", confirmed, c, s)
		}
		for _, trouble := range []error{errors.New("reading the disk failed"),
			&untrusted{kind: undecided, reason: "a file cannot be read"}} {
			c, s = refusedRun(t, client, server, confirmed, trouble, func(n int, frame []byte) []byte {
				if n == refusalFrame[confirmed] {
					t.Errorf("confirmed %v: the server sent %x", confirmed, frame)
				}
				return frame
			})
			if !errors.Is(c, io.EOF) || errors.Is(c, errRefused) || s != trouble {
				t.Errorf("confirmed %v: client: %v; server: %v", confirmed, c, s)
			}
		}
		broken := *server
		broken.signer = mute{server.signer}
		if !confirmed { // Such a server does not reach stage 3.
			c, s = refusedRun(t, client, &broken, confirmed, decision, forwarded)
			if !errors.Is(c, io.EOF) || !errors.Is(s, decision) || !errors.Is(s, errMute) {
				t.Errorf("without a signature: client: %v; server: %v", c, s)
			}
		}
	}
}

// TestRefusalOnTheWire flips a bit in each byte of a refusal, cuts it at each length and prolongs it. The client
// accepts none of the results as a refusal.
func TestRefusalOnTheWire(t *testing.T) {
	t.Parallel()
	for _, confirmed := range []bool{false, true} {
		t.Run(fmt.Sprintf("confirmed %v", confirmed), func(t *testing.T) {
			t.Parallel()
			client, server := twoParties(t)
			try := func(what string, wanted error, change func(frame []byte) []byte) {
				t.Helper()
				size := 0
				c, _ := refusedRun(t, client, server, confirmed, refuse("no"), func(n int, frame []byte) []byte {
					if n != refusalFrame[confirmed] {
						return frame
					}
					size = len(frame)
					return change(frame)
				})
				if size != refusalSize || errors.Is(c, errRefused) || !errors.Is(c, wanted) {
					t.Errorf("%s of %d bytes: %v", what, size, c)
				}
			}
			for i := range refusalSize {
				ended := io.ErrUnexpectedEOF
				if i == 0 {
					ended = io.EOF
				}
				try(fmt.Sprintf("the end after %d bytes", i), ended, func(frame []byte) []byte { return frame[:i] })
				if i < frameHeader {
					continue // Other lengths follow below.
				}
				try(fmt.Sprintf("byte %d", i), errUnverified, func(frame []byte) []byte { frame[i] ^= 1 << (i % 8); return frame })
				try(fmt.Sprintf("the first %d bytes", i), errUnverified, func(frame []byte) []byte {
					return appendVector(nil, frame[frameHeader:i])
				})
			}
			try("a length one less", errUnverified, func(frame []byte) []byte { frame[1]--; return frame })
			try("a length one more", io.ErrUnexpectedEOF, func(frame []byte) []byte { frame[1]++; return frame })
			try("a length of another page", io.ErrUnexpectedEOF, func(frame []byte) []byte { frame[0]++; return frame })
			try("a byte behind it", errUnverified, func(frame []byte) []byte {
				return appendVector(nil, append(frame[frameHeader:], 0))
			})
		})
	}
}

// refusalSize is the size of a refusal's frame with an Ed25519 identity.
const refusalSize = frameHeader + ed25519.SignatureSize + aeadOverhead

// forgedRefusal is a frame in the place of stage 2 or 4 that the client must not accept as a refusal.
type forgedRefusal struct {
	name, defect string
	body         func(x *exchange) []byte // the frame's body, made when the server would send the stage
	check        string                   // part of the client's error
}

// forgedRefusals returns forged refusals for a server and one of its clients. recorded is the body of a refusal in
// another run.
func forgedRefusals(t testing.TB, client, server *party, recorded []byte) []forgedRefusal {
	sign := func(s ssh.Signer, context string, h []byte) []byte {
		t.Helper()
		sig, err := signData(s, append([]byte(context), h...))
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	good := func(x *exchange) []byte { return sign(server.signer, refusalContext, x.sum()) }
	wrapped := func(sig func(x *exchange) []byte) func(x *exchange) []byte {
		return func(x *exchange) []byte { return x.wrap.seal(refusalNumber, sig(x)) }
	}
	const unsigned, closed = "a refusal with a bad signature", "the wrapping does not open"
	return []forgedRefusal{
		{"other signer", "signed by another than the hello's identity", wrapped(func(x *exchange) []byte {
			return sign(fixedSigner(t, "mallory"), refusalContext, x.sum())
		}), unsigned},
		{"signed by client", "reflection: signed by the client's identity", wrapped(func(x *exchange) []byte {
			return sign(client.signer, refusalContext, x.sum())
		}), unsigned},
		{"other transcript", "signed over another transcript", wrapped(func(x *exchange) []byte {
			return sign(server.signer, refusalContext, make([]byte, 64))
		}), unsigned},
		{"transcript h0", "signed over the transcript before stage 1", wrapped(func(x *exchange) []byte {
			return sign(server.signer, refusalContext, x.h0)
		}), unsigned},
		{"no context", "signed without a context", wrapped(func(x *exchange) []byte {
			return sign(server.signer, "", x.sum())
		}), unsigned},
		{"stage context", "signed in the context of the stages", wrapped(func(x *exchange) []byte {
			return sign(server.signer, stageContext, x.sum())
		}), unsigned},
		{"signature of hello", "the signature is the hello's", wrapped(func(*exchange) []byte {
			return server.hello[len(server.hello)-ed25519.SignatureSize:]
		}), unsigned},
		{"no signature", "the signature is empty", wrapped(func(*exchange) []byte { return nil }), unsigned},
		{"bit of signature", "a bit of the signature is flipped", wrapped(func(x *exchange) []byte {
			return flip(good(x), 63)
		}), unsigned},
		{"short signature", "the signature's last byte is missing", wrapped(func(x *exchange) []byte {
			return good(x)[:63]
		}), unsigned},
		{"long signature", "a byte follows the signature", wrapped(func(x *exchange) []byte { return append(good(x), 0) }),
			unsigned},
		{"longest frame", "as much as a frame holds", wrapped(func(*exchange) []byte {
			return make([]byte, maxHandshakeFrame-aeadOverhead)
		}), unsigned},
		{"nonce of stage 3", "wrapped as stage 3", func(x *exchange) []byte { return x.wrap.seal(3, good(x)) }, closed},
		{"nonce 0", "wrapped under the nonce 0", func(x *exchange) []byte { return x.wrap.seal(0, good(x)) }, closed},
		{"other direction's wrapping", "wrapped under the key of client to server", func(x *exchange) []byte {
			return (&wrapper{x.wrap.toClient, x.wrap.toServer}).seal(refusalNumber, good(x))
		}, closed},
		{"not wrapped", "the signature alone", good, closed},
		{"of another run", "recorded in another run", func(*exchange) []byte { return recorded }, closed},
		{"bit of wrapping", "a bit of the wrapping is flipped", func(x *exchange) []byte {
			return flip(wrapped(good)(x), 0)
		}, closed},
		{"bit of tag", "a bit of the wrapping's tag is flipped", func(x *exchange) []byte {
			return flip(wrapped(good)(x), 79)
		}, closed},
		{"cut", "the last byte is missing, the frame's length says so", func(x *exchange) []byte {
			return wrapped(good)(x)[:79]
		}, closed},
		{"trailing byte", "a byte more, the frame's length says so", func(x *exchange) []byte {
			return append(wrapped(good)(x), 0)
		}, closed},
	}
}

// inPlaceOf makes a scripted peer send a frame with the given body in the place of a stage.
func inPlaceOf(stage byte, body func(x *exchange) []byte) func(*deed) {
	return onStage(stage, func(d *deed) { d.raw = body(d.x) })
}

// TestForgedRefusal: a refusal is valid only in the run, the place and the wrapping that the server made it for, and
// only with the server's signature in the refusal's context.
func TestForgedRefusal(t *testing.T) {
	client, server := twoParties(t)
	hello := append(append([]byte(protocolName), make([]byte, 1+helloNonceSize)...), server.hello...)
	var recorded, h1 []byte
	refusedRun(t, client, server, false, refuse("no"), func(n int, frame []byte) []byte {
		if n == refusalFrame[false] {
			recorded = bytes.Clone(frame[frameHeader:])
		}
		return frame
	})
	run := func(alter func(*deed)) (err error) {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go func() {
				defer there.Close()
				there.SetDeadline(time.Now().Add(handshakeTimeout))
				if err := scriptedServer(there, server, hello, alter); !onlyEnded(err) {
					t.Error(err)
				}
			}()
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			var keys *secrets
			if keys, err = clientHandshake(here, client, trustAll, nil); keys != nil {
				t.Error("the client has a key")
			}
			here.Close()
			synctest.Wait()
		})
		return err
	}
	refusal := func(x *exchange) []byte {
		sig, err := signData(server.signer, x.refusalStatement())
		if err != nil {
			t.Fatal(err)
		}
		return x.wrap.seal(refusalNumber, sig)
	}
	for _, stage := range []byte{2, 4} {
		if err := run(inPlaceOf(stage, refusal)); !errors.Is(err, errRefused) || errors.Is(err, errUnverified) {
			t.Errorf("stage %d, nothing wrong: %v", stage, err)
		}
		for _, c := range forgedRefusals(t, client, server, recorded) {
			err := run(inPlaceOf(stage, c.body))
			if errors.Is(err, errRefused) || !errors.Is(err, errUnverified) ||
				!strings.HasPrefix(err.Error(), fmt.Sprintf("stage %d: %s", stage, c.check)) {
				t.Errorf("stage %d, %s: %v", stage, c.name, err)
			}
		}
		own := inPlaceOf(stage, func(x *exchange) []byte { // the right content in the stage's own wrapping
			sig, err := signData(server.signer, x.refusalStatement())
			if err != nil {
				t.Fatal(err)
			}
			return x.wrap.seal(stage, sig)
		})
		if err := run(own); errors.Is(err, errRefused) || !errors.Is(err, errUnverified) ||
			!strings.Contains(err.Error(), "malformed") {
			t.Errorf("stage %d, wrapped as the stage: %v", stage, err)
		}
	}
	err := run(func(d *deed) { // stage 2's refusal in the place of stage 4
		switch d.stage {
		case 2:
			h1 = d.x.sum()
		case 4:
			sig, err := signData(server.signer, append([]byte(refusalContext), h1...))
			if err != nil {
				t.Fatal(err)
			}
			d.raw = d.x.wrap.seal(refusalNumber, sig)
		}
	})
	if errors.Is(err, errRefused) || !errors.Is(err, errUnverified) ||
		!strings.HasPrefix(err.Error(), "stage 4: a refusal with a bad signature") {
		t.Errorf("stage 2's refusal at stage 4: %v", err)
	}
}

// TestProofReachesAdmit: the server passes to admit an invite's proof and the values that the proof was made over.
func TestProofReachesAdmit(t *testing.T) {
	client, server := twoParties(t)
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		want := bytes.Repeat([]byte{7}, proofSize)
		var madeOver [][]byte
		go func() {
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			if _, err := clientHandshake(here, client, trustAll, func(h0, hpkePublic, identity []byte) []byte {
				madeOver = [][]byte{bytes.Clone(h0), bytes.Clone(hpkePublic), bytes.Clone(identity)}
				return want
			}); err != nil {
				t.Error(err)
			}
		}()
		there.SetDeadline(time.Now().Add(handshakeTimeout))
		_, _, err := serverHandshake(there, server, 0, func(id ssh.PublicKey, proof, h0, hpkePublic []byte, _ bool) error {
			if !bytes.Equal(proof, want) || !slices.EqualFunc(madeOver, [][]byte{h0, hpkePublic, id.Marshal()}, bytes.Equal) {
				t.Error("admit got another proof, or other values than the proof was made over")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// scriptedServer is a server that knows the protocol, and whose stages alter changes. It returns the first error.
func scriptedServer(conn net.Conn, me *party, hello []byte, alter func(*deed)) error {
	x := newExchange(conn, me)
	x.h0 = x.start(hello)
	if err := x.write(hello); err != nil {
		return err
	}
	m, err := x.receive(1, anySize, nonceSize)
	if err != nil {
		return err
	}
	ra := m.serials()
	c, err := openClaim(m.clear, ra, x.h0)
	if err != nil {
		return err
	}
	kemKey, err := hpke.MLKEM768X25519().NewPublicKey(c.hpkePublic)
	if err != nil {
		return err
	}
	enc, _, err := hpke.NewSender(kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return err
	}
	if err := x.startWrapping(ra); err != nil {
		return err
	}
	serials := append(bytes.Clone(ra), newNonce()...)
	d := &deed{stage: 2, signer: me.signer, ek: c.ek, kem: enc, nonces: serials, wrap: x.wrap, x: x}
	alter(d)
	d.clear = d.kem
	if err := d.send(x, 2); err != nil {
		return err
	}
	if _, err := x.receive(3, 0, nonceSize); err != nil {
		return err
	}
	d = &deed{stage: 4, signer: me.signer, ek: c.ek, nonces: make([]byte, smSize), wrap: x.wrap, x: x}
	alter(d)
	return d.send(x, 4)
}

// helloOf returns a hello with these parts.
func helloOf(aes byte, identity, ek, sig []byte) []byte {
	hello := append([]byte(protocolName), aes)
	hello = append(hello, make([]byte, helloNonceSize)...)
	return appendVector(appendVector(appendVector(hello, identity), ek), sig)
}

// TestLyingServer breaks the hello and each of the server's stages in turn.
func TestLyingServer(t *testing.T) {
	client, server := twoParties(t)
	mallory := fixedSigner(t, "mallory")
	ek := marshalEncryptionKey(&server.encryption.PublicKey)
	sign := func(s ssh.Signer, data []byte) []byte {
		sig, err := signData(s, data)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	sig := sign(server.signer, helloStatement(ek))
	hello := helloOf(0, server.identity, ek, sig)
	good := func(*deed) {}
	for _, c := range []struct {
		name    string
		hello   []byte
		alter   func(*deed)
		want    string
		checked bool // the client called trusts
	}{
		{"nothing wrong", hello, good, "", true},
		{"another program", []byte("SSH-2.0-OpenSSH_9.9"), good, "does not speak securechat/2", false},
		{"an empty hello", nil, good, "does not speak securechat/2", false},
		{"AES byte 2", helloOf(2, server.identity, ek, sig), good, "hello: malformed", false},
		{"the identity is another's", helloOf(0, mallory.PublicKey().Marshal(), ek, sig), good,
			"did not sign the encryption key", false},
		{"the encryption key is another's", helloOf(0, server.identity, marshalEncryptionKey(&client.encryption.PublicKey),
			sig), good, "did not sign", false},
		{"signed for another purpose", helloOf(0, server.identity, ek, sign(server.signer, ek)), good, "did not sign", false},
		{"no signature", helloOf(0, server.identity, ek, nil), good, "did not sign", false},
		{"trailing bytes", append(bytes.Clone(hello), 0), good, "hello: malformed", false},
		{"stage 2 signed by another", hello, onStage(2, func(d *deed) { d.signer = mallory }), "stage 2: bad signature",
			true},
		{"another Ra", hello, onStage(2, func(d *deed) { d.nonces[0] ^= 1 }), "a different challenge", true},
		{"Rb before Ra", hello, onStage(2, func(d *deed) {
			d.nonces = append(d.nonces[nonceSize:], d.nonces[:nonceSize]...)
		}), "a different challenge", true},
		{"a short Rb", hello, onStage(2, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 2: ", true},
		{"stage 2 of another number", hello, onStage(2, func(d *deed) { d.stage = 4 }), "stage 2: ", true},
		{"an encapsulation too short", hello, onStage(2, func(d *deed) { d.kem = d.kem[1:] }), "stage 2: malformed", true},
		{"an encapsulation too long", hello, onStage(2, func(d *deed) { d.extra = []byte{0} }), "stage 2: malformed", true},
		{"a low-order X25519 share", hello, onStage(2, func(d *deed) { clear(d.kem[1088:]) }), "stage 2: HPKE", true},
		{"sealed to itself", hello, onStage(2, func(d *deed) { d.ek = &server.encryption.PublicKey }), "stage 2: ", true},
		{"stage 2 without RSA-CBC", hello, onStage(2, func(d *deed) { d.unsealed = true }), "stage 2: an RSA-CBC", true},
		{"stage 4 without RSA-CBC", hello, onStage(4, func(d *deed) { d.unsealed = true }), "stage 4: an RSA-CBC", true},
		{"stage 2 in the other direction's wrapping", hello, onStage(2, func(d *deed) {
			d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer}
		}), "wrapping does not open", true},
		{"stage 4 signed by another", hello, onStage(4, func(d *deed) { d.signer = mallory }), "stage 4: bad signature",
			true},
		{"a short Sm", hello, onStage(4, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 4: ", true},
		{"a long Sm", hello, onStage(4, func(d *deed) { d.nonces = append(d.nonces, 0) }), "stage 4: ", true},
		{"stage 4 with a clear part", hello, onStage(4, func(d *deed) { d.extra = []byte{0} }), "stage 4: malformed", true},
		{"stage 4 of another number", hello, onStage(4, func(d *deed) { d.stage = 2 }), "stage 4: ", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			go func() {
				there.SetDeadline(time.Now().Add(handshakeTimeout))
				scriptedServer(there, server, c.hello, c.alter)
				there.Close()
			}()
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			checked := false
			keys, err := clientHandshake(here, client, func(id ssh.PublicKey) error {
				checked = bytes.Equal(id.Marshal(), server.identity)
				return nil
			}, nil)
			here.Close()
			if (c.want == "") != (err == nil) || c.want != "" && (!strings.Contains(err.Error(), c.want) || !noticed(err)) ||
				err != nil && keys != nil || checked != c.checked {
				t.Errorf("%s: trust asked: %v; %v, want %q", c.name, checked, err, c.want)
			}
			synctest.Wait()
		})
	}
}

// TestBlockPlaces: because of its label, an RSA-CBC block opens only in the run, stage and place that it was sealed
// for. No signature is needed for that.
func TestBlockPlaces(t *testing.T) {
	_, server := twoParties(t)
	key := server.encryption
	var here, elsewhere transcript
	here.midway[0], elsewhere.midway[0] = 1, 2
	k, _ := here.rsaCBC(2).sizes(&key.PublicKey)
	sealed, err := here.rsaCBC(2).seal(&key.PublicKey, make([]byte, 300))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.rsaCBC(2).open(key, sealed); err != nil {
		t.Fatal(err)
	}
	swapped := slices.Concat(sealed[k:2*k], sealed[:k], sealed[2*k:])
	otherIV := bytes.Clone(sealed)
	otherIV[len(otherIV)-1] ^= 1
	for what, c := range map[string]struct {
		cbc    rsaCBC
		sealed []byte
	}{
		"another run":   {elsewhere.rsaCBC(2), sealed},
		"another stage": {here.rsaCBC(4), sealed},
		"swapped":       {here.rsaCBC(2), swapped},
		"one less":      {here.rsaCBC(2), sealed[k:]},
		"one twice":     {here.rsaCBC(2), slices.Concat(sealed[:k], sealed)},
		"another IV":    {here.rsaCBC(2), otherIV},
	} {
		if msg, err := c.cbc.open(key, c.sealed); !errors.Is(err, errRSACBC) || msg != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestWrapperKeys: each direction has a key of its own in each run, and each stage and the refusal a nonce of its own.
func TestWrapperKeys(t *testing.T) {
	wrapperOf := func(ra, h1 byte) *wrapper {
		w, err := newWrapper(bytes.Repeat([]byte{ra}, nonceSize), []byte{h1})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := wrapperOf(1, 1)
	for _, stage := range []byte{2, 3, 4, refusalNumber} {
		aead, nonce := w.of(stage)
		sealed := aead.Seal(nil, nonce, []byte("stage"), nil)
		if body, err := w.open(stage, sealed); err != nil || string(body) != "stage" {
			t.Fatal(err)
		}
		for what, other := range map[string]*wrapper{"direction": {w.toClient, w.toServer}, "Ra": wrapperOf(2, 1),
			"h1": wrapperOf(1, 2)} {
			if _, err := other.open(stage, sealed); !errors.Is(err, errUnverified) {
				t.Errorf("stage %d, another %s: %v", stage, what, err)
			}
		}
		for _, otherStage := range []byte{2, 3, 4, refusalNumber} {
			if _, err := w.open(otherStage, sealed); (err == nil) != (stage == otherStage) {
				t.Errorf("stage %d as stage %d: %v", stage, otherStage, err)
			}
		}
	}
	toServer, _ := w.of(3)
	if _, nonce := w.of(2); toServer != w.toServer || nonce[len(nonce)-1] != 2 {
		t.Error("stage 3 does not go to the server")
	}
	if aead, _ := w.of(2); aead != w.toClient {
		t.Error("stage 2 does not go to the client")
	}
}

// TestDistrustedServer: a client sends nothing to a server that it does not trust.
func TestDistrustedServer(t *testing.T) {
	client, server := twoParties(t)
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		no := errors.New("no")
		go func() {
			defer here.Close()
			here.SetDeadline(time.Now().Add(handshakeTimeout))
			if _, err := clientHandshake(here, client, func(ssh.PublicKey) error { return no }, nil); !errors.Is(err, no) {
				t.Error(err)
			}
		}()
		there.SetDeadline(time.Now().Add(handshakeTimeout))
		if _, _, err := serverHandshake(there, server, 0, admitAll); !errors.Is(err, io.EOF) {
			t.Errorf("the server: %v", err)
		}
		synctest.Wait()
	})
}

// TestNewPartyRefuses: newParty returns an error for a certificate that is too long and for an identity that cannot
// sign.
func TestNewPartyRefuses(t *testing.T) {
	signer := fixedSigner(t, "someone")
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert,
		ValidPrincipals: []string{strings.Repeat("x", maxIdentity)}}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	long, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newParty(long, onceKeys["client"]()); err == nil || !strings.Contains(err.Error(), "the limit is 8192") {
		t.Error(err)
	}
	if _, err := newParty(mute{signer}, onceKeys["client"]()); !errors.Is(err, errMute) {
		t.Error(err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0})
	f.Add([]byte{0, 3, 1, 2, 3, 4})
	f.Add([]byte{0xff, 0xff, 1})
	addVectors(f, "handshake", "receive", func(b []byte) { f.Add(b) })
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readFrame(bytes.NewReader(b), maxHandshakeFrame)
		v, rest, ok := cutVector(b)
		if (err == nil) != (ok && len(v) <= maxHandshakeFrame) {
			t.Fatalf("readFrame: %v, cutVector: %v", err, ok)
		}
		if ok && !bytes.Equal(append(appendVector(nil, v), rest...), b) || err == nil && !bytes.Equal(body, v) {
			t.Error("parsing and encoding does not restore the input")
		}
	})
}

func FuzzHello(f *testing.F) {
	client, server := twoParties(f)
	for _, p := range []*party{client, server, partyOf(f, certSigner(f, fixedSigner(f, "server"), ssh.HostCert),
		onceKeys["server"]())} {
		f.Add(append(append([]byte(protocolName), make([]byte, 1+helloNonceSize)...), p.hello...))
	}
	f.Add([]byte(protocolName))
	addVectors(f, "handshake", "receive", func(b []byte) { f.Add(b[frameHeader:]) })
	f.Fuzz(func(t *testing.T, b []byte) {
		id, ek, _, err := parseHello(b)
		if err != nil {
			if id != nil || ek != nil {
				t.Error("an error and a result")
			}
			return
		}
		if checkIdentityKey(id) != nil || checkEncryptionKey(ek) != nil {
			t.Error("an invalid key was accepted")
		}
	})
}

func FuzzCredential(f *testing.F) {
	client, _ := twoParties(f)
	ek := marshalEncryptionKey(&client.encryption.PublicKey)
	f.Add(appendVector(appendVector(appendVector(nil, client.identity), ek), nil))
	f.Add(appendVector(appendVector(appendVector(nil, client.identity), ek), make([]byte, proofSize)))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, ek, proof, err := parseCredential(b)
		if err != nil {
			if !errors.Is(err, errUnverified) || id != nil || ek != nil || proof != nil {
				t.Error("the wrong error, or an error and a result")
			}
			return
		}
		if checkIdentityKey(id) != nil || checkEncryptionKey(ek) != nil || len(proof) != 0 && len(proof) != proofSize {
			t.Error("an invalid credential was accepted")
		}
	})
}

// The kinds of frames that FuzzStage makes of its input.
const (
	fuzzStage1  = iota // stage 1, which is not wrapped
	fuzzStage3         // stage 3 in the right wrapping, from a client that has sent a valid stage 1
	fuzzAnswer         // a frame in the place of stage 2
	fuzzStage2         // stage 2 in the right wrapping, from a server that has opened stage 1
	fuzzRefusal        // a refusal in the right wrapping
	fuzzKinds
)

// FuzzStage passes to receive what a peer without keys can send, and what a peer with all keys can send.
func FuzzStage(f *testing.F) {
	client, server := twoParties(f)
	hello := []byte("hello")
	var seed transcript
	seed.start(hello)
	stage, err := seed.seal(1, client.signer, &server.encryption.PublicKey, []byte("clear"), make([]byte, nonceSize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stage, byte(fuzzStage1))
	f.Add(stage, byte(fuzzStage3))
	seed.start(hello)
	if stage, err = seed.seal(3, client.signer, &server.encryption.PublicKey, nil, make([]byte, nonceSize)); err != nil {
		f.Fatal(err)
	}
	f.Add(stage, byte(fuzzStage3))
	f.Add(appendVector(appendVector(nil, nil), nil), byte(fuzzStage3))
	seed.start(hello)
	refusal, err := signData(server.signer, seed.refusalStatement())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(refusal, byte(fuzzRefusal))
	f.Add([]byte{}, byte(fuzzRefusal))
	seed.start(hello)
	if stage, err = seed.seal(2, server.signer, &client.encryption.PublicKey, make([]byte, hpkeEncSize),
		make([]byte, 2*nonceSize)); err != nil {
		f.Fatal(err)
	}
	f.Add(stage, byte(fuzzStage2))
	addVectors(f, "handshake", "receive", func(b []byte) {
		f.Add(b[frameHeader:], byte(fuzzStage1))
		f.Add(b[frameHeader:], byte(fuzzAnswer))
	})
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		kind %= fuzzKinds
		if len(b) > maxHandshakeFrame-aeadOverhead {
			return
		}
		x := exchange{me: server, peer: client.signer.PublicKey()}
		x.start(hello)
		if err := x.startWrapping(make([]byte, nonceSize)); err != nil {
			t.Fatal(err)
		}
		stage, clearSize, serialsSize, frame := byte(2), hpkeEncSize, 2*nonceSize, b
		switch kind {
		case fuzzStage1:
			stage, clearSize, serialsSize = 1, anySize, nonceSize
			x.wrap = nil
		case fuzzStage3:
			stage, clearSize, serialsSize = 3, 0, nonceSize
			frame = x.wrap.seal(3, b)
		case fuzzStage2:
			frame = x.wrap.seal(2, b)
		case fuzzRefusal:
			frame = x.wrap.seal(refusalNumber, b)
		}
		if stage == 2 {
			x.me, x.peer = client, server.signer.PublicKey()
		}
		x.conn = cannedConn(appendVector(nil, frame))
		m, err := x.receive(stage, clearSize, serialsSize)
		if errors.Is(err, errRefused) != (kind == fuzzRefusal && bytes.Equal(b, refusal)) {
			t.Errorf("%v", err)
		}
		if err != nil {
			if !errors.Is(err, errUnverified) && !errors.Is(err, errRefused) {
				t.Error(err)
			}
			return
		}
		if m.stage() != stage || len(m.serials()) != serialsSize || len(m.sign) > longestSign+maxFields+128 {
			t.Errorf("%d bytes of serials, %d of signature", len(m.serials()), len(m.sign))
		}
	})
}

// BenchmarkHandshake runs both sides of a handshake, on as many processors as the machine has.
func BenchmarkHandshake(b *testing.B) {
	client, server := twoParties(b)
	for b.Loop() {
		benchHandshake(b, client, server, admitAll)
	}
}

// benchHandshake runs both sides of one handshake.
func benchHandshake(b *testing.B, client, server *party, admit admitFunc) {
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := clientHandshake(here, client, trustAll, nil)
		done <- err
	}()
	if _, _, err := serverHandshake(there, server, 0, admit); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// busyConn adds up the time that its owner waits for the other end of a net.Pipe, which takes part in each Read and
// Write.
type busyConn struct {
	net.Conn
	waited time.Duration
}

func (c *busyConn) Read(b []byte) (int, error) {
	defer c.waiting(time.Now())
	return c.Conn.Read(b)
}

func (c *busyConn) Write(b []byte) (int, error) {
	defer c.waiting(time.Now())
	return c.Conn.Write(b)
}

func (c *busyConn) waiting(since time.Time) { c.waited += time.Since(since) }

// BenchmarkHandshakeFloor compares a handshake's cost for the server with the operations that it cannot avoid: its two
// RSA-2048 private-key operations and one HPKE encapsulation, and then its two signatures and two verifications too.
// All are measured in turn, and the fastest tenth counts, so a slow or busy machine changes the ratios little. The goal
// is a ratio of at most 1.25 to RSA and HPKE.
func BenchmarkHandshakeFloor(b *testing.B) {
	client, server := twoParties(b)
	block, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &server.encryption.PublicKey, make([]byte, 128), nil)
	if err != nil {
		b.Fatal(err)
	}
	kem, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	public, statement := kem.PublicKey().Bytes(), make([]byte, 128)
	sig, err := signData(client.signer, statement)
	if err != nil {
		b.Fatal(err)
	}
	handshake := func() time.Duration {
		here, there := net.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := clientHandshake(here, client, trustAll, nil)
			done <- err
		}()
		busy := &busyConn{Conn: there}
		began := time.Now()
		if _, _, err := serverHandshake(busy, server, 0, admitAll); err != nil {
			b.Fatal(err)
		}
		took := time.Since(began) - busy.waited
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return took
	}
	keys := func() time.Duration {
		began := time.Now()
		for range 2 {
			if _, err := rsa.DecryptOAEP(sha256.New(), nil, server.encryption, block, nil); err != nil {
				b.Fatal(err)
			}
		}
		key, err := hpke.MLKEM768X25519().NewPublicKey(public)
		if err != nil {
			b.Fatal(err)
		}
		_, sender, err := hpke.NewSender(key, hpke.HKDFSHA512(), hpke.ExportOnly(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := sender.Export("", exportSize); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	signatures := func() time.Duration {
		began := time.Now()
		for range 2 {
			if _, err := signData(server.signer, statement); err != nil {
				b.Fatal(err)
			}
			if err := verifyData(client.signer.PublicKey(), statement, sig); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(began)
	}
	var whole, floor, signed []float64
	for b.Loop() {
		whole = append(whole, float64(handshake())/1e3)
		floor = append(floor, float64(keys())/1e3)
		signed = append(signed, float64(signatures())/1e3)
	}
	tenth := func(x []float64) float64 { return slices.Sorted(slices.Values(x))[len(x)/10] }
	w, f, s := tenth(whole), tenth(floor), tenth(signed)
	b.ReportMetric(w, "µs/server")
	b.ReportMetric(f, "µs/RSA+HPKE")
	b.ReportMetric(s, "µs/signatures")
	b.ReportMetric(w/f, "×RSA+HPKE")
	b.ReportMetric(w/(f+s), "×RSA+HPKE+signatures")
}

// checkPaperTrace reads the four lines of one side. A serial would show as a run of binary digits, a key as hex.
func checkPaperTrace(t *testing.T, lines []string, want string) {
	t.Helper()
	if len(lines) != 4 || !strings.Contains(strings.Join(lines, "\n"), want) {
		t.Errorf("trace:\n%s", strings.Join(lines, "\n"))
	}
	long := regexp.MustCompile(`[0-9A-Fa-f]{6,}|[A-Za-z0-9+/]{12,}`)
	for _, line := range lines {
		if s := long.FindString(line); s != "" {
			t.Errorf("%q is no name and no size: %s", s, line)
		}
	}
}

func TestTraceLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		tr := tracer(func(line string) { got = append(got, line) })
		start := time.Now()
		time.Sleep(1002 * time.Millisecond)
		tr.stage(2, toClient, 896, "signature ok, seq_id ok", start, traceField{"sign", 256}, traceField{"seq_id (2)", 8})
		tr.failed(3, toServer, errors.New("no"), start)
		want := []string{
			"stage 2  S → C    896 bytes  sign 256 ‖ seq_id (2) 8   signature ok, seq_id ok   1.002s",
			"stage 3  C → S  failed: no   1.002s",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		tracer(nil).stage(1, toServer, 1, "", start) // off
		tracer(nil).failed(1, toServer, nil, start)
	})
}

// BenchmarkTiming tries each failure b.N times, in random order, and compares pairs of failures with Welch's t: over
// all times, and over the fastest half and tenth, where a machine's noise is least. Two failures differ if t is beyond
// 4.5.
func BenchmarkTiming(b *testing.B) {
	tr := openTrust(b.TempDir(), nil, "", nil)
	client, server := twoParties(b)
	listed, revoked, unlisted := fixedSigner(b, "listed"), fixedSigner(b, "revoked"), fixedSigner(b, "unlisted")
	line := func(s ssh.Signer, name string) string {
		return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(s.PublicKey()))) + " " + name + "\n"
	}
	for file, text := range map[string]string{
		"authorized_keys": line(listed, "listed") + line(revoked, "revoked"), "revoked_keys": line(revoked, "revoked"),
	} {
		if err := os.WriteFile(tr.path(file), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(handshakeTimeout))
			serverHandshake(conn, server, 0, func(id ssh.PublicKey, _, _, _ []byte, _ bool) error {
				_, err := tr.admit(id, conn.RemoteAddr(), time.Now())
				return err
			})
			conn.Close()
		}
	}()

	// try sends the stage 1 that make returns for the server's hello, and returns the time until the server closed the
	// connection. The server must send as many bytes before that as answer says.
	try := func(make func(hello []byte) []byte, answer int64) time.Duration {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		hello, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			b.Fatal(err)
		}
		wire := make(hello)
		began := time.Now()
		if _, err := conn.Write(wire); err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, conn)
		took := time.Since(began)
		if n != answer || err != nil {
			b.Fatalf("the server sent %d bytes and not %d: %v", n, answer, err)
		}
		return took
	}
	n := server.encryption.N
	raw := func(first byte) func([]byte) []byte { // a block whose encoded message begins with first and is not OAEP
		return func([]byte) []byte {
			em := make([]byte, n.BitLen()/8)
			rand.Read(em[1:])
			em[0] = first
			c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(65537), n).FillBytes(make([]byte, len(em)))
			return appendVector(nil, appendVector(appendVector(nil, make([]byte, 1+hpkePublicSize+200)),
				append(c, make([]byte, 128)...)))
		}
	}
	claim := func(id, signer ssh.Signer) func([]byte) []byte {
		cred := appendVector(appendVector(appendVector(nil, id.PublicKey().Marshal()),
			marshalEncryptionKey(&client.encryption.PublicKey)), nil)
		return func(hello []byte) []byte {
			conn := cannedConn(appendVector(nil, hello))
			scriptedClient(conn, client, onStage(1, func(d *deed) { d.cred, d.signer = cred, signer }))
			return conn.out[0]
		}
	}
	const (
		oaepFirst = iota
		oaepHash
		badListed
		badUnlisted
		badRevoked
		ownUnlisted
		ownRevoked
	)
	classes := []struct {
		name   string
		make   func([]byte) []byte
		answer int64 // bytes
	}{
		oaepFirst:   {"OAEP failure, first byte not 0", raw(1), 0},
		oaepHash:    {"OAEP failure, first byte 0", raw(0), 0},
		badListed:   {"bad signature, a listed key's", claim(listed, client.signer), 0},
		badUnlisted: {"bad signature, an unlisted key's", claim(unlisted, client.signer), 0},
		badRevoked:  {"bad signature, a revoked key's", claim(revoked, client.signer), 0},
		ownUnlisted: {"refusal, an unlisted key, held", claim(unlisted, unlisted), refusalSize},
		ownRevoked:  {"refusal, a revoked key, held", claim(revoked, revoked), refusalSize},
	}
	times := make([][]float64, len(classes))
	order := mathrand.Perm(len(classes))
	for range b.N {
		mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			times[i] = append(times[i], float64(try(classes[i].make, classes[i].answer).Nanoseconds())/1000)
		}
	}
	if b.N < 100 {
		return // The testing package runs a benchmark once before it runs it b.N times.
	}
	report := fmt.Sprintf("\n%d tries each, microseconds to close\n%-34s %8s %8s %8s\n", b.N, "", "10%", "median", "mean")
	for i, c := range classes {
		s := slices.Sorted(slices.Values(times[i]))
		mean, _ := moments(s)
		report += fmt.Sprintf("%-34s %8.0f %8.0f %8.0f\n", c.name, s[len(s)/10], s[len(s)/2], mean)
	}
	report += fmt.Sprintf("\n%-70s %7s %7s %7s\n", "Welch's t", "all", "half", "tenth")
	for _, p := range []struct {
		a, b     int
		harmless string // why a difference is harmless; empty if there must be none
	}{
		{oaepFirst, oaepHash, ""}, {badListed, badUnlisted, ""}, {badListed, badRevoked, ""}, {badUnlisted, badRevoked, ""},
		{oaepHash, badListed, "only the client that made the block knows that it opens"},
		{badListed, ownUnlisted, "only a client that holds the key gets so far"},
		{ownUnlisted, ownRevoked, "only a client that holds the key learns it, about that key"},
	} {
		verdict, t := "alike", [3]float64{}
		for i, part := range []float64{1, 0.5, 0.1} {
			t[i] = welch(fastest(times[p.a], times[p.b], part))
			if !(math.Abs(t[i]) <= 4.5) { // NaN: one of the two has no time among the fastest.
				verdict = "different"
			}
		}
		if p.harmless != "" {
			verdict += ": " + p.harmless
		}
		report += fmt.Sprintf("%-70s %7.1f %7.1f %7.1f  %s\n", classes[p.a].name+" / "+classes[p.b].name, t[0], t[1], t[2],
			verdict)
	}
	fmt.Print(report)
}

// fastest returns the times of a and of b that are among the fastest part of both together. If a and b have the same
// distribution, so have the two results.
func fastest(a, b []float64, part float64) (fromA, fromB []float64) {
	both := slices.Sorted(slices.Values(slices.Concat(a, b)))
	limit := both[int(float64(len(both)-1)*part)]
	over := func(v float64) bool { return v > limit }
	return slices.DeleteFunc(slices.Clone(a), over), slices.DeleteFunc(slices.Clone(b), over)
}

// moments returns the mean and the variance of x.
func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x)-1)
	}
	return mean, variance
}

// welch returns Welch's t of two samples of unequal variance, or NaN if one of them is empty.
func welch(a, b []float64) float64 {
	ma, va := moments(a)
	mb, vb := moments(b)
	return (ma - mb) / math.Sqrt(va/float64(len(a))+vb/float64(len(b)))
}
