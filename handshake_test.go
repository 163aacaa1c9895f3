package main

// The handshake from both sides at once, over net.Pipe inside testing/synctest, so that deadlines and -delay cost no real
// time; then with a man in the middle, with scripted peers that break each stage in turn, and with peers that stall.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hpke"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// onceRSA makes a key when it is first asked for.
func onceRSA(bits int) func() *rsa.PrivateKey {
	return sync.OnceValue(func() *rsa.PrivateKey {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		return key
	})
}

// onceKeys are RSA keys for all tests here: making them is slow. "server" and "client" have 2048 bits.
var onceKeys = map[string]func() *rsa.PrivateKey{
	"server": onceRSA(2048), "client": onceRSA(2048), "3072": onceRSA(3072), "4096": onceRSA(4096),
}

// fixedSigner is an Ed25519 identity, always the same for the same name.
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

// certSigner puts a certificate of the given type in front of a signer.
func certSigner(t testing.TB, signer ssh.Signer, certType uint32) ssh.Signer {
	t.Helper()
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: certType, ValidPrincipals: []string{"anna"}, ValidBefore: ssh.CertTimeInfinity}
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

// twoParties are a client and a server with the keys that are made by default.
func twoParties(t testing.TB) (client, server *party) {
	t.Helper()
	return partyOf(t, fixedSigner(t, "client"), onceKeys["client"]()), partyOf(t, fixedSigner(t, "server"), onceKeys["server"]())
}

// admitAll lets everybody in.
func admitAll(ssh.PublicKey, []byte, []byte, []byte, bool) error { return nil }

// trustAll trusts every server: whatever is noticed behind it, the handshake itself has noticed.
func trustAll(ssh.PublicKey) error { return nil }

// meddler stands in the middle and says what becomes of frame n, header and all, of one direction: what goes on to its
// receiver, what goes back to its sender, and whether the connection is then closed.
type meddler func(toServer bool, n int, frame []byte) (forward, back [][]byte, end bool)

func faithful(_ bool, _ int, frame []byte) (forward, back [][]byte, end bool) {
	return [][]byte{frame}, nil, false
}

// outcome is what one side had of a meeting.
type outcome struct {
	secrets *secrets // a copy; nil: the handshake failed
	heard   []string // of the session, in order
	err     error
	frames  int  // that it sent
	scraps  bool // it sent part of a frame too
}

// The frames of a meeting in which all goes well, by number.
const (
	framesToServer = 6 // stage 1, stage 3, join, two texts, close
	framesToClient = 7 // hello, stage 2, stage 4, join, two texts, close
)

// sentBefore is how many frames a receiver has sent when it takes frame n of a direction.
var sentBefore = map[bool][]int{true: {1, 2, 3, 4, 4, 6}, false: {0, 1, 2, 3, 5, 5, 6}}

// meet runs a handshake and a short session through a meddler. It belongs into a synctest bubble.
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

// noticed says that a side itself saw something wrong, rather than only the connection's end.
func noticed(err error) bool {
	return errors.Is(err, errUnverified) || errors.Is(err, errBadPacket) || err != nil && strings.Contains(err.Error(), "does not speak")
}

// onlyEnded says that a side saw the connection close or nothing come, and no more.
func onlyEnded(err error) bool {
	return err == nil || !noticed(err) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errTruncated) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrDeadlineExceeded))
}

// checkAgreement fails where a side took the other for present, having opened a packet of it, without both having the
// same secrets, or heard anything but what was said.
func checkAgreement(t *testing.T, what string, c, s outcome) {
	t.Helper()
	said := []string{"join", "one", "two", closeText}
	for _, o := range []outcome{c, s} {
		if len(o.heard) > len(said) || !slices.Equal(o.heard, said[:len(o.heard)]) {
			t.Errorf("%s: heard %q", what, o.heard)
		}
		if len(o.heard) > 0 && (c.secrets == nil || s.secrets == nil || *c.secrets != *s.secrets) {
			t.Errorf("%s: a packet was accepted under a key that the other side does not have", what)
		}
	}
}

// checkRefused fails unless the side wanted, or either where that is "", noticed, and the other saw no more than the end.
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

