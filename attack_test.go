package main

// Attacks on the running program: one test for each attack that docs/SECURITY.md names. The attacker uses the program's
// own code as its toolkit. After each attack the server has closed the connection without sending anything else, the
// log names the check that failed, and the server still serves. The last tests check that keys are overwritten and
// never printed, and that stolen long-term keys open no recorded connection, except one of -paper.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// arena is a server that admits bob and mallory. Mallory is the attacker.
type arena struct {
	t                  *testing.T
	server             *proc
	addr               string
	annaDir, bobDir    string
	anna, bob, mallory *party
}

func newArena(t *testing.T, args ...string) *arena {
	t.Helper()
	a := &arena{t: t, annaDir: state(t, "anna"), bobDir: state(t, "bob")}
	malloryDir := state(t, "mallory")
	admit(t, a.annaDir, a.bobDir)
	admit(t, a.annaDir, malloryDir)
	a.anna, a.bob, a.mallory = partyIn(t, a.annaDir), partyIn(t, a.bobDir), partyIn(t, malloryDir)
	a.server, a.addr = serve(t, a.annaDir, args...)
	return a
}

// attack connects to the server and runs do. The server must then close the connection without sending anything, and
// log want.
func (a *arena) attack(name, want string, do func(conn net.Conn) error) {
	a.t.Helper()
	attackServer(a.t, a.server, a.addr, name, want, do)
}

func attackServer(t *testing.T, server *proc, addr, name, want string, do func(conn net.Conn) error) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	err = do(conn)
	if err != nil && !ended(err) {
		t.Errorf("%s: the attacker: %v", name, err)
	}
	conn.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil && !ended(err) {
		t.Errorf("%s: the server said %d bytes more; %v", name, len(rest), err)
	}
	server.err.match(t, `refused `+regexp.QuoteMeta(conn.LocalAddr().String())+`\b[^\n]*`+regexp.QuoteMeta(want))
}

// ended reports whether an error only says that the connection ended.
func ended(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errTruncated) ||
		errors.As(err, &op) && !op.Timeout()
}

// serves checks that the server still works.
func (a *arena) serves() {
	a.t.Helper()
	pin(a.t, a.bobDir, a.addr, a.annaDir)
	line := fmt.Sprintf("still here %d\n", time.Now().UnixNano())
	if _, stderr, code := runToEnd(a.t, a.t.TempDir(), line, "-connect", a.addr, "-dir", a.bobDir); code != exitDone {
		a.t.Fatalf("the server does not serve any more: exit %d: %s", code, stderr)
	}
	a.server.out.match(a.t, `bob: `+line)
}

// reasons returns the reasons in the log for which connections were refused or ended.
func (a *arena) reasons() (all []string) {
	for _, r := range records(a.t, filepath.Join(a.server.cmd.Dir, "connection.log")) {
		if r["event"] == eventRefused || r["event"] == eventDisconnect {
			all = append(all, fmt.Sprint(r["reason"]))
		}
	}
	return all
}

// waitReason waits until one of want is among the log's reasons after the first n.
func (a *arena) waitReason(n int, want ...string) {
	a.t.Helper()
	timeout := time.After(patience)
	for {
		a.server.out.mu.Lock()
		said := a.server.out.more
		a.server.out.mu.Unlock()
		a.server.err.mu.Lock()
		noted := a.server.err.more
		a.server.err.mu.Unlock()
		all := a.reasons()
		for _, want := range want {
			if slices.ContainsFunc(all[n:], func(r string) bool { return strings.Contains(r, want) }) {
				return
			}
		}
		select {
		case <-said:
		case <-noted:
		case <-timeout:
			a.t.Fatalf("the log has no %q: %q", want, all[n:])
		}
	}
}

// between listens on a new address and forwards one connection to addr through m.
func between(t *testing.T, addr string, m meddler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		left, err := l.Accept()
		if err != nil {
			return
		}
		right, err := net.Dial("tcp", addr)
		if err != nil {
			left.Close()
			return
		}
		carry := func(from, to net.Conn, toServer bool) {
			defer to.Close()
			defer from.Close()
			for n := 0; ; n++ {
				body, err := readFrame(from, 1<<16)
				if err != nil {
					return
				}
				forward, back, end := m(toServer, n, appendVector(nil, body))
				for _, b := range back {
					from.Write(b)
				}
				for _, b := range forward {
					to.Write(b)
				}
				if end {
					return
				}
			}
		}
		wg.Go(func() { carry(left, right, true) })
		carry(right, left, false)
	})
	return l.Addr().String()
}

// call runs bob's client against addr, which bob expects to be anna's server, and returns its stderr and exit code.
func (a *arena) call(addr, said string) (stderr string, code int) {
	a.t.Helper()
	pin(a.t, a.bobDir, addr, a.annaDir)
	_, stderr, code = runToEnd(a.t, a.t.TempDir(), said, "-connect", addr, "-dir", a.bobDir)
	return stderr, code
}

// victim runs bob's client against an impostor of anna's server. The client must report want, exit with the code, and
// send nothing after the impostor's last frame.
func (a *arena) victim(name, want string, code int, impostor func(conn net.Conn) error) {
	a.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		err = impostor(conn)
		conn.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(conn); len(rest) > 0 || err != nil && !ended(err) {
			done <- fmt.Errorf("%s: the client said %d bytes more; %v", name, len(rest), err)
			return
		}
		if err != nil && ended(err) {
			err = nil
		}
		done <- err
	}()
	stderr, got := a.call(l.Addr().String(), "a secret\n")
	if got != code || !strings.Contains(stderr, want) {
		a.t.Errorf("%s: exit %d, wanted %d with %q: %s", name, got, code, want, stderr)
	}
	if err := <-done; err != nil {
		a.t.Errorf("%s: the impostor: %v", name, err)
	}
}

const noBlock = "stage 1: an RSA-CBC message does not open"

// recordRun returns the frames of a valid run by bob.
func (a *arena) recordRun() map[bool][][]byte {
	a.t.Helper()
	frames := map[bool][][]byte{}
	var mu sync.Mutex
	addr := between(a.t, a.addr, func(toServer bool, _ int, frame []byte) ([][]byte, [][]byte, bool) {
		mu.Lock()
		defer mu.Unlock()
		frames[toServer] = append(frames[toServer], frame)
		return [][]byte{frame}, nil, false
	})
	if stderr, code := a.call(addr, "recorded\n"); code != exitDone {
		a.t.Fatalf("exit %d: %s", code, stderr)
	}
	mu.Lock()
	defer mu.Unlock()
	return frames
}

