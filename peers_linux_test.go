//go:build peers

package main

// Comparisons of securechat with other programs, measured in turn in one run over loopback (bench/*.sh;
// docs/PERFORMANCE.md). They are not part of go test: they need the peers that bench/peers.sh installs, and take
// minutes. -benchtime Nx sets the number of rounds.
//
// Every round runs each row once, so that a busy machine slows all rows alike. The ratio within a round is what counts.
// The servers are processes (securechat is the stripped binary), and the load comes from this process, except for
// programs that pipe.
//
// The last benchmarks show whether anything grows with the number of members (bench/scaling.sh) or with time
// (bench/soak.sh).

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// asReference in the environment makes the test binary run one of the plain Go programs to compare with, which its
// value names.
const asReference = "SECURECHAT_TEST_REFERENCE"

func init() {
	if what := os.Getenv(asReference); what != "" {
		if err := reference(what, os.Getenv("ADDR"), os.Getenv("PKI")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// reference runs the plain Go program that is called what.
func reference(what, addr, pki string) error {
	if what == "source" {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{os.Stdin}, make([]byte, 64<<10))
		return errors.Join(err, conn.Close())
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if what == "sink" {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{os.Stdout}, struct{ io.Reader }{conn}, make([]byte, 64<<10))
		return err
	}
	conf, err := tlsConfig(pki)
	if err != nil {
		return err
	}
	h := &bareHub{members: map[*bareMember]bool{}}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go h.serve(tls.Server(conn, conf))
	}
}

// bareHub sends each line to all clients but its sender, with TLS, a bounded queue and a writer for each client, which
// sends all that waits in one write. It has no names, no order and no log.
type bareHub struct {
	mu      sync.RWMutex
	members map[*bareMember]bool
}

type bareMember struct {
	mu   sync.Mutex
	some sync.Cond
	buf  []byte
	left bool
}

func (h *bareHub) serve(conn *tls.Conn) {
	defer conn.Close()
	me := &bareMember{}
	me.some.L = &me.mu
	if conn.Handshake() != nil {
		return
	}
	h.mu.Lock()
	h.members[me] = true
	h.mu.Unlock()
	io.WriteString(conn, "ready\n")
	go func() {
		for out := []byte(nil); ; {
			me.mu.Lock()
			for len(me.buf) == 0 && !me.left {
				me.some.Wait()
			}
			out, me.buf = me.buf, out[:0]
			left := me.left
			me.mu.Unlock()
			if left {
				return
			}
			if _, err := conn.Write(out); err != nil {
				conn.Close()
				return
			}
			if cap(out) > 64<<10 {
				out = nil
			}
		}
	}()
	r := bufio.NewReaderSize(conn, 512)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			break
		}
		h.mu.RLock()
		for m := range h.members {
			if m == me {
				continue
			}
			m.mu.Lock()
			if len(m.buf)+len(line) <= 1<<20 {
				m.buf = append(m.buf, line...)
				m.some.Signal()
			}
			m.mu.Unlock()
		}
		h.mu.RUnlock()
	}
	h.mu.Lock()
	delete(h.members, me)
	h.mu.Unlock()
	me.mu.Lock()
	me.left = true
	me.some.Signal()
	me.mu.Unlock()
}

// makePKI writes an RSA-2048 CA, a certificate from it for both ends, and SSH keys.
func makePKI(dir string) error {
	caKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotAfter: time.Now().Add(24 * time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotAfter: ca.NotAfter, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{{127, 0, 0, 1}}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	identity, err := ssh.MarshalPrivateKey(&edwards, "")
	if err != nil {
		return err
	}
	host, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for name, b := range map[string][]byte{
		"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), "cert.pem": certPEM, "key.pem": keyPEM,
		"both.pem": slices.Concat(keyPEM, certPEM),
		"ed25519":  pem.EncodeToMemory(identity), "rsa": pem.EncodeToMemory(host),
		"authorized_keys": ssh.MarshalAuthorizedKey(signer.PublicKey()),
	} {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".pem") {
			mode = 0o644 // These keys live a day, and daemons that drop their privileges read them.
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, mode); err != nil {
			return err
		}
	}
	return nil
}

func tlsConfig(pki string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(pki, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "cert.pem"), filepath.Join(pki, "key.pem"))
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "localhost",
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}, SessionTicketsDisabled: true}, err
}

// lists holds what all measurements need.
type lists struct {
	*testing.B
	dir    string // The folder of all files, which daemons can read.
	binary string // Securechat, stripped.
	state  string // Securechat's state folder.
	pki    string
	conf   *tls.Config
	keys   *keys
	user   string
}

func newLists(b *testing.B) *lists {
	a := &lists{B: b}
	var err error
	if a.dir, err = os.MkdirTemp("", "securechat-bench"); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(a.dir) })
	a.binary, a.state, a.pki = filepath.Join(a.dir, "securechat"), filepath.Join(a.dir, "state"), filepath.Join(a.dir,
		"pki")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", a.binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	me, err1 := user.Current()
	err2, err3 := os.Chmod(a.dir, 0o755), os.Mkdir(a.pki, 0o755)
	if err := errors.Join(err1, err2, err3); err != nil {
		b.Fatal(err)
	}
	a.user = me.Username
	if err := makePKI(a.pki); err != nil {
		b.Fatal(err)
	}
	if a.conf, err = tlsConfig(a.pki); err != nil {
		b.Fatal(err)
	}
	if a.keys, err = loadKeys(keyOptions{dir: a.state, comment: "bench"}); err != nil {
		b.Fatal(err)
	}
	for name, text := range map[string]string{
		"mosquitto.conf": "listener PORT 127.0.0.1\ncafile PKI/ca.pem\ncertfile PKI/cert.pem\nkeyfile " +
			"PKI/key.pem\nrequire_certificate true\ntls_version tlsv1.3\nallow_anonymous true\nmax_queued_messages " +
			"0\nlog_type error\n",
		"ngircd.conf": "[Global]\nName = irc.bench.test\nInfo = bench\nAdminInfo1 = none\nListen = 127.0.0.1\nPorts = " +
			"1\nServerUID = nobody\nServerGID = nogroup\nMotdPhrase = hi\n" +
			"[Limits]\nMaxConnections = 0\nMaxConnectionsIP = 0\nMaxPenaltyTime = 0\nPingTimeout = 3600\nPongTimeout = " +
			"3600\n[Options]\nDNS = no\nIdent = no\nPAM = no\n" +
			"[SSL]\nCertFile = PKI/cert.pem\nKeyFile = PKI/key.pem\nPorts = PORT\n",
		"sshd.conf": "Port PORT\nListenAddress 127.0.0.1\nHostKey PKI/rsa\nPidFile none\nUsePAM no\nUseDNS " +
			"no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n" +
			"AuthorizedKeysFile PKI/authorized_keys\nMaxStartups 1000\nPrintMotd no\nPrintLastLog no\nCompression " +
			"no\nLogLevel ERROR\n",
	} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return a
}

// running is a server or client process.
type running struct {
	cmd   *exec.Cmd
	addr  string
	ended chan struct{}
}

// expand replaces the placeholders in a command.
func (a *lists) expand(command, port string) string {
	return strings.NewReplacer("BIN", a.binary+" -dir "+a.state, "PKI", a.pki, "DIR", a.dir, "PORT", port, "REF",
		"ADDR=127.0.0.1:"+port+" PKI="+a.pki+" "+asReference, "SELF", os.Args[0],
		"SSH", "exec ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o "+
			"LogLevel=ERROR -o IdentitiesOnly=yes -o IdentityAgent=none -o Compression=no -i "+a.pki+"/rsa -p "+port+" "+a.user+
			"@127.0.0.1").Replace(command)
}

