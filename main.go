// Securechat gives people with small machines a room to talk in and a pipe to send lines through, where both ends prove
// who they are with keys.
//
//	securechat -listen :9000                     open a room
//	securechat -connect host:9000                join it
//	some-job | securechat -connect host:9000     report to it
//
// It implements a paper, "A Client-Server Secure Communication Approach" (2016): RSA with cipher block chaining, a
// four-stage challenge-response handshake, an AES session and connection.log, hardened for today. README.md shows how
// to use it, docs/ARCHITECTURE.md how it is built, docs/PROTOCOL.md what goes over the wire.
package main

// The modes, each a function, and the exit codes. Nothing else ends the process.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// Exit codes.
const (
	exitDone      = 0
	exitTrouble   = 1 // network or file trouble
	exitUsage     = 2
	exitUntrusted = 3 // either side refused the other, or somebody may be in the middle
	exitLost      = 4 // connection lost with lines unacknowledged
	exitTimeout   = 5 // -timeout ran out
)

func main() {
	signal.Ignore(syscall.SIGPIPE) // so that a closed stdout shows as EPIPE from Write
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

// exitCode prints an error in one sentence, with a hint if there is one, and returns the process's exit code.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "securechat: %s%s\n", safe(err.Error()), hintOf(err))
	switch {
	case errors.As(err, new(errUsage)):
		return exitUsage
	case errors.As(err, new(*untrusted)), errors.Is(err, errUnverified), errors.Is(err, errBadPacket):
		return exitUntrusted
	case errors.As(err, new(*errLost)), errors.As(err, new(*errCut)):
		return exitLost
	case errors.Is(err, errTimeout):
		return exitTimeout
	}
	return exitTrouble
}

// process is what all modes use.
type process struct {
	*options
	console       *console
	stdin, stdout *os.File
	dir           string // the state folder
}

// run does what the arguments ask for and returns when that is done.
func run(args []string, stdin, stdout, stderr *os.File) error {
	o, err := parseFlags(args)
	if err != nil {
		return err
	}
	switch {
	case o.help:
		_, err := io.WriteString(stdout, shortUsage())
		return err
	case o.helpAll:
		_, err := io.WriteString(stdout, fullUsage())
		return err
	case o.version:
		_, err := fmt.Fprintln(stdout, "securechat", version())
		return err
	case o.completion != "":
		return printCompletion(o.completion, stdout)
	case o.verifyLog != "":
		return verifyLogs(append([]string{o.verifyLog}, o.verifyLogOlder...), stdout)
	}
	c, err := openConsole(stdin, stdout, stderr, consoleOptions{json: o.json, raw: o.raw, quiet: o.quiet, noBell: o.nobell})
	if err != nil {
		return fmt.Errorf("setting up the terminal: %w", err)
	}
	defer c.close()
	p := &process{options: o, console: c, stdin: stdin, stdout: stdout}
	if p.dir, err = stateFolder(o.dir); err != nil {
		return err
	}
	if o.listen == "" && o.connect == "" {
		return p.manageKeys()
	}
	// The first signal ends things in good order; stop lets a second one end the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	e, err := p.endpoint()
	if err != nil {
		return err
	}
	if o.connect != "" {
		return p.connect(ctx, e)
	}
	return p.serve(ctx, e)
}

// loadKeys reads the keys, made if there are none, and what decides about others. made reports whether a key was made.
func (p *process) loadKeys() (k *keys, t *trust, made bool, err error) {
	var checkComment func(string) error
	if p.keygen {
		checkComment = openTrust(p.dir, nil, "", p.console.note).checkNewName
	}
	k, err = loadKeys(keyOptions{
		checkComment: checkComment, dir: p.dir, typ: p.typ, bits: p.bits, comment: p.comment,
		identity: p.identity, passphraseFile: p.passphraseFile,
		notify: func(format string, a ...any) { made = true; p.console.note(format, a...) }, prompt: p.console.secretPrompt(),
	})
	if err != nil {
		return nil, nil, made, err
	}
	id := k.signer.PublicKey()
	t = openTrust(p.dir, id, keyName(k.comment, id), p.console.note)
	t.warnClock(time.Now())
	return k, t, made, nil
}

// manageKeys does -keygen, -fingerprint, -allow and -invite without a server.
func (p *process) manageKeys() error {
	k, t, made, err := p.loadKeys()
	if err != nil {
		return err
	}
	p.console.closeTerminal() // what follows prints and reads plain lines
	switch {
	case p.keygen:
		if !made {
			p.console.note("the keys are there already, so none were made")
		}
		_, err = fmt.Fprintf(p.stdout, "%s%s\n", publicLine(k.signer.PublicKey(), k.comment), k.fingerprint())
	case p.fingerprint:
		_, err = fmt.Fprintf(p.stdout, "%s %s\n", k.fingerprint(), t.name)
	case p.allow != "":
		err = p.allowKey(t)
	case p.invite != "":
		err = p.printInvite(t)
	}
	return err
}