// answer reads the hello and sends all frames in one write.
func answer(frames ...[]byte) func(net.Conn) error {
	return func(conn net.Conn) error {
		if _, err := readFrame(conn, maxHandshakeFrame); err != nil {
			return err
		}
		_, err := conn.Write(slices.Concat(frames...))
		return err
	}
}

// greet sends the frames, the hello first, and reads one frame of the client after each frame but the last.
func greet(frames ...[]byte) func(net.Conn) error {
	return func(conn net.Conn) error {
		for i, f := range frames {
			if _, err := conn.Write(f); err != nil {
				return err
			}
			if i < len(frames)-1 {
				if _, err := readFrame(conn, maxHandshakeFrame); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// openStage1 returns what the receiver of a stage 1 can read with its keys: the transcript, the clear part, the signed
// message and the credential.
func openStage1(hello, frame []byte, me *party) (tr *transcript, clearPart, msg, cred []byte, err error) {
	tr = &transcript{}
	h0 := tr.start(hello)
	m, err := tr.open(1, me.encryption, frame[frameHeader:], anySize, nonceSize)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	box, err := credentialBox(m.serials(), h0)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	cred, err = box.Open(nil, zeroNonce[:], m.clear[1+hpkePublicSize:], nil)
	return tr, m.clear, slices.Concat(m.sign, m.fields), cred, err
}

// reseal sends a stage 1 whose signature is from another run, with the box and the RSA-CBC layer made for this run's
// receiver.
func reseal(conn net.Conn, to *party, clearPart, msg, cred []byte) error {
	hello, err := readFrame(conn, maxHandshakeFrame)
	if err != nil {
		return err
	}
	tr := &transcript{}
	box, err := credentialBox(msg[len(msg)-nonceSize:], tr.start(hello))
	if err != nil {
		return err
	}
	clearPart = box.Seal(bytes.Clone(clearPart[:1+hpkePublicSize]), zeroNonce[:], cred, nil)
	tr.add(clearPart)
	tr.midway = [64]byte(tr.sum())
	sealed, err := tr.rsaCBC(1).seal(&to.encryption.PublicKey, msg)
	if err != nil {
		return err
	}
	return writeFrame(conn, appendVector(appendVector(nil, clearPart), sealed))
}

// TestAttackForwarding: bob's signature for mallory's server is not valid at anna's server (Lowe). Anna's signature for
// mallory is not valid for bob, even if mallory has anna's encryption key and so knows bob's Ra (Davis).
func TestAttackForwarding(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	appendFile(t, filepath.Join(a.bobDir, "known_hosts"),
		fmt.Sprintf("[127.0.0.1]:%s %s", portOf(l.Addr().String()), ssh.MarshalAuthorizedKey(a.mallory.signer.PublicKey())))
	bob := start(t, t.TempDir(), "-connect", l.Addr().String(), "-dir", a.bobDir)
	victim, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	hello := slices.Concat([]byte(protocolName), []byte{1}, make([]byte, helloNonceSize), a.mallory.hello)
	if err := writeFrame(victim, hello); err != nil {
		t.Fatal(err)
	}
	body, err := readFrame(victim, maxHandshakeFrame)
	if err != nil {
		t.Fatal(err)
	}
	_, clearPart, msg, cred, err := openStage1(hello, appendVector(nil, body), a.mallory)
	if err != nil {
		t.Fatal(err)
	}
	a.attack("Lowe", "stage 1: bad signature", func(conn net.Conn) error {
		return reseal(conn, a.anna, clearPart, msg, cred)
	})
	victim.Close()
	if bob.wait() == exitDone {
		t.Error("bob ended well")
	}

	a.victim("Davis", "stage 2: bad signature", exitUntrusted, func(conn net.Conn) error {
		real, err := net.Dial("tcp", a.addr)
		if err != nil {
			return err
		}
		defer real.Close()
		hello, err := readFrame(real, maxHandshakeFrame)
		if err != nil {
			return err
		}
		if err := writeFrame(conn, hello); err != nil {
			return err
		}
		body, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			return err
		}
		forBob, clearPart, msg, cred, err := openStage1(hello, appendVector(nil, body), a.anna)
		if err != nil {
			return err
		}
		ra := msg[len(msg)-nonceSize:]
		_, ekBob, _, err := parseCredential(cred)
		if err != nil {
			return err
		}
		// Mallory connects to anna with bob's Ra and HPKE key, and opens anna's answer.
		tr := &transcript{}
		box, err := credentialBox(ra, tr.start(hello))
		if err != nil {
			return err
		}
		mine := appendVector(appendVector(appendVector(nil, a.mallory.identity),
			marshalEncryptionKey(&a.mallory.encryption.PublicKey)), nil)
		stage1, err := tr.seal(1, a.mallory.signer, &a.anna.encryption.PublicKey,
			box.Seal(bytes.Clone(clearPart[:1+hpkePublicSize]), zeroNonce[:], mine, nil), ra)
		if err != nil {
			return err
		}
		if err := writeFrame(real, stage1); err != nil {
			return err
		}
		wrap, err := newWrapper(ra, tr.sum())
		if err != nil {
			return err
		}
		answer := exchange{conn: real, me: a.mallory, transcript: *tr, wrap: wrap}
		m, err := answer.receive(2, hpkeEncSize, 2*nonceSize)
		if err != nil {
			return err
		}
		// Mallory forwards anna's signature to bob.
		if wrap, err = newWrapper(ra, forBob.sum()); err != nil {
			return err
		}
		forBob.add(m.clear)
		forBob.midway = [64]byte(forBob.sum())
		sealed, err := forBob.rsaCBC(2).seal(ekBob, slices.Concat(m.sign, m.fields))
		if err != nil {
			return err
		}
		return writeFrame(conn, wrap.seal(2, appendVector(appendVector(nil, m.clear), sealed)))
	})
	a.serves()
}

// TestAttackReflection: neither side accepts its own messages from the other side, nor one stage in the place of
// another.
func TestAttackReflection(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	run := a.recordRun()
	a.attack("hello as stage 1", "stage 1: malformed", func(conn net.Conn) error {
		hello, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			return err
		}
		return writeFrame(conn, hello)
	})
	a.attack("stage 2 as stage 3", "stage 3: the wrapping does not open", func(conn net.Conn) error {
		hello, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			return err
		}
		both, far := net.Pipe()
		defer both.Close()
		go func() { defer far.Close(); scriptedClient(far, a.mallory, func(*deed) {}) }()
		if err := writeFrame(both, hello); err != nil {
			return err
		}
		stage1, err := readFrame(both, maxHandshakeFrame)
		if err != nil {
			return err
		}
		if err := writeFrame(conn, stage1); err != nil {
			return err
		}
		stage2, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			return err
		}
		return writeFrame(conn, stage2)
	})
	a.victim("stage 1 as stage 2", "stage 2: the wrapping does not open", exitUntrusted, func(conn net.Conn) error {
		if _, err := conn.Write(run[false][0]); err != nil {
			return err
		}
		stage1, err := readFrame(conn, maxHandshakeFrame)
		if err != nil {
			return err
		}
		return writeFrame(conn, stage1)
	})
	// Stage 3 is sent in the place of stage 4, in an otherwise valid run.
	addr := between(t, a.addr, func(toServer bool, n int, frame []byte) ([][]byte, [][]byte, bool) {
		if toServer && n == 1 {
			return nil, [][]byte{frame}, false
		}
		return [][]byte{frame}, nil, false
	})
	if stderr, code := a.call(addr, "x\n"); code != exitUntrusted ||
		!strings.Contains(stderr, "stage 4: the wrapping does not open") {
		t.Errorf("stage 3 as stage 4: exit %d: %s", code, stderr)
	}
	a.serves()
}

