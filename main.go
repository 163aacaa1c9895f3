// Securechat gives people with small machines a room to talk in and a pipe to send lines through, where both ends prove who
// they are with keys.
//
//	securechat -listen :9000                     open a room
//	securechat -connect host:9000                join it
//	some-job | securechat -connect host:9000     report to it
//
// It implements a paper, "A Client-Server Secure Communication Approach" (2016): RSA with cipher block chaining, a
// four-stage challenge-response handshake, an AES session and connection.log, hardened for today. docs/PROTOCOL.md tells
// what goes over the wire, README.md how to use it.
package main

// Flags, usage, the choice of what to do, and exit codes. Nothing else ends the process.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Exit codes (DESIGN section 7).
const (
	exitDone      = 0
	exitTrouble   = 1 // network or file trouble
	exitUsage     = 2
	exitUntrusted = 3 // either side refused the other, or somebody may be in the middle
	exitLost      = 4 // connection lost with lines unacknowledged
	exitTimeout   = 5 // -timeout ran out
)

// commands is what there is to do: where -help and -help-all begin.
const commands = `usage:
  securechat -listen :9000                   open a room on port 9000
  securechat -connect host:9000              join it: type lines, an empty line leaves
  some-job | securechat -connect host:9000   send lines, and end when all are in the server's log
  securechat -invite anna                    make a one-time code that lets anna in (also beside -listen)
  securechat -connect host:9000 -join        use such a code: it is asked for, or taken from $SECURECHAT_INVITE
  securechat -allow FILE                     let the owner of a public key in; - reads it from a pipe
  securechat -keygen                         make the keys, and show the public one and its fingerprint
  securechat -fingerprint                    show our fingerprint
  securechat -verify-log FILE                was a log changed? Files it was rotated to go first: docs/LOG.md
`

// shortUsage is -help.
const shortUsage = commands + `
often with them:
  -dir FOLDER            keys and trust (default: $SECURECHAT_DIR, else securechat in your configuration folder)
  -log FILE              the server's log (default connection.log)
  -to NAME               everything is for NAME alone
  -stay                  go on receiving after the end of the input
  -reconnect             connect again after trouble, and send what was not acknowledged (default at a terminal)
  -json                  an object a line, in and out
  -quiet                 nothing on stderr but errors

-help-all tells the rest, securechat(1) everything.
`

// usage is -help-all.
const usage = commands + `
keys and trust:
  -dir FOLDER            keys and trust (default: $SECURECHAT_DIR, else securechat in your configuration folder)
  -identity FILE         prove who we are with this SSH key; a .pub file means its key in ssh-agent
  -passphrase-file FILE  the identity's passphrase (else it is asked for, or $CREDENTIALS_DIRECTORY/passphrase)
  -type TYPE             of an identity to be made: ed25519 (default), rsa or ecdsa
  -bits N                of RSA keys to be made (default 2048; 3072 for an identity)
  -comment NAME          of an identity to be made: the name its owner goes by (default user-host)
  -accept-new            trust a server never met without asking; a changed key is refused all the same

the client:
  -to NAME               everything is for NAME alone
  -stay                  go on receiving after the end of the input
  -count N               end after N messages were received (implies -stay)
  -timeout D             end after D, such as 10s, with exit status 5 (implies -stay)
  -reconnect             connect again after trouble, and send what was not acknowledged (default at a terminal)

the server:
  -listen systemd        take the sockets of a systemd .socket unit
  -log FILE              its log (default connection.log); off keeps none; SIGHUP reopens it
  -log-text=false        it keeps the SHA-256 of what was said in place of the text
  -sync                  acknowledge a line when it is on disk, not when it is written
  -max-clients N         in the room at once (default 1024)
  -norelay               take lines in and pass none on, as the paper's server does
  -history N             keep the last N things said for people who were away (default 1000; 0 keeps none)
  -delay D               wait before each answer of a handshake, such as 1s (default 0s; 1s with -paper, both sides)

the paper's own protocol, for its programs:
  -paper                 speak it, with -identity FILE, an RSA-2048 key of its own, and -peer
  -peer FILE             the other side's public key; a server takes several

both:
  -json                  an object a line, in and out: see docs/JSON.md
  -raw                   bytes, both ways between one client and the server: either side's stdin is the other's stdout
  -quiet                 nothing on stderr but errors
  -nobell                no bell on a message to you alone
  -trace                 show the stages of each handshake as they happen
  -version               print the version
  -completion SHELL      print what completes these flags: SHELL is bash, zsh or fish
  -help, -help-all       print the first part of this, or all

exit status: 0 all delivered, 1 network or file trouble, 2 wrong usage, 3 not trusted,
             4 connection lost and lines perhaps with it, 5 -timeout ran out
`