// run starts a shell command in a folder of its own.
func (a *lists) run(command, port string) *running {
	wd, err := os.MkdirTemp(a.dir, "run")
	if err != nil {
		a.Fatal(err)
	}
	for _, conf := range []string{"mosquitto.conf", "ngircd.conf", "sshd.conf"} {
		text, err := os.ReadFile(filepath.Join(a.dir, conf))
		if err == nil && strings.Contains(command, conf) {
			err = os.WriteFile(filepath.Join(wd, conf), []byte(a.expand(string(text), port)), 0o644)
		}
		if err != nil {
			a.Fatal(err)
		}
	}
	r := &running{cmd: exec.Command("sh", "-c", a.expand(command, port)), addr: "127.0.0.1:" + port,
		ended: make(chan struct{})}
	r.cmd.Dir = wd
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if testing.Verbose() {
		r.cmd.Stderr = os.Stderr
	}
	if err := r.cmd.Start(); err != nil {
		a.Fatal(err)
	}
	go func() { r.cmd.Wait(); close(r.ended) }()
	a.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	select {
	case <-r.ended:
	default:
		r.kill()
		<-r.ended
	}
}

func (r *running) kill() { syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }

// serve starts a server and returns once it listens.
func (a *lists) serve(command string) (r *running, port string) {
	unix.Sync() // Disk writes of an earlier server must not slow this one.
	port = portOf(freeAddr(a))
	began := time.Now()
	r = a.run(command, port)
	n, _ := strconv.Atoi(port)
	sign := fmt.Sprintf("0100007F:%04X 00000000:0000 0A ", n)
	for {
		if table, err := os.ReadFile("/proc/net/tcp"); err != nil || strings.Contains(string(table), sign) {
			return r, port
		}
		select {
		case <-r.ended:
			a.Fatalf("it does not listen: %s", a.expand(command, port))
		case <-time.After(100 * time.Microsecond):
		}
		if time.Since(began) > patience {
			a.Fatalf("it does not listen: %s", a.expand(command, port))
		}
	}
}

// cpu returns the processor time of r, including its children and those that have exited.
func (a *lists) cpu(r *running) time.Duration {
	var of func(pid int) time.Duration
	of = func(pid int) (used time.Duration) {
		var own unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &own); err == nil { // The clock is CLOCK_PROCESS_CPUTIME_ID of pid.
			used += time.Duration(own.Nano())
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0 // The process has exited, and its parent's time includes its own.
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, f := range fields[13:15] { // The fields are cutime and cstime.
			ticks, _ := strconv.Atoi(f)
			used += time.Duration(ticks) * 10 * time.Millisecond
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for _, f := range strings.Fields(string(children)) {
			child, _ := strconv.Atoi(f)
			used += of(child)
		}
		return used
	}
	return of(r.cmd.Process.Pid)
}

// resident returns the resident memory of r in bytes.
func (a *lists) resident(r *running) float64 { return a.status(r, "VmRSS:") * 1024 }

// status returns the number in one line of r's /proc/PID/status.
func (a *lists) status(r *running, line string) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		a.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\n"+line)
	n, err := strconv.ParseFloat(strings.Fields(rest + " ?")[0], 64)
	if err != nil {
		a.Fatal(err)
	}
	return n
}

// firstTry reports whether b.N is the benchmark's own trial run, before the rounds.
func firstTry(b *testing.B) bool {
	return b.N == 1 && flag.Lookup("test.benchtime").Value.String() != "1x"
}

// figures holds the values of each row, one a round.
type figures struct {
	names  []string
	values map[string][]float64
}

func (f *figures) add(name string, v float64) {
	if f.values == nil {
		f.values = map[string][]float64{}
	}
	if _, ok := f.values[name]; !ok {
		f.names = append(f.names, name)
	}
	f.values[name] = append(f.values[name], v)
}

func spread(v []float64, format string) string {
	s := slices.Sorted(slices.Values(v))
	return fmt.Sprintf(format+" ("+format+" .. "+format+")", s[len(s)/2], s[0], s[len(s)-1])
}

// target bounds the ratio of securechat's value to a peer's, or securechat's value itself if there is no peer.
type target struct {
	peer        string
	least, most float64
}

// report prints each row's median and spread, and securechat's ratios.
func (f *figures) report(title, format, ours string, targets ...target) {
	fmt.Printf("\n%s; %d rounds: median (least .. most)\n", title, len(f.values[ours]))
	for _, name := range f.names {
		fmt.Printf("  %-46s %s\n", name, spread(f.values[name], format))
	}
	for _, t := range targets {
		v, what := f.values[ours], ours
		if t.peer != "" {
			theirs := f.values[t.peer]
			if len(theirs) != len(v) {
				continue // The peer is not installed.
			}
			v, what, format = slices.Clone(v), ours+" / "+t.peer, "%.2f"
			for i := range v {
				v[i] /= theirs[i]
			}
		}
		m := slices.Sorted(slices.Values(v))[len(v)/2]
		verdict, bound := "reached", fmt.Sprintf("at least %g", t.least)
		if t.most > 0 {
			bound = fmt.Sprintf("at most %.3g", t.most)
		}
		if m < t.least || t.most > 0 && m > t.most {
			verdict = "SHORT"
		}
		fmt.Printf("  %-58s %s  %s: %s\n", what, spread(v, format), bound, verdict)
	}
}

// pipeRow is a pair of programs that carry a file from stdin to stdout.
type pipeRow struct{ name, server, client string }

// pipes measures rows in MB/s over one GiB, from the client's start until both programs have exited. A first run of
// each row compares the data that arrived.
func (a *lists) pipes(title, ours string, rows []pipeRow, targets ...target) {
	const size = 1 << 30
	in, out := "/dev/shm/securechat-bench-in", "/dev/shm/securechat-bench-out"
	f, err := os.Create(in)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { os.Remove(in); os.Remove(out) })
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		a.Fatal(err)
	}
	f.Close()
	sum := func(path string) (s [sha256.Size]byte) {
		f, err := os.Open(path)
		if err != nil {
			a.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			a.Fatal(err)
		}
		return [sha256.Size]byte(h.Sum(nil))
	}
	want := sum(in)
	var speed figures
	for round := -1; round < a.N; round++ {
		for _, row := range rows {
			to := "/dev/null"
			if round < 0 {
				to = out
			}
			server, port := a.serve(strings.ReplaceAll(row.server, "INTO", to))
			began := time.Now()
			client := a.run(strings.NewReplacer("FROM", in, "INTO", to).Replace(row.client), port)
			late := time.AfterFunc(patience, func() {
				fmt.Printf("  %s: it does not end\n", row.name)
				client.kill()
				server.kill()
			})
			<-client.ended
			if !strings.Contains(row.server, "sshd") {
				<-server.ended
			}
			took := time.Since(began)
			late.Stop()
			server.stop()
			if round < 0 {
				if sum(out) != want {
					fmt.Printf("  %s: what came is not what was sent\n", row.name)
				}
				os.Remove(out)
				continue
			}
			speed.add(row.name, size/1e6/took.Seconds())
		}
	}
	speed.report(title, "%.0f", ours, targets...)
}