// TestAttackReplay: a recorded run is rejected as a whole, stage by stage, after a restart of the server, and by the
// client.
func TestAttackReplay(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	run := a.recordRun()
	a.attack("a whole run", noBlock, answer(run[true]...))
	a.attack("stage 1", noBlock, answer(run[true][0]))
	a.attack("stage 3 first", "stage 1: malformed", answer(run[true][1]))
	for n := range 2 { // Stage 1 or 3 is sent twice in one run.
		addr := between(t, a.addr, at(true, n, func(frame []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{frame, frame}, nil, false
		}))
		if stderr, code := a.call(addr, "x\n"); code == exitDone {
			t.Errorf("frame %d twice: exit %d: %s", n, code, stderr)
		}
	}
	for n := 1; n < 3; n++ { // Stage 2 or 4 is sent twice.
		addr := between(t, a.addr, at(false, n, func(frame []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{frame, frame}, nil, false
		}))
		if stderr, code := a.call(addr, "x\n"); code != exitUntrusted {
			t.Errorf("frame %d twice to the client: exit %d: %s", n, code, stderr)
		}
	}
	a.victim("a whole run to the client", "stage 2: the wrapping does not open", exitUntrusted, greet(run[false][:2]...))
	a.serves()
	a.server.cmd.Process.Kill()
	<-a.server.ended
	a.server, a.addr = serve(t, a.annaDir)
	a.attack("a whole run after a restart", noBlock, answer(run[true]...))
	a.serves()
}

// TestAttackSplicing puts each frame of one run into the same place of another run.
func TestAttackSplicing(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	old := a.recordRun()
	for toServer, frames := range old {
		for n := range min(len(frames), 4) {
			if !toServer && n == 0 {
				continue // An old hello is a valid hello with another Rs. The server notices at stage 1; see below.
			}
			addr := between(t, a.addr, at(toServer, n, func([]byte) ([][]byte, [][]byte, bool) {
				return [][]byte{frames[n]}, nil, false
			}))
			if stderr, code := a.call(addr, "x\n"); code == exitDone || strings.Contains(stderr, "panic") {
				t.Errorf("to the server %v, frame %d: exit %d: %s", toServer, n, code, stderr)
			}
		}
	}
	addr := between(t, a.addr, at(false, 0, func([]byte) ([][]byte, [][]byte, bool) {
		return [][]byte{old[false][0]}, nil, false
	}))
	if stderr, code := a.call(addr, "x\n"); code == exitDone {
		t.Errorf("an old hello: exit %d: %s", code, stderr)
	}
	a.serves()
	for _, want := range []string{noBlock, "stage 3: the wrapping does not open",
		"first packet: a packet that cannot be verified"} {
		a.waitReason(0, want)
	}
}

// blockAttacks returns changed versions of a sealed message with blocks of k bytes: cut, moved, exchanged and forged
// blocks, and broken OAEP.
func blockAttacks(sealed []byte, k int, n *big.Int) map[string][]byte {
	b := k / 2
	blocks := (len(sealed) - b) / k
	all := map[string][]byte{
		"first block cut":  sealed[k:],
		"last block cut":   slices.Concat(sealed[:(blocks-1)*k], sealed[blocks*k:]),
		"blocks swapped":   slices.Concat(sealed[k:2*k], sealed[:k], sealed[2*k:]),
		"a block twice":    slices.Concat(sealed[:k], sealed),
		"another IV":       flip(sealed, len(sealed)-1),
		"a block as IV":    slices.Concat(sealed[:blocks*k], sealed[:b]),
		"a block of zeros": slices.Concat(make([]byte, k), sealed[k:]),
		"a block of one":   slices.Concat(make([]byte, k-1), []byte{1}, sealed[k:]),
		"a block of n":     slices.Concat(n.FillBytes(make([]byte, k)), sealed[k:]),
		"a block of n-1":   slices.Concat(new(big.Int).Sub(n, big.NewInt(1)).FillBytes(make([]byte, k)), sealed[k:]),
		"a block times 2^e": slices.Concat(new(big.Int).Mod(new(big.Int).Mul(new(big.Int).SetBytes(sealed[:k]),
			new(big.Int).Exp(big.NewInt(2), big.NewInt(65537), n)), n).FillBytes(make([]byte, k)), sealed[k:]),
		"the IV alone":        sealed[blocks*k:],
		"nothing":             nil,
		"the last bit":        flip(sealed, blocks*k-1),
		"the first bit":       flip(sealed, 1),
		"a bit of the middle": flip(sealed, k+k/2),
	}
	return all
}