// TestHandshake runs it with every kind of key: both sides end with the same secrets, and no two runs with any of them.
func TestHandshake(t *testing.T) {
	ec := func(c elliptic.Curve) ssh.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return keySigner(t, key)
	}
	signers := map[string]ssh.Signer{
		"ed25519": fixedSigner(t, "someone"), "p256": ec(elliptic.P256()), "p384": ec(elliptic.P384()), "p521": ec(elliptic.P521()),
		"rsa2048": keySigner(t, onceKeys["client"]()), "rsa3072": keySigner(t, onceKeys["3072"]()), "rsa4096": keySigner(t, onceKeys["4096"]()),
		"user certificate": certSigner(t, fixedSigner(t, "someone"), ssh.UserCert), "host certificate": certSigner(t, fixedSigner(t, "someone"), ssh.HostCert),
		"rsa certificate": certSigner(t, keySigner(t, onceKeys["4096"]()), ssh.UserCert),
	}
	plainClient, plainServer := twoParties(t)
	seen := map[[64]byte]string{}
	for name, signer := range signers {
		for _, bits := range []string{"server", "3072", "4096"} {
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

// TestHandshakeCipher: AES needs both sides; whatever they have, they talk.
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
					t.Errorf("client has AES: %v, server: %v; they chose %v and %v", clientAES, serverAES, c.secrets.aes, s.secrets.aes)
				}
			})
		}
	}
}

// eachFrame runs a parallel subtest for every frame of a meeting.
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

// record returns the frames of one good meeting.
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

// at makes a meddler that touches one frame only.
func at(toServer bool, n int, do func(frame []byte) (forward, back [][]byte, end bool)) meddler {
	return func(direction bool, i int, frame []byte) ([][]byte, [][]byte, bool) {
		if direction == toServer && i == n {
			return do(frame)
		}
		return [][]byte{frame}, nil, false
	}
}

