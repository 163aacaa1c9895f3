package main

// How long the server takes to close the connection after each kind of failure, as an attacker measures it over loopback.
// It is a benchmark, so go test does not run it:
//
//	bench/timing.sh [TRIES]
//
// docs/SECURITY.md says which pairs are compared, and why some of them may differ.

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

// BenchmarkTiming tries each failure b.N times, in random order, and compares pairs of failures with Welch's t: over all
// times, and over the fastest half and tenth, where a machine's noise is least. Two failures differ if t is beyond 4.5.
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
		return // testing runs a benchmark once before it runs it b.N times
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
			if !(math.Abs(t[i]) <= 4.5) { // also if one of the two has no time among the fastest
				verdict = "different"
			}
		}
		if p.harmless != "" {
			verdict += ": " + p.harmless
		}
		report += fmt.Sprintf("%-70s %7.1f %7.1f %7.1f  %s\n", classes[p.a].name+" / "+classes[p.b].name, t[0], t[1], t[2], verdict)
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