// TestAttackBlocks: RSA blocks that are cut, moved, combined with another IV or forged fail in OAEP, because of the
// label, before any padding or signature is checked. All of them give the same error.
func TestAttackBlocks(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	signer := keySigner(t, onceKeys["3072"]()) // The RSA signature makes the message several blocks long.
	appendFile(t, filepath.Join(a.annaDir, "authorized_keys"),
		string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())))+" rsa\n")
	me := partyOf(t, signer, onceKeys["client"]())
	k := a.anna.encryption.Size()
	for name := range blockAttacks(make([]byte, 5*k), k, big.NewInt(7)) {
		want := noBlock
		a.attack(name, want, func(conn net.Conn) error {
			hello, err := readFrame(conn, maxHandshakeFrame)
			if err != nil {
				return err
			}
			fake := cannedConn(appendVector(nil, hello))
			if err := scriptedClient(fake, me, func(*deed) {}); !ended(err) {
				return err
			}
			clearPart, rest, _ := cutVector(fake.out[0][frameHeader:])
			sealed, _, ok := cutVector(rest)
			if !ok {
				return errMalformed
			}
			return writeFrame(conn,
				appendVector(appendVector(nil, clearPart), blockAttacks(sealed, k, a.anna.encryption.N)[name]))
		})
	}
	a.serves()
}

// paperArena starts a server with -paper. args are the arguments of a client that the server accepts.
func paperArena(t *testing.T) (server *proc, addr string, args []string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"paper-server", "paper-client", "paper-third"} {
		key := testKey(t, filepath.Join("vectors", "keys", name+".pem"))
		data, err := os.ReadFile(filepath.Join("testdata", "vectors", "keys", name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ssh.NewPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, name+".pem"), data)
		put(t, filepath.Join(dir, name+".pub"), ssh.MarshalAuthorizedKey(pub))
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	server, addr = serve(t, filepath.Join(dir, "state"), "-paper", "-identity", file("paper-server.pem"), "-peer",
		file("paper-client.pub"), "-peer", file("paper-third.pub"), "-delay", "0s")
	return server, addr, []string{"-paper", "-identity", file("paper-client.pem"), "-peer", file("paper-server.pub"),
		"-delay", "0s", "-dir", filepath.Join(dir, "state")}
}

// TestAttackPaperBlocks: the paper's blocks have no label. Every change of them gives the same error and no other
// visible difference.
func TestAttackPaperBlocks(t *testing.T) {
	t.Parallel()
	server, addr, client := paperArena(t)
	ours, theirs := vectorRSA(t, "paper-client"), vectorRSA(t, "paper-server")
	stage1, err := paperSeal(ours, &theirs.PublicKey, paperSeqID(1), paperNumber())
	if err != nil {
		t.Fatal(err)
	}
	third, err := paperSeal(theirs, &theirs.PublicKey, paperSeqID(1), paperNumber())
	if err != nil {
		t.Fatal(err)
	}
	attacks := blockAttacks(stage1, 256, theirs.N)
	attacks["signed by nobody listed"] = third
	for name, wire := range attacks {
		if len(wire) < paperSealed { // All stages have the same length.
			wire = append(wire, make([]byte, paperSealed-len(wire))...)
		}
		attackServer(t, server, addr, name, "stage 1: the message does not open, or no client (-peer) signed it",
			func(conn net.Conn) error {
				_, err := conn.Write(wire[:paperSealed])
				return err
			})
	}
	if _, stderr, code := runToEnd(t, t.TempDir(), "still here\n", append(client, "-connect", addr)...); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	server.out.match(t, "still here")
}

// TestAttackPaperKnown shows an attack that -paper is documented not to prevent: the client accepts a stage 4 of
// another session, so a third party can choose the session key.
func TestAttackPaperKnown(t *testing.T) {
	t.Parallel()
	_, _, client := paperArena(t)
	theirs, ours := vectorRSA(t, "paper-server"), vectorRSA(t, "paper-client")
	planted := bytes.Repeat([]byte{7}, paperKey)
	// The stage is signed for the third party. Sealing it again needs the client's public key only.
	elsewhere, err := paperSeal(theirs, &ours.PublicKey, planted)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		defer close(heard)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		wire := make([]byte, paperSealed)
		if _, err := io.ReadFull(conn, wire); err != nil {
			return
		}
		m, err := refOpen(ours, theirs, wire) // The true server answers stages 1 and 3.
		if err != nil {
			return
		}
		stage2, err := paperSeal(theirs, &ours.PublicKey, paperSeqID(2), []byte(m[paperSeq:]), paperNumber())
		if err != nil {
			return
		}
		conn.Write(stage2)
		if _, err := io.ReadFull(conn, wire); err != nil {
			return
		}
		io.WriteString(conn, base64.StdEncoding.EncodeToString(elsewhere))
		text, err := newPaperConn(conn, (*[32]byte)(planted)).readText()
		if err == nil {
			heard <- string(text)
		}
	}()
	start(t, t.TempDir(), append(client, "-connect", l.Addr().String())...).send("a secret\n")
	if text := <-heard; text != "a secret" {
		t.Errorf("the planted key opened %q: if -paper can notice this now, README.md and docs/SECURITY.md must say so", text)
	}
}

// TestAttackFirstPackets drops, repeats, inserts, swaps and cuts the first packets after the handshake, in both
// directions.
func TestAttackFirstPackets(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	const join = 2 // Frames 0 and 1 are stages 1 and 3.
	many := strings.Repeat("a line of some length, so that there are several packets\n", 2000)
	var held []byte
	for _, c := range []struct {
		name string
		m    meddler
		want string
	}{
		{"join repeated", at(true, join, func(f []byte) ([][]byte, [][]byte, bool) { return [][]byte{f, f}, nil, false }),
			"a packet that cannot be verified"},
		{"a packet inserted before", at(true, join, func(f []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{appendVector(nil, make([]byte, 48)), f}, nil, false
		}), "first packet: a packet that cannot be verified"},
		{"join reflected", at(true, join, func(f []byte) ([][]byte, [][]byte, bool) { return nil, [][]byte{f}, false }),
			"first packet: "},
		{"join changed", at(true, join, func(f []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{flip(f, len(f)-1)}, nil, false
		}), "first packet: a packet that cannot be verified"},
		{"cut after stage 3", at(true, join, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, true }),
			"first packet: "},
		{"a packet of lines dropped", at(true, join+1, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, false }),
			"a packet that cannot be verified"},
		{"lines swapped", func(toServer bool, n int, f []byte) ([][]byte, [][]byte, bool) {
			switch {
			case toServer && n == join+1:
				held = f
				return nil, nil, false
			case toServer && n == join+2:
				return [][]byte{f, held}, nil, false
			}
			return [][]byte{f}, nil, false
		}, "a packet that cannot be verified"},
		// The reason depends on whether acknowledgements are in flight.
		{"cut among the lines", at(true, join+2, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, true }),
			"without secure-close|the other side ended the connection"},
		{"welcome changed", at(false, 3, func(f []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{flip(f, len(f)-1)}, nil, false
		}), ""},
		{"welcome repeated", at(false, 3, func(f []byte) ([][]byte, [][]byte, bool) { return [][]byte{f, f}, nil, false }),
			""},
		{"a packet inserted before the welcome", at(false, 3, func(f []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{appendVector(nil, make([]byte, 48)), f}, nil, false
		}), ""},
		{"cut before the welcome", at(false, 3, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, true }), ""},
		{"an acknowledgement dropped", at(false, 4, func([]byte) ([][]byte, [][]byte, bool) { return nil, nil, false }), ""},
	} {
		before := len(a.reasons())
		stderr, code := a.call(between(t, a.addr, c.m), many)
		if code == exitDone || strings.Contains(stderr, "panic") {
			t.Errorf("%s: exit %d: %s", c.name, code, stderr)
		}
		if c.want == "" && !strings.HasPrefix(c.name, "cut") && code != exitUntrusted {
			t.Errorf("%s: exit %d, wanted %d: %s", c.name, code, exitUntrusted, stderr)
		}
		if c.want != "" {
			a.waitReason(before, strings.Split(c.want, "|")...)
		}
	}
	a.serves()
}