// TestFlippedBytes flips a bit of every byte of every frame. Who notices is known for each: the receiver, at once; but for
// a hello's AES byte and Rs, which no signature covers and the transcript does, so that the server notices at stage 1.
func TestFlippedBytes(t *testing.T) {
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
				case is > was && !noticed(victim.err): // it waits for the rest, or refuses such a length
					checkAgreement(t, what, c, s)
					if victim.err == nil || !onlyEnded(victim.err) && !strings.Contains(victim.err.Error(), "over the limit of 16384") {
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

// TestTruncatedFrames cuts every frame at every length, with the connection closed behind it and, with its header put
// right, without.
func TestTruncatedFrames(t *testing.T) {
	eachFrame(t, func(t *testing.T, toServer bool, n int) {
		client, server := twoParties(t)
		receiver := map[bool]string{true: "server", false: "client"}[toServer]
		size := 1
		for i := 0; i < size; i++ {
			if (testing.Short() || size > 600) && i%13 != 0 && i < size-20 && i > 20 {
				continue // one AEAD or vector covers what is between
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
				continue // the end of the stream is seen below the frame's content
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

// TestMovedFrames duplicates, reflects, replaces, prolongs and drops frames, and puts in frames of another run between the
// same two: none passes.
func TestMovedFrames(t *testing.T) {
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
		if n != last { // nothing is read behind the close
			try("twice", func(frame []byte) ([][]byte, [][]byte, bool) { return [][]byte{frame, frame}, nil, false })
			try("an empty frame behind it", func(frame []byte) ([][]byte, [][]byte, bool) { return [][]byte{frame, {0, 0}}, nil, false })
		}
		if toServer || n != last { // the server reads nothing behind its own close
			try("reflected", func(frame []byte) ([][]byte, [][]byte, bool) { return nil, [][]byte{frame}, false })
		}
		try("an empty frame before it", func(frame []byte) ([][]byte, [][]byte, bool) { return [][]byte{{0, 0}, frame}, nil, false })
		try("trailing bytes in the frame", func(frame []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{appendVector(nil, append(frame[frameHeader:], 0))}, nil, false
		})
		for _, direction := range []bool{true, false} {
			for i, old := range other[direction] {
				if !toServer && n == 0 && !direction && i == 0 {
					continue // a hello of before is noticed by the server: below
				}
				try(fmt.Sprintf("replaced by frame %d of another run, to server: %v", i, direction), func([]byte) ([][]byte, [][]byte, bool) {
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
		c, s := meet(client, server, at(false, 0, func([]byte) ([][]byte, [][]byte, bool) { return [][]byte{other[false][0]}, nil, false }))
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

// TestOversizedFrame: a length over the limit is refused by its header alone, and the error names the limit.
func TestOversizedFrame(t *testing.T) {
	for _, size := range []int{maxHandshakeFrame + 1, 0xffff} {
		r := bytes.NewReader(binary.BigEndian.AppendUint16(nil, uint16(size)))
		allocated := testing.AllocsPerRun(1, func() {
			r.Seek(0, io.SeekStart)
			if _, err := readFrame(r, maxHandshakeFrame); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d bytes, over the limit of %d", size, maxHandshakeFrame)) {
				t.Error(err)
			}
		})
		if allocated > 40 { // the error and its words; the race detector adds its own
			t.Errorf("%v allocations", allocated)
		}
	}
	if err := writeFrame(io.Discard, make([]byte, maxHandshakeFrame+1)); err == nil {
		t.Error("a frame over the limit was written")
	}
	if body, err := readFrame(bytes.NewReader(appendVector(nil, make([]byte, maxHandshakeFrame))), maxHandshakeFrame); err != nil || len(body) != maxHandshakeFrame {
		t.Error(err)
	}
}

// TestReplayedClient plays a recorded client's frames to a new run of its server, which refuses at stage 1: Rs is new.
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
		keys, id, err := serverHandshake(there, server, 0, func(ssh.PublicKey, []byte, []byte, []byte, bool) error { admitted = true; return nil })
		there.Close()
		if keys != nil || id != nil || admitted || !errors.Is(err, errUnverified) || !strings.HasPrefix(err.Error(), "stage 1: ") {
			t.Errorf("admit was asked: %v; %v", admitted, err)
		}
	})
}

// TestStall: whichever side stops at whichever stage, the other ends at the deadline, and -delay costs nothing else.
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
				if !errors.Is(c.err, os.ErrDeadlineExceeded) && !errors.Is(s.err, os.ErrDeadlineExceeded) || !onlyEnded(c.err) || !onlyEnded(s.err) {
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

// deed is what a scripted peer does in one stage; a test alters it.
type deed struct {
	stage     byte
	signer    ssh.Signer
	ek        *rsa.PublicKey // nil in stage 3, and in no other
	aes       byte
	kem, cred []byte // stage 1: the HPKE key and the content of the box. Stage 2: kem is the encapsulation
	nonces    []byte
	extra     []byte // behind the clear part
	boxKey    []byte // stage 1: Ra for the box; nil: nonces
	wrap      *wrapper
	body      func([]byte) []byte // stage 3: what to wrap, of what should be wrapped
}

// scriptedClient is a client that knows the protocol and that alter makes do wrong. It returns at the first error.
func scriptedClient(conn net.Conn, me *party, alter func(*deed)) error {
	var t transcript
	frame, err := readFrame(conn, maxHandshakeFrame)
	if err != nil {
		return err
	}
	ids, eks, _, err := parseHello(frame)
	if err != nil {
		return err
	}
	h0 := t.start(frame)
	kem, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return err
	}
	cred := appendVector(appendVector(appendVector(nil, me.identity), marshalEncryptionKey(&me.encryption.PublicKey)), nil)
	d := &deed{stage: 1, signer: me.signer, ek: eks, kem: kem.PublicKey().Bytes(), cred: cred, nonces: newNonce()}
	alter(d)
	if d.boxKey == nil {
		d.boxKey = d.nonces
	}
	box, err := credentialBox(d.boxKey, h0)
	if err != nil {
		return err
	}
	clearPart := box.Seal(append([]byte{d.aes}, d.kem...), zeroNonce[:], d.cred, nil)
	stage1, err := t.seal(d.stage, d.signer, d.ek, append(clearPart, d.extra...), d.nonces)
	if err != nil {
		return err
	}
	if err := writeFrame(conn, stage1); err != nil {
		return err
	}
	wrap, err := newWrapper(d.nonces, t.sum())
	if err != nil {
		return err
	}
	_, sig, fields, err := t.receive(2, conn, wrap, me.encryption, hpkeEncSize, 2*nonceSize)
	if err != nil {
		return err
	}
	if err := t.verify(2, ids, sig, fields); err != nil {
		return err
	}
	d = &deed{stage: 3, signer: me.signer, nonces: fields[1+nonceSize:], wrap: wrap}
	alter(d)
	stage3, err := t.seal(d.stage, d.signer, d.ek, d.extra, d.nonces)
	if err != nil {
		return err
	}
	if d.body != nil {
		stage3 = d.body(stage3)
	}
	if err := writeFrame(conn, d.wrap.seal(3, stage3)); err != nil {
		return err
	}
	_, _, _, err = t.receive(4, conn, wrap, me.encryption, 0, smSize)
	return err
}

// onStage alters one stage.
func onStage(stage byte, fn func(*deed)) func(*deed) {
	return func(d *deed) {
		if d.stage == stage {
			fn(d)
		}
	}
}

// TestLyingClient breaks each of the client's stages in turn. The server's question whether somebody is admitted is put
// for good signatures only, and as confirmed after stage 3 only.
func TestLyingClient(t *testing.T) {
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
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1) // odd and of 1024 bits, as a weak modulus is
	weak, err := ssh.NewPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	good := func(*deed) {}
	body := func(fn func([]byte) []byte) func(*deed) { return onStage(3, func(d *deed) { d.body = fn }) }
	stage3Of := func(sealed []byte) []byte { return appendVector([]byte{0, 0}, sealed) } // its clear part is empty
	sealedOf := func(stage3 []byte) []byte { return stage3[2+2:] }
	for _, c := range []struct {
		name              string
		alter             func(*deed)
		want              string // of the server's error; "" for success
		asked, askedAgain int    // how often admit was, unconfirmed and confirmed
	}{
		{"nothing wrong", good, "", 1, 1},
		{"another's identity", onStage(1, func(d *deed) { d.signer = mallory }), "stage 1: bad signature", 0, 0},
		{"stage 1 of another number", onStage(1, func(d *deed) { d.stage = 4 }), "stage 1: ", 0, 0},
		{"AES byte 2", onStage(1, func(d *deed) { d.aes = 2 }), "stage 1: malformed", 0, 0},
		{"no HPKE key", onStage(1, func(d *deed) { d.kem, d.cred = nil, nil }), "stage 1: malformed", 0, 0},
		{"an HPKE key out of range", onStage(1, func(d *deed) { d.kem = bytes.Repeat([]byte{0xff}, hpkePublicSize) }), "stage 1: HPKE", 1, 0},
		{"a low-order X25519 share", onStage(1, func(d *deed) { clear(d.kem[1184:]) }), "HPKE", 1, 0},
		{"a short Ra", onStage(1, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 1: ", 0, 0},
		{"a long Ra", onStage(1, func(d *deed) { d.nonces = append(d.nonces, 0) }), "stage 1: ", 0, 0},
		{"a box under another Ra", onStage(1, func(d *deed) { d.boxKey = newNonce() }), "box does not open", 0, 0},
		{"bytes behind the box", onStage(1, func(d *deed) { d.extra = []byte{0} }), "box does not open", 0, 0},
		{"sealed to another", onStage(1, func(d *deed) { d.ek = &client.encryption.PublicKey }), "stage 1: ", 0, 0},
		{"an empty credential", onStage(1, func(d *deed) { d.cred = nil }), "malformed credential", 0, 0},
		{"no proof vector", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek) }), "malformed credential", 0, 0},
		{"a proof of 31 bytes", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, make([]byte, 31)) }), "malformed credential", 0, 0},
		{"a proof of 32 bytes", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, make([]byte, 32)) }), "", 1, 1},
		{"a fourth vector", onStage(1, func(d *deed) { d.cred = credential(client.identity, ek, nil, nil) }), "malformed credential", 0, 0},
		{"no identity", onStage(1, func(d *deed) { d.cred = credential(nil, ek, nil) }), "no SSH key", 0, 0},
		{"a weak identity", onStage(1, func(d *deed) { d.cred = credential(weak.Marshal(), ek, nil) }), "1024 bits", 0, 0},
		{"a weak encryption key", onStage(1, func(d *deed) { d.cred = credential(client.identity, weak.Marshal(), nil) }), "1024 bits", 0, 0},
		{"an Ed25519 encryption key", onStage(1, func(d *deed) { d.cred = credential(client.identity, client.identity, nil) }), "not RSA", 0, 0},
		{"an identity too long", onStage(1, func(d *deed) { d.cred = credential(make([]byte, maxIdentity+1), ek, nil) }), "identity of 8193 bytes", 0, 0},
		{"another encryption key", onStage(1, func(d *deed) {
			d.cred = credential(client.identity, marshalEncryptionKey(&onceKeys["3072"]().PublicKey), nil)
		}), "stage 3: EOF", 1, 0},
		{"stage 3 signed by another", onStage(3, func(d *deed) { d.signer = mallory }), "stage 3: bad signature", 1, 0},
		{"another Rb", onStage(3, func(d *deed) { d.nonces = newNonce() }), "another serial", 1, 0},
		{"stage 3 with a clear part", onStage(3, func(d *deed) { d.extra = []byte{0} }), "stage 3: malformed", 1, 0},
		{"stage 3 of another number", body(func(b []byte) []byte { b[len(b)-nonceSize-1] = 1; return b }), "stage 3: malformed", 1, 0},
		{"a short Rb", body(func(b []byte) []byte { return stage3Of(sealedOf(b)[:64+1+nonceSize-1]) }), "stage 3: malformed", 1, 0},
		{"a longer Rb", body(func(b []byte) []byte { return stage3Of(append(sealedOf(b), 0)) }), "stage 3: malformed", 1, 0},
		{"half of Rb", onStage(3, func(d *deed) { clear(d.nonces[nonceSize/2:]) }), "another serial", 1, 0},
		{"a bit of Rb", onStage(3, func(d *deed) { d.nonces[nonceSize-1] ^= 1 }), "another serial", 1, 0},
		{"nothing in stage 3", body(func([]byte) []byte { return nil }), "stage 3: malformed", 1, 0},
		{"two empty parts in stage 3", body(func([]byte) []byte { return stage3Of(nil) }), "stage 3: malformed", 1, 0},
		{"one byte in stage 3", body(func([]byte) []byte { return stage3Of([]byte{3}) }), "stage 3: malformed", 1, 0},
		{"no seq in stage 3", body(func(b []byte) []byte { return stage3Of(b[len(b)-nonceSize:]) }), "stage 3: malformed", 1, 0},
		{"no signature in stage 3", body(func(b []byte) []byte { return stage3Of(b[len(b)-nonceSize-1:]) }), "stage 3: bad signature", 1, 0},
		{"a byte behind stage 3", body(func(b []byte) []byte { return append(b, 0) }), "stage 3: malformed", 1, 0},
		{"a vector behind stage 3", body(func(b []byte) []byte { return append(b, 0, 0) }), "stage 3: malformed", 1, 0},
		{"a length beyond stage 3", body(func(b []byte) []byte { b[2]++; return b }), "stage 3: malformed", 1, 0},
		{"a byte over the longest stage 3", body(func(b []byte) []byte {
			return stage3Of(append(make([]byte, longestSign+maxFields+1-1-nonceSize), b[len(b)-nonceSize-1:]...))
		}), "stage 3: malformed", 1, 0},
		{"the longest stage 3", body(func(b []byte) []byte {
			return stage3Of(append(make([]byte, longestSign+maxFields-1-nonceSize), b[len(b)-nonceSize-1:]...))
		}), "stage 3: bad signature", 1, 0},
		{"stage 3 in the other direction's wrapping", onStage(3, func(d *deed) { d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer} }), "wrapping does not open", 1, 0},
		{"stage 3 in RSA-CBC", onStage(3, func(d *deed) { d.stage, d.ek = 1, &server.encryption.PublicKey }), "stage 3: malformed", 1, 0},
		{"stage 1 without RSA-CBC", onStage(1, func(d *deed) { d.stage, d.ek = 3, nil }), "stage 1: an RSA-CBC", 0, 0},
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
			if (c.want == "") != (err == nil) || c.want != "" && (!strings.Contains(err.Error(), c.want) || !errors.Is(err, errUnverified) && !strings.HasSuffix(c.want, "EOF")) || err != nil && keys != nil {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if asked != [2]int{c.asked, c.askedAgain} {
				t.Errorf("%s: asked %v times", c.name, asked)
			}
			if c.want != "" && !errors.Is(peer, io.EOF) && !errors.Is(peer, errUnverified) {
				t.Errorf("%s: the client learnt %v", c.name, peer)
			}
		})
	}
}