type options struct {
	listen, connect, allow, invite string
	keygen, fingerprint, version   bool
	helpAll                        bool
	completion                     string

	dir, identity, passphraseFile string
	typ, comment                  string
	bits                          int
	join, acceptNew               bool

	to                  string
	stay, reconnect     bool
	reconnectSet        bool
	json, quiet, nobell bool
	raw                 bool
	count               int
	timeout             time.Duration

	log            string
	history        int
	logText, sync  bool
	verifyLog      string
	verifyMore     []string
	maxClients     int
	norelay, trace bool
	paper          bool
	peers          []string
	delay          time.Duration
}

// errUsage is a wrong command line.
type errUsage struct{ error }

func main() {
	signal.Ignore(syscall.SIGPIPE) // a reader that went away is an error of a write, and told from loss
	noDumps()
	err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	code := make(chan int, 1)
	go func() { code <- exitCode(os.Stderr, err) }()
	select {
	case c := <-code:
		os.Exit(c)
	case <-time.After(time.Second): // standard error is stuck
		os.Exit(exitCode(io.Discard, err))
	}
}

// exitCode says on stderr what went wrong, in one sentence and a hint, and returns the process's exit code.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	fmt.Fprintf(stderr, "securechat: %s%s\n", safe(err.Error()), hintOf(err))
	var (
		wrong   errUsage
		unknown *untrusted
		lost    *errLost
		cut     *errCut
	)
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &unknown), errors.Is(err, errUnverified), errors.Is(err, errBadPacket):
		return exitUntrusted
	case errors.As(err, &lost), errors.As(err, &cut):
		return exitLost
	case errors.Is(err, errTimeout):
		return exitTimeout
	}
	return exitTrouble
}

// hintOf returns what the reader can do about err, on a line of its own, or nothing.
func hintOf(err error) string {
	var u *untrusted
	switch {
	case errors.As(err, &u) && u.hint != "":
		return "\nsecurechat: hint: " + strings.ReplaceAll(u.hint, "\n", "\nsecurechat: hint: ")
	case errors.Is(err, errUnverified):
		return "\nsecurechat: hint: the connection was dropped; try from another network, and compare fingerprints with the operator"
	}
	return ""
}