// TestAttackDowngrade changes the version and both AES bytes in transit.
func TestAttackDowngrade(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	change := func(toServer bool, i int) string {
		return between(t, a.addr, at(toServer, 0, func(f []byte) ([][]byte, [][]byte, bool) {
			return [][]byte{flip(f, i)}, nil, false
		}))
	}
	if stderr, code := a.call(change(false, 2+11), "x\n"); code == exitDone ||
		!strings.Contains(stderr, "does not speak securechat/2") {
		t.Errorf("version: exit %d: %s", code, stderr)
	}
	before := len(a.reasons())
	for name, addr := range map[string]string{"hello's AES byte": change(false, 2+12),
		"stage 1's AES byte": change(true, 2+2)} {
		if stderr, code := a.call(addr, "x\n"); code == exitDone {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	a.waitReason(before+1, noBlock)
	a.serves()
}

// TestAttackBorrowedKeys presents keys and certificates without proof of their private keys, among them the receiver's
// own.
func TestAttackBorrowedKeys(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	mallory := a.mallory
	ca := fixedSigner(t, "ca")
	appendFile(t, filepath.Join(a.annaDir, "authorized_keys"),
		"cert-authority "+strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ca.PublicKey())))+"\n")
	cert := certSigner(t, a.bob.signer, ssh.UserCert)
	ek := marshalEncryptionKey(&mallory.encryption.PublicKey)
	claim := func(identity, ek []byte) func(net.Conn) error {
		return func(conn net.Conn) error {
			return scriptedClient(conn, mallory, onStage(1, func(d *deed) {
				d.cred = appendVector(appendVector(appendVector(nil, identity), ek), nil)
			}))
		}
	}
	const bad = "stage 1: bad signature"
	a.attack("bob's key", bad, claim(a.bob.identity, ek))
	a.attack("bob's key and encryption key", bad, claim(a.bob.identity, marshalEncryptionKey(&a.bob.encryption.PublicKey)))
	a.attack("bob's certificate", bad, claim(cert.PublicKey().Marshal(), ek))
	a.attack("the server's own key", bad, claim(a.anna.identity, ek))
	a.attack("the server's own key and encryption key", bad,
		claim(a.anna.identity, marshalEncryptionKey(&a.anna.encryption.PublicKey)))
	a.attack("the CA's key", bad, claim(ca.PublicKey().Marshal(), ek))

	helloAs := func(p *party) []byte {
		return appendVector(nil, slices.Concat([]byte(protocolName), []byte{1}, make([]byte, helloNonceSize), p.hello))
	}
	sig, err := signData(mallory.signer, helloStatement(ek))
	if err != nil {
		t.Fatal(err)
	}
	a.victim("anna's key over mallory's encryption key", "did not sign the encryption key", exitUntrusted,
		greet(appendVector(nil, helloOf(1, a.anna.identity, ek, sig))))
	a.victim("mallory's own hello", "has changed", exitUntrusted, greet(helloAs(a.mallory)))
	a.victim("anna's hello, not proven", "stage 2: the wrapping does not open", exitUntrusted,
		greet(helloAs(a.anna), appendVector(nil, make([]byte, 1526))))
	a.victim("the client's own key at a pinned address", "has changed", exitUntrusted,
		greet(helloAs(a.bob), appendVector(nil, make([]byte, 1526))))
	a.serves()
}

// TestAttackLeakedServerKeys: an attacker with both private keys of the server and recorded connections of bob cannot
// connect to the server as bob.
func TestAttackLeakedServerKeys(t *testing.T) {
	a := newArena(t)
	run := a.recordRun()
	_, clearPart, msg, cred, err := openStage1(run[false][0][frameHeader:], run[true][0], a.anna)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(cred, a.bob.identity) {
		t.Error("the server's encryption key does not reveal the client: README.md and docs/SECURITY.md say that it does")
	}
	a.attack("bob's signature of another run", "stage 1: bad signature", func(conn net.Conn) error {
		return reseal(conn, a.anna, clearPart, msg, cred)
	})
	a.attack("bob's name, the server's signature", "stage 1: bad signature", func(conn net.Conn) error {
		return scriptedClient(conn, a.anna, onStage(1, func(d *deed) { d.cred = cred }))
	})
	a.serves()
}