// wordy makes signatures that are too long.
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

// mute signs nothing.
type mute struct{ ssh.Signer }

var errMute = errors.New("no signature today")

func (mute) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, errMute }

func (mute) SignWithAlgorithm(io.Reader, []byte, string) (*ssh.Signature, error) { return nil, errMute }

// TestOnlyStage3IsUnsealed: no key means no RSA-CBC in stage 3, and nothing in any other.
func TestOnlyStage3IsUnsealed(t *testing.T) {
	client, server := twoParties(t)
	for stage := byte(1); stage <= 4; stage++ {
		for _, key := range []*rsa.PrivateKey{nil, server.encryption} {
			var ek *rsa.PublicKey
			if key != nil {
				ek = &key.PublicKey
			}
			right := (key == nil) == (stage == 3)
			var a, b transcript
			a.start(nil)
			b.start(nil)
			body, err := a.seal(stage, client.signer, ek, nil, make([]byte, nonceSize))
			if (err == nil) != right {
				t.Errorf("stage %d sealed with a key %v: %v", stage, key != nil, err)
			}
			if !right { // what such a stage would be
				body = appendVector([]byte{0, 0}, append(make([]byte, 64), append([]byte{stage}, make([]byte, nonceSize)...)...))
			}
			if _, _, _, err := b.receive(stage, cannedConn(appendVector(nil, body)), nil, key, 0, nonceSize); (err == nil) != right {
				t.Errorf("stage %d received with a key %v: %v", stage, key != nil, err)
			}
		}
	}
}