// BenchmarkPeersRaw carries a GiB from stdin to stdout.
func BenchmarkPeersRaw(b *testing.B) {
	if firstTry(b) {
		return
	}
	newLists(b).pipes("-raw, MB/s", "securechat -raw", []pipeRow{
		{"securechat -raw", "exec BIN -listen 127.0.0.1:PORT -raw </dev/null >INTO",
			"exec BIN -connect 127.0.0.1:PORT -raw <FROM"},
		{"socat OPENSSL -b65536",
			"exec socat -u -b65536 OPENSSL-LISTEN:PORT,bind=127.0.0.1,reuseaddr,cert=PKI/both.pem,cafile=PKI/ca.pem,verify=1 " +
				"STDOUT >INTO",
			"exec socat -u -b65536 STDIN " +
				"OPENSSL:127.0.0.1:PORT,cert=PKI/both.pem,cafile=PKI/ca.pem,verify=1,commonname=localhost <FROM"},
		{"ncat --ssl",
			"mkfifo open && exec ncat -l --ssl --ssl-cert PKI/cert.pem --ssl-key PKI/key.pem 127.0.0.1 PORT <>open >INTO",
			"exec ncat --ssl --ssl-verify --ssl-trustfile PKI/ca.pem --ssl-servername localhost 127.0.0.1 PORT <FROM"},
		{"plain TCP, Go, 64 KiB", "REF=sink exec SELF >INTO", "REF=source exec SELF <FROM"},
		{"openssh aes256-gcm", "exec /usr/sbin/sshd -D -e -f sshd.conf", "SSH -c aes256-gcm@openssh.com 'cat >INTO' <FROM"},
	}, target{"socat OPENSSL -b65536", 1.3, 0}, target{"ncat --ssl", 1.8, 0}, target{"plain TCP, Go, 64 KiB", 0.65, 0})
}

// BenchmarkPeersChaCha is BenchmarkPeersRaw with ChaCha20-Poly1305 forced.
func BenchmarkPeersChaCha(b *testing.B) {
	if firstTry(b) {
		return
	}
	newLists(b).pipes("-raw with ChaCha20-Poly1305, MB/s", "securechat -raw, ChaCha20", []pipeRow{
		{"securechat -raw, ChaCha20", "GODEBUG=cpu.aes=off exec BIN -listen 127.0.0.1:PORT -raw </dev/null >INTO",
			"GODEBUG=cpu.aes=off exec BIN -connect 127.0.0.1:PORT -raw <FROM"},
		{"openssh chacha20-poly1305", "exec /usr/sbin/sshd -D -e -f sshd.conf",
			"SSH -c chacha20-poly1305@openssh.com 'cat >INTO' <FROM"},
	}, target{"openssh chacha20-poly1305", 2, 0})
}

// BenchmarkPeersLines sends numbers from a pipe. Securechat's are in the log when the client exits, and the broker's
// are sent at QoS 0.
func BenchmarkPeersLines(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	input := filepath.Join(a.dir, "lines")
	var text []byte
	for i := range 1000000 {
		text = append(strconv.AppendInt(text, int64(i+1), 10), '\n')
	}
	if err := os.WriteFile(input, text, 0o600); err != nil {
		b.Fatal(err)
	}
	const theirs = 100000 // The broker is slow: all lines would take long.
	if err := os.WriteFile(input+"-fewer", text[:bytes.Index(text, []byte("\n100001\n"))+1], 0o600); err != nil {
		b.Fatal(err)
	}
	var rate figures
	for range b.N {
		server, port := a.serve("exec BIN -listen 127.0.0.1:PORT </dev/null >/dev/null")
		began := time.Now()
		client := a.run("exec BIN -connect 127.0.0.1:PORT <"+input, port)
		<-client.ended
		took := time.Since(began)
		log, err := os.ReadFile(filepath.Join(server.cmd.Dir, "connection.log"))
		if n := bytes.Count(log, []byte(`"event":"message"`)); err != nil || n != 1000000 ||
			client.cmd.ProcessState.ExitCode() != 0 {
			b.Fatalf("%d lines in the log, %v, exit %d", n, err, client.cmd.ProcessState.ExitCode())
		}
		server.stop()
		os.RemoveAll(server.cmd.Dir)
		rate.add("securechat, each logged and acknowledged", 1e6/took.Seconds())

		// The broker's client exits once all is written. The lines have arrived once they are in the broker's log of its
		// subscriber.
		for _, row := range []struct {
			name, qos string
			sub       bool
		}{{"mosquitto_pub -l, TLS, QoS 0, until a subscriber has it", "0", true},
			{"mosquitto_pub -l, TLS, QoS 1, acknowledged", "1", false}, {"mosquitto_pub -l, TLS, QoS 0, until it ends", "0",
				false}} {
			const topic = " -h localhost -p PORT --cafile PKI/ca.pem --cert PKI/cert.pem --key PKI/key.pem -t bench "
			server, port = a.serve("exec mosquitto -c mosquitto.conf")
			var sub *running
			if row.sub {
				<-a.run("exec mosquitto_pub"+topic+"-r -m ready", port).ended
				sub = a.run(fmt.Sprintf("exec mosquitto_sub"+topic+"-C %d >heard", theirs+1), port)
				for began := time.Now(); ; {
					if info, err := os.Stat(filepath.Join(sub.cmd.Dir, "heard")); err == nil && info.Size() > 0 {
						break
					} else if time.Since(began) > patience {
						b.Fatal("mosquitto_sub hears nothing")
					}
					time.Sleep(time.Millisecond)
				}
			}
			began = time.Now()
			pub := a.run("exec mosquitto_pub"+topic+"-l -q "+row.qos+" <"+input+"-fewer", port)
			<-pub.ended
			if code := pub.cmd.ProcessState.ExitCode(); code != 0 {
				b.Fatalf("mosquitto_pub: exit %d", code)
			}
			if row.sub {
				<-sub.ended
			}
			rate.add(row.name, theirs/time.Since(began).Seconds())
			server.stop()
		}
	}
	rate.report("lines of a pipe, lines/s", "%.0f", "securechat, each logged and acknowledged", target{"", 400000, 0},
		target{"mosquitto_pub -l, TLS, QoS 0, until a subscriber has it", 10, 0},
		target{"mosquitto_pub -l, TLS, QoS 1, acknowledged", 10, 0})
}

// chatRow is the chat room of one program.
type chatRow struct {
	name, server string
	join         func(addr string, listens bool) (*chatter, error)
}

// chatter is one client of a room.
type chatter struct {
	conn net.Conn
	send func(lines [][]byte) error               // Called by one goroutine.
	ping func() error                             // Called in place of send; nil if the server needs no pings.
	hear func(each func(line []byte)) (err error) // Runs until the connection ends.
}

const roomCommand = "exec BIN -listen 127.0.0.1:PORT -max-clients 20000 </dev/null >/dev/null"

// ours returns securechat's identity, and the row of the room that command starts.
func (a *lists) ours(command string) (*party, chatRow) {
	me := partyOf(a, a.keys.signer, a.keys.encryption)
	return me, chatRow{"securechat", command, func(addr string, listens bool) (*chatter, error) {
		return joinRoom(addr, me, listens)
	}}
}