// TestAttackShares sends HPKE shares of low order or of a wrong form to either side.
func TestAttackShares(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	for name, c := range map[string]struct {
		alter func(*deed)
		want  string
	}{
		"X25519 of order 1":    {func(d *deed) { clear(d.kem[1184:]) }, "HPKE"},
		"X25519 of order 4":    {func(d *deed) { clear(d.kem[1184:]); d.kem[1184] = 1 }, "HPKE"},
		"ML-KEM out of range":  {func(d *deed) { copy(d.kem, bytes.Repeat([]byte{0xff}, 1184)) }, "stage 1: HPKE"},
		"one coefficient of q": {func(d *deed) { d.kem[0], d.kem[1] = 0x01, d.kem[1]&0xf0|0x0d }, "stage 1: HPKE"},
		"a byte short":         {func(d *deed) { d.kem = d.kem[1:] }, "stage 1: the credential box does not open"},
		"a byte long":          {func(d *deed) { d.kem = append(d.kem, 0) }, "stage 1: the credential box does not open"},
		"none":                 {func(d *deed) { d.kem, d.cred = nil, nil }, "stage 1: malformed"},
	} {
		a.attack(name, c.want, func(conn net.Conn) error { return scriptedClient(conn, a.mallory, onStage(1, c.alter)) })
	}
	hello := slices.Concat([]byte(protocolName), []byte{1}, make([]byte, helloNonceSize), a.anna.hello)
	for name, c := range map[string]struct {
		alter func(*deed)
		want  string
	}{
		"X25519 of order 1": {func(d *deed) { clear(d.kem[1088:]) }, "stage 2: HPKE"},
		"X25519 of order 4": {func(d *deed) { clear(d.kem[1088:]); d.kem[1088] = 1 }, "stage 2: HPKE"},
		"a byte short":      {func(d *deed) { d.kem = d.kem[1:] }, "stage 2: malformed"},
		"a byte long":       {func(d *deed) { d.kem = append(d.kem, 0) }, "stage 2: malformed"},
	} {
		a.victim("to the client: "+name, c.want, exitUntrusted, func(conn net.Conn) error {
			return scriptedServer(conn, a.anna, hello, onStage(2, c.alter))
		})
	}
	a.serves()
}

// TestAttackRSAKeys presents RSA keys that are too small, too large or malformed, as identity and as encryption key, to
// either side. A modulus that two parties share is not detected: its owner can open only messages that are sealed to
// that owner, and a stage 2 that is sealed to the server's own key is not valid as stage 3.
func TestAttackRSAKeys(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	n, f4 := a.mallory.encryption.N, big.NewInt(65537)
	bits := func(n int) *big.Int { return new(big.Int).SetBit(big.NewInt(1), n-1, 1) }
	for name, c := range map[string]struct {
		n, e     *big.Int
		identity string
		ek       string
	}{
		"512 bits":     {bits(512), f4, "512 bits", "512 bits"},
		"1024 bits":    {bits(1024), f4, "1024 bits", "1024 bits"},
		"16384 bits":   {bits(16384), f4, "16384 bits", "too long"},
		"e = 1":        {n, big.NewInt(1), "the identity is no SSH key", "exponent"},
		"e = 3":        {n, big.NewInt(3), "exponent", "exponent"},
		"even modulus": {new(big.Int).SetBit(n, 0, 0), f4, "even modulus", "even modulus"},
	} {
		wire := rsaWire(c.n, c.e)
		claim := func(identity, ek []byte) func(net.Conn) error {
			return func(conn net.Conn) error {
				return scriptedClient(conn, a.mallory, onStage(1, func(d *deed) {
					d.cred = appendVector(appendVector(appendVector(nil, identity), ek), nil)
				}))
			}
		}
		a.attack(name+" as identity", c.identity, claim(wire, marshalEncryptionKey(&a.mallory.encryption.PublicKey)))
		a.attack(name+" as encryption key", c.ek, claim(a.mallory.identity, wire))
		sig, err := signData(a.anna.signer, helloStatement(wire))
		if err != nil {
			t.Fatal(err)
		}
		a.victim(name+" in a hello that anna signed", c.ek, exitUntrusted,
			greet(appendVector(nil, helloOf(1, a.anna.identity, wire, sig))))
		a.victim(name+" as identity in a hello", c.identity, exitUntrusted,
			greet(appendVector(nil, helloOf(1, wire, marshalEncryptionKey(&a.mallory.encryption.PublicKey), sig))))
	}
	a.attack("the server's own encryption key", "stage 3: ", func(conn net.Conn) error {
		err := scriptedClient(conn, a.mallory, onStage(1, func(d *deed) {
			d.cred = appendVector(appendVector(appendVector(nil, a.mallory.identity),
				marshalEncryptionKey(&a.anna.encryption.PublicKey)), nil)
		}))
		if !errors.Is(err, errUnverified) {
			return errors.New("mallory could read stage 2")
		}
		return nil
	})
	a.serves()
}

// TestAttackEnumeration: a client without the private key of the key that it presents receives nothing, whether the key
// is listed, unlisted or revoked. A client with the private key receives the same refusal for an unlisted key as for a
// revoked one.
func TestAttackEnumeration(t *testing.T) {
	a := newArena(t)
	revoked, unlisted := fixedSigner(t, "revoked"), fixedSigner(t, "unlisted")
	appendFile(t, filepath.Join(a.annaDir, "authorized_keys"),
		string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(revoked.PublicKey())))+" revoked\n")
	appendFile(t, filepath.Join(a.annaDir, "revoked_keys"), string(ssh.MarshalAuthorizedKey(revoked.PublicKey())))
	ek := marshalEncryptionKey(&a.mallory.encryption.PublicKey)
	for name, id := range map[string]ssh.PublicKey{"listed": a.bob.signer.PublicKey(), "unlisted": unlisted.PublicKey(),
		"revoked": revoked.PublicKey(), "the server's": a.anna.signer.PublicKey()} {
		a.attack(name+", not held", "stage 1: bad signature", func(conn net.Conn) error {
			return scriptedClient(conn, a.mallory, onStage(1, func(d *deed) {
				d.cred = appendVector(appendVector(appendVector(nil, id.Marshal()), ek), nil)
			}))
		})
	}
	for name, c := range map[string]struct {
		signer ssh.Signer
		want   string
	}{"unlisted": {unlisted, "is not in "}, "revoked": {revoked, "revoked"}} {
		me := partyOf(t, c.signer, a.mallory.encryption)
		a.attack(name+", held", c.want, func(conn net.Conn) error {
			if err := scriptedClient(conn, me, func(*deed) {}); !errors.Is(err, errRefused) {
				return fmt.Errorf("no refusal: %w", err)
			}
			return nil
		})
	}
	a.serves()
}