// TestRefusedByAdmit: a refusal at either question ends the handshake with that error, and the client sees the end only.
func TestRefusedByAdmit(t *testing.T) {
	client, server := twoParties(t)
	no := errors.New("no")
	for _, at := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			done := make(chan error, 1)
			go func() {
				here.SetDeadline(time.Now().Add(handshakeTimeout))
				keys, err := clientHandshake(here, client, trustAll, nil)
				if keys != nil {
					t.Error("the client has a key")
				}
				done <- err
			}()
			there.SetDeadline(time.Now().Add(handshakeTimeout))
			keys, id, err := serverHandshake(there, server, 0, func(_ ssh.PublicKey, _, _, _ []byte, confirmed bool) error {
				if confirmed == at {
					return no
				}
				return nil
			})
			there.Close()
			if keys != nil || id == nil || !errors.Is(err, no) {
				t.Errorf("confirmed %v: %v", at, err)
			}
			if err := <-done; !errors.Is(err, io.EOF) {
				t.Errorf("confirmed %v: the client: %v", at, err)
			}
		})
	}
}

// TestProofReachesAdmit: an invite's proof comes to the server's question with what it was made over.
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
				t.Error("the proof, or what it is over, came otherwise")
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// scriptedServer is a server that knows the protocol and that alter makes do wrong.
func scriptedServer(conn net.Conn, me *party, hello []byte, alter func(*deed)) error {
	var t transcript
	h0 := t.start(hello)
	if err := writeFrame(conn, hello); err != nil {
		return err
	}
	clearPart, _, fields, err := t.receive(1, conn, nil, me.encryption, -1, nonceSize)
	if err != nil {
		return err
	}
	ra := fields[1:]
	box, err := credentialBox(ra, h0)
	if err != nil {
		return err
	}
	cred, err := box.Open(nil, zeroNonce[:], clearPart[1+hpkePublicSize:], nil)
	if err != nil {
		return err
	}
	_, ekc, _, err := parseCredential(cred)
	if err != nil {
		return err
	}
	kemKey, err := hpke.MLKEM768X25519().NewPublicKey(clearPart[1 : 1+hpkePublicSize])
	if err != nil {
		return err
	}
	enc, _, err := hpke.NewSender(kemKey, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return err
	}
	wrap, err := newWrapper(ra, t.sum())
	if err != nil {
		return err
	}
	d := &deed{stage: 2, signer: me.signer, ek: ekc, kem: enc, nonces: append(bytes.Clone(ra), newNonce()...), wrap: wrap}
	alter(d)
	stage2, err := t.seal(d.stage, d.signer, d.ek, append(d.kem, d.extra...), d.nonces)
	if err != nil {
		return err
	}
	if err := writeFrame(conn, d.wrap.seal(2, stage2)); err != nil {
		return err
	}
	if _, _, _, err := t.receive(3, conn, wrap, nil, 0, nonceSize); err != nil {
		return err
	}
	d = &deed{stage: 4, signer: me.signer, ek: ekc, nonces: make([]byte, smSize), wrap: wrap}
	alter(d)
	stage4, err := t.seal(d.stage, d.signer, d.ek, d.extra, d.nonces)
	if err != nil {
		return err
	}
	return writeFrame(conn, d.wrap.seal(4, stage4))
}