// rooms returns the rows of all rooms: the bare hub, the peers, and securechat last.
func (a *lists) rooms() []chatRow {
	_, ours := a.ours(roomCommand)
	rows := []chatRow{
		{"bare Go TLS hub, no log", "REF=hub exec SELF", func(addr string, _ bool) (*chatter, error) {
			conn, err := tls.Dial("tcp", addr, a.conf)
			if err != nil {
				return nil, err
			}
			r := bufio.NewReaderSize(conn, 4<<10)
			if _, err := r.ReadSlice('\n'); err != nil {
				return nil, err
			}
			return lineChatter(conn, r, ""), nil
		}},
		{"ngircd, TLS", "exec ngircd -n -f $PWD/ngircd.conf", a.joinIRC},
		ours,
	}
	if _, err := exec.LookPath("ngircd"); err != nil {
		rows = slices.Delete(rows, 1, 2)
	}
	return rows
}

func lineChatter(conn net.Conn, r *bufio.Reader, prefix string) *chatter {
	var buf []byte
	return &chatter{conn: conn, send: func(lines [][]byte) error {
		buf = buf[:0]
		for _, line := range lines {
			buf = append(append(append(buf, prefix...), line...), '\n')
		}
		_, err := conn.Write(buf)
		return err
	}, hear: func(each func([]byte)) error {
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return err
			}
			each(line[:len(line)-1])
		}
	}}
}

var nicks atomic.Int64

func (a *lists) joinIRC(addr string, _ bool) (*chatter, error) {
	conf := a.conf.Clone()
	conf.CurvePreferences = nil
	conn, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		return nil, err
	}
	nick := fmt.Sprintf("u%d", nicks.Add(1)%100000)
	fmt.Fprintf(conn, "NICK %s\r\nUSER %s 0 * :%s\r\nJOIN #bench\r\n", nick, nick, nick)
	for r := bufio.NewReaderSize(conn, 4<<10); ; {
		line, err := r.ReadString('\n')
		switch f := strings.Fields(line); {
		case err != nil:
			return nil, err
		case len(f) > 1 && f[0] == "PING":
			fmt.Fprintf(conn, "PONG %s\r\nJOIN #bench\r\n", f[1])
		case len(f) > 1 && f[1] == "366": // The list of names ends.
			c := lineChatter(conn, r, "PRIVMSG #bench :")
			hear := c.hear
			c.hear = func(each func([]byte)) error {
				return hear(func(line []byte) {
					if _, text, ok := bytes.Cut(line, []byte(" PRIVMSG #bench :")); ok {
						each(bytes.TrimSuffix(text, []byte("\r")))
					}
				})
			}
			return c, nil
		}
	}
}

// dialRoom connects a securechat client and joins. Its deadline is patience.
func dialRoom(addr string, me *party, listens bool) (l *session, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	conn.SetDeadline(time.Now().Add(patience))
	secrets, err := clientHandshake(conn, me, trustAll, nil)
	if err != nil {
		return nil, err
	}
	if l, err = newSession(conn, secrets, false, pipeTraffic); err != nil {
		return nil, err
	}
	req := joinRequest{}
	rand.Read(req.stream[:])
	if listens {
		req.flags = joinListens
	}
	err = writeMessage(l, kindJoin, req.encode())
	var kind byte
	if err == nil {
		kind, _, err = l.read()
	}
	if err == nil && kind != kindJoin {
		err = errMalformed
	}
	return l, err
}

// joinRoom returns a securechat client without prompt, pipes and files.
func joinRoom(addr string, me *party, listens bool) (*chatter, error) {
	l, err := dialRoom(addr, me, listens)
	if err != nil {
		return nil, err
	}
	l.conn.SetDeadline(time.Time{})
	var message, buf []byte
	first := uint64(1)
	return &chatter{conn: l.conn, send: func(lines [][]byte) error {
		message = appendLinesHeader(message[:0], first, itemSay, "")
		first += uint64(len(lines))
		for _, line := range lines {
			message = appendLine(message, line)
		}
		if buf, err = l.append(buf[:0], kindText, message); err != nil {
			return err
		}
		return l.write(buf)
	}, ping: func() error { return pingRoom(l) }, hear: func(each func([]byte)) error { return hearRoom(l, each) }}, nil
}

// pingRoom sends a ping for the client of l.
func pingRoom(l *session) error {
	return writeMessage(l, kindPing, nil)
}

// hearRoom calls each for every line until the connection ends.
func hearRoom(l *session, each func(line []byte)) error {
	for {
		kind, payload, err := l.read()
		if err != nil {
			return err
		}
		for kind == kindText && len(payload) > 0 {
			var it item
			if it, payload, err = cutItem(payload); err != nil {
				return err
			}
			if it.what == itemSay {
				each(it.text)
			}
		}
	}
}