// run does what the arguments ask for and returns when that is done.
func run(args []string, stdin, stdout, stderr *os.File) error {
	o, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	if o.version {
		_, err := fmt.Fprintln(stdout, "securechat", version())
		return err
	}
	if o.completion != "" {
		return printCompletion(o.completion, stdout)
	}
	if o.verifyLog != "" {
		return verifyLogs(append([]string{o.verifyLog}, o.verifyMore...), stdout)
	}
	longest := maxLine // of the input
	if o.json {
		longest = maxObject
	}
	c, err := openConsole(stdin, stdout, stderr, o.json || o.raw, longest)
	if err != nil {
		return fmt.Errorf("setting up the terminal: %w", err)
	}
	defer c.close()
	c.json, c.quiet, c.nobell = o.json, o.quiet, o.nobell

	dir, err := stateFolder(o.dir)
	if err != nil {
		return err
	}
	// The first signal ends things in good order; stop lets a second one end them at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	if o.paper {
		p, err := loadPaper(o.identity, o.peers, &trust{dir: dir, warn: c.note})
		if err != nil {
			return err
		}
		c.note("%s", paperWarning)
		p.c, p.delay, p.trace = c, o.delay, o.trace
		if o.connect != "" {
			return connect(ctx, o, &client{console: c, greet: p.dial, plainText: true})
		}
		name := keyName("", p.id)
		return listen(ctx, o, &server{id: p.id, name: name, console: c, greet: p.accept})
	}

	made := false
	k, err := loadKeys(keyOptions{
		dir: dir, typ: o.typ, bits: o.bits, comment: o.comment, identity: o.identity, passphraseFile: o.passphraseFile,
		notify: func(format string, a ...any) { made = true; c.note(format, a...) }, prompt: c.secretPrompt(),
	})
	if err != nil {
		return err
	}
	id := k.signer.PublicKey()
	t := &trust{dir: dir, own: id, name: keyName(k.comment, id), warn: c.note}
	if o.listen == "" && o.connect == "" {
		c.plain() // what follows prints or reads plain lines
	}
	switch {
	case o.keygen:
		if !made {
			c.note("the keys are there already, so none were made")
		}
		_, err := fmt.Fprintf(stdout, "%s%s\n", publicLine(id, k.comment), k.fingerprint())
		return err
	case o.fingerprint:
		_, err := fmt.Fprintf(stdout, "%s %s\n", k.fingerprint(), t.name)
		return err
	case o.allow != "":
		return allow(t, c, o.allow, stdin)
	case o.invite != "" && o.listen == "":
		return printInvite(t, c, o.invite, stdout)
	}

	me, err := newParty(k.signer, k.encryption)
	if err != nil {
		return err
	}
	if o.connect != "" {
		if o.trace {
			me.trace = func(line string) { c.tell("%s", line) }
		}
		cl := &client{me: me, trust: t, console: c}
		cl.greet = cl.join
		if o.raw {
			cl.pipe = newRawPipe(stdin, stdout, c.progress())
		}
		return connect(ctx, o, cl)
	}
	s := &server{me: me, id: id, name: t.name, trust: t, console: c}
	s.greet = s.welcome
	if o.raw {
		s.raw = &rawServer{pipe: newRawPipe(stdin, stdout, c.progress()), err: &errCut{why: errors.New("the server was stopped before anyone had joined")}}
	}
	return listen(ctx, o, s)
}

// publicLine is a line for authorized_keys, with its end.
func publicLine(id ssh.PublicKey, comment string) string {
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(plainKey(id))), "\n")
	if comment != "" {
		line += " " + comment
	}
	return line + "\n"
}