// helloOf makes a hello of its parts.
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
		checked bool // the client asked whether it trusts the server
	}{
		{"nothing wrong", hello, good, "", true},
		{"another program", []byte("SSH-2.0-OpenSSH_9.9"), good, "does not speak securechat/2", false},
		{"an empty hello", nil, good, "does not speak securechat/2", false},
		{"AES byte 2", helloOf(2, server.identity, ek, sig), good, "hello: malformed", false},
		{"the identity is another's", helloOf(0, mallory.PublicKey().Marshal(), ek, sig), good, "did not sign the encryption key", false},
		{"the encryption key is another's", helloOf(0, server.identity, marshalEncryptionKey(&client.encryption.PublicKey), sig), good, "did not sign", false},
		{"signed for another purpose", helloOf(0, server.identity, ek, sign(server.signer, ek)), good, "did not sign", false},
		{"no signature", helloOf(0, server.identity, ek, nil), good, "did not sign", false},
		{"trailing bytes", append(bytes.Clone(hello), 0), good, "hello: malformed", false},
		{"stage 2 signed by another", hello, onStage(2, func(d *deed) { d.signer = mallory }), "stage 2: bad signature", true},
		{"another Ra", hello, onStage(2, func(d *deed) { d.nonces[0] ^= 1 }), "another serial than ours", true},
		{"Rb before Ra", hello, onStage(2, func(d *deed) { d.nonces = append(d.nonces[nonceSize:], d.nonces[:nonceSize]...) }), "another serial than ours", true},
		{"a short Rb", hello, onStage(2, func(d *deed) { d.nonces = d.nonces[1:] }), "stage 2: ", true},
		{"stage 2 of another number", hello, onStage(2, func(d *deed) { d.stage = 4 }), "stage 2: ", true},
		{"an encapsulation too short", hello, onStage(2, func(d *deed) { d.kem = d.kem[1:] }), "stage 2: malformed", true},
		{"an encapsulation too long", hello, onStage(2, func(d *deed) { d.extra = []byte{0} }), "stage 2: malformed", true},
		{"a low-order X25519 share", hello, onStage(2, func(d *deed) { clear(d.kem[1088:]) }), "stage 2: HPKE", true},
		{"sealed to itself", hello, onStage(2, func(d *deed) { d.ek = &server.encryption.PublicKey }), "stage 2: ", true},
		{"stage 2 without RSA-CBC", hello, onStage(2, func(d *deed) { d.stage, d.ek = 3, nil }), "stage 2: an RSA-CBC", true},
		{"stage 4 without RSA-CBC", hello, onStage(4, func(d *deed) { d.stage, d.ek = 3, nil }), "stage 4: an RSA-CBC", true},
		{"stage 2 in the other direction's wrapping", hello, onStage(2, func(d *deed) { d.wrap = &wrapper{d.wrap.toClient, d.wrap.toServer} }), "wrapping does not open", true},
		{"stage 4 signed by another", hello, onStage(4, func(d *deed) { d.signer = mallory }), "stage 4: bad signature", true},
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
			if (c.want == "") != (err == nil) || c.want != "" && (!strings.Contains(err.Error(), c.want) || !noticed(err)) || err != nil && keys != nil || checked != c.checked {
				t.Errorf("%s: trust asked: %v; %v, want %q", c.name, checked, err, c.want)
			}
			synctest.Wait()
		})
	}
}

