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
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
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

	trace := func(line string) { c.tell("%s", line) }
	if !o.trace {
		trace = nil
	}
	if o.paper {
		p, err := loadPaper(o.identity, o.peers, openTrust(dir, nil, "", c.note))
		if err != nil {
			return err
		}
		c.note("%s", paperWarning)
		p.delay, p.trace = o.delay, trace
		if o.connect != "" {
			return connect(ctx, o, &client{console: c, protocol: p})
		}
		return listen(ctx, o, serverConfig{protocol: p, id: p.id, name: keyName("", p.id), console: c})
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
	t := openTrust(dir, id, keyName(k.comment, id), c.note)
	t.warnClock(time.Now())
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
	proto := &securechat2{me: me, trust: t, raw: o.raw, note: c.note, trace: trace, server: securechat2Server{delay: o.delay}}
	var pipe *rawPipe
	if o.raw {
		pipe = newRawPipe(stdin, stdout, c.progress())
	}
	if o.connect != "" {
		proto.client = securechat2Client{addr: o.connect, acceptNew: o.acceptNew}
		if o.join {
			code, err := readInvite(c)
			if err != nil {
				return err
			}
			proto.client.invite = &code
		}
		return connect(ctx, o, &client{trust: t, console: c, protocol: proto, pipe: pipe})
	}
	return listen(ctx, o, serverConfig{protocol: proto, id: id, name: t.name, trust: t, console: c, pipe: pipe})
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

// connect joins a room.
func connect(ctx context.Context, o *options, cl *client) error {
	c := cl.console
	cl.addr, cl.to, cl.stay, cl.count, cl.timeout = o.connect, o.to, o.stay, o.count, o.timeout
	cl.reconnect = o.reconnect || c.term != nil && !o.reconnectSet && !o.paper
	cl.insist = o.reconnect
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

// listen opens a server of c and keeps it until ctx ends.
func listen(ctx context.Context, o *options, c serverConfig) (err error) {
	listeners, err := listenOn(o.listen, c.protocol.keepAlive())
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	log, err := openLog(logOptions{
		path: o.log, digests: !o.logText, durable: o.sync, notify: func(text string) { c.console.note("%s", text) },
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := log.close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the log: %w", cerr)
		}
	}()

	c.log, c.sync, c.history, c.clients, c.norelay, c.invite = log, o.sync, o.history, o.maxClients, o.norelay, o.invite
	s, err := newServer(c)
	if err != nil {
		return err
	}
	return s.run(ctx, listeners)
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