// allowKey adds the public key line in a file, or on stdin, to authorized_keys.
func (p *process) allowKey(t *trust) error {
	var line []byte
	var err error
	if p.allow == "-" {
		if isTerminal(p.stdin) {
			p.console.note("paste the public key line, then press Enter and Ctrl-D")
		}
		line, err = io.ReadAll(io.LimitReader(p.stdin, maxKeyFile+1))
	} else {
		line, _, err = readFile(p.allow, maxKeyFile)
	}
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	g, err := t.allow(line, "", p.force)
	if errors.Is(err, errListed) {
		p.console.note("nothing to do: %v", err)
		return nil
	}
	if errors.Is(err, errNameTaken) {
		return fmt.Errorf("%w, or use -force", err)
	}
	if err != nil {
		return err
	}
	p.console.note("%s may join now (%s, %s)", g.name, g.fingerprint, g.by)
	return nil
}

// printInvite makes a code and prints it alone to stdout.
func (p *process) printInvite(t *trust) error {
	code, err := t.newInvite(p.invite, time.Now())
	if err != nil {
		return err
	}
	p.console.notePlain(inviteWords, p.invite, publicAddress("9000"))
	_, err = fmt.Fprintln(p.stdout, code)
	return err
}

// endpoint loads the keys of the protocol that the flags choose.
func (p *process) endpoint() (*endpoint, error) {
	var trace tracer
	if p.trace {
		trace = func(line string) { p.console.notePlain("%s", line) }
	}
	if p.paper {
		return loadPaper(p.identity, p.peers, p.dir, p.delay, trace, p.console.note)
	}
	k, t, _, err := p.loadKeys()
	if err != nil {
		return nil, err
	}
	me, err := newParty(k.signer, k.encryption)
	if err != nil {
		return nil, err
	}
	s := &securechat2{me: me, trust: t, raw: p.raw, note: p.console.note, trace: trace}
	s.server = securechat2Server{delay: p.delay}
	s.client = securechat2Client{addr: p.options.connect, acceptNew: p.acceptNew}
	if p.join {
		if s.client.invite, err = p.readInvite(); err != nil {
			return nil, err
		}
	}
	return &endpoint{protocol: s, id: k.signer.PublicKey(), name: t.name, trust: t}, nil
}

// readInvite takes an invite's code from the environment, which it then clears, or asks for it.
func (p *process) readInvite() (*inviteCode, error) {
	if text := os.Getenv("SECURECHAT_INVITE"); text != "" {
		os.Unsetenv("SECURECHAT_INVITE")
		code, err := parseInviteCode(text)
		if err != nil {
			return nil, wrongUse("$SECURECHAT_INVITE: %w", err)
		}
		return &code, nil
	}
	if p.console.term == nil {
		return nil, wrongUse("-join needs the invite's code: type it at a terminal, or set $SECURECHAT_INVITE")
	}
	for range 3 {
		text, err := p.console.term.readSecret("Invite code: ")
		if err != nil {
			return nil, fmt.Errorf("no invite code: %w", err)
		}
		code, err := parseInviteCode(string(text))
		clear(text)
		if err == nil {
			return &code, nil
		}
		p.console.note("%v", err)
	}
	return nil, wrongUse("no valid invite code in three attempts")
}

// connect joins a room, or carries bytes with -raw.
func (p *process) connect(ctx context.Context, e *endpoint) error {
	config := clientConfig{
		endpoint: *e, addr: p.options.connect, console: p.console, to: p.to, stay: p.stay, count: p.count, timeout: p.timeout,
		reconnect: p.reconnect || p.console.term != nil && !p.given["reconnect"] && e.protocol.acknowledges(),
		persist:   p.reconnect,
	}
	if p.raw {
		config.pipe = newRawPipe(p.stdin, p.stdout, p.console.progress())
		return newClient(config).carry(ctx)
	}
	return newClient(config).run(ctx)
}

// serve opens a room, or with -raw waits for one client, and serves until ctx ends.
func (p *process) serve(ctx context.Context, e *endpoint) (err error) {
	listeners, err := listenOn(p.options.listen, e.protocol.keepAlive())
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	log, err := openLog(logOptions{
		path: p.log, digests: !p.logText, durable: p.sync, notify: func(text string) { p.console.note("%s", text) },
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := log.close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the log: %w", cerr)
		}
	}()
	config := serverConfig{
		endpoint: *e, console: p.console, log: log, sync: p.sync, history: p.history, clients: p.maxClients,
		norelay: p.norelay, invite: p.invite,
	}
	if p.raw {
		config.pipe = newRawPipe(p.stdin, p.stdout, p.console.progress())
	}
	s, err := newServer(config)
	if err != nil {
		return err
	}
	return s.run(ctx, listeners)
}

// version returns the release, from the build's own information.
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