// TestBlockPlaces: by its label alone, before any signature is looked at, an RSA-CBC block opens in the run, stage and
// place that it was sealed for, and nowhere else.
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

// TestWrapperKeys: each direction has its own, of this run, and each stage its nonce.
func TestWrapperKeys(t *testing.T) {
	wrapperOf := func(ra, h1 byte) *wrapper {
		w, err := newWrapper(bytes.Repeat([]byte{ra}, nonceSize), []byte{h1})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := wrapperOf(1, 1)
	for _, stage := range []byte{2, 3, 4} {
		aead, nonce := w.of(stage)
		sealed := aead.Seal(nil, nonce, []byte("stage"), nil)
		if body, err := w.open(stage, sealed); err != nil || string(body) != "stage" {
			t.Fatal(err)
		}
		for what, other := range map[string]*wrapper{"direction": {w.toClient, w.toServer}, "Ra": wrapperOf(2, 1), "h1": wrapperOf(1, 2)} {
			if _, err := other.open(stage, sealed); !errors.Is(err, errUnverified) {
				t.Errorf("stage %d, another %s: %v", stage, what, err)
			}
		}
		for _, otherStage := range []byte{2, 3, 4} {
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

// TestDistrustedServer: a client tells nothing to a server that it does not trust.
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

// TestNewPartyRefuses an identity whose certificate would not fit, and one whose signature does not come.
func TestNewPartyRefuses(t *testing.T) {
	signer := fixedSigner(t, "someone")
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{strings.Repeat("x", maxIdentity)}}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	long, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newParty(long, onceKeys["client"]()); err == nil || !strings.Contains(err.Error(), "8192 is the limit") {
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
			t.Error("taken apart and put together it is something else")
		}
	})
}

func FuzzHello(f *testing.F) {
	client, server := twoParties(f)
	for _, p := range []*party{client, server, partyOf(f, certSigner(f, fixedSigner(f, "server"), ssh.HostCert), onceKeys["server"]())} {
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
			t.Error("a key that is not taken was taken")
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
			t.Error("something was taken that should not be")
		}
	})
}