// allow adds the public key line in a file, or on stdin, to authorized_keys.
func allow(t *trust, c *console, path string, stdin *os.File) error {
	var line []byte
	var err error
	if path == "-" {
		if isTerminal(stdin) {
			c.note("paste the public key line, then press Enter and Ctrl-D")
		}
		line, err = io.ReadAll(io.LimitReader(stdin, maxKeyFile+1))
	} else {
		line, _, err = readFile(path, maxKeyFile)
	}
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	g, err := t.allow(line, "")
	if errors.Is(err, errListed) {
		c.note("nothing to do: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	c.note("%s may join now (%s, %s)", g.name, g.fingerprint, g.by)
	return nil
}

const inviteWords = "An invite for %s, good once and for a day. On the other machine, run\n  securechat -connect %s -join\nand paste this code when it asks:"

// makeInvite makes a code and shows the operator what the other side does with it.
func makeInvite(t *trust, c *console, name, port string) error {
	code, err := t.newInvite(name, time.Now())
	if err == nil {
		c.tell(inviteWords+"\n  %s", name, publicAddress(port), code)
	}
	return err
}

// printInvite makes a code without a server at hand, and prints it alone to stdout.
func printInvite(t *trust, c *console, name string, stdout io.Writer) error {
	code, err := t.newInvite(name, time.Now())
	if err != nil {
		return err
	}
	c.tell(inviteWords, name, publicAddress("9000"))
	_, err = fmt.Fprintln(stdout, code)
	return err
}

// publicAddress is this machine's address as others may write it.
func publicAddress(port string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "HOST"
	}
	return net.JoinHostPort(host, port)
}

// connect joins a room.
func connect(ctx context.Context, o *options, cl *client) error {
	c := cl.console
	cl.addr, cl.acceptNew, cl.to, cl.stay, cl.count, cl.timeout = o.connect, o.acceptNew, o.to, o.stay, o.count, o.timeout
	cl.reconnect = o.reconnect || c.term != nil && !o.reconnectSet && !o.paper
	cl.insist = o.reconnect
	if o.join {
		code, err := readInvite(c)
		if err != nil {
			return err
		}
		cl.invite = &code
	}
	if cl.pipe != nil {
		return cl.carry(ctx)
	}
	return cl.run(ctx)
}

// readInvite takes the invite's code from the environment, which the process then forgets, or asks for it. A typing error
// is told here: nobody else hears of it.
func readInvite(c *console) (code inviteCode, err error) {
	if text := os.Getenv("SECURECHAT_INVITE"); text != "" {
		os.Unsetenv("SECURECHAT_INVITE")
		if code, err = parseInviteCode(text); err != nil {
			err = errUsage{fmt.Errorf("$SECURECHAT_INVITE: %w", err)}
		}
		return code, err
	}
	if c.term == nil {
		return code, errUsage{errors.New("-join needs the invite's code: type it at a terminal, or set $SECURECHAT_INVITE")}
	}
	for range 3 {
		text, err := c.term.readSecret("Invite code: ")
		if err != nil {
			return code, fmt.Errorf("no invite code: %w", err)
		}
		code, err = parseInviteCode(string(text))
		clear(text)
		if err == nil {
			return code, nil
		}
		c.note("%v", err)
	}
	return code, errUsage{errors.New("no invite code that can be read in three tries")}
}

// listen opens the room of s and keeps it until ctx ends.
func listen(ctx context.Context, o *options, s *server) (err error) {
	listeners, err := listenOn(o.listen, tcpKeepAlive(o.paper))
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	log, err := openLog(o.log)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := log.close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the log: %w", cerr)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := s.console
	c.quit = cancel
	log.digests, log.durable = !o.logText, o.sync
	log.tell = func(text string) { c.note("%s", text) }
	s.log, s.room, s.places, s.norelay, s.trace, s.delay = log, newRoom(log), o.maxClients, o.norelay, o.trace, o.delay
	s.room.history = o.history
	if err := s.room.rebuild(); err != nil {
		return err
	}
	if o.sync {
		s.room.flush = make(chan struct{}, 1)
		go s.room.flushing()
		defer close(s.room.flush)
	}
	_, s.port, _ = net.SplitHostPort(listeners[0].Addr().String())
	hint := ""
	if s.raw != nil {
		s.raw.ctx = ctx
		hint = " -raw"
	}

	print := fingerprint(s.id)
	c.server, c.origin = s.name, print
	if s.raw != nil {
		c.note("waiting for one client on %s as %s, key %s", listeners[0].Addr(), s.name, print)
	} else {
		c.note("room open on %s as %s, key %s", listeners[0].Addr(), s.name, print)
	}
	if !o.paper {
		s.trust.review()
		c.note("to join it: securechat -connect localhost:%s%s here, securechat -connect %s%s from elsewhere", s.port, hint, publicAddress(s.port), hint)
	}
	if strings.HasPrefix(log.began, "repaired") {
		c.note("%s: %s", o.log, log.began)
	}
	if o.invite != "" {
		if err := makeInvite(s.trust, c, o.invite, s.port); err != nil {
			return err
		}
	}
	self := newLogPerson(listeners[0].Addr().String(), s.name, print, "", nil)
	if err := log.write(func(b []byte) []byte { return appendRecord(b, time.Now(), eventStart, self, "log", log.began) }, nil); err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go s.reload(ctx, hangup, cancel)
	told := make(chan struct{})
	unless := context.AfterFunc(ctx, func() { s.tellManager("STOPPING=1"); close(told) })
	s.tellManager("READY=1")
	err = s.serve(ctx, listeners)
	if !unless() {
		<-told // an empty room may be closed sooner
	}
	log.record(func(b []byte) []byte { return appendRecord(b, time.Now(), eventStop, self, "reason", "") }, nil)
	return err
}

// tcpKeepAlive is for net.ListenConfig and net.Dialer: off where both sides ping, every 30 s to TCP's every 15 on an idle line;
// the paper's session has no pings, and Go's default, which a socket from systemd keeps in either case.
func tcpKeepAlive(paper bool) time.Duration {
	if paper {
		return 0
	}
	return -1
}

// listenOn listens on addr, on IPv4 and IPv6 where addr names no host.
func listenOn(addr string, keepAlive time.Duration) ([]net.Listener, error) {
	if addr == fromSystemd {
		return sdListeners()
	}
	l, err := (&net.ListenConfig{KeepAlive: keepAlive}).Listen(context.Background(), "tcp", addr)
	if err == nil {
		return []net.Listener{l}, nil
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: another program has this port; name another with -listen, or end that program", addr)
	}
	return nil, fmt.Errorf("cannot listen on %s: %s", addr, netReason(err))
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// flags is the table of all flags: what is read is put into o.
func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("securechat", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	for name, p := range map[string]*string{
		"listen": &o.listen, "connect": &o.connect, "allow": &o.allow, "invite": &o.invite,
		"dir": &o.dir, "identity": &o.identity, "passphrase-file": &o.passphraseFile, "type": &o.typ, "comment": &o.comment, "log": &o.log, "verify-log": &o.verifyLog, "to": &o.to,
		"completion": &o.completion,
	} {
		f.StringVar(p, name, *p, "")
	}
	for name, p := range map[string]*bool{
		"keygen": &o.keygen, "fingerprint": &o.fingerprint, "version": &o.version, "help-all": &o.helpAll,
		"join": &o.join, "accept-new": &o.acceptNew, "norelay": &o.norelay, "paper": &o.paper, "trace": &o.trace,
		"stay": &o.stay, "reconnect": &o.reconnect, "log-text": &o.logText, "sync": &o.sync, "json": &o.json, "raw": &o.raw,
		"quiet": &o.quiet, "nobell": &o.nobell,
	} {
		f.BoolVar(p, name, *p, "")
	}
	f.IntVar(&o.bits, "bits", 0, "")
	f.IntVar(&o.count, "count", 0, "")
	f.IntVar(&o.history, "history", o.history, "")
	f.IntVar(&o.maxClients, "max-clients", o.maxClients, "")
	f.DurationVar(&o.timeout, "timeout", 0, "")
	f.DurationVar(&o.delay, "delay", 0, "")
	f.Func("peer", "", func(path string) error { o.peers = append(o.peers, path); return nil })
	return f
}

// parseFlags reads the command line. Its errors are errUsage, or flag.ErrHelp after -help or -help-all has been answered.
func parseFlags(args []string, stdout io.Writer) (*options, error) {
	o := &options{typ: "ed25519", log: "connection.log", logText: true, maxClients: maxClients, history: 1000}
	f := o.flags()
	wrong := func(format string, a ...any) (*options, error) {
		return nil, errUsage{fmt.Errorf(format, a...)}
	}
	err := f.Parse(args)
	if o.join && f.NArg() > 0 || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(strings.TrimLeft(a, "-"), "join=") }) {
		return wrong("-join takes no code, for others may read the command line: it is asked for, or taken from $SECURECHAT_INVITE")
	}
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			_, werr := io.WriteString(stdout, shortUsage)
			return nil, errors.Join(err, werr)
		}
		return wrong("%v; -help-all lists the flags", err)
	}
	if o.helpAll {
		_, werr := io.WriteString(stdout, usage)
		return nil, errors.Join(flag.ErrHelp, werr)
	}
	o.verifyMore = f.Args()
	if f.NArg() > 0 && o.verifyLog == "" {
		return wrong("unexpected argument %q: -listen ADDR opens a room, -connect ADDR joins one", f.Arg(0))
	}
	set := map[string]bool{}
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	var modes []string
	for _, mode := range []string{"listen", "connect", "keygen", "fingerprint", "allow", "invite", "verify-log", "version", "completion"} {
		if set[mode] && !(mode == "invite" && set["listen"]) {
			modes = append(modes, "-"+mode)
		}
	}
	if len(modes) == 0 {
		return wrong("say what to do: -listen :9000 opens a room, -connect host:9000 joins one; -help tells more")
	}
	if len(modes) > 1 {
		return wrong("%s exclude each other: start one process for each", strings.Join(modes, " and "))
	}
	for mode, names := range map[string][]string{
		"listen":  {"log", "log-text", "sync", "max-clients", "norelay", "history", "delay"},
		"connect": {"join", "accept-new", "to", "stay", "count", "timeout", "reconnect"},
	} {
		for _, name := range names {
			if set[name] && !set[mode] && !(name == "delay" && set["connect"] && o.paper) {
				return wrong("-%s belongs to -%s", name, mode)
			}
		}
	}
	if err := (&keyOptions{typ: o.typ, bits: o.bits, comment: o.comment}).check(); err != nil {
		return wrong("%v", err)
	}
	for name, value := range map[string]string{"listen": o.listen, "connect": o.connect, "allow": o.allow} {
		if set[name] && value == "" {
			return wrong("-%s needs a value: it got an empty one", name)
		}
	}
	if set["invite"] && !validName(o.invite) {
		return wrong("-invite: %v", nameError(o.invite))
	}
	if !set["listen"] && !set["connect"] {
		return o, nil
	}
	if o.raw {
		for _, name := range []string{"json", "to", "stay", "count", "reconnect", "norelay", "history", "nobell"} {
			if set[name] {
				return wrong("-%s and -raw exclude each other: -raw carries bytes, not messages", name)
			}
		}
	}
	if o.history < 0 {
		return wrong("-history takes a number, and 0 for none")
	}
	if set["count"] && o.count < 1 || set["timeout"] && o.timeout <= 0 {
		return wrong("-count and -timeout take what is more than nothing")
	}
	o.stay = o.stay || o.count > 0 || o.timeout > 0
	o.reconnectSet = set["reconnect"]
	if len(o.to) > maxShown {
		return wrong("-to: the name is too long")
	}
	addr, name := o.connect, "-connect"
	if o.listen != "" {
		addr, name = o.listen, "-listen"
	}
	if o.maxClients < 1 || o.maxClients > 1<<20 {
		return wrong("-max-clients %d: at least 1, at most %d", o.maxClients, 1<<20)
	}
	if o.listen == fromSystemd {
		addr = "systemd:0"
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return wrong("%s %s: an address has a host and a port, such as localhost:9000 or [::1]:9000", name, addr)
	}
	if o.connect != "" && host == "" {
		o.connect = net.JoinHostPort("localhost", port)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return wrong("%s %s: %q is no port: a number from 1 to 65535", name, addr, port)
	}
	if err := o.checkPaper(set); err != nil {
		return nil, errUsage{err}
	}
	if o.delay < 0 || o.delay > 5*time.Second {
		return wrong("-delay %v: from 0s to 5s, so that four of them fit the handshake's %v", o.delay, handshakeTimeout)
	}
	return o, nil
}

// checkPaper checks what goes with -paper and what does not.
func (o *options) checkPaper(set map[string]bool) error {
	if !o.paper {
		if len(o.peers) > 0 {
			return errors.New("-peer belongs to -paper; without it, authorized_keys and known_hosts say who is who")
		}
		return nil
	}
	for _, name := range []string{"join", "invite", "accept-new", "to", "raw", "reconnect", "passphrase-file", "type", "bits", "comment"} {
		if set[name] {
			return fmt.Errorf("-%s is not for -paper, which has nothing like it", name)
		}
	}
	if o.identity == "" || len(o.peers) == 0 {
		return errors.New("-paper needs -identity FILE, our private RSA-2048 key, and -peer FILE, the other side's public key")
	}
	if o.connect != "" && len(o.peers) != 1 {
		return errors.New("-paper -connect takes one -peer FILE: the server's public key")
	}
	if len(o.peers) > maxPaperClients {
		return fmt.Errorf("-peer: %d clients at most", maxPaperClients)
	}
	if !set["delay"] {
		o.delay = time.Second
	}
	return nil
}

// version tells which release this is, from the build's own information.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v = "devel " + s.Value
		}
	}
	return v + " " + info.GoVersion
}