// crowd lets n receivers join, eight at a time.
func (a *lists) crowd(row chatRow, addr string, n int) []*chatter {
	all := make([]*chatter, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				var err error
				if all[i], err = row.join(addr, true); err != nil {
					a.Errorf("%s: client %d: %v", row.name, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if a.Failed() {
		a.FailNow()
	}
	a.Cleanup(func() {
		for _, c := range all {
			c.conn.Close()
		}
	})
	return all
}

const (
	windowLines = 256 // The sender is at most this many lines ahead of the average receiver.
	writeLines  = 16  // The number of lines in one write.
	lineBytes   = 100
)

// flood sends count lines to all receivers of a new server as fast as they read them. It returns the deliveries per
// second, the server's processor time for 1000 deliveries, and the server's peak memory.
func (a *lists) flood(row chatRow, receivers, count int) (perSecond float64, cost time.Duration, peak float64) {
	server, port := a.serve(row.server)
	defer server.stop()
	all := a.crowd(row, "127.0.0.1:"+port, receivers)
	var delivered atomic.Int64
	for _, c := range all {
		go c.hear(func(line []byte) {
			if len(line) == lineBytes {
				delivered.Add(1)
			}
		})
	}
	took, used := a.pour(row, server, &delivered, receivers, count)
	total := receivers * count
	return float64(total) / took.Seconds(), used / time.Duration(total/1000), a.status(server, "VmHWM:") * 1024
}

// pour sends count lines, a multiple of writeLines, to receivers that count them. It returns how long that took and the
// server's processor time.
func (a *lists) pour(row chatRow, server *running, delivered *atomic.Int64, receivers, count int) (took,
	used time.Duration) {
	sender, err := row.join(server.addr, false)
	if err != nil {
		a.Fatal(err)
	}
	defer sender.conn.Close()
	go sender.hear(func([]byte) {})
	batch := slices.Repeat([][]byte{bytes.Repeat([]byte("x"), lineBytes)}, writeLines)
	used, began := a.cpu(server), time.Now()
	wait := func(lines int) {
		for total := int64(lines) * int64(receivers); delivered.Load() < total; <-time.After(50 * time.Microsecond) {
			if time.Since(began) > patience {
				a.Fatalf("%s: %d of %d delivered", row.name, delivered.Load(), total)
			}
		}
	}
	for sent := 0; sent < count; sent += writeLines {
		wait(sent - windowLines)
		if err := sender.send(batch); err != nil {
			a.Fatal(err)
		}
	}
	wait(count)
	return time.Since(began), a.cpu(server) - used
}

// BenchmarkPeersFanout has one sender and 10, 100 and 1000 receivers.
func BenchmarkPeersFanout(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	toHub := map[int]float64{10: 0.6, 100: 0.9, 1000: 1.5}
	for _, n := range []int{10, 100, 1000} {
		var rate, cost figures
		for range b.N {
			for _, row := range a.rooms() {
				r, c, _ := a.flood(row, n, 3200000/n/writeLines*writeLines)
				rate.add(row.name, r)
				cost.add(row.name, float64(c)/1e3)
			}
		}
		rate.report(fmt.Sprintf("fan-out to %d, deliveries/s", n), "%.0f", "securechat", target{"ngircd, TLS", 2, 0},
			target{"bare Go TLS hub, no log", toHub[n], 0})
		cost.report("the server's processor time, µs for 1000 deliveries", "%.0f", "securechat")
	}
}

// BenchmarkPeersRouter has 200 receivers and a server with 64 MiB, once as a limit for Go's garbage collector and once
// as a limit of a memory cgroup.
func BenchmarkPeersRouter(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	_, row := a.ours(roomCommand)
	limits := []struct{ name, shell string }{{"securechat", ""}, {"securechat, GOMEMLIMIT=64MiB", "GOMEMLIMIT=64MiB "}}
	if procs, err := a.cgroup(64 << 20); err != nil {
		fmt.Printf("not measured with a limit that the kernel enforces: %v\n", err)
	} else {
		limits = append(limits, struct{ name, shell string }{"securechat, GOMEMLIMIT=64MiB in a cgroup of it",
			"echo $$ >" + procs + " && GOMEMLIMIT=64MiB "})
	}
	ours := limits[len(limits)-1].name
	var rate, peak figures
	for range b.N {
		for _, limit := range limits {
			row.server = limit.shell + roomCommand
			r, _, p := a.flood(row, 200, 16000)
			rate.add(limit.name, r)
			peak.add(limit.name, p/(1<<20))
		}
	}
	rate.report("fan-out to 200, deliveries/s", "%.0f", ours, target{"securechat", 0.5, 0})
	peak.report("the most memory of it, MiB", "%.1f", ours, target{"", 0, 64})
}

// cgroup makes a memory cgroup with the limit, of either version, and returns the file to write process ids to. It
// needs root.
func (a *lists) cgroup(limit int) (procs string, err error) {
	parent, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(parent); err != nil {
		parent, file = "/sys/fs/cgroup", "memory.max"
	}
	dir, err := os.MkdirTemp(parent, "securechat-bench")
	if err != nil {
		return "", err
	}
	a.Cleanup(func() {
		if err := os.Remove(dir); err != nil { // The processes in it have exited.
			a.Error(err)
		}
	})
	return filepath.Join(dir, "cgroup.procs"), os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(limit)), 0)
}

// BenchmarkPeersLatency sends 100 lines a second to 100 receivers and reports the 99th percentile of the delivery time.
func BenchmarkPeersLatency(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	const receivers, rate, count = 100, 100, 500
	var late figures
	for range b.N {
		for _, row := range a.rooms() {
			server, port := a.serve(row.server)
			all := a.crowd(row, "127.0.0.1:"+port, receivers)
			sender, err := row.join("127.0.0.1:"+port, false)
			if err != nil {
				b.Fatal(err)
			}
			go sender.hear(func([]byte) {})
			var mu sync.Mutex
			var took []float64
			done := make(chan struct{})
			for _, c := range all {
				go c.hear(func(line []byte) {
					if len(line) != lineBytes {
						return
					}
					sent, _ := strconv.ParseInt(string(bytes.TrimLeft(line, "x")), 10, 64)
					mu.Lock()
					defer mu.Unlock()
					if took = append(took, float64(time.Now().UnixNano()-sent)/1e6); len(took) == receivers*count {
						close(done)
					}
				})
			}
			tick := time.NewTicker(time.Second / rate)
			for range count {
				<-tick.C
				if err := sender.send([][]byte{fmt.Appendf(nil, "%s%020d", bytes.Repeat([]byte("x"), lineBytes-20),
					time.Now().UnixNano())}); err != nil {
					b.Fatal(err)
				}
			}
			tick.Stop()
			select {
			case <-done:
			case <-time.After(patience):
				b.Fatalf("%s: not all has arrived", row.name)
			}
			slices.Sort(took)
			late.add(row.name, took[len(took)*99/100])
			server.stop()
		}
	}
	late.report("99th percentile of delivery at 100 lines/s to 100 receivers, ms", "%.2f", "securechat",
		target{"bare Go TLS hub, no log", 0, 1.25})
}

// BenchmarkPeersHandshake makes new, mutually authenticated connections and reports the server's processor time for
// each.
func BenchmarkPeersHandshake(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	key, err := os.ReadFile(filepath.Join(a.pki, "rsa"))
	if err != nil {
		b.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	rows := append(a.rooms(), chatRow{"openssh sshd, RSA-2048", "exec /usr/sbin/sshd -D -e -f sshd.conf",
		func(addr string, _ bool) (*chatter, error) {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return nil, err
			}
			c, _, _, err := ssh.NewClientConn(conn, addr,
				&ssh.ClientConfig{User: a.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
					HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
			if err == nil {
				err = c.Close()
			}
			return &chatter{conn: conn}, err
		}})
	rows = slices.DeleteFunc(rows, func(r chatRow) bool { return strings.HasPrefix(r.name, "ngircd") })
	rows[0].name = "Go crypto/tls, RSA-2048, X25519MLKEM768"
	var cost, one, eight, scale figures
	for range b.N {
		for _, row := range rows {
			n := 2400
			if strings.Contains(row.name, "sshd") {
				n = 80
			}
			server, port := a.serve(row.server)
			var rates []float64
			used := a.cpu(server)
			for _, workers := range []int{1, 8} {
				var next atomic.Int64
				var wg sync.WaitGroup
				began := time.Now()
				for range workers {
					wg.Go(func() {
						for int(next.Add(1)) <= n/2 {
							c, err := row.join("127.0.0.1:"+port, false)
							if err != nil {
								a.Errorf("%s: %v", row.name, err)
								return
							}
							c.conn.Close()
						}
					})
				}
				wg.Wait()
				rates = append(rates, float64(n/2)/time.Since(began).Seconds())
			}
			<-time.After(300 * time.Millisecond) // The last child processes exit meanwhile.
			cost.add(row.name, float64(a.cpu(server)-used)/1e6/float64(n))
			one.add(row.name, rates[0])
			eight.add(row.name, rates[1])
			scale.add(row.name, rates[1]/rates[0])
			server.stop()
		}
	}
	cost.report("handshakes, ms of the server's processor time for each", "%.2f", "securechat",
		target{"openssh sshd, RSA-2048", 0, 1.0 / 4})
	one.report("handshakes/s, one at a time", "%.0f", "securechat")
	eight.report("handshakes/s, eight at a time", "%.0f", "securechat")
	scale.report("eight at a time / one at a time", "%.2f", "securechat", target{"", 1.8, 0})
}

// BenchmarkPeersMemory reports the server's memory for each idle, authenticated client. All clients are sent the joins
// of the others, and ping as securechat's client does.
func BenchmarkPeersMemory(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	for _, n := range []int{1000, 10000} {
		if uint64(n)+100 > limit.Cur {
			fmt.Printf("%d clients need a higher limit of open files than %d\n", n, limit.Cur)
			continue
		}
		var idle, each figures
		for range b.N {
			for _, row := range a.rooms() {
				if n > 1000 && row.name != "securechat" {
					continue
				}
				server, port := a.serve(row.server)
				c, err := row.join("127.0.0.1:"+port, true) // The first client's costs are not counted.
				if err != nil {
					b.Fatal(err)
				}
				before := a.resident(server)
				done := make(chan struct{})
				var wg sync.WaitGroup
				attends := row
				attends.join = func(addr string, listens bool) (*chatter, error) {
					c, err := row.join(addr, listens)
					if err != nil {
						return nil, err
					}
					wg.Go(func() {
						err := c.hear(func([]byte) {})
						select {
						case <-done:
						default:
							b.Errorf("%s: a client was lost: %v", row.name, err)
						}
					})
					wg.Go(func() {
						for c.ping != nil && c.ping() == nil {
							select {
							case <-done:
								return
							case <-time.After(pingInterval):
							}
						}
					})
					return c, nil
				}
				all := a.crowd(attends, "127.0.0.1:"+port, n)
				<-time.After(6 * time.Second)
				idle.add(row.name, before/1e6)
				each.add(row.name, (a.resident(server)-before)/float64(n)/1024)
				close(done)
				c.conn.Close()
				for _, c := range all {
					c.conn.Close()
				}
				wg.Wait()
				server.stop()
			}
		}
		idle.report("memory of a server with one client, MB", "%.1f", "securechat", target{"", 0, 9})
		each.report(fmt.Sprintf("memory for each of %d idle clients, KiB", n), "%.1f", "securechat", target{"", 0, 14})
	}
}

// BenchmarkPeersStartup reports the time from the start, with existing keys, until the server listens, and the sizes of
// the programs.
func BenchmarkPeersStartup(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	var after figures
	for range b.N {
		for _, row := range append(a.rooms(),
			chatRow{name: "openssh sshd", server: "exec /usr/sbin/sshd -D -e -f sshd.conf"}) {
			port := portOf(freeAddr(a))
			began := time.Now()
			server := a.run(row.server, port)
			for {
				if conn, err := net.Dial("tcp", server.addr); err == nil {
					after.add(row.name, float64(time.Since(began).Microseconds())/1000)
					conn.Close()
					break
				} else if time.Since(began) > patience {
					b.Fatalf("%s does not listen: %v", row.name, err)
				}
				<-time.After(100 * time.Microsecond)
			}
			server.stop()
		}
	}
	after.report("start to listening, ms", "%.1f", "securechat", target{"", 0, 20})
	out := filepath.Join(a.dir, "dist")
	if msg, err := exec.CommandContext(context.Background(), "contrib/release.sh", out, "linux/amd64", "linux/arm/6",
		"linux/arm64", "linux/mips/softfloat", "linux/mipsle/softfloat", "linux/riscv64").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, msg)
	}
	sizes, err := filepath.Glob(out + "/securechat-*")
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range sizes {
		info, err := os.Stat(name)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Printf("  %-28s %d bytes\n", filepath.Base(name), info.Size())
	}
}

// leaveRoom sends a close and waits for the answer.
func leaveRoom(l *session) error {
	err := writeMessage(l, kindClose, []byte(closeText))
	for kind := byte(0); err == nil && kind != kindClose; {
		kind, _, err = l.read()
	}
	return err
}

// visit joins, sends count lines, waits for their acknowledgement, and leaves, with or without a close.
func peerVisit(addr string, me *party, count int, politely bool) error {
	l, err := dialRoom(addr, me, true)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	message := appendLinesHeader(nil, 1, itemSay, "")
	for range count {
		message = appendLine(message, bytes.Repeat([]byte("x"), lineBytes))
	}
	err = writeMessage(l, kindText, message)
	for acked := uint64(0); err == nil && acked < uint64(count); {
		var kind byte
		var payload []byte
		if kind, payload, err = l.read(); err == nil && kind == kindAck {
			acked = binary.BigEndian.Uint64(payload)
		}
	}
	if err == nil && politely {
		err = leaveRoom(l)
	}
	return err
}

// open returns the number of r's open files.
func (a *lists) open(r *running) int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid))
	if err != nil {
		a.Fatalf("%v: the server hides itself from its own user; measure as root", err)
	}
	return len(files)
}