// TestKeysOverwritten checks that the structs and slices that held a session's keys are zero afterwards.
func TestKeysOverwritten(t *testing.T) {
	tr := transcript{}
	tr.start([]byte("hello"))
	export, sm := bytes.Repeat([]byte{1}, 64), bytes.Repeat([]byte{2}, smSize)
	keys, err := tr.newSecrets(export, sm, true)
	if err != nil {
		t.Fatal(err)
	}
	if !zero(export) || !zero(sm) {
		t.Error("HPKE's secret or Sm outlives the session's secrets")
	}
	sess, err := newSession(&bufferConn{}, keys, true, chatTraffic)
	if err != nil {
		t.Fatal(err)
	}
	if !zero(keys.toServer[:]) || !zero(keys.toClient[:]) {
		t.Error("the secrets outlive the session's start")
	}
	old := sess.out.secret
	if err := sess.out.ratchet(); err != nil || sess.out.secret == old || zero(sess.out.secret[:]) {
		t.Errorf("a rekey did not overwrite the old secret: %v", err)
	}
	sess.wipe()
	if !zero(sess.in.secret[:]) || !zero(sess.out.secret[:]) || sess.in.aead != nil || sess.out.aead != nil {
		t.Error("wipe leaves a key")
	}
	key := [32]byte{1}
	paper := newPaperServerLink(&bufferConn{}, &key)
	if !zero(key[:]) {
		t.Error("-paper: the session key outlives the handshake")
	}
	paper.wipe()
	if paper.block != nil {
		t.Error("-paper: wipe leaves the key")
	}
}

func zero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

// TestNoKeyByValue: a panic's stack trace shows arguments byte by byte, arrays and structs included. So keys are passed
// by pointer or as slices only. Hashes of log records are not secret.
func TestNoKeyByValue(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") || f == "record.go" || f == "log.go" || f == "verify.go" {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			decl, ok := n.(*ast.FuncDecl)
			if !ok {
				return true
			}
			params := decl.Type.Params.List
			if decl.Recv != nil {
				params = append(slices.Clone(params), decl.Recv.List...)
			}
			for _, p := range params {
				array, ok := p.Type.(*ast.ArrayType)
				name, _ := p.Type.(*ast.Ident)
				if ok && array.Len != nil || name != nil &&
					slices.Contains([]string{"secrets", "halfConn", "session", "inviteCode", "invite", "paperConn", "party",
						"wrapper"}, name.Name) {
					t.Errorf("%s: %s takes a key by value", f, decl.Name.Name)
				}
			}
			return true
		})
	}
}

// secretsIn returns the secrets of the keys in a state folder, none of which may be printed.
func secretsIn(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, name := range []string{"identity", "encryption"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := ssh.ParseRawPrivateKey(data)
		if err != nil {
			t.Fatal(err)
		}
		switch key := raw.(type) {
		case *ed25519.PrivateKey:
			all[dir+" identity"] = key.Seed()
		case *rsa.PrivateKey:
			all[dir+" d"], all[dir+" p"], all[dir+" q"] = key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes()
		default:
			t.Fatalf("%T", key)
		}
	}
	return all
}

// tap records the bytes in both directions of a connection, whether they form frames or not.
type tap struct {
	net.Conn
	read, wrote *bytes.Buffer
}

func (c tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Write(b[:n])
	return n, err
}

func (c tap) Write(b []byte) (int, error) {
	c.wrote.Write(b)
	return c.Conn.Write(b)
}

// thief has both sides' long-term keys and a recording, and computes everything that follows from them.
type thief struct {
	caller          ssh.PublicKey
	ra, rb, sm, enc []byte
	tr              transcript // The transcript up to h4.
}

func (f *thief) open(client, server *rsa.PrivateKey, toServer, toClient io.Reader) error {
	hello, err := readFrame(toClient, maxHandshakeFrame)
	if err != nil {
		return err
	}
	h0 := f.tr.start(hello)
	next := func(stage byte, r io.Reader, wrap *wrapper, key *rsa.PrivateKey, clearSize, serialsSize int) (*stageMessage,
		error) {
		body, err := readFrame(r, maxHandshakeFrame)
		if err == nil && wrap != nil {
			body, err = wrap.open(stage, body)
		}
		if err != nil {
			return nil, err
		}
		return f.tr.open(stage, key, body, clearSize, serialsSize)
	}
	m, err := next(1, toServer, nil, server, anySize, nonceSize)
	if err != nil {
		return err
	}
	f.ra = m.serials()
	c, err := openClaim(m.clear, f.ra, h0)
	if err != nil {
		return err
	}
	f.caller = c.id
	wrap, err := newWrapper(f.ra, f.tr.sum())
	if err != nil {
		return err
	}
	if m, err = next(2, toClient, wrap, client, hpkeEncSize, 2*nonceSize); err != nil {
		return err
	}
	f.enc, f.rb = m.clear, m.serials()[nonceSize:]
	if _, err = next(3, toServer, wrap, server, 0, nonceSize); err != nil {
		return err
	}
	m, err = next(4, toClient, wrap, client, 0, smSize)
	if err == nil {
		f.sm = m.serials()
	}
	return err
}

// guess derives the session's secrets with an HPKE private key.
func (f *thief) guess(kem hpke.PrivateKey, aes bool) (*secrets, error) {
	recipient, err := hpke.NewRecipient(f.enc, kem, hpke.HKDFSHA512(), hpke.ExportOnly(), []byte(protocolName))
	if err != nil {
		return nil, err
	}
	export, err := recipient.Export(protocolName, 64)
	if err != nil {
		return nil, err
	}
	return f.tr.newSecrets(export, bytes.Clone(f.sm), aes)
}