// FuzzStage hands receive what a peer that knows no key can send, and what a peer with all keys can.
func FuzzStage(f *testing.F) {
	client, server := twoParties(f)
	var seed transcript
	seed.start([]byte("hello"))
	stage, err := seed.seal(1, client.signer, &server.encryption.PublicKey, []byte("clear"), make([]byte, nonceSize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stage, false)
	f.Add(stage, true)
	seed.start([]byte("hello"))
	if stage, err = seed.seal(3, client.signer, nil, nil, make([]byte, nonceSize)); err != nil {
		f.Fatal(err)
	}
	f.Add(stage, true)
	f.Add(appendVector(appendVector(nil, nil), nil), true)
	addVectors(f, "handshake", "receive", func(b []byte) { f.Add(b[frameHeader:], false) })
	f.Fuzz(func(t *testing.T, b []byte, wrapped bool) {
		if len(b) > maxHandshakeFrame-aeadOverhead {
			return
		}
		here, there := net.Pipe()
		defer here.Close()
		var tr transcript
		tr.start([]byte("hello"))
		n, number, key, clearSize := nonceSize, byte(1), server.encryption, -1
		var wrap *wrapper
		frame := b
		if wrapped {
			number, key, clearSize = 3, nil, 0
			var err error
			if wrap, err = newWrapper(make([]byte, nonceSize), tr.sum()); err != nil {
				t.Fatal(err)
			}
			aead, nonce := wrap.of(3)
			frame = aead.Seal(nil, nonce, b, nil)
		}
		go writeFrame(there, frame)
		_, sig, fields, err := tr.receive(number, here, wrap, key, clearSize, n)
		if err != nil {
			if !errors.Is(err, errUnverified) {
				t.Error(err)
			}
			return
		}
		if len(fields) != 1+n || fields[0] != number || len(sig) > longestSign+maxFields {
			t.Errorf("%d bytes of fields, %d of signature", len(fields), len(sig))
		}
	})
}

// BenchmarkHandshake is both sides of it, on as many processors as there are.
func BenchmarkHandshake(b *testing.B) {
	client, server := twoParties(b)
	for b.Loop() {
		here, there := net.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := clientHandshake(here, client, trustAll, nil)
			done <- err
		}()
		if _, _, err := serverHandshake(there, server, 0, admitAll); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