// goroutines ends r with a dump of its goroutines, and returns their number.
func (a *lists) goroutines(r *running) int {
	r.cmd.Process.Signal(syscall.SIGQUIT)
	<-r.ended
	dump, err := os.ReadFile(filepath.Join(r.cmd.Dir, "errors"))
	if err != nil {
		a.Fatal(err)
	}
	return strings.Count(string(dump), "\ngoroutine ") - strings.Count(string(dump), "\ngoroutine 0 ")
}

// BenchmarkPeersSoak runs a server for b.N minutes while clients join, send, leave, break off and are refused, and ten
// programs that reconnect write what they receive to files. The log is rotated every minute, and the server is
// restarted every five, by SIGTERM and SIGKILL in turn. soakPause is between two visits of each of four visitors.
func BenchmarkPeersSoak(b *testing.B) {
	if firstTry(b) {
		return
	}
	const (
		stayers   = 10
		workers   = 4
		saying    = 5 // lines in a visit
		soakPause = 50 * time.Millisecond
		command   = "exec BIN -listen 127.0.0.1:PORT </dev/null >/dev/null 2>errors"
		stays     = "mkfifo open && exec BIN -connect 127.0.0.1:PORT -reconnect <>open >out 2>errors"
	)
	a := newLists(b)
	me := partyOf(a, a.keys.signer, a.keys.encryption)
	settle := func() { <-time.After(6 * time.Second) }
	s := &soak{lists: a}
	s.server, s.port = a.serve(command)
	fresh := strings.Replace(command, "exec", "cd "+s.server.cmd.Dir+" && exec", 1)
	for range stayers {
		s.stayers = append(s.stayers, a.run(stays, s.port))
	}
	settle()
	fmt.Printf("\n| minute | visits | lines sent | cut off | no handshake | failed | RSS, KiB | peak RSS | threads | " +
		"open files | a receiver's RSS |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	_, openBefore := s.sample("before")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(soakPause):
				}
				s.visit(me, n, saying)
			}
		})
	}
	log := filepath.Join(s.server.cmd.Dir, "connection.log")
	minutes := time.NewTicker(time.Minute)
	for n := range b.N {
		<-minutes.C
		s.sample(fmt.Sprint(n + 1))
		err1 := os.Rename(log, log+".1")
		err2 := s.server.cmd.Process.Signal(syscall.SIGHUP)
		if err := errors.Join(err1, err2); err != nil {
			b.Error(err)
			break
		}
		if n%5 == 4 {
			s.restart(fresh, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[n/5%2])
		}
	}
	minutes.Stop()
	close(stop)
	wg.Wait()
	settle()
	resident, open := s.sample("after")
	if open != openBefore {
		b.Errorf("%d files are open, not %d", open, openBefore)
	}
	if most := 48 << 10; resident > float64(most) {
		b.Errorf("%.0f KiB resident, more than %d", resident, most)
	}
	least, most := int(s.said.Load()), int(s.said.Load()+s.failed.Load()*saying) // a visit that failed may be in the log
	for i, r := range s.stayers {
		out, err := os.ReadFile(filepath.Join(r.cmd.Dir, "out"))
		if err != nil {
			b.Fatal(err)
		}
		if n := bytes.Count(out, []byte(strings.Repeat("x", lineBytes)+"\n")); n < least || n > most {
			b.Errorf("receiver %d has %d lines, not %d", i, n, least)
		}
	}
	if out, err := exec.Command(a.binary, "-verify-log", log+".1", log).CombinedOutput(); err != nil {
		b.Errorf("the log: %v: %s", err, out)
	}
	fmt.Printf("\n%d lines acknowledged, %d restarts; goroutines with %d members at the end: %d\n", least, s.restarts,
		stayers, a.goroutines(s.server))
}

// soak is a room that is used, and what its users have done.
type soak struct {
	*lists
	stayers  []*running
	restarts int
	port     string

	up     sync.RWMutex // held by visits, and by a restart alone
	server *running

	visits, said, cut, strangers, failed atomic.Int64
}