// TestSecretsNotPrinted runs the modes with the most output (-trace on both sides, refusals, wrong commands) and
// searches all output for private keys, serials, Sm and session secrets, in raw form, in hex and in base64.
func TestSecretsNotPrinted(t *testing.T) {
	t.Parallel()
	a := newArena(t, "-trace")
	hidden := secretsIn(t, a.annaDir)
	for name, b := range secretsIn(t, a.bobDir) {
		hidden[name] = b
	}

	// The test is the client of this run, so it knows the run's secrets.
	conn, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	taped := tap{conn, new(bytes.Buffer), new(bytes.Buffer)}
	keys, err := clientHandshake(taped, a.bob, trustAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	hidden["to server"], hidden["to client"] = bytes.Clone(keys.toServer[:]), bytes.Clone(keys.toClient[:])
	var all thief
	if err := all.open(a.bob.encryption, a.anna.encryption, taped.wrote, taped.read); err != nil {
		t.Fatal(err)
	}
	hidden["Ra"], hidden["Rb"], hidden["Sm"] = all.ra, all.rb, all.sm
	sess, err := newSession(conn, keys, false, chatTraffic)
	if err != nil {
		t.Fatal(err)
	}
	buf, err := sess.append(nil, kindJoin, joinRequest{}.encode())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(append(buf, "not a packet, but as long as one may well be"...))

	var told strings.Builder
	show := func(texts ...string) {
		for _, text := range texts {
			told.WriteString(text)
		}
	}
	pin(t, a.bobDir, a.addr, a.annaDir)
	for _, args := range [][]string{
		{"-connect", a.addr, "-dir", a.bobDir, "-trace"},
		{"-connect", a.addr, "-dir", a.bobDir, "-json"},
		{"-connect", a.addr, "-dir", state(t, "stranger"), "-trace"},
		{"-connect", a.addr, "-dir", a.bobDir, "-identity", filepath.Join(a.annaDir, "encryption")},
		{"-fingerprint", "-dir", a.bobDir}, {"-keygen", "-dir", a.bobDir}, {"-allow", filepath.Join(a.bobDir, "identity"),
			"-dir", a.annaDir},
		{"-paper", "-connect", a.addr, "-identity", filepath.Join(a.bobDir, "encryption"), "-peer",
			filepath.Join(a.bobDir, "identity"), "-dir", a.bobDir},
	} {
		stdout, stderr, _ := runToEnd(t, t.TempDir(), "hello\n", args...)
		show(stdout, stderr)
	}
	a.attack("bad block", noBlock,
		answer(make([]byte, 0), appendVector(nil, appendVector(appendVector(nil, make([]byte, 1300)), make([]byte, 384)))))
	a.serves()
	log, err := os.ReadFile(filepath.Join(a.server.cmd.Dir, "connection.log"))
	if err != nil {
		t.Fatal(err)
	}
	show(string(log), a.server.out.String(), a.server.err.String())
	text := told.String()
	if !strings.Contains(text, "stage 4  S → C") || !strings.Contains(text, "refused ") {
		t.Fatalf("too little was printed: %.2000s", text)
	}
	joined := strings.Join(strings.Fields(text), "") // Base64 in files may be wrapped.
	for name, secret := range hidden {
		for _, b := range [][]byte{secret, secret[:16], secret[len(secret)-16:]} {
			std := base64.StdEncoding.EncodeToString(b)
			for _, form := range []string{string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)),
				std[:len(std)-4], base64.RawURLEncoding.EncodeToString(b)} {
				if strings.Contains(text, form) || strings.Contains(joined, form) {
					t.Errorf("%s was printed", name)
				}
			}
		}
	}
}

// TestForwardSecrecy: with all long-term keys of both sides, a thief can read the client's identity, the serials and Sm
// of a recorded run, but no packet. The thief's computation is checked against a vector: with the HPKE key as well, it
// derives the session's secrets.
func TestForwardSecrecy(t *testing.T) {
	a := newArena(t)
	run := a.recordRun()
	var f thief
	if err := f.open(a.bob.encryption, a.anna.encryption, bytes.NewReader(slices.Concat(run[true]...)),
		bytes.NewReader(slices.Concat(run[false]...))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.caller.Marshal(), a.bob.identity) || len(f.sm) != smSize {
		t.Error("the thief did not get what it can")
	}
	other, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, aes := range []bool{false, true} {
		keys, err := f.guess(other, aes)
		if err != nil {
			t.Fatal(err)
		}
		without, err := f.tr.newSecrets(make([]byte, 64), bytes.Clone(f.sm), aes)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []*secrets{keys, without} {
			for toServer, secret := range map[bool]*[64]byte{true: &k.toServer, false: &k.toClient} {
				first := map[bool]int{true: 2, false: 3}[toServer]
				h, err := newHalfConn(secret, &k.digest, aes)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := h.open(bytes.Clone(run[toServer][first][frameHeader:])); err == nil {
					t.Error("stolen keys opened a recorded packet")
				}
			}
		}
	}

	v := readVector(t, filepath.Join(vectorFolder, "handshake-client-run.txt"))
	var in, out bytes.Buffer
	for buf, key := range map[*bytes.Buffer]string{&in: "receive", &out: "out send"} {
		for _, x := range v.all(key) {
			b, err := hex.DecodeString(x)
			if err != nil {
				t.Fatal(err)
			}
			buf.Write(b)
		}
	}
	var g thief
	if err := g.open(vectorRSA(t, "client"), vectorRSA(t, "server"), &out, &in); err != nil {
		t.Fatal(err)
	}
	kem, err := hpke.MLKEM768X25519().NewPrivateKey(v.hex(t, "hpke private key"))
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := g.guess(kem, true); err != nil || !bytes.Equal(keys.toServer[:], v.hex(t, "out to server")) {
		t.Errorf("the thief cannot do what it should: %v", err)
	}
	if keys, err := g.guess(other, true); err != nil || bytes.Equal(keys.toServer[:], v.hex(t, "out to server")) {
		t.Errorf("another HPKE key will do: %v", err)
	}
}

// TestPaperHasNoForwardSecrecy: with -paper the client's private key opens the recording, as README.md says.
func TestPaperHasNoForwardSecrecy(t *testing.T) {
	t.Parallel()
	_, addr, client := paperArena(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var toServer, toClient bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		left, err := l.Accept()
		if err != nil {
			return
		}
		defer left.Close()
		right, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer right.Close()
		wg.Go(func() {
			io.Copy(io.MultiWriter(right, &toServer), left)
			right.(*net.TCPConn).CloseWrite()
		})
		io.Copy(io.MultiWriter(left, &toClient), right)
	})
	if _, stderr, code := runToEnd(t, t.TempDir(), "once a secret\n",
		append(client, "-connect", l.Addr().String())...); code != exitDone {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	wg.Wait()
	stage4, err := base64.StdEncoding.DecodeString(toClient.String()[paperSealed:][:paperBase64])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := paperRSACBC.open(vectorRSA(t, "paper-client"), stage4)
	if err != nil {
		t.Fatal(err)
	}
	text, err := newPaperConn(cannedConn(toServer.Bytes()[2*paperSealed:]), (*[32]byte)(plain[paperSign:])).readText()
	if err != nil || string(text) != "once a secret" {
		t.Errorf("%q, %v: if -paper keeps its recordings shut now, README.md and docs/SECURITY.md must say so", text, err)
	}
}
