package main

// How long the server takes to close on each kind of failure, as an attacker sees it over loopback. Not part of go test:
//
//	bench/timing.sh [TRIES]
//
// What is compared, and why some pairs may differ, stands in docs/SECURITY.md.

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// BenchmarkTiming tries each failure b.N times, in random order, and compares the times of pairs with Welch's t: over all, and
// over the fastest tenth and half, where the noise of a machine is least. Beyond 4.5 two classes are told apart.
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

	// try sends a stage 1 that make makes for this hello and returns how long the close took.
	try := func(make func(hello []byte) []byte) time.Duration {
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
		if n, _ := io.Copy(io.Discard, conn); n > 0 {
			b.Fatal("the server answered")
		}
		return time.Since(began)
	}
	n := server.encryption.N
	raw := func(first byte) func([]byte) []byte { // a block whose encoded message begins with first, and is no OAEP
		return func([]byte) []byte {
			em := make([]byte, n.BitLen()/8)
			rand.Read(em[1:])
			em[0] = first
			c := new(big.Int).Exp(new(big.Int).SetBytes(em), big.NewInt(65537), n).FillBytes(make([]byte, len(em)))
			return appendVector(nil, appendVector(appendVector(nil, make([]byte, 1+hpkePublicSize+200)), append(c, make([]byte, 128)...)))
		}
	}
	claim := func(id, signer ssh.Signer) func([]byte) []byte {
		cred := appendVector(appendVector(appendVector(nil, id.PublicKey().Marshal()), marshalEncryptionKey(&client.encryption.PublicKey)), nil)
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
		name string
		make func([]byte) []byte
	}{
		oaepFirst:   {"OAEP failure, first byte not 0", raw(1)},
		oaepHash:    {"OAEP failure, first byte 0", raw(0)},
		badListed:   {"bad signature, a listed key's", claim(listed, client.signer)},
		badUnlisted: {"bad signature, an unlisted key's", claim(unlisted, client.signer)},
		badRevoked:  {"bad signature, a revoked key's", claim(revoked, client.signer)},
		ownUnlisted: {"unknown key, held", claim(unlisted, unlisted)},
		ownRevoked:  {"revoked key, held", claim(revoked, revoked)},
	}
	times := make([][]float64, len(classes))
	order := mathrand.Perm(len(classes))
	for range b.N {
		mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			times[i] = append(times[i], float64(try(classes[i].make).Nanoseconds())/1000)
		}
	}
	if b.N < 100 {
		return // the benchmark's own first try
	}
	report := fmt.Sprintf("\n%d tries each, microseconds to close\n%-34s %8s %8s %8s\n", b.N, "", "10%", "median", "mean")
	for i, c := range classes {
		s := slices.Sorted(slices.Values(times[i]))
		mean, _ := moments(s)
		report += fmt.Sprintf("%-34s %8.0f %8.0f %8.0f\n", c.name, s[len(s)/10], s[len(s)/2], mean)
	}
	report += fmt.Sprintf("\n%-70s %7s %7s %7s\n", "Welch's t", "all", "half", "tenth")
	for _, p := range []struct {
		a, b int
		told string // why a difference is harmless; empty: there must be none
	}{
		{oaepFirst, oaepHash, ""}, {badListed, badUnlisted, ""}, {badListed, badRevoked, ""}, {badUnlisted, badRevoked, ""},
		{oaepHash, badListed, "only who made the block knows that it opens"},
		{badListed, ownUnlisted, "only who holds the key gets so far"},
		{ownUnlisted, ownRevoked, "only who holds the key learns it, of that key"},
	} {
		verdict, t := "alike", [3]float64{}
		for i, part := range []float64{1, 0.5, 0.1} {
			t[i] = welch(fastest(times[p.a], times[p.b], part))
			if !(math.Abs(t[i]) <= 4.5) { // also where one has none among the fastest
				verdict = "told apart"
			}
		}
		if p.told != "" {
			verdict += ": " + p.told
		}
		report += fmt.Sprintf("%-70s %7.1f %7.1f %7.1f  %s\n", classes[p.a].name+" / "+classes[p.b].name, t[0], t[1], t[2], verdict)
	}
	fmt.Print(report)
}

// fastest returns what of a and of b is among the fastest part of both together: were they alike, so are these.
func fastest(a, b []float64, part float64) (fromA, fromB []float64) {
	both := slices.Sorted(slices.Values(slices.Concat(a, b)))
	limit := both[int(float64(len(both)-1)*part)]
	over := func(v float64) bool { return v > limit }
	return slices.DeleteFunc(slices.Clone(a), over), slices.DeleteFunc(slices.Clone(b), over)
}

// moments returns mean and variance.
func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x)-1)
	}
	return mean, variance
}

// welch is the t of two samples of unequal variance; not a number where one is empty.
func welch(a, b []float64) float64 {
	ma, va := moments(a)
	mb, vb := moments(b)
	return (ma - mb) / math.Sqrt(va/float64(len(a))+vb/float64(len(b)))
}