// sample prints a row of the table.
func (s *soak) sample(when string) (resident float64, open int) {
	receiver := 0.0
	for _, r := range s.stayers {
		receiver = max(receiver, s.status(r, "VmRSS:"))
	}
	resident, open = s.status(s.server, "VmRSS:"), s.open(s.server)
	fmt.Printf("| %s | %d | %d | %d | %d | %d | %.0f | %.0f | %.0f | %d | %.0f |\n", when, s.visits.Load(), s.said.Load(),
		s.cut.Load(), s.strangers.Load(), s.failed.Load(), resident, s.status(s.server, "VmHWM:"),
		s.status(s.server, "Threads:"), open, receiver)
	return resident, open
}

// visit joins as the n-th visitor of a worker. One in sixteen speaks another protocol, one in eight breaks off.
func (s *soak) visit(me *party, n, saying int) {
	s.up.RLock()
	defer s.up.RUnlock()
	if n%16 == 15 {
		conn, err := net.Dial("tcp", s.server.addr)
		if err == nil {
			_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			conn.Close()
		}
		if err != nil {
			s.Error(err)
		}
		s.strangers.Add(1)
		return
	}
	politely := n%8 != 3
	if err := peerVisit(s.server.addr, me, saying, politely); err != nil {
		s.Errorf("a visit: %v", err)
		s.failed.Add(1)
		return
	}
	s.visits.Add(1)
	s.said.Add(int64(saying))
	if !politely {
		s.cut.Add(1)
	}
}

// restart ends the server by a signal and starts it again, in its folder and at its port.
func (s *soak) restart(command string, by syscall.Signal) {
	s.up.Lock()
	defer s.up.Unlock()
	s.server.cmd.Process.Signal(by)
	<-s.server.ended
	addr, dir := s.server.addr, s.server.cmd.Dir
	s.server = s.run(command, s.port)
	s.server.cmd.Dir = dir
	for range 1000 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			s.restarts++
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	s.Fatalf("it does not listen: %s", command)
}

// keepAlive sends pings for clients until it is stopped.
type keepAlive struct {
	mu    sync.Mutex
	links []*session
}

func (k *keepAlive) add(l *session) {
	k.mu.Lock()
	k.links = append(k.links, l)
	k.mu.Unlock()
}

func (k *keepAlive) run(done chan struct{}) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		k.mu.Lock()
		links := k.links // The list only grows.
		k.mu.Unlock()
		for _, l := range links {
			_ = pingRoom(l) // A client that is gone is noticed by the counts.
		}
	}
}

// populate lets n receivers of one identity join, eight at a time. They count lines from the first one on and keep
// sending pings.
func (a *lists) populate(server *running, me *party, n int, delivered *atomic.Int64) (leave func()) {
	var alive keepAlive
	done := make(chan struct{})
	var all, joining sync.WaitGroup
	all.Go(func() { alive.run(done) })
	var next atomic.Int64
	for range 8 {
		joining.Go(func() {
			for {
				i := next.Add(1)
				if int(i) > n || a.Failed() {
					return
				}
				l, err := dialRoom(server.addr, me, true)
				if err != nil {
					a.Errorf("client %d: %v", i, err)
					return
				}
				l.conn.SetDeadline(time.Time{})
				alive.add(l)
				all.Go(func() {
					hearRoom(l, func(line []byte) {
						if len(line) == lineBytes {
							delivered.Add(1)
						}
					})
				})
			}
		})
	}
	joining.Wait()
	leave = func() {
		close(done)
		for _, l := range alive.links {
			l.conn.Close()
		}
		all.Wait()
	}
	if a.Failed() {
		leave()
		a.FailNow()
	}
	return leave
}

// each returns the server's processor time in µs for each of n calls of act, after the server has become nearly idle.
func (a *lists) each(server *running, n int, act func() error) float64 {
	used := a.cpu(server)
	for range n {
		if err := act(); err != nil {
			a.Fatal(err)
		}
	}
	for last := used; a.cpu(server)-last > 10*time.Millisecond; <-time.After(300 * time.Millisecond) {
		last = a.cpu(server)
	}
	return float64((a.cpu(server) - used).Microseconds()) / float64(n)
}

// BenchmarkPeersScaling reports the costs of a connection and of a delivery for a server that has N members. It prints
// a table and draws docs/scaling.svg.
func BenchmarkPeersScaling(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	me, row := a.ours(roomCommand)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	shake := func(addr string) func() error {
		return func() error { // The room receives no other event.
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			_, err = clientHandshake(conn, me, trustAll, nil)
			return err
		}
	}
	come := func(addr string) func() error {
		return func() error {
			l, err := dialRoom(addr, me, false)
			if err != nil {
				return err
			}
			defer l.conn.Close()
			return leaveRoom(l)
		}
	}
	series := []*curve{
		{name: "resident memory for a member, KiB", colour: "#1f6fb2", format: "%.1f"},
		{name: "CPU of a handshake, ms", colour: "#b2401f", format: "%.2f"},
		{name: "CPU of telling a member that somebody came or left, µs", colour: "#7a3fa0", format: "%.2f"},
		{name: "CPU of delivering a line of 100 bytes, µs", colour: "#2c8a3d", format: "%.3f"},
		{name: "CPU of a handshake with so many keys in authorized_keys, ms", format: "%.2f"},
	}
	var members []int
	for _, n := range []int{10, 30, 100, 300, 1000, 3000, 10000} {
		if uint64(n)+100 > limit.Cur {
			fmt.Printf("%d members need a limit of open files of %d at least (ulimit -n), here and for the server; it is %d\n",
				n, n+100, limit.Cur)
			continue
		}
		var got [5]figures
		for range b.N {
			began := time.Now()
			server, _ := a.serve(roomCommand)
			a.each(server, 20, come(server.addr)) // The costs of the first ones are not counted.
			alone := a.each(server, 100, come(server.addr))
			<-time.After(3 * freePause)
			before := a.resident(server)
			var delivered atomic.Int64
			leave := a.populate(server, me, n, &delivered)
			<-time.After(3 * freePause)
			memory := (a.resident(server) - before) / float64(n) / 1024
			handshake := a.each(server, 100, shake(server.addr))
			visits := max(10, min(100, 30000/n))
			told := (a.each(server, visits, come(server.addr)) - alone) / 2 / float64(n)
			if n < 100 { // The cost of so few is lost in the server's other work.
				memory = math.NaN()
			}
			if n < 300 { // The cost of their notices is lost in the variation of handshakes.
				told = math.NaN()
			}
			count := max(batchLines, 2000000/n/batchLines*batchLines)
			_, used := a.pour(row, server, &delivered, n, count)
			listed := filepath.Join(a.state, "authorized_keys")
			if err := os.WriteFile(listed, manyKeys(b, n), 0o600); err != nil {
				b.Fatal(err)
			}
			among := a.each(server, 30, shake(server.addr))
			if err := os.Remove(listed); err != nil {
				b.Fatal(err)
			}
			leave()
			server.stop()
			for i, v := range []float64{memory, handshake / 1000, told, float64(used.Nanoseconds()) / 1000 / float64(n*count),
				among / 1000} {
				got[i].add("", v)
			}
			fmt.Fprintf(os.Stderr, "%d members: %.0f s\n", n, time.Since(began).Seconds())
		}
		members = append(members, n)
		for i := range got {
			v := slices.Sorted(slices.Values(got[i].values[""]))
			series[i].values = append(series[i].values, v[len(v)/2])
		}
	}
	fmt.Print("\n| members |")
	for _, c := range series {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n|", strings.Repeat("---|", 1+len(series)), "\n")
	for i, n := range members {
		fmt.Printf("| %d |", n)
		for _, c := range series {
			fmt.Printf(" %s |", strings.ReplaceAll(fmt.Sprintf(c.format, c.values[i]), "NaN", "–"))
		}
		fmt.Println()
	}
	const title = "What a member costs the server, by the number of members"
	if err := os.WriteFile("docs/scaling.svg", plot(title, "members", members, series[:4]), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, c := range series[:4] { // The time to parse a file grows with the file.
		from := slices.IndexFunc(c.values, func(v float64) bool { return v > 0 })
		for i, v := range c.values {
			if from < 0 || v > 3*c.values[from] {
				b.Errorf("%s: %.2f with %d members, more than thrice what it was with the fewest", c.name, v, members[i])
			}
		}
	}
}

// BenchmarkPeersLog measures the time from the start of a server until its room is open, by the size of its log: one of
// messages, and one of clients that come and go. It prints tables of the time and of the peak memory, and draws
// docs/start.svg.
func BenchmarkPeersLog(b *testing.B) {
	if firstTry(b) {
		return
	}
	a := newLists(b)
	sizes := []int{1, 4, 16, 64, 256, 1024} // MiB
	curves := []*curve{
		{name: "messages, -history 1000, ms", colour: "#1f6fb2", format: "%.0f"},
		{name: "messages, -history 1000000, ms", colour: "#7a3fa0", format: "%.0f"},
		{name: "joins and leaves, -history 1000, ms", colour: "#b2401f", format: "%.0f"},
		{name: "joins and leaves, -history 1000000, ms", colour: "#2c8a3d", format: "%.0f"},
	}
	fmt.Print("\n| log, MiB | of |  time, ms | peak memory, MiB |\n|---|---|---|---|\n")
	for _, size := range sizes {
		for i, fill := range []func(r *room){fillWithMessages, fillWithVisits} {
			path := filepath.Join(a.dir, fmt.Sprint("log", i))
			if err := growLog(path, int64(size)<<20, fill); err != nil {
				b.Fatal(err)
			}
			for j, history := range []string{"1000", "1000000"} {
				var times, peaks []float64
				for range b.N {
					took, peak := a.startWith("-log", path, "-history", history)
					times, peaks = append(times, float64(took.Microseconds())/1000), append(peaks, peak)
				}
				c := curves[2*i+j]
				c.values = append(c.values, slices.Sorted(slices.Values(times))[len(times)/2])
				fmt.Printf("| %d | %s | %s | %.0f |\n", size, c.name, spread(times, c.format), slices.Max(peaks))
				if slices.Max(peaks) > 48 || slices.Min(times) > 300 {
					b.Errorf("%d MiB of %s take more than 300 ms or 48 MiB of memory", size, c.name)
				}
			}
		}
	}
	const title = "The time until a room is open, by the size of its log"
	if err := os.WriteFile("docs/start.svg", plot(title, "MiB of log", sizes, curves), 0o644); err != nil {
		b.Fatal(err)
	}
}

// growLog makes the log at path as long as size, as a running server does.
func growLog(path string, size int64, fill func(r *room)) error {
	l, err := openLog(logOptions{path: path})
	if err != nil {
		return err
	}
	r, err := newRoom(l, 1000, false)
	if err != nil {
		return err
	}
	if err := r.recordStart(recordOf(time.Now(), eventStart, r.began(), "log", l.began)); err != nil {
		return err
	}
	for l.end.size < size {
		fill(r)
	}
	return l.close()
}

// fillWithMessages makes a member come, say much, and leave.
func fillWithMessages(r *room) {
	m := stubMember("bob", fmt.Sprintf("SHA256:%043d", 1), 1)
	rand.Read(m.peer.stream[:])
	if _, err := r.join(m, joinRequest{}, false); err != nil {
		panic(err)
	}
	text := []byte("a line of the length that people type")
	for n := range uint64(4) {
		if err := r.say(m, lines{first: 1 + 256*n, what: itemSay, texts: slices.Repeat([][]byte{text}, 256)}); err != nil {
			panic(err)
		}
	}
	r.leave(m, errLeft.Error())
}

// fillWithVisits makes members of several keys come and leave.
func fillWithVisits(r *room) {
	for n := range 500 {
		m := stubMember("bob", fmt.Sprintf("SHA256:%043d", n), 1)
		rand.Read(m.peer.stream[:])
		if _, err := r.join(m, joinRequest{}, true); err != nil {
			panic(err)
		}
		r.leave(m, errLeft.Error())
	}
}

// startWith returns how long a server takes until its room is open, and its peak memory in MiB.
func (a *lists) startWith(args ...string) (took time.Duration, peak float64) {
	began := time.Now()
	cmd := exec.Command(a.binary, append([]string{"-dir", a.state, "-listen", "127.0.0.1:0"}, args...)...)
	out, err := cmd.StderrPipe()
	if err != nil {
		a.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		a.Fatal(err)
	}
	for in := bufio.NewScanner(out); in.Scan() && !strings.Contains(in.Text(), "room open"); {
	}
	took = time.Since(began)
	peak = a.status(&running{cmd: cmd}, "VmHWM:") / 1024
	cmd.Process.Kill()
	cmd.Wait()
	return took, peak
}

// curve is one line of a plot.
type curve struct {
	name, colour, format string
	values               []float64
}

// plot draws curves over numbers of some unit as an SVG with two logarithmic axes.
func plot(title, unit string, numbers []int, curves []*curve) []byte {
	const width, height, left, top, right, bottom = 760, 440, 60, 20, 20, 120
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, c := range curves {
		for _, v := range c.values {
			if v > 0 {
				lowest, highest = min(lowest, v), max(highest, v)
			}
		}
	}
	low, high := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	first, last := math.Log10(float64(numbers[0])), math.Log10(float64(numbers[len(numbers)-1]))
	x := func(n float64) float64 { return left + (math.Log10(n)-first)/(last-first)*(width-left-right) }
	y := func(v float64) float64 { return top + (high-math.Log10(v))/(high-low)*(height-top-bottom) }
	var b bytes.Buffer
	fmt.Fprintf(&b,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\" "+
			"fill=\"#222\">\n", width, height)
	fmt.Fprintf(&b,
		"<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", title, width, height)
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, "<path d=\"M%d %.1fH%d\" stroke=\"#ccc\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
			left, y(v), width-right, left-8, y(v)+4, v)
	}
	for _, n := range numbers {
		fmt.Fprintf(&b,
			"<path d=\"M%.1f %dV%d\" stroke=\"#eee\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n",
			x(float64(n)), top, height-bottom, x(float64(n)), height-bottom+18, n)
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (left+width-right)/2,
		height-bottom+36, unit)
	for i, c := range curves {
		var points []string
		for j, v := range c.values {
			if v > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(numbers[j])), y(v)))
			}
		}
		fmt.Fprintf(&b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
			strings.Join(points, " "), c.colour)
		for _, p := range points {
			at, on, _ := strings.Cut(p, ",")
			fmt.Fprintf(&b, "<circle cx=\"%s\" cy=\"%s\" r=\"3\" fill=\"%s\"/>\n", at, on, c.colour)
		}
		at := height - bottom + 56 + 17*i
		fmt.Fprintf(&b, "<path d=\"M%d %dh24\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">%s</text>\n", left,
			at-4, c.colour, left+32, at, c.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
